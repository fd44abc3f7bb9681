"""Every trainable parameter in exactly one group, with the flags that others read."""

import pytest
import torch
from torch import nn

from asr.training.hook import ParameterGroup
from asr.training.parameter_groups import parameter_groups


@pytest.fixture
def model() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.LSTM(4, 2), nn.Linear(2, 2))
    model.register_parameter("scale", nn.Parameter(torch.ones(())))
    model[3].weight.requires_grad_(False)
    return model


def test_every_trainable_parameter_exactly_once(model: nn.Sequential) -> None:
    hooks = [ParameterGroup(names=("scale",)), ParameterGroup(names=("0.weight", "1.bias"), options={"lr": 3e-4})]
    groups = parameter_groups(model, {"some": hooks}, 0.1)
    found = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in model.parameters() if p.requires_grad}


def test_weights_decay_biases_and_norms_do_not(model: nn.Sequential) -> None:
    decayed, others = parameter_groups(model, {}, 0.1)
    assert (decayed["name"], decayed["weight_decay"]) == ("decayed", 0.1)
    assert {id(p) for p in decayed["params"]} == {
        id(p) for p in (model[0].weight, model[2].weight_ih_l0, model[2].weight_hh_l0)
    }
    assert (others["name"], others["weight_decay"]) == ("not_decayed", 0.0)
    assert all(decayed[flag] and others[flag] for flag in ("clip", "scale_lr", "compress", "schedule"))


def test_a_hooks_group_carries_its_options_and_flags(model: nn.Sequential) -> None:
    group = ParameterGroup(names=("scale",), options={"lr": 0.01, "maximize": True}, clip=False, compress=False)
    own = parameter_groups(model, {"some": [group]}, 0.1)[-1]
    assert own["params"] == [model.scale]
    assert {key: value for key, value in own.items() if key != "params"} == {
        "name": "some",
        "lr": 0.01,
        "maximize": True,
        "weight_decay": 0.0,
        "clip": False,
        "scale_lr": True,
        "compress": False,
        "schedule": True,
    }


def test_a_hook_may_ask_for_decay_and_empty_groups_are_left_out(model: nn.Sequential) -> None:
    names = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    (only,) = parameter_groups(model, {"some": [ParameterGroup(names=names, options={"weight_decay": 0.5})]}, 0.1)
    assert only["weight_decay"] == 0.5


@pytest.mark.parametrize("name", ["0.wieght", "3.weight"])
def test_unknown_and_frozen_parameters_are_refused(model: nn.Sequential, name: str) -> None:
    with pytest.raises(ValueError, match=f"some-1 names '{name}', which is no trainable parameter"):
        parameter_groups(model, {"some": [ParameterGroup(names=("scale",)), ParameterGroup(names=(name,))]}, 0.1)


@pytest.mark.parametrize("names", [(("scale",), ("scale",)), (("scale", "scale"),)])
def test_a_parameter_claimed_twice_is_refused(model: nn.Sequential, names: tuple[tuple[str, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"'scale' is claimed by the groups some(-0)? and some"):
        parameter_groups(model, {"some": [ParameterGroup(names=each) for each in names]}, 0.1)


def test_flags_do_not_hide_among_the_options(model: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="some must not contain clip"):
        parameter_groups(model, {"some": [ParameterGroup(names=("scale",), options={"clip": False})]}, 0.1)


def test_a_group_that_may_be_idle_is_not_compressed(model: nn.Sequential) -> None:
    group = ParameterGroup(names=("scale",), idle=lambda progress: True)
    with pytest.raises(ValueError, match="some may be idle, and so needs compress=False"):
        parameter_groups(model, {"some": [group]}, 0.1)


def test_the_group_of_a_module_has_its_trainable_parameters(model: nn.Sequential) -> None:
    assert ParameterGroup.of(model, model[3], clip=False) == ParameterGroup(names=("3.bias",), clip=False)
