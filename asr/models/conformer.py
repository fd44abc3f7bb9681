"""The Conformer encoder (Gulati et al. 2020, arXiv 2005.08100, section 2): convolution-augmented Transformer.

Each block is half a feed-forward layer, self-attention, a convolution module, another half feed-forward layer and a
layer norm. The convolution module normalises each frame by itself (LayerNorm) where the paper uses BatchNorm, so that
a state depends on its own utterance alone and N learners with B/N utterances compute what one with B computes.

With ``chunk`` states per chunk the encoder can be run while somebody speaks: attention sees the own chunk and
``left_chunks`` before it, the convolution only what was (``asr.models.streaming`` runs it chunk by chunk).

A block may read and add to some entries of the states alone, a width of its own: they are taken out of the states before its
modules and put back after them, and its last norm is over all.

B utterances   T frames   F feature dimension   D dimension   W width of a block   C channels of the convolution   K kernel
N = past + T states that attention sees   P = N + T rows and R columns of the position table
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.attention import RelativeAttention, hidden_keys, relative_table
from asr.models.block_sizes import BlockSizes, head_size, sizes_of, table_width
from asr.models.dropout import Dropout
from asr.models.encoder import Encoder, padding_mask
from asr.models.subsampling import FACTOR, ConvSubsampling
from distributed.errors import UsageError
from distributed.ranges import Count, Depth, Natural, Probability


class FeedForward(nn.Module):
    """LayerNorm, Linear to ``width``, SiLU, dropout, Linear back, dropout."""

    def __init__(self, *, dimension: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)
        self.expand = nn.Linear(dimension, width)
        self.contract = nn.Linear(width, dimension)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), without the residual."""
        hidden = self.dropout(functional.silu(self.expand(self.norm(x_BTD))))
        return self.dropout(self.contract(hidden))


