"""Laws of the transducer loss: what must not change it, what it refuses, what it needs in memory."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.losses import rows
from asr.losses.inputs import Combine, LossInputs
from asr.losses.reference import reference_loss, reference_occupancy
from asr.losses.rnnt import ExactLoss


def make_inputs(batch: int = 4, frames: int = 9, labels: int = 5, width: int = 8, classes: int = 7) -> dict[str, Any]:
    rng = torch.Generator().manual_seed(3)
    return {
        "encoder_BTJ": torch.randn(batch, frames, width, generator=rng),
        "predictor_BSJ": torch.randn(batch, labels + 1, width, generator=rng),
        "weight_VJ": torch.randn(classes, width, generator=rng),
        "bias_V": torch.randn(classes, generator=rng),
        "targets_BU": torch.randint(1, classes, (batch, labels), generator=rng),
        "encoder_lengths_B": torch.tensor([frames, 3, 1, 6][:batch]),
        "target_lengths_B": torch.tensor([2, labels, 3, 0][:batch]),
    }


def loss_of(inputs: dict[str, Any], tile_cells: int = 16, combine: Combine = "add", blank: int = BLANK) -> Tensor:
    return ExactLoss(tile_cells=tile_cells, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="auto")(
        LossInputs(**inputs, combine=combine, blank=blank)
    )


def loss_and_gradients(
    inputs: dict[str, Any], tile_cells: int = 16, combine: Combine = "add"
) -> tuple[Tensor, list[Tensor]]:
    names = ("encoder_BTJ", "predictor_BSJ", "weight_VJ", "bias_V")
    leaves = {name: inputs[name].clone().requires_grad_() for name in names}
    loss_B = loss_of({**inputs, **leaves}, tile_cells, combine)
    return loss_B.detach(), list(torch.autograd.grad(loss_B.sum(), leaves.values()))


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_padding_is_not_read(garbage: float) -> None:
    inputs = make_inputs()
    loss_B, gradients = loss_and_gradients(inputs)
    for index in range(4):
        frames, labels = int(inputs["encoder_lengths_B"][index]), int(inputs["target_lengths_B"][index])
        inputs["encoder_BTJ"][index, frames:] = garbage
        inputs["predictor_BSJ"][index, labels + 1 :] = garbage
        inputs["targets_BU"][index, labels:] = 0
    padded_loss_B, padded_gradients = loss_and_gradients(inputs)
    assert torch.equal(loss_B, padded_loss_B)
    for gradient, padded_gradient in zip(gradients, padded_gradients, strict=True):
        assert torch.equal(gradient, padded_gradient)


def test_padding_receives_no_gradient() -> None:
    inputs = make_inputs()
    _, (encoder_grad_BTJ, predictor_grad_BSJ, _, _) = loss_and_gradients(inputs)
    for index in range(4):
        assert not encoder_grad_BTJ[index, inputs["encoder_lengths_B"][index] :].any()
        assert not predictor_grad_BSJ[index, inputs["target_lengths_B"][index] + 1 :].any()


def test_an_utterance_alone_is_as_in_a_batch() -> None:
    inputs = make_inputs()
    loss_B, (encoder_grad_BTJ, _, _, _) = loss_and_gradients(inputs)
    for index in range(4):
        alone = {k: v[index : index + 1] if k not in ("weight_VJ", "bias_V") else v for k, v in inputs.items()}
        alone_loss_B, alone_gradients = loss_and_gradients(alone)
        torch.testing.assert_close(alone_loss_B[0], loss_B[index])
        torch.testing.assert_close(alone_gradients[0][0], encoder_grad_BTJ[index])


@pytest.mark.parametrize("tile_cells", [1, 4, 7, 1_000_000])
def test_the_tile_changes_nothing(tile_cells: int) -> None:
    loss_B, gradients = loss_and_gradients(make_inputs())
    tiled_loss_B, tiled_gradients = loss_and_gradients(make_inputs(), tile_cells)
    torch.testing.assert_close(tiled_loss_B, loss_B)
    for tiled_gradient, gradient in zip(tiled_gradients, gradients, strict=True):
        torch.testing.assert_close(tiled_gradient, gradient)


@pytest.mark.parametrize("function", [LossInputs, reference_loss, reference_occupancy])
def test_blank_has_no_default(function: Callable[..., Any]) -> None:
    """Its one home is the tokenizer; a default would be another."""
    assert inspect.signature(function).parameters["blank"].default is inspect.Parameter.empty


def test_any_class_can_be_blank() -> None:
    inputs = make_inputs()
    loss_B, _ = loss_and_gradients(inputs)
    swap = torch.tensor([3, 1, 2, 0, 4, 5, 6])
    swapped = {**inputs, "weight_VJ": inputs["weight_VJ"][swap], "bias_V": inputs["bias_V"][swap]}
    swapped["targets_BU"] = swap[inputs["targets_BU"]]
    torch.testing.assert_close(loss_of(swapped, blank=3), loss_B)


def test_backward_can_run_twice() -> None:
    inputs = make_inputs()
    inputs["encoder_BTJ"].requires_grad_()
    loss = loss_of(inputs).sum() * 3
    (first,) = torch.autograd.grad(loss, inputs["encoder_BTJ"], retain_graph=True)
    (second,) = torch.autograd.grad(loss, inputs["encoder_BTJ"])
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", ["encoder_BTJ", "predictor_BSJ", "weight_VJ", "bias_V"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("combine", ["add", "multiply"])
def test_non_finite_inputs_show_in_the_loss_and_in_all_gradients(name: str, value: float, combine: Combine) -> None:
    """In the gradients too, which are what a guard against bad steps looks at: the tanh of infinity is flat."""
    inputs = make_inputs()
    inputs[name].view(-1)[1] = value  # in the first utterance
    loss_B, gradients = loss_and_gradients(inputs, combine=combine)
    assert not loss_B[0].isfinite()
    assert not any(gradient.isfinite().all() for gradient in gradients)
    shared = name in ("weight_VJ", "bias_V")
    assert loss_B[1:].isfinite().any() != shared
    for gradient_BXJ in gradients[:2]:
        assert gradient_BXJ[1:].isfinite().all() != shared


def test_an_impossible_label_costs_infinitely_much_and_has_no_gradient() -> None:
    inputs = make_inputs()
    inputs["bias_V"][inputs["targets_BU"][0, 0]] = -torch.inf
    loss_B, gradients = loss_and_gradients(inputs)
    assert loss_B[0] == torch.inf
    assert not any(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_lengths_B": torch.tensor([0, 3, 1, 6])}, "encoder lengths must lie in 1..9"),
        ({"encoder_lengths_B": torch.tensor([10, 3, 1, 6])}, "encoder lengths must lie in 1..9"),
        ({"target_lengths_B": torch.tensor([6, 3, 1, 2])}, "target lengths must lie in 0..5"),
        ({"targets_BU": torch.full((4, 5), 7)}, "got 7; the tokenizer"),
        ({"targets_BU": torch.zeros(4, 5, dtype=torch.int64)}, "differ from blank"),
        ({"encoder_lengths_B": torch.tensor([9, 3])}, "share one batch"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict[str, Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        loss_of({**make_inputs(), **changes})


def test_never_holds_the_logits_of_the_lattice(largest_tensor: Any) -> None:
    inputs = make_inputs(frames=60, labels=20, classes=300)
    inputs["encoder_lengths_B"].fill_(60)
    inputs["target_lengths_B"].fill_(20)
    with largest_tensor as largest:
        loss_and_gradients(inputs, tile_cells=128)
    assert 100 * 300 < largest.elements <= 128 * 300 < 4 * 60 * 21 * 300 / 10


def test_posteriors_are_left_out_where_nobody_asks_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = make_inputs()
    expected_B, _ = loss_and_gradients(inputs)
    inputs["weight_VJ"].requires_grad_()
    for form in ("RowSums", "DiagonalSums"):
        monkeypatch.setattr(f"asr.losses.sums.{form}.posteriors", None)
    accumulated, directions = rows.accumulated, []

    def counted(steps_SBT: Tensor) -> Tensor:
        directions.append(steps_SBT.shape[1] / len(expected_B))
        return accumulated(steps_SBT)

    monkeypatch.setattr(rows, "accumulated", counted)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(loss_of(inputs), expected_B)
    assert directions == [1, 1]
