"""The pruned loss: laws of its windows, its second pass against the exact loss and the paper."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.losses import sums
from asr.losses.inputs import Combine, LossInputs
from asr.losses.lattice import Shape
from asr.losses.pruned import PrunedLoss, PrunedTransducerLoss, Sizes, linked, valid_cells, windows
from asr.losses.reference import joiner_logits, reference_sum
from asr.losses.rnnt import ExactLoss, transducer_loss

MakeInputs = Callable[..., LossInputs]
EXACT = ExactLoss(tile_cells=50, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="torch")
FRAMES, LABELS = [9, 2, 5, 7], [4, 7, 0, 6]  # the second has fewer frames than labels, the third no labels
CPU = torch.device("cpu")
every_combine = pytest.mark.parametrize("combine", ["add", "multiply"])


def make_loss(inputs: LossInputs, prune_range: int, **changes: float) -> PrunedTransducerLoss:
    """Of the sizes of ``inputs``, its first pass as decided as a trained one."""
    torch.manual_seed(0)
    defaults = {"simple_scale": 0.5, "pruned_scale": 1.0, "lm_scale": 0.25}
    options = PrunedLoss(prune_range=prune_range, lattice=EXACT, **(defaults | changes))
    classes, joint = inputs.weight_VJ.shape
    loss = options.sized(joint=joint, classes=classes).to(inputs.weight_VJ.dtype)
    with torch.no_grad():
        for parameter in loss.parameters():
            parameter *= 4
    return loss


def gradients(loss_B: Tensor, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(loss_B.sum(), tensors)


def open_cells(inputs: LossInputs, loss: PrunedTransducerLoss, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The places that the second pass is given."""
    seen = []

    def spy(inputs: LossInputs, settings: ExactLoss, open_n: Tensor) -> Tensor:
        seen.append(open_n)
        return transducer_loss(inputs, settings, open_n)

    with monkeypatch.context() as patch:
        patch.setattr("asr.losses.pruned.transducer_loss", spy)
        loss(inputs)
    return seen[0]


@every_combine
def test_windows_of_all_labels_give_the_exact_loss(make_inputs: MakeInputs, combine: Combine) -> None:
    inputs = make_inputs(FRAMES, LABELS, combine=combine)
    pruned_B = make_loss(inputs, prune_range=max(LABELS) + 1).passes(inputs).pruned_B
    exact_B = EXACT(inputs)
    assert torch.equal(pruned_B, exact_B)
    for ours, expected in zip(gradients(pruned_B, inputs.tensors), gradients(exact_B, inputs.tensors), strict=True):
        assert torch.equal(ours, expected)


