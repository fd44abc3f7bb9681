"""Multi-head self-attention with exact relative position encoding (Transformer-XL).

Dai et al. 2019, arXiv 1901.02860, section 3.3: the score of query i for key j is

    (q_i + u) . k_j / sqrt(d)  +  (q_i + v) . p_{i-j} / sqrt(d)

with p_r = W_p R_r for the sinusoid R_r of the signed distance r, and biases u, v learned per head. Bidirectional, so
r runs from T-1 down to -(T-1), and nothing is clipped.

B utterances   T states   D dimension   H heads   K = D / H   P = 2T table rows (the last is never read)
"""

import math

import torch
from torch import Tensor, nn

from asr.models.dropout import dropout


class RelativeAttention(nn.Module):
    """Self-attention over (B, T, D) with relative positions; dropout on the attention weights."""

    def __init__(self, *, dimension: int, heads: int, dropout: float) -> None:
        super().__init__()
        if dimension % heads:
            raise ValueError(f"model.encoder.heads must divide model.encoder.dimension = {dimension}, got {heads}")
        self.heads = heads
        self.dropout = dropout
        self.query_key_value = nn.Linear(dimension, 3 * dimension)
        self.position = nn.Linear(dimension, dimension, bias=False)
        self.content_bias_D = nn.Parameter(torch.zeros(dimension))  # u of all heads
        self.position_bias_D = nn.Parameter(torch.zeros(dimension))  # v of all heads
        self.output = nn.Linear(dimension, dimension)

    def forward(self, x_BTD: Tensor, table_PD: Tensor, padding_BT: Tensor) -> Tensor:
        """Attended (B, T, D), with ``table_PD`` from ``relative_table``; keys under ``padding_BT`` do not count."""
        query_BTD, key_BTD, value_BTD = self.query_key_value(x_BTD).chunk(3, dim=-1)
        scores_BHTT = relative_scores(
            self._split(query_BTD + self.content_bias_D),
            self._split(key_BTD),
            self._split(query_BTD + self.position_bias_D),
            self._split(self.position(table_PD)),
        )
        scores_BHTT = scores_BHTT.masked_fill(padding_BT[:, None, None, :], -math.inf)
        weights_BHTT = dropout(scores_BHTT.softmax(-1), self.dropout, self.training)
        mixed_BHTK = weights_BHTT.to(value_BTD.dtype) @ self._split(value_BTD)
        return self.output(mixed_BHTK.transpose(1, 2).flatten(2))

    def _split(self, x_TD: Tensor) -> Tensor:
        """(..., T, D) to (..., H, T, K)."""
        return x_TD.unflatten(-1, (self.heads, -1)).transpose(-3, -2)


def relative_scores(content_BHTK: Tensor, key_BHTK: Tensor, position_BHTK: Tensor, table_HPK: Tensor) -> Tensor:
    """Scores (B, H, T, T): content . key plus position . p_{i-j}, both over sqrt(K)."""
    scale = 1 / math.sqrt(key_BHTK.shape[-1])
    by_content_BHTT = (content_BHTK * scale) @ key_BHTK.transpose(-2, -1)
    by_distance_BHTP = (position_BHTK * scale) @ table_HPK.transpose(-2, -1)
    return by_content_BHTT + relative_shift(by_distance_BHTP)


def relative_shift(x_BHTP: Tensor) -> Tensor:
    """Turn columns that count distances T-1, T-2, ... into columns that count keys: out[i, j] = x[i, T-1-i+j].

    A view: with rows of P = 2T entries, x[i, T-1-i+j] lies at flat position i (2T-1) + j + (T-1), so that rows of
    2T-1 entries that start at T-1 hold key j in column j.
    """
    frames = x_BHTP.shape[-2]
    flat = x_BHTP.flatten(-2)[..., frames - 1 : frames - 1 + frames * (2 * frames - 1)]
    return flat.unflatten(-1, (frames, 2 * frames - 1))[..., :frames]


def relative_table(frames: int, dimension: int, like: Tensor) -> Tensor:
    """(2T, D) sinusoids [sin, cos] of the distances T-1, ..., -T; D is even. In the precision of ``like``."""
    half = torch.arange(0, dimension, 2, device=like.device, dtype=torch.float64)
    frequencies = torch.exp(half * (-math.log(10000.0) / dimension))
    distances = torch.arange(frames - 1, -frames - 1, -1, device=like.device, dtype=torch.float64)
    angles = distances.unsqueeze(1) * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)
