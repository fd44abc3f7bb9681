"""A chunk-wise Conformer as one network that computes a chunk, in the layout of sherpa-onnx's online `conformer`.

    x (N, T, F), attn (L, P, N, D), conv (L, K - 1, N, D), processed_lens (N,)  ->  encoder_out (N, S, J), attn, conv

The client makes both states of zeros, gives each chunk those that the chunk before gave out, and looks into neither. So they
hold what this encoder remembers, in L = blocks + 1 layers: of each block the P states that its attention sees before the
chunk, and the K - 1 states that its convolution does; and in the last layer of ``attn``, as one row, the four frames before
the chunk and the number of past states, up to P. ``processed_lens`` is not used: the client sets it back at an
endpoint and keeps the states.

N streams   T mel frames of a chunk   F mel bins   S states of a chunk   M model's input   C channels of a convolution
D width of a state, at least the encoder's   J joint dimension
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from asr.data.context import stack_frames
from asr.data.features import LogMel
from asr.models.attention import relative_table
from asr.models.conformer import Conformer, ConformerBlock, Memory
from asr.models.joiner import Joiner
from asr.models.streaming import chunked
from asr.models.subsampling import FACTOR


class StreamingEncoder(nn.Module):
    """The next chunk of N streams."""

    table_PR: Tensor

    def __init__(self, features: LogMel, encoder: Conformer, joiner: Joiner) -> None:
        super().__init__()
        self.encoder = chunked(encoder)
        self.project = joiner.project_encoder
        self.stack = features.stack
        self.states = encoder.chunk or 0
        self.past = encoder.left_chunks * self.states
        self.frame_size = features.dimension
        like = next(encoder.parameters())
        table_PR = relative_table(self.states, encoder.position_dimension, like=like, past=self.past)
        self.register_buffer("table_PR", table_PR)

    @property
    def mel_frames(self) -> int:
        """T: frames that the client gives for a chunk, and shifts by."""
        return self.stack * FACTOR * self.states

    @property
    def attention_states(self) -> int:
        """P in the shape of ``attn``; there is room for the last layer's row in any case."""
        return max(self.past, 1)

    @property
    def kernel(self) -> int:
        """K in the shape of ``conv``."""
        kernels = [block.convolution.depthwise.left + 1 for block in self._blocks if block.convolution is not None]
        return max([*kernels, 2])

    @property
    def width(self) -> int:
        """D in the shapes of both states."""
        channels = [len(block.convolution.depthwise.bias_D) for block in self._blocks if block.convolution is not None]
        row = FACTOR * self.frame_size + 1
        return max([self.encoder.dimension, *channels, -(-row // self.attention_states)])

    def start(self, streams: int) -> tuple[Tensor, Tensor]:
        """The states of streams that have heard nothing, as the client makes them."""
        layers = len(self.encoder.blocks) + 1
        return (
            torch.zeros(layers, self.attention_states, streams, self.width),
            torch.zeros(layers, self.kernel - 1, streams, self.width),
        )

    def forward(
        self, x_NTF: Tensor, attn_LPND: Tensor, conv_LKND: Tensor, processed_N: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The projected states (N, S, J) of a chunk, and what is remembered after it."""
        x_NTM = stack_frames(x_NTF, self.stack) if self.stack > 1 else x_NTF
        row_NX = attn_LPND[-1].transpose(0, 1).flatten(1)
        before_NX, seen_N = row_NX[:, : FACTOR * self.frame_size], row_NX[:, FACTOR * self.frame_size]
        x_NSD = self._subsample(before_NX.unflatten(1, (FACTOR, self.frame_size)), x_NTM, seen_N)
        hidden_N1K = self._hidden(seen_N)
        padding_NS = x_NTM.new_zeros(x_NTM.shape[0], self.states, dtype=torch.bool)
        attn, conv = [], []
        for index, block in enumerate(self._blocks):
            memory = self._remembered(block, attn_LPND[index].transpose(0, 1), conv_LKND[index].transpose(0, 1))
            x_NSD = block(x_NSD, self.table_PR, padding_NS, hidden_N1K, memory)
            attn.append(self._laid_out(memory.attended_BLD, self.attention_states, attn_LPND[index]))
            conv.append(self._laid_out(memory.convolved_BLD, self.kernel - 1, conv_LKND[index]))
        seen_N = (seen_N + self.states).clamp(max=float(self.attention_states))
        row_NX = torch.cat([x_NTM[:, -FACTOR:].flatten(1), seen_N[:, None]], dim=1)
        row_NX = functional.pad(row_NX, (0, self.attention_states * self.width - row_NX.shape[1]))
        attn.append(row_NX.unflatten(1, (self.attention_states, self.width)).transpose(0, 1))
        return self.project(x_NSD), torch.stack(attn), torch.cat([torch.stack(conv), conv_LKND[-1:]])

    @property
    def _blocks(self) -> list[ConformerBlock]:
        return [block for block in self.encoder.blocks if isinstance(block, ConformerBlock)]

    def _subsample(self, before_N4M: Tensor, x_NTM: Tensor, seen_N: Tensor) -> Tensor:
        """The chunk's states (N, S, D). At a stream's start what lies before it is the convolutions' zero padding."""
        subsample = self.encoder.subsample
        frames_NTM = torch.cat([before_N4M, x_NTM], dim=1)
        x_NCTM = subsample.first(frames_NTM.unsqueeze(-1).permute(0, 3, 1, 2))
        early = FACTOR // 2
        earlier_NCTM = x_NCTM[:, :, :early].masked_fill((seen_N == 0)[:, None, None, None], 0.0)
        x_NCTM = functional.silu(torch.cat([earlier_NCTM, x_NCTM[:, :, early:]], dim=2))
        x_NCSM = functional.silu(subsample.second(x_NCTM))[:, :, 1:]
        states_NSD: Tensor = subsample.project(x_NCSM.permute(0, 2, 3, 1).flatten(2))
        return states_NSD

    def _hidden(self, seen_N: Tensor) -> Tensor:
        """(N, 1, past + S): the places of past states that there are not yet."""
        missing_N = self.past - seen_N
        place_K = torch.arange(self.past + self.states, device=seen_N.device)
        return (place_K < missing_N[:, None]).unsqueeze(1)

    def _remembered(self, block: ConformerBlock, attn_NPD: Tensor, conv_NKD: Tensor) -> Memory:
        memory = Memory()
        memory.attended_BLD = attn_NPD[:, : self.past, : block.width]
        if block.convolution is not None:
            depthwise = block.convolution.depthwise
            memory.convolved_BLD = conv_NKD[:, : depthwise.left, : len(depthwise.bias_D)]
        return memory

    def _laid_out(self, kept_NLD: Tensor | None, rows: int, otherwise_LND: Tensor) -> Tensor:
        """What is remembered in the client's shape, (rows, N, width)."""
        if kept_NLD is None:
            return otherwise_LND
        filling = (0, self.width - kept_NLD.shape[2], 0, 0, 0, rows - kept_NLD.shape[1])
        return functional.pad(kept_NLD.transpose(0, 1), filling)
