"""The lattice row by row: the same sums and posteriors as diagonal by diagonal, in a sixth of the operators."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from asr.losses import sums
from asr.losses.inputs import LossInputs
from asr.losses.lattice import Shape
from asr.losses.rnnt import ExactLoss, tile_cells_of, transducer_loss
from asr.losses.rows import RowSums, row_sums
from asr.losses.sums import DiagonalSums, lattice_sums

SHAPES = [
    Shape((1,), (1,)),
    Shape((7, 3, 1), (1, 1, 1)),
    Shape((9, 4, 1, 6), (3, 5, 4, 1)),
    Shape((30, 60), (12, 7)),
    Shape((2, 3), (9, 2)),
]
VIEWS = {  # operators that move no element
    "select", "slice", "view", "as_strided", "unsqueeze", "detach", "unbind", "split", "expand", "permute", "t",
    "lift_fresh", "empty", "alias", "squeeze", "_unsafe_view", "new_empty", "transpose",
}  # fmt: skip


def arcs(shape: Shape, scale: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(shape.frames))
    logits_N2 = scale * torch.randn(sum(shape.cells), 3, generator=generator, dtype=torch.float64)
    blank_N, label_N, _ = logits_N2.log_softmax(1).unbind(1)
    return blank_N, label_N


def ends_of_labels(shape: Shape) -> Tensor:
    """(N,) whether all labels of its utterance have been emitted in a cell."""
    return torch.cat(
        [
            (torch.arange(frames * states) + 1) % states == 0
            for frames, states in zip(shape.frames, shape.states, strict=True)
        ]
    )


def by_diagonals(blank_N: Tensor, label_N: Tensor, shape: Shape, monkeypatch: pytest.MonkeyPatch) -> DiagonalSums:
    monkeypatch.setattr(sums, "FEW_CELLS", 0)
    found = lattice_sums(blank_N, label_N, shape, delay_penalty=0.0, with_posteriors=True)
    assert isinstance(found, DiagonalSums)
    return found


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_both_forms_give_the_same(shape: Shape, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    blank_N, label_N = arcs(shape, scale)
    label_N[ends_of_labels(shape)] = torch.nan  # ignored
    rows, diagonals = (
        row_sums(blank_N, label_N, shape, with_posteriors=True),
        by_diagonals(blank_N, label_N, shape, monkeypatch),
    )
    assert rows is not None
    torch.testing.assert_close(rows.log_likelihood_B, diagonals.log_likelihood_B, rtol=1e-12, atol=1e-11)
    for mine, theirs in zip(rows.posteriors(torch.float64), diagonals.posteriors(torch.float64), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_alignment_crosses_every_frame_once(shape: Shape) -> None:
    """A blank ends every frame; each label is emitted once."""
    found = row_sums(*arcs(shape), shape, with_posteriors=True)
    assert found is not None
    blank_N, label_N = found.posteriors(torch.float64)
    sizes = list(zip(shape.frames, shape.states, strict=True))
    for blank, label, size in zip(blank_N.split(shape.cells), label_N.split(shape.cells), sizes, strict=True):
        torch.testing.assert_close(blank.view(size).sum(1), torch.ones(size[0], dtype=torch.float64))
        torch.testing.assert_close(label.view(size)[:, :-1].sum(0), torch.ones(size[1] - 1, dtype=torch.float64))
        assert not label.view(size)[:, -1].any()


@pytest.mark.parametrize("blank", [-torch.inf, -1e9, torch.nan])
def test_blanks_that_rows_cannot_sum_go_by_diagonals(blank: float) -> None:
    shape = SHAPES[2]
    blank_N, label_N = arcs(shape)
    whole = lattice_sums(blank_N, label_N, shape, delay_penalty=0.0, with_posteriors=True)
    blank_N[3 * 1 + 1] = blank  # of the first utterance
    found = lattice_sums(blank_N, label_N, shape, delay_penalty=0.0, with_posteriors=True)
    assert isinstance(whole, RowSums)
    assert isinstance(found, DiagonalSums)
    torch.testing.assert_close(found.log_likelihood_B[1:], whole.log_likelihood_B[1:])
    assert (
        found.log_likelihood_B[0].isnan() if blank != blank else found.log_likelihood_B[0] < whole.log_likelihood_B[0]
    )


def test_labels_that_cannot_be_are_no_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = SHAPES[3]
    blank_N, label_N = arcs(shape)
    label_N[torch.rand(len(label_N), generator=torch.Generator().manual_seed(1)) < 0.2] = -torch.inf
    rows, diagonals = (
        row_sums(blank_N, label_N, shape, with_posteriors=True),
        by_diagonals(blank_N, label_N, shape, monkeypatch),
    )
    assert rows is not None
    torch.testing.assert_close(rows.log_likelihood_B, diagonals.log_likelihood_B, rtol=1e-12, atol=1e-11)
    assert all(each.isfinite().all() for each in rows.posteriors(torch.float64))


def test_a_large_lattice_goes_by_diagonals_on_a_cpu_and_gives_the_same_gradients(
    make_inputs: Callable[..., LossInputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for cells in (0, sums.FEW_CELLS):
        monkeypatch.setattr(sums, "FEW_CELLS", cells)
        inputs = make_inputs([9, 5, 7], [4, 3, 0])
        loss_B = transducer_loss(inputs, settings(tile_cells=None))
        loss_B.sum().backward()
        found.append([loss_B, *(each.grad for each in inputs.tensors)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


class Operators(TorchDispatchMode):
    """Counts operators that do something."""

    def __init__(self) -> None:
        super().__init__()
        self.counted: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = str(function.overloadpacket).removeprefix("aten.")
        self.counted[name] += name not in VIEWS
        return function(*args, **(kwargs or {}))


def test_a_loss_and_its_gradients_take_less_than_400_operators(
    make_inputs: Callable[..., LossInputs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 32 utterances of 250 frames and 40 labels, in tiles as they are for 500 classes on a GPU."""
    monkeypatch.setattr(sums, "FEW_CELLS", 10**9)
    inputs = make_inputs([250] * 32, [40] * 32, width=2, dtype=torch.float32)
    tile_cells = tile_cells_of(torch.device("cuda"), 500, 256)
    with Operators() as operators:
        transducer_loss(inputs, settings(tile_cells)).sum().backward()
    assert operators.counted.total() < 400


def settings(tile_cells: int | None) -> ExactLoss:
    return ExactLoss(tile_cells=tile_cells, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="torch")