@every_combine
@pytest.mark.parametrize("prune_range", [2, 3, 5])
def test_the_second_pass_is_the_sum_over_alignments_within_the_windows(
    make_inputs: MakeInputs, monkeypatch: pytest.MonkeyPatch, combine: Combine, prune_range: int
) -> None:
    """Against the paper's recursion, differentiated, with next to no probability outside."""
    inputs = make_inputs(FRAMES, LABELS, combine=combine)
    loss = make_loss(inputs, prune_range)
    shape = inputs.shape()
    open_N = torch.zeros(sum(shape.cells), dtype=torch.bool)
    open_N[open_cells(inputs, loss, monkeypatch)] = True
    assert 0 < open_N.sum() < len(open_N)
    expected = []
    for index, cells in enumerate(open_N.split(shape.cells)):
        frames, states = shape.frames[index], shape.states[index]
        joined = inputs.encoder_BTJ[index, :frames], inputs.predictor_BSJ[index, :states]
        log_probs_TSV = joiner_logits(*joined, inputs.weight_VJ, inputs.bias_V, combine).log_softmax(-1)
        closed_TS1 = ~cells.view(frames, states, 1)
        targets_U = inputs.targets_BU[index, : states - 1]
        expected.append(reference_sum(log_probs_TSV.masked_fill(closed_TS1, -1e4), targets_U, inputs.blank))
    expected_B, pruned_B = torch.stack(expected), loss.passes(inputs).pruned_B
    torch.testing.assert_close(pruned_B, expected_B, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradients(pruned_B, inputs.tensors), gradients(expected_B, inputs.tensors), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_fewer_alignments_are_never_more_probable(make_inputs: MakeInputs) -> None:
    inputs = make_inputs(FRAMES, LABELS)
    exact_B = EXACT(inputs)
    losses = [make_loss(inputs, prune_range).passes(inputs).pruned_B for prune_range in range(2, max(LABELS) + 2)]
    assert all((pruned_B >= exact_B).all() for pruned_B in losses)
    assert (losses[0][[0, 3]] > exact_B[[0, 3]] + 1e-3).all()
    assert torch.equal(losses[-1], exact_B)


@pytest.mark.parametrize(("few_cells", "rounding"), [(0, 0.0), (sums.FEW_CELLS, 1e-14)], ids=["diagonals", "rows"])
def test_the_loss_falls_with_every_cell_that_is_opened(
    few_cells: int, rounding: float, make_inputs: MakeInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of nested sets of cells; the windows of a larger prune_range need not contain those of a smaller one.

    Row by row, closed cells are summed in another order than open ones.
    """
    monkeypatch.setattr(sums, "FEW_CELLS", few_cells)
    inputs = make_inputs([9, 7], [6, 4])
    shape = inputs.shape()
    valid_BTS = valid_cells(Sizes.of(shape, CPU))
    state_BTS = torch.arange(valid_BTS.shape[2]).expand_as(valid_BTS)
    frame_BTS = torch.arange(valid_BTS.shape[1])[:, None].expand_as(valid_BTS)
    sizes = shape.frames, shape.states
    slope_B = torch.tensor([(states - 1) / (frames - 1) for frames, states in zip(*sizes, strict=True)])
    distance_N = (state_BTS - slope_B[:, None, None] * frame_BTS).abs()[valid_BTS]
    losses = [
        transducer_loss(inputs, EXACT, (distance_N <= width).nonzero().squeeze(1)) for width in (1.0, 1.5, 2.5, 4.0, 9)
    ]
    for narrow_B, wide_B in itertools.pairwise(losses):
        assert (wide_B <= narrow_B * (1 + rounding)).all()
    assert (losses[-1] < losses[0]).all()
    assert torch.equal(losses[-1], EXACT(inputs))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 12)), min_size=1, max_size=4),
    prune_range=st.integers(2, 14),
    seed=st.integers(0, 1000),
)
def test_windows_always_leave_a_way(sizes: list[tuple[int, int]], prune_range: int, seed: int) -> None:
    shape = Shape(tuple(frames for frames, _ in sizes), tuple(labels + 1 for _, labels in sizes))
    valid_BTS = valid_cells(Sizes.of(shape, CPU))
    occupancy_BTS = torch.rand(valid_BTS.shape, generator=torch.Generator().manual_seed(seed)) * valid_BTS
    open_BTS = windows(occupancy_BTS, Sizes.of(shape, CPU), prune_range)
    for open_TS, (frames, labels) in zip(open_BTS, sizes, strict=True):
        rows = [row.nonzero().squeeze(1).tolist() for row in open_TS[:frames, : labels + 1]]
        width = min(labels + 1, prune_range if frames * (prune_range - 1) >= labels else -(-labels // frames) + 1)
        assert all(row == list(range(row[0], row[0] + width)) for row in rows)
        assert rows[0][0] == 0
        assert rows[-1][-1] == labels
        for before, after in itertools.pairwise(rows):
            assert before[0] <= after[0] <= before[-1], "an alignment goes from one window to the next"


def test_windows_hold_the_alignments_that_matter() -> None:
    """All occupancy in one alignment: its cells are open, as long as no frame has more labels than a window."""
    shape = Shape((7,), (7,))
    states = [[0], [0, 1, 2], [2], [2, 3], [3], [3, 4, 5], [5, 6]]
    occupancy_BTS = torch.zeros(1, 7, 7)
    for frame, visited in enumerate(states):
        occupancy_BTS[0, frame, visited] = 1
    assert windows(occupancy_BTS, Sizes.of(shape, CPU), 3)[occupancy_BTS > 0].all()


def test_linked_moves_as_little_as_in_k2() -> None:
    step_B = torch.tensor([2])
    kept = torch.tensor([[0, 0, 2, 3, 3, 5]])
    assert torch.equal(linked(kept, step_B), kept)
    behind_a_later_one = torch.tensor([[0, 2, 4, 1, 3, 3]])
    assert linked(behind_a_later_one, step_B).tolist() == [[0, 1, 1, 1, 3, 3]]
    out_of_reach = torch.tensor([[0, 0, 0, 0, 5, 5]])
    assert linked(out_of_reach, step_B).tolist() == [[0, 0, 1, 3, 5, 5]]
    late_start = torch.tensor([[3, 3, 4, 4, 4, 5]])
    assert linked(late_start, step_B).tolist() == [[0, 2, 4, 4, 4, 5]]


@every_combine
def test_gradients_are_those_of_finite_differences(make_inputs: MakeInputs, combine: Combine) -> None:
    inputs = make_inputs([4, 2], [2, 3], classes=4, width=3, combine=combine)
    loss = make_loss(inputs, prune_range=2)
    names = list(dict(loss.named_parameters()))

    def total(*tensors: Tensor) -> Tensor:
        fields = dict(zip(("encoder_BTJ", "predictor_BSJ", "weight_VJ", "bias_V"), tensors[:4], strict=True))
        parameters = dict(zip(names, tensors[4:], strict=True))
        return torch.func.functional_call(loss, parameters, (replace(inputs, **fields),))

    assert torch.autograd.gradcheck(total, (*inputs.tensors, *loss.parameters()))


@every_combine
def test_an_utterance_knows_neither_its_batch_nor_its_padding(make_inputs: MakeInputs, combine: Combine) -> None:
    inputs = make_inputs(FRAMES, LABELS, combine=combine)
    loss = make_loss(inputs, prune_range=3)
    together_B = loss(inputs)
    parameters = (inputs.weight_VJ, inputs.bias_V, *loss.parameters())
    total = [torch.zeros_like(parameter) for parameter in parameters]
    for index, (frames, labels) in enumerate(zip(FRAMES, LABELS, strict=True)):
        padded_BTJ = torch.nn.functional.pad(inputs.encoder_BTJ[index, None, :frames], (0, 0, 0, 3), value=torch.nan)
        padded_BSJ = torch.nn.functional.pad(inputs.predictor_BSJ[index, None, : labels + 1], (0, 0, 0, 2), value=1e30)
        alone_B = loss(
            replace(
                inputs,
                encoder_BTJ=padded_BTJ,
                predictor_BSJ=padded_BSJ,
                targets_BU=inputs.targets_BU[index, None],
                encoder_lengths_B=torch.tensor([frames]),
                target_lengths_B=torch.tensor([labels]),
            )
        )
        torch.testing.assert_close(alone_B[0], together_B[index], rtol=1e-12, atol=1e-12)
        for sum_, gradient in zip(total, gradients(alone_B, parameters), strict=True):
            sum_ += gradient
    for sum_, gradient in zip(total, gradients(together_B, parameters), strict=True):
        torch.testing.assert_close(sum_, gradient, rtol=1e-10, atol=1e-12)


def test_the_passes_are_weighted(make_inputs: MakeInputs) -> None:
    inputs = make_inputs(FRAMES, LABELS)
    simple_B, pruned_B = make_loss(inputs, 3).passes(inputs)
    weighted = make_loss(inputs, 3, simple_scale=0.2, pruned_scale=0.7)
    torch.testing.assert_close(weighted(inputs), 0.2 * simple_B + 0.7 * pruned_B)


def test_a_non_finite_state_shows_in_its_own_utterance_alone(make_inputs: MakeInputs) -> None:
    inputs = make_inputs(FRAMES, LABELS)
    with torch.no_grad():
        inputs.encoder_BTJ[0, 3] = torch.inf
    loss_B = make_loss(inputs, 3)(inputs)
    assert loss_B.isfinite().tolist() == [False, True, True, True]
