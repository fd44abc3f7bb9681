"""Masks in a model's forward: drawn in training, deterministic elsewhere, and gone from it after each forward."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from asr.data.batch import Batch
from asr.hooks.dropconnect import DropConnect
from asr.models.speech_model import SpeechModel
from asr.runs.model_folder import LoadedModel
from compression.pruning.masks import Masks

Make = Callable[..., Batch]


@pytest.mark.parametrize("kind", ["conformer", "lstm"])
def test_masks_are_drawn_in_training_alone(
    kind: str, small_model: Callable[..., SpeechModel], masked: Callable[..., Masks], make_batch: Make
) -> None:
    model, batch = small_model(kind), make_batch([40, 33], [4, 3])
    for each in model.modules():
        if hasattr(each, "probability"):
            each.probability = 0.0  # no dropout
    masks = masked(model)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model(batch).total.detach())

    assert loss(1) == loss(2)
    model.train()
    assert loss(1) != loss(2)
    assert loss(1) == loss(1)
    assert masks.drawn is None
    model.eval()
    before = loss(1)
    with torch.no_grad():
        masks.mask("joiner").log_alpha.sub_(3.0)
    assert loss(1) != before, "a mask of evaluation follows its parameter"


@pytest.mark.parametrize("kind", ["conformer", "lstm"])
def test_parameters_are_the_models_own_after_a_forward_also_one_that_failed(
    kind: str, small_model: Callable[..., SpeechModel], masked: Callable[..., Masks], make_batch: Make
) -> None:
    model = small_model(kind)
    own = {name: id(each) for name, each in model.named_parameters()}
    masks = masked(model)

    def unchanged() -> bool:
        lstms = [each for each in model.modules() if isinstance(each, nn.LSTM)]
        operands = {id(weight) for each in lstms for weight in each._flat_weights}
        return (
            masks.drawn is None
            and own == {name: id(each) for name, each in model.named_parameters()}
            and (operands <= set(own.values()))
        )

    model.train()(make_batch([40, 33], [4, 3])).total.backward()
    assert unchanged()
    assert all(each.grad is not None for each in masks.parameters())
    for name in ("joiner.project_encoder", "encoder"):
        handle = model.get_submodule(name).register_forward_pre_hook(lambda module, inputs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(make_batch([40, 33], [4, 3]))
        handle.remove()
        assert unchanged()


@pytest.mark.parametrize("kind", ["conformer", "lstm", "pruned loss"])
def test_the_gradient_of_masks_is_that_of_finite_differences(
    kind: str, loaded_model: Callable[..., LoadedModel], masked: Callable[..., Masks], make_batch: Make
) -> None:
    model = loaded_model(kind).model.double()
    batch = make_batch([24, 17], [3, 2]).to(torch.device("cpu"), torch.float64)
    masks = masked(model).double()
    for each in model.modules():
        if hasattr(each, "probability"):
            each.probability = 0.0
    model.train()

    def loss() -> torch.Tensor:
        torch.manual_seed(5)
        return model(batch).total

    loss().backward()
    checked = 0
    for site in masks.sites:
        log_alpha = masks.mask(site.name).log_alpha
        assert log_alpha.grad is not None
        place = int(log_alpha.grad.abs().argmax())
        if log_alpha.grad[place] == 0:
            continue  # the draw has no value between 0 and 1
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                log_alpha[place] += step
                values.append(float(loss()))
                log_alpha[place] -= step
        assert float(log_alpha.grad[place]) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4, abs=1e-6), site
        checked += 1
    assert checked > len(masks.sites) // 2


def test_an_lstm_keeps_what_dropconnect_has_dropped(
    small_model: Callable[..., SpeechModel], masked: Callable[..., Masks]
) -> None:
    model = DropConnect(probability=0.5, modules=["encoder.layers.0.left_to_right"]).on_model(small_model("lstm"))
    lstm = model.get_submodule("encoder.layers.0.left_to_right").train()
    assert isinstance(lstm, nn.LSTM)
    seen: list[torch.Tensor] = []
    masks = masked(model, ["cells"])
    handle = lstm.register_forward_pre_hook(lambda module, inputs: seen.extend(module._flat_weights))
    lstm(torch.randn(1, 3, lstm.input_size))
    handle.remove()
    z = masks.value("encoder.layers.0.left_to_right")
    recurrent, own = seen[1], lstm.weight_hh_l0
    assert (recurrent[:, z == 0] == 0).all()
    ratio = (recurrent / own)[:, z > 0] / z[z > 0]
    dropped = ratio == 0
    assert 0.2 < dropped.float().mean() < 0.8
    torch.testing.assert_close(ratio[~dropped], torch.full_like(ratio[~dropped], 2.0), atol=1e-4, rtol=0)
    assert all(one is other for one, other in zip(lstm._flat_weights, lstm.parameters(), strict=True))
