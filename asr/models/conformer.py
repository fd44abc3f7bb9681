"""The Conformer encoder (Gulati et al. 2020, arXiv 2005.08100, section 2): convolution-augmented Transformer.

Each block is half a feed-forward layer, self-attention, a convolution module, another half feed-forward layer and a
layer norm. The convolution module normalises each frame by itself (LayerNorm) where the paper uses BatchNorm, so that
a state depends on its own utterance alone and N learners with B/N utterances compute what one with B computes.

B utterances   T frames   F feature dimension   D dimension
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.models.attention import RelativeAttention, relative_table
from asr.models.dropout import Dropout
from asr.models.encoder import Encoder, padding_mask
from asr.models.subsampling import FACTOR, ConvSubsampling
from distributed.ranges import Count, Probability


class FeedForward(nn.Module):
    """LayerNorm, Linear to ``expansion`` x D, SiLU, dropout, Linear back, dropout."""

    def __init__(self, *, dimension: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)
        self.expand = nn.Linear(dimension, expansion * dimension)
        self.contract = nn.Linear(expansion * dimension, dimension)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), without the residual."""
        hidden = self.dropout(functional.silu(self.expand(self.norm(x_BTD))))
        return self.dropout(self.contract(hidden))


class DepthwiseConv(nn.Module):
    """One filter over time for each channel, of odd length, centred."""

    def __init__(self, *, dimension: int, kernel: int) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"model.encoder.kernel must be odd, so that the filter has a centre, got {kernel}")
        self.weight_DK = nn.Parameter(torch.empty(dimension, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.bias_D = nn.Parameter(torch.zeros(dimension))

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), with zeros beyond both ends."""
        dimension, kernel = self.weight_DK.shape
        # (B, T, D) in memory is a channels-last image of width 1: the fast layout, and no copy to get there.
        image_BDT1 = x_BTD.transpose(1, 2).unsqueeze(-1)
        filters_D1K1 = self.weight_DK[:, None, :, None]
        y_BDT1 = functional.conv2d(image_BDT1, filters_D1K1, self.bias_D, padding=(kernel // 2, 0), groups=dimension)
        return y_BDT1.squeeze(-1).transpose(1, 2)


class ConvolutionModule(nn.Module):
    """LayerNorm, pointwise to 2D, GLU, depthwise convolution, LayerNorm, SiLU, pointwise, dropout."""

    def __init__(self, *, dimension: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)
        self.pointwise_in = nn.Linear(dimension, 2 * dimension)
        self.depthwise = DepthwiseConv(dimension=dimension, kernel=kernel)
        self.depthwise_norm = nn.LayerNorm(dimension)
        self.pointwise_out = nn.Linear(dimension, dimension)
        self.dropout = Dropout(dropout)

    def forward(self, x_BTD: Tensor, padding_BT: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D), without the residual. Padding enters the convolution as zeros."""
        gated_BTD = functional.glu(self.pointwise_in(self.norm(x_BTD)), dim=-1)
        mixed_BTD = self.depthwise(gated_BTD.masked_fill(padding_BT.unsqueeze(-1), 0.0))
        return self.dropout(self.pointwise_out(functional.silu(self.depthwise_norm(mixed_BTD))))


class ConformerBlock(nn.Module):
    """x + FF/2, + attention, + convolution, + FF/2, LayerNorm (equation 1 of the paper)."""

    def __init__(self, *, dimension: int, heads: int, expansion: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.feed_forward_in = FeedForward(dimension=dimension, expansion=expansion, dropout=dropout)
        self.attention_norm = nn.LayerNorm(dimension)
        self.attention = RelativeAttention(dimension=dimension, heads=heads, dropout=dropout)
        self.attention_dropout = Dropout(dropout)
        self.convolution = ConvolutionModule(dimension=dimension, kernel=kernel, dropout=dropout)
        self.feed_forward_out = FeedForward(dimension=dimension, expansion=expansion, dropout=dropout)
        self.norm = nn.LayerNorm(dimension)

    def forward(self, x_BTD: Tensor, table_PD: Tensor, padding_BT: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        x_BTD = torch.add(x_BTD, self.feed_forward_in(x_BTD), alpha=0.5)
        attended_BTD = self.attention(self.attention_norm(x_BTD), table_PD, padding_BT)
        x_BTD = x_BTD + self.attention_dropout(attended_BTD)
        x_BTD = x_BTD + self.convolution(x_BTD, padding_BT)
        return self.norm(torch.add(x_BTD, self.feed_forward_out(x_BTD), alpha=0.5))


class Conformer(Encoder):
    """Subsampling by 4, then ``layers`` Conformer blocks."""

    subsampling = FACTOR

    def __init__(
        self,
        *,
        feature_dimension: int,
        layers: Count,
        dimension: Count,
        heads: Count,
        expansion: Count,
        kernel: Count,
        subsampling_channels: Count,
        dropout: Probability,
    ) -> None:
        super().__init__()
        if dimension % 2:
            raise ValueError(f"model.encoder.dimension must be even (sine and cosine pairs), got {dimension}")
        self.dimension = dimension
        self.subsample = ConvSubsampling(
            feature_dimension=feature_dimension, channels=subsampling_channels, dimension=dimension
        )
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            ConformerBlock(dimension=dimension, heads=heads, expansion=expansion, kernel=kernel, dropout=dropout)
            for _ in range(layers)
        )

    def forward(self, features_BTF: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        """States (B, ceil(T/4), D), zero beyond their lengths, and their lengths (B,)."""
        x_BTD, lengths_B = self.subsample(features_BTF, lengths_B)
        x_BTD = self.dropout(x_BTD)
        padding_BT = padding_mask(lengths_B, x_BTD.shape[1])
        table_PD = relative_table(x_BTD.shape[1], self.dimension, like=x_BTD)
        for block in self.blocks:
            x_BTD = block(x_BTD, table_PD, padding_BT)
        return x_BTD.masked_fill(padding_BT.unsqueeze(-1), 0.0), lengths_B