class DepthwiseConv(nn.Module):
    """One filter over time for each of D channels, of odd length: centred, or causal, which ends at its own state."""

    def __init__(self, *, dimension: int, kernel: int, causal: bool) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UsageError(f"model.encoder.kernel must be odd, so that the filter has a centre, got {kernel}")
        self.weight_DK = nn.Parameter(torch.empty(dimension, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.bias_D = nn.Parameter(torch.zeros(dimension))
        self.left = kernel - 1 if causal else kernel // 2  # states before its own that the filter sees

    def forward(self, x_BTD: Tensor, past_BLD: Tensor | None = None) -> Tensor:
        """(B, T, D) to (B, T, D), with zeros beyond both ends, or a causal filter's K - 1 states of the past."""
        dimension, frames = len(self.bias_D), x_BTD.shape[1]
        if past_BLD is not None:
            x_BTD = torch.cat([past_BLD, x_BTD], dim=1)
        # (B, T, D) in memory is a channels-last image of width 1: the fast layout, and no copy to get there.
        image_BDT1 = x_BTD.transpose(1, 2).unsqueeze(-1)
        filters_D1K1 = self.weight_DK[:, None, :, None]
        padding = (self.left if past_BLD is None else 0, 0)
        y_BDT1 = functional.conv2d(image_BDT1, filters_D1K1, self.bias_D, padding=padding, groups=dimension)
        return y_BDT1[:, :, :frames].squeeze(-1).transpose(1, 2)


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise to 2C, GLU, depthwise convolution of C channels, LayerNorm, SiLU, pointwise, dropout."""

    def __init__(self, *, dimension: int, channels: int, kernel: int, causal: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)
        self.pointwise_in = nn.Linear(dimension, 2 * channels)
        self.depthwise = DepthwiseConv(dimension=channels, kernel=kernel, causal=causal)
        self.depthwise_norm = nn.LayerNorm(channels)
        self.pointwise_out = nn.Linear(channels, dimension)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, padding_BT: Tensor, memory: "Memory | None" = None) -> Tensor:
        """(B, T, D) to (B, T, D), without the residual. Padding enters the convolution as zeros."""
        gated_BTC = functional.glu(self.pointwise_in(self.norm(x_BTD)), dim=-1)
        gated_BTC = gated_BTC.masked_fill(padding_BT.unsqueeze(-1), 0.0)
        past_BLC = None if memory is None else memory.before_convolution(gated_BTC, self.depthwise.left)
        mixed_BTC = self.depthwise(gated_BTC, past_BLC)
        return self.dropout(self.pointwise_out(functional.silu(self.depthwise_norm(mixed_BTC))))


class Memory:
    """The states before the newest chunk that one block of a stream keeps."""

    def __init__(self) -> None:
        self.attended_BLD: Tensor | None = None
        self.convolved_BLD: Tensor | None = None

    def before_attention(self, x_BTD: Tensor, limit: int) -> Tensor:
        """The remembered states followed by ``x_BTD``; the last ``limit`` of them are remembered for the next chunk."""
        seen_BND = x_BTD if self.attended_BLD is None else torch.cat([self.attended_BLD, x_BTD], dim=1)
        self.attended_BLD = seen_BND[:, max(0, seen_BND.shape[1] - limit) :]
        return seen_BND

    def before_convolution(self, x_BTD: Tensor, limit: int) -> Tensor:
        """The ``limit`` states before ``x_BTD`` (zeros at the start); the last ``limit`` states are kept for later."""
        past_BLD = self.convolved_BLD
        if past_BLD is None:
            past_BLD = x_BTD.new_zeros(x_BTD.shape[0], limit, x_BTD.shape[2])
        self.convolved_BLD = torch.cat([past_BLD, x_BTD], dim=1)[:, x_BTD.shape[1] :]
        return past_BLD


class ConformerBlock(nn.Module):
    """x + FF/2, + attention, + convolution, + FF/2, LayerNorm (equation 1 of the paper); a module of size 0 is absent.

    ``width`` is W, the number of entries of the states that the modules read and add to: D unless ``sizes`` names some.
    """

    width_W: Tensor | None

    def __init__(
        self,
        *,
        dimension: int,
        sizes: BlockSizes,
        head_dimension: int,
        position_dimension: int,
        kernel: int,
        chunk: int | None,
        left_chunks: int,
        dropout: float,
    ) -> None:
        super().__init__()
        # Part of the model's node, and so in no state dict; on the CPU also where a model is built on the device meta.
        own = None if sizes.width is None else torch.tensor(list(sizes.width), device="cpu")
        self.register_buffer("width_W", own, persistent=False)
        self.width = width = dimension if own is None else len(own)
        self.feed_forward_in = self.feed_forward_out = self.attention = self.convolution = None
        if sizes.feed_forward_in:
            self.feed_forward_in = FeedForward(dimension=width, width=sizes.feed_forward_in, dropout=dropout)
        if sizes.heads:
            self.attention_norm = nn.LayerNorm(width)
            self.attention = RelativeAttention(
                dimension=width, heads=sizes.heads, head_dimension=head_dimension,
                position_dimension=position_dimension, dropout=dropout,
            )  # fmt: skip
            self.attention_dropout = Dropout(dropout)
        if sizes.channels:
            self.convolution = ConvolutionModule(
                dimension=width, channels=sizes.channels, kernel=kernel, causal=chunk is not None, dropout=dropout
            )
        if sizes.feed_forward_out:
            self.feed_forward_out = FeedForward(dimension=width, width=sizes.feed_forward_out, dropout=dropout)
        self.norm = nn.LayerNorm(dimension)
        self.remembered = left_chunks * (chunk or 0)  # states, of a stream's attention

    def forward(
        self, x_BTD: Tensor, table_PR: Tensor, padding_BT: Tensor, hidden_BTN: Tensor, memory: Memory | None = None
    ) -> Tensor:
        """(B, T, D) to (B, T, D); in a stream ``memory`` stands for the states before."""
        x_BTW = x_BTD if self.width_W is None else x_BTD.index_select(-1, self.width_W)
        if self.feed_forward_in is not None:
            x_BTW = torch.add(x_BTW, self.feed_forward_in(x_BTW), alpha=0.5)
        if self.attention is not None:
            normed_BTW = self.attention_norm(x_BTW)
            seen_BNW = normed_BTW if memory is None else memory.before_attention(normed_BTW, self.remembered)
            x_BTW = x_BTW + self.attention_dropout(self.attention(seen_BNW, table_PR, hidden_BTN))
        if self.convolution is not None:
            x_BTW = x_BTW + self.convolution(x_BTW, padding_BT, memory)
        if self.feed_forward_out is not None:
            x_BTW = torch.add(x_BTW, self.feed_forward_out(x_BTW), alpha=0.5)
        if self.width_W is not None:
            x_BTW = x_BTD.to(x_BTW.dtype).index_copy(-1, self.width_W, x_BTW)
        return self.norm(x_BTW)


class Conformer(Encoder):
    """Subsampling by 4, then ``layers`` Conformer blocks; ``chunk`` None sees whole utterances.

    ``blocks`` gives the sizes of each block (asr/models/block_sizes.py) in place of ``heads``, ``expansion`` and D channels; the
    size of one head and the width of the position table are those of all blocks.
    """

    subsampling = FACTOR

    def __init__(
        self,
        *,
        feature_dimension: int,
        layers: Depth,
        dimension: Count,
        heads: Count,
        head_dimension: Count | None,
        expansion: Count,
        blocks: list[dict[str, Natural | list[Natural]]] | None,
        position_dimension: Count | None,
        kernel: Count,
        chunk: Count | None,
        left_chunks: Natural,
        subsampling_channels: Count | tuple[Count, Count],
        dropout: Probability,
    ) -> None:
        super().__init__()
        self.dimension = dimension
        self.layer_dimensions = [dimension] * layers
        self.position_dimension = table_width(dimension, position_dimension)
        self.chunk = chunk
        self.left_chunks = left_chunks
        uniform = BlockSizes(expansion * dimension, heads, dimension, expansion * dimension)
        sizes = [uniform] * layers if blocks is None else sizes_of(blocks, layers, dimension)
        self.subsample = ConvSubsampling(
            feature_dimension=feature_dimension, channels=subsampling_channels, dimension=dimension
        )
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            ConformerBlock(
                dimension=dimension, sizes=each, head_dimension=head_size(dimension, heads, head_dimension),
                position_dimension=self.position_dimension, kernel=kernel, chunk=chunk, left_chunks=left_chunks,
                dropout=dropout,
            )
            for each in sizes
        )  # fmt: skip

    @property
    def layers(self) -> nn.ModuleList:  # type: ignore[override]
        """The blocks."""
        return self.blocks

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, ceil(T/4), D), zero beyond their lengths, and their lengths (B,)."""
        x_BTD, lengths_B = self.subsample(features_BTF, lengths_B)
        x_BTD = self.dropout(x_BTD)
        padding_BT = padding_mask(lengths_B, x_BTD.shape[1])
        hidden_BTT = hidden_keys(padding_BT, self.chunk, self.left_chunks)
        table_PR = relative_table(x_BTD.shape[1], self.position_dimension, like=x_BTD)
        for number in range(len(self.blocks)):
            x_BTD = self.through_layer(number, x_BTD, table_PR, padding_BT, hidden_BTT)
        return x_BTD.masked_fill(padding_BT.unsqueeze(-1), 0.0), lengths_B
