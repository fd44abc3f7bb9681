"""DropConnect: an LSTM with masked recurrent weights in training, the very same one otherwise; gradients; what is refused."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from asr.hooks.dropconnect import DropConnect, DroppedConnections, matching_lstms
from asr.models.dropout import dropout
from asr.parts import build
from asr.training.trainer import Trainer
from distributed.learners.world import World
from distributed.parameters.flat_parameters import FlatParameters
from scripts.composition.compose import CONF

SHAPES = [{}, {"num_layers": 2, "bidirectional": True}, {"bias": False}, {"proj_size": 3}]


def make(seed: int = 0, dtype: torch.dtype = torch.float64, **options: Any) -> nn.LSTM:
    torch.manual_seed(seed)
    return nn.LSTM(5, 7, batch_first=True, **options).to(dtype)


def masked_copy(lstm: nn.LSTM, seed: int, probability: float, **options: Any) -> nn.LSTM:
    """An ordinary LSTM that has the masked weights as its own: what a forward after ``manual_seed(seed)`` computes with."""
    copy = make(dtype=lstm.weight_hh_l0.dtype, **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in lstm.named_parameters():
            copy.get_parameter(name).copy_(dropout(weight, probability, True) if "weight_hh" in name else weight)
    return copy


def output(lstm: nn.LSTM, x: Tensor, seed: int) -> Tensor:
    torch.manual_seed(seed)
    states: Tensor = lstm(x)[0]
    return states


@pytest.mark.parametrize("options", SHAPES, ids=str)
def test_a_forward_is_that_of_an_lstm_whose_recurrent_weights_are_masked(options: dict[str, Any]) -> None:
    lstm, x = make(**options), torch.randn(3, 6, 5, dtype=torch.float64)
    plain = output(make(**options), x, 1)
    names, before = list(lstm.state_dict()), [weight.clone() for weight in lstm.parameters()]
    DroppedConnections(lstm, 0.25)
    for seed in (1, 2):
        assert torch.equal(output(lstm, x, seed), output(masked_copy(lstm, seed, 0.25, **options), x, 0))
        assert not torch.equal(output(lstm, x, seed), plain)
    assert torch.equal(output(lstm.eval(), x, 1), plain), "off in evaluation"
    assert list(lstm.state_dict()) == names
    assert all(map(torch.equal, lstm.parameters(), before))
    assert all(mine is own for mine, own in zip(lstm._flat_weights, lstm.parameters(), strict=True))


def test_gradients_are_the_differences_of_the_loss_with_the_mask_held() -> None:
    lstm, x = make(num_layers=2), torch.randn(3, 6, 5, dtype=torch.float64)
    DroppedConnections(lstm, 0.25)

    def loss() -> Tensor:
        return output(lstm, x, 3).square().sum()

    def loss_at(weight: nn.Parameter, value: Tensor) -> Tensor:
        before = weight.clone()
        weight.copy_(value)
        found = loss()
        weight.copy_(before)
        return found

    loss().backward()
    torch.manual_seed(9)
    for name, weight in lstm.named_parameters():
        assert weight.grad is not None
        direction, size = torch.randn_like(weight), 1e-6
        predicted = float((weight.grad * direction).sum())
        with torch.no_grad():
            there = float(loss_at(weight, weight + size * direction))
            back = float(loss_at(weight, weight - size * direction))
        assert (there - back) / (2 * size) == pytest.approx(predicted, rel=1e-5, abs=1e-8), name
    share = float((lstm.weight_hh_l0.grad == 0).double().mean())
    assert share == pytest.approx(0.25, abs=0.15), "a connection that is missing has no gradient"


def test_the_mean_over_masks_is_the_weight_itself() -> None:
    weight = torch.ones(200, 200, dtype=torch.float64)
    connections = DroppedConnections(make(), 0.25)
    torch.manual_seed(0)
    masked = connections.masked(weight)
    assert masked.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float(masked.mean()) == pytest.approx(1.0, abs=3.3 * (1 / 3 / 40_000) ** 0.5)


def test_a_forward_that_fails_leaves_the_parameters_in_place() -> None:
    lstm = make()
    DroppedConnections(lstm, 0.25)
    with pytest.raises(RuntimeError):
        lstm(torch.zeros(3, 6, 4, dtype=torch.float64))
    assert all(mine is own for mine, own in zip(lstm._flat_weights, lstm.parameters(), strict=True))


def test_flat_buffers_see_the_raw_weights() -> None:
    lstm, x = make(), torch.randn(3, 6, 5, dtype=torch.float64)
    DroppedConnections(lstm, 0.25)
    flat = FlatParameters(lstm, gradients=True)
    output(lstm, x, 1).sum().backward()
    flat.verify()
    assert flat.flat_grad[0].any()
    changed = output(lstm, x, 1)
    flat.flat[0].mul_(2.0)
    assert not torch.equal(output(lstm, x, 1), changed)


@pytest.fixture
def models(
    small_config: Callable[..., DictConfig], make_trainer: Callable[..., Trainer], tmp_path: Path, alone: World
) -> Iterator[Callable[..., nn.Module]]:
    """The model of a run with the hook and overrides of its settings."""
    started: list[Trainer] = []

    def model(*overrides: str) -> nn.Module:
        config = small_config("hooks=[dropconnect]", "backend=single", "evaluation.sets=[]", *overrides)
        started.append(make_trainer(config, tmp_path / str(len(started)), alone))
        return started[-1].parts.run.model

    yield model
    for trainer in started:
        trainer.parts.recorder.close()


def test_patterns_choose_among_the_models_lstms(models: Callable[..., nn.Module]) -> None:
    model = models()
    encoder = {f"encoder.layers.0.{direction}" for direction in ("left_to_right", "right_to_left")}
    assert matching_lstms(model, ["*"]).keys() == encoder | {"predictor.lstm"}
    assert matching_lstms(model, ["encoder.*"]).keys() == encoder
    assert all(lstm._forward_pre_hooks for lstm in matching_lstms(model, ["*"]).values())
    chosen = models("hooks.dropconnect.modules=['predictor.*']")
    dropped = {name for name, lstm in matching_lstms(chosen, ["*"]).items() if lstm._forward_pre_hooks}
    assert dropped == {"predictor.lstm"}
    with pytest.raises(
        ValueError, match=r"dropconnect\.modules: 'decoder' matches no LSTM of the model, which has encoder"
    ):
        models("hooks.dropconnect.modules=['*','decoder']")
    with pytest.raises(ValueError, match="which has none; correct the pattern or leave it out"):
        models("model=ctc_conformer_tiny")


def test_the_configuration_builds_it() -> None:
    hook = build(OmegaConf.load(CONF / "hooks" / "dropconnect.yaml"))
    assert isinstance(hook, DropConnect)
    assert (hook.probability, hook.modules, hook.stage) == (0.25, ["*"], None)
