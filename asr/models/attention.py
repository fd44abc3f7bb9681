"""Multi-head self-attention with exact relative position encoding (Transformer-XL).

Dai et al. 2019, arXiv 1901.02860, section 3.3: the score of query i for key j is

    (q_i + u) . k_j / sqrt(d)  +  (q_i + v) . p_{i-j} / sqrt(d)

with p_r = W_p R_r for the sinusoid R_r of the signed distance r, and biases u, v learned per head. Bidirectional, so
r runs from N-1 down to -(T-1), and nothing is clipped.

Queries may be the last T of N states: a stream attends from its newest chunk to what it remembers.

B utterances   T queries   N = past + T keys   D dimension   H heads   K head dimension
P = N + T table rows (the last is never read)   R table columns
"""

import math

import torch
from torch import Tensor, nn

from asr.models.relative_attention import attend


class RelativeAttention(nn.Module):
    """Self-attention over (B, T, D) with relative positions; dropout on the attention weights.

    ``position_dimension`` is R, the width of the table of positions.
    """

    def __init__(
        self, *, dimension: int, heads: int, head_dimension: int, position_dimension: int, dropout: float
    ) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        inner = heads * head_dimension
        self.query_key_value = nn.Linear(dimension, 3 * inner)
        self.position = nn.Linear(position_dimension, inner, bias=False)
        self.content_bias_D = nn.Parameter(torch.zeros(inner))  # u of all heads
        self.position_bias_D = nn.Parameter(torch.zeros(inner))  # v of all heads
        self.output = nn.Linear(inner, dimension)

    def forward(self, x_BND: Tensor, table_PR: Tensor, hidden_BTN: Tensor) -> Tensor:
        """Attended (B, T, D) of the last T of N states.

        Args:
            table_PR: from ``relative_table``; its rows beyond N are as many as the queries.
            hidden_BTN: True where a query does not see a key; also (B, 1, N), for all queries.
        """
        queries = table_PR.shape[0] - x_BND.shape[1]
        query_BND, key_BND, value_BND = self.query_key_value(x_BND).chunk(3, dim=-1)
        query_BTD = query_BND[:, -queries:]
        heads = (
            query_BTD + self.content_bias_D,
            key_BND,
            query_BTD + self.position_bias_D,
            self.position(table_PR),
            value_BND,
        )
        content_BHTK, key_BHNK, position_BHTK, table_HPK, value_BHNK = map(self._split, heads)
        scale = 1 / math.sqrt(key_BHNK.shape[-1])
        mixed_BHTK = attend(
            content_BHTK * scale, key_BHNK, position_BHTK * scale, table_HPK, value_BHNK,
            hidden_BTN.unsqueeze(1), self.dropout if self.training else 0.0,
        )  # fmt: skip
        return self.output(mixed_BHTK.transpose(1, 2).flatten(2))

    def _split(self, x_TD: Tensor) -> Tensor:
        """(..., T, D) to (..., H, T, K)."""
        return x_TD.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def relative_table(frames: int, dimension: int, like: Tensor, past: int = 0) -> Tensor:
    """(past + 2T, dimension) sinusoids [sin, cos] of the distances past + T-1, ..., -T; the dimension is even. In the precision of ``like``."""
    half = torch.arange(0, dimension, 2, device=like.device, dtype=torch.float64)
    frequencies = torch.exp(half * (-math.log(10000.0) / dimension))
    distances = torch.arange(past + frames - 1, -frames - 1, -1, device=like.device, dtype=torch.float64)
    angles = distances.unsqueeze(1) * frequencies
    if torch.onnx.is_in_onnx_export():  # small runtimes have sine and cosine in fp32 alone, which large angles lose
        turns = angles / (2 * math.pi)
        angles = ((turns - turns.floor()) * (2 * math.pi)).float()
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)


def hidden_keys(padding_BT: Tensor, chunk: int | None, left_chunks: int) -> Tensor:
    """Mask of the keys hidden from queries: padding, and with ``chunk`` later chunks and those before ``left_chunks``.

    Returns:
        (B, 1, T) bool without chunks, else (B, T, T), where a state always sees itself: one beyond its utterance's end
        may see nothing else, and a softmax over nothing has no gradient.
    """
    if chunk is None:
        return padding_BT.unsqueeze(1)
    position_T = torch.arange(padding_BT.shape[1], device=padding_BT.device)
    chunk_T = torch.div(position_T, chunk, rounding_mode="floor")
    chunks_back_TT = chunk_T.unsqueeze(1) - chunk_T
    outside_TT = (chunks_back_TT < 0) | (chunks_back_TT > left_chunks)
    return (padding_BT.unsqueeze(1) | outside_TT) & (position_T.unsqueeze(1) != position_T)
