"""Attention with relative positions as one operator, whose backward keeps two tensors of all pairs and fills none with zeros.

    scores = c k' + shift(p r')       weights = softmax(scores)       mixed = dropout(weights) v

Composed of torch's operators, the shift's two views each fill a tensor of twice the pairs with zeros in backward, and the
masks of keys and of dropout are applied again to the gradient. Neither is needed: a hidden key's weight is 0, and with d the
dropped weights and g the gradient of ``mixed``,

    dL/dscores  =  d * (g v')  -  weights * sum over K of (g * mixed)

(the sum is that of FlashAttention-2, Dao 2023, arXiv 2307.08691, section 2.3.1). Queries are taken in blocks where positions
are concerned: T of them meet distances from N - 1 down to -(T - 1), of which each sees N, so that a block of Q needs N + Q
rows of the table in place of N + T. A GPU, for which fewer operators count more, has one block.

B utterances   T queries   N keys   H heads   K head dimension   P = N + T table rows   Q queries of a block
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from asr.models.dropout import dropout

BLOCK_QUERIES = 64  # on a CPU
CPU = torch.device("cpu")


def attend(
    content_BHTK: Tensor,
    key_BHNK: Tensor,
    position_BHTK: Tensor,
    table_HPK: Tensor,
    value_BHNK: Tensor,
    hidden_B1TN: Tensor,
    drop: float,
) -> Tensor:
    """Mixed values (B, H, T, K).

    Args:
        content_BHTK, position_BHTK: scaled queries that meet the keys and the table.
        hidden_B1TN: True where a query does not see a key, of which it sees at least one; broadcasts.
        drop: probability that a weight is dropped.
    """
    operands = (content_BHTK, key_BHNK, position_BHTK, table_HPK, value_BHNK)
    if torch.onnx.is_in_onnx_export():
        return composed(*operands, hidden_B1TN, drop)
    dtype = product_dtype(value_BHNK)
    with torch.autocast(value_BHNK.device.type, enabled=False):
        mixed_BHTK: Tensor = _Attention.apply(*(each.to(dtype) for each in operands), hidden_B1TN, drop)
    return mixed_BHTK


def composed(
    content_BHTK: Tensor,
    key_BHNK: Tensor,
    position_BHTK: Tensor,
    table_HPK: Tensor,
    value_BHNK: Tensor,
    hidden_B1TN: Tensor,
    drop: float,
) -> Tensor:
    """``attend`` as its equation, of torch's operators, each with a gradient of its own; what an export is made of."""
    shifted_BHTN = relative_shift(position_BHTK @ table_HPK.transpose(-2, -1))
    scores_BHTN = content_BHTK @ key_BHNK.transpose(-2, -1) + shifted_BHTN
    weights_BHTN = scores_BHTN.masked_fill(hidden_B1TN, -torch.inf).softmax(-1)
    return dropout(weights_BHTN, drop, training=drop > 0).to(value_BHNK.dtype) @ value_BHNK


def product_dtype(value: Tensor) -> torch.dtype:
    """The dtype of matrix products with ``value``: autocast's where it is on."""
    device = value.device.type
    if torch.is_autocast_enabled(device) and value.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return value.dtype


