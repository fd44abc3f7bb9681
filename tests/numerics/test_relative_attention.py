"""The attention that is one operator against the equation made of torch's operators, in values, gradients and memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from asr.models.attention import hidden_keys
from asr.models.relative_attention import attend, composed, position_products, relative_shift, unshift

Attention = Callable[..., Tensor]


def operands(
    batch: int, queries: int, past: int, *, heads: int = 2, size: int = 3, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Content, key, position, table and value, with gradients."""
    keys = past + queries
    shapes = [(batch, heads, rows, size) for rows in (queries, keys, queries)]
    shapes += [(heads, keys + queries, size), (batch, heads, keys, size)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def padding_of(batch: int, keys: int) -> Tensor:
    """(B, 1, 1, N): the first sequence is whole, the others end earlier."""
    lengths = torch.arange(batch).mul(-2).add(keys).clamp(min=1)
    return (torch.arange(keys) >= lengths[:, None])[:, None, None]


def values_and_gradients(attention: Attention, given: list[Tensor], *rest: Any) -> list[Tensor]:
    torch.manual_seed(3)
    mixed = attention(*given, *rest)
    gradient = torch.cos(torch.arange(mixed.numel(), dtype=mixed.dtype)).view_as(mixed)
    return [mixed.detach(), *torch.autograd.grad(mixed, given, gradient)]


@pytest.mark.parametrize("block", [1, 3, 64])
@pytest.mark.parametrize(("queries", "past"), [(1, 0), (7, 0), (6, 5), (1, 4)])
@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_values_and_gradients_are_those_of_the_equation(
    queries: int, past: int, drop: float, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights are dropped, too."""
    monkeypatch.setattr("asr.models.relative_attention.BLOCK_QUERIES", block)
    torch.manual_seed(0)
    given, hidden = operands(2, queries, past), padding_of(2, past + queries)
    found, expected = (values_and_gradients(each, given, hidden, drop) for each in (attend, composed))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("left_chunks", [0, 2])
def test_masks_of_chunks_hide_keys_from_single_queries(left_chunks: int) -> None:
    torch.manual_seed(0)
    given, padding_BT = operands(3, 9, 0), padding_of(3, 9)[:, 0, 0]
    hidden = hidden_keys(padding_BT, 2, left_chunks).unsqueeze(1)
    found, expected = (values_and_gradients(each, given, hidden, 0.0) for each in (attend, composed))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_gradients_are_those_of_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.models.relative_attention.BLOCK_QUERIES", 2)
    torch.manual_seed(0)
    hidden = padding_of(2, 4)
    assert torch.autograd.gradcheck(lambda *given: attend(*given, hidden, 0.0), operands(2, 3, 1, size=2))


def test_unshift_is_the_transpose_of_shift() -> None:
    """<shift(x), y> = <x, unshift(y)>."""
    torch.manual_seed(0)
    x_TP, y_TN = torch.randn(2, 4, 10, dtype=torch.float64), torch.randn(2, 4, 6, dtype=torch.float64)
    torch.testing.assert_close((relative_shift(x_TP) * y_TN).sum(), (x_TP * unshift(y_TN)).sum(), rtol=1e-14, atol=0)


def test_autocast_multiplies_in_bf16_and_stays_as_near_as_before() -> None:
    torch.manual_seed(0)
    given, hidden = operands(2, 8, 0, dtype=torch.float32), padding_of(2, 8)
    exact = values_and_gradients(composed, [each.detach().double().requires_grad_() for each in given], hidden, 0.0)

    def errors(attention: Attention) -> list[float]:
        with torch.autocast("cpu", torch.bfloat16):
            mixed = attention(*given, hidden, 0.0)
        assert mixed.dtype == torch.bfloat16
        gradient = torch.cos(torch.arange(mixed.numel(), dtype=torch.float64)).view_as(mixed)
        found = [mixed, *torch.autograd.grad(mixed, given, gradient.bfloat16())]
        assert [each.dtype for each in found[1:]] == [torch.float32] * 5
        return [
            float((one.detach().double() - other).norm() / other.norm())
            for one, other in zip(found, exact, strict=True)
        ]

    for ours, theirs in zip(errors(attend), errors(composed), strict=True):
        assert ours < max(1.5 * theirs, 0.01)


def test_operands_may_be_used_by_several_attentions() -> None:
    torch.manual_seed(0)
    given, hidden = operands(2, 5, 0), padding_of(2, 5)
    found, expected = (
        torch.autograd.grad((each(*given, hidden, 0.0) * each(*given, hidden, 0.0)).sum(), given)
        for each in (attend, composed)
    )
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that an operator makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(leaf.numel() for leaf in tree_leaves(made) if isinstance(leaf, Tensor))])
        return made


@pytest.mark.parametrize("drop", [0.0, 0.1])
def test_nothing_is_larger_than_the_pairs_and_less_is_kept(drop: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("asr.models.relative_attention.BLOCK_QUERIES", 4)
    given, hidden = operands(2, 16, 0, dtype=torch.float32), padding_of(2, 16)
    pairs = 2 * 2 * 16 * 16
    kept: dict[str, int] = {}
    for attention, largest_allowed in ((attend, pairs), (composed, 2 * pairs)):
        seen: dict[int, int] = {}

        def keep(tensor: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            attention(*given, hidden, drop).sum().backward()
        assert largest.elements == largest_allowed
        kept[attention.__name__] = sum(seen.values())
    assert kept["attend"] <= kept["composed"]


def test_products_with_the_table_are_counted_as_they_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost model of structured pruning counts them."""
    monkeypatch.setattr("asr.models.relative_attention.BLOCK_QUERIES", 4)
    batch, queries, heads, size = 2, 10, 2, 3
    given = operands(batch, queries, 0, heads=heads, size=size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        attend(*given, padding_of(batch, queries), 0.0)
    products = 2 * queries**2 + position_products(queries, queries)
    assert counter.get_total_flops() == 2 * batch * heads * size * products
    assert position_products(queries, queries) == 2 * 4 * (10 + 4) + 2 * (10 + 2)