class _Attention(torch.autograd.Function):
    """Keeps the weights before and after dropout (once where nothing is dropped); weights are in at least float32."""

    @staticmethod
    def forward(
        ctx: Any,
        content_BHTK: Tensor,
        key_BHNK: Tensor,
        position_BHTK: Tensor,
        table_HPK: Tensor,
        value_BHNK: Tensor,
        hidden_B1TN: Tensor,
        drop: float,
    ) -> Tensor:
        scores_BHTN = content_BHTK @ key_BHNK.transpose(-2, -1)
        for queries, rows in blocks(content_BHTK.shape[-2], key_BHNK.shape[-2], content_BHTK.device):
            by_distance_BHQP = position_BHTK[..., queries, :] @ table_HPK[:, rows].transpose(-2, -1)
            scores_BHTN[..., queries, :].add_(relative_shift(by_distance_BHQP))
        # Adding is three times as fast as filling, which reads a mask element by element.
        scores_BHTN.add_(torch.zeros_like(hidden_B1TN, dtype=scores_BHTN.dtype).masked_fill_(hidden_B1TN, -torch.inf))
        wide = torch.promote_types(scores_BHTN.dtype, torch.float32)
        weights_BHTN = scores_BHTN.softmax(-1, dtype=wide)
        dropped_BHTN = dropout(weights_BHTN, drop, training=drop > 0).to(value_BHNK.dtype)
        mixed_BHTK = dropped_BHTN @ value_BHNK
        ctx.save_for_backward(
            content_BHTK, key_BHNK, position_BHTK, table_HPK, value_BHNK, weights_BHTN, dropped_BHTN, mixed_BHTK
        )
        return mixed_BHTK

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BHTK: Tensor) -> tuple[Tensor | None, ...]:
        content_BHTK, key_BHNK, position_BHTK, table_HPK, value_BHNK, weights_BHTN, dropped_BHTN, mixed_BHTK = (
            ctx.saved_tensors
        )
        wide = weights_BHTN.dtype
        value_gradient_BHNK = dropped_BHTN.transpose(-2, -1) @ gradient_BHTK
        scores_BHTN = (gradient_BHTK @ value_BHNK.transpose(-2, -1)).to(wide).mul_(dropped_BHTN)
        mean_BHT1 = (gradient_BHTK.to(wide) * mixed_BHTK).sum(-1, keepdim=True)
        scores_BHTN = scores_BHTN.addcmul_(weights_BHTN, mean_BHT1, value=-1).to(value_BHNK.dtype)
        position_gradient_BHTK = torch.empty_like(position_BHTK)
        table_gradient_HPK = torch.zeros_like(table_HPK, dtype=wide)
        for queries, rows in blocks(content_BHTK.shape[-2], key_BHNK.shape[-2], content_BHTK.device):
            block_BHQP = unshift(scores_BHTN[..., queries, :])
            position_gradient_BHTK[..., queries, :] = block_BHQP @ table_HPK[:, rows]
            block_BHPK = block_BHQP.transpose(-2, -1) @ position_BHTK[..., queries, :]
            table_gradient_HPK[:, rows].add_(block_BHPK.sum(0, dtype=wide))
        return (
            scores_BHTN @ key_BHNK,
            scores_BHTN.transpose(-2, -1) @ content_BHTK,
            position_gradient_BHTK,
            table_gradient_HPK.to(table_HPK.dtype),
            value_gradient_BHNK,
            None,
            None,
        )


def position_products(queries: int, keys: int) -> int:
    """Number of products of a query with a row of the table, on a CPU."""
    sizes = ((block.stop - block.start, rows.stop - rows.start) for block, rows in blocks(queries, keys, CPU))
    return sum(block * rows for block, rows in sizes)


def blocks(queries: int, keys: int, device: torch.device) -> Iterator[tuple[slice, slice]]:
    """Consecutive queries, and the rows of the table from which the shift takes their distances."""
    size = BLOCK_QUERIES if device == CPU else queries
    for start in range(0, queries, size):
        stop = min(start + size, queries)
        yield slice(start, stop), slice(queries - stop, queries - start + keys)


def relative_shift(x_BHTP: Tensor) -> Tensor:
    """Turn columns that count distances N-1, N-2, ... into columns that count keys: out[i, j] = x[i, T-1-i+j].

    A view: with rows of P = N + T entries, x[i, T-1-i+j] lies at flat position i (P-1) + j + (T-1), so that rows of
    P-1 entries that start at T-1 hold key j in column j.
    """
    queries, rows = x_BHTP.shape[-2:]
    flat = x_BHTP.flatten(-2)[..., queries - 1 : queries - 1 + queries * (rows - 1)]
    return flat.unflatten(-1, (queries, rows - 1))[..., : rows - queries]


def unshift(x_BHTN: Tensor) -> Tensor:
    """The transpose of ``relative_shift``: (B, H, T, N) to (B, H, T, N + T), with 0 where the shift reads nothing."""
    *leading, queries, keys = x_BHTN.shape
    spread_BHTP = x_BHTN.new_zeros(*leading, queries, keys + queries)
    relative_shift(spread_BHTP).copy_(x_BHTN)
    return spread_BHTP
