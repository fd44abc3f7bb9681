"""SGD, AdamW, LARS and LAMB against steps written by hand in NumPy, and resumption bit by bit."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from omegaconf import OmegaConf
from torch import nn
from torch.optim import Optimizer

from asr.parts import build
from asr.training.large_batch import Lamb, Lars, trust_ratios
from asr.training.optimizers import adamw, lamb, lars, sgd

Array = NDArray[np.float64]
CONF = Path(__file__).parents[4] / "conf" / "optimizer"

FACTORIES: dict[str, Callable[..., Optimizer]] = {
    "sgd": partial(sgd, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "adamw": partial(adamw, lr=0.01, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.1),
    "lars": partial(lars, lr=2.0, momentum=0.9, trust_coefficient=0.02, weight_decay=0.01),
    "lamb": partial(lamb, lr=0.02, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.05),
}


def sgd_by_hand(w: Array, g: Array, state: dict[str, Array], t: int, decay: float, adapted: bool) -> Array:
    g = g + decay * w
    state["v"] = g if t == 1 else 0.9 * state["v"] + g
    return w - 0.1 * (g + 0.9 * state["v"])


def adamw_by_hand(w: Array, g: Array, state: dict[str, Array], t: int, decay: float, adapted: bool) -> Array:
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.98 * state.get("v", 0) + 0.02 * g**2
    direction = (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.98**t)) + 1e-8)
    return w - 0.01 * direction - 0.01 * decay * w


def lars_by_hand(w: Array, g: Array, state: dict[str, Array], t: int, decay: float, adapted: bool) -> Array:
    length = np.linalg.norm(w)
    ratio = 0.02 * length / (np.linalg.norm(g) + decay * length) if adapted else 1.0
    state["v"] = 0.9 * state.get("v", 0) + 2.0 * ratio * (g + decay * w)
    return w - state["v"]


def lamb_by_hand(w: Array, g: Array, state: dict[str, Array], t: int, decay: float, adapted: bool) -> Array:
    state["m"] = 0.9 * state.get("m", 0) + 0.1 * g
    state["v"] = 0.99 * state.get("v", 0) + 0.01 * g**2
    r = (state["m"] / (1 - 0.9**t)) / (np.sqrt(state["v"] / (1 - 0.99**t)) + 1e-6) + decay * w
    ratio = np.linalg.norm(w) / np.linalg.norm(r) if adapted else 1.0
    return w - 0.02 * ratio * r


BY_HAND: dict[str, Callable[..., Array]] = {
    "sgd": sgd_by_hand,
    "adamw": adamw_by_hand,
    "lars": lars_by_hand,
    "lamb": lamb_by_hand,
}


def weights(seed: int = 0) -> list[nn.Parameter]:
    """A matrix, a bias, a convolution, and a matrix of a hook's group without scaling."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(5, 3), (5,), (4, 3, 2), (2, 3)]
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in shapes]


def groups_of(parameters: list[nn.Parameter]) -> list[dict[str, object]]:
    matrix, bias, convolution, own = parameters
    return [
        {"params": [matrix, convolution], "weight_decay": 0.03},
        {"params": [bias], "weight_decay": 0.0},
        {"params": [own], "weight_decay": 0.0, "scale_lr": False},
    ]


def set_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64).to(parameter.dtype)


@pytest.mark.parametrize("name", FACTORIES)
def test_follows_the_equations(name: str) -> None:
    parameters = weights()
    optimizer = FACTORIES[name](groups_of(parameters))
    expected = [parameter.detach().numpy().copy() for parameter in parameters]
    states: list[dict[str, Array]] = [{} for _ in parameters]
    decays, adapted = [0.03, 0.0, 0.03, 0.0], [True, False, True, False]
    for t in range(1, 6):
        set_gradients(parameters, t)
        optimizer.step()
        for i, parameter in enumerate(parameters):
            assert parameter.grad is not None
            g = parameter.grad.numpy()
            expected[i] = BY_HAND[name](expected[i], g, states[i], t, decays[i], adapted[i])
            np.testing.assert_allclose(parameter.detach().numpy(), expected[i], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FACTORIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_goes_on_bitwise_after_a_checkpoint(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    whole = [nn.Parameter(p.detach().to(dtype)) for p in weights()]
    optimizer = FACTORIES[name](groups_of(whole))
    for step in range(3):
        set_gradients(whole, step)
        optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = copy.deepcopy(whole)
    second = FACTORIES[name](groups_of(resumed))
    second.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for step in range(3, 6):
        for parameters, each in ((whole, optimizer), (resumed, second)):
            set_gradients(parameters, step)
            each.step()
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", FACTORIES)
def test_maximize_is_descent_on_the_negated_gradient(name: str) -> None:
    up, down = weights(), weights()
    ascent = FACTORIES[name]([{"params": up, "maximize": True}])
    descent = FACTORIES[name]([{"params": down}])
    for step in range(3):
        set_gradients(up, step)
        for one, other in zip(up, down, strict=True):
            assert one.grad is not None
            other.grad = -one.grad
        ascent.step()
        descent.step()
    for one, other in zip(up, down, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["lars", "lamb"])
@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_an_adapted_step_does_not_depend_on_the_scale_of_the_gradient(name: str, factor: float) -> None:
    one, other = weights(), weights()
    exact = {"eps": 1e-14} if name == "lamb" else {}  # eps is the only length that Adam's direction knows
    first, second = (FACTORIES[name]([{"params": p, "weight_decay": 0.0}], **exact) for p in (one, other))
    set_gradients(one, 0)
    for a, b in zip(one, other, strict=True):
        assert a.grad is not None
        b.grad = factor * a.grad
    first.step()
    second.step()
    for index in (0, 2, 3):  # the matrices and the convolution
        torch.testing.assert_close(one[index], other[index], rtol=1e-9, atol=1e-9)


def test_the_relative_step_of_lamb_is_the_learning_rate() -> None:
    parameters = weights()
    before = [parameter.detach().clone() for parameter in parameters]
    set_gradients(parameters, 0)
    FACTORIES["lamb"](groups_of(parameters)).step()
    for index in (0, 2):
        moved = (parameters[index].detach() - before[index]).norm() / before[index].norm()
        assert float(moved) == pytest.approx(0.02, rel=1e-12)


def test_ratio_is_one_where_a_norm_is_zero_or_the_tensor_is_left_alone() -> None:
    ratios = trust_ratios(
        torch.tensor([2.0, 0.0, 2.0, 2.0]), torch.tensor([4.0, 4.0, 0.0, 4.0]), torch.tensor([True, True, True, False])
    )
    assert ratios.tolist() == [0.5, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_zero_weights_and_zero_gradients_stay_finite(name: str) -> None:
    born, still = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.ones(3, 2))
    optimizer = FACTORIES[name]([{"params": [born, still], "weight_decay": 0.0}])
    born.grad, still.grad = torch.ones(3, 2), torch.zeros(3, 2)
    optimizer.step()
    assert torch.isfinite(born).all()
    assert (born != 0).all(), "a tensor that starts at zero must be able to leave it"
    assert torch.equal(still, torch.ones(3, 2))


@pytest.mark.parametrize("name", ["lars", "lamb"])
def test_a_parameter_without_gradient_is_left_out(name: str) -> None:
    parameters = weights()
    optimizer = FACTORIES[name]([{"params": parameters}])
    set_gradients(parameters, 0)
    parameters[0].grad = None
    before = parameters[0].detach().clone()
    optimizer.step()
    assert torch.equal(parameters[0], before)
    assert parameters[0] not in optimizer.state


def test_lamb_corrects_a_late_starter_by_its_own_count() -> None:
    late, alone = weights()[:1], weights()[:1]
    steady = nn.Parameter(torch.ones(2, 2, dtype=torch.float64))
    together, reference = FACTORIES["lamb"]([{"params": [steady, *late]}]), FACTORIES["lamb"]([{"params": alone}])
    for _ in range(3):
        steady.grad = torch.ones_like(steady)
        together.step()
    for parameters in (late, alone):
        set_gradients(parameters, 0)
    together.step()
    reference.step()
    assert torch.equal(late[0], alone[0])


def test_momentum_of_nesterov_must_not_be_zero() -> None:
    with pytest.raises(ValueError, match=r"optimizer\.nesterov=true needs optimizer\.momentum above 0"):
        sgd([{"params": weights()}], lr=0.1, momentum=0, nesterov=True, weight_decay=0)


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW), ("lars", Lars), ("lamb", Lamb)]
)
def test_yaml_builds_and_its_state_loads_without_pickled_code(name: str, kind: type[Optimizer], tmp_path: Path) -> None:
    parameters = weights()
    optimizer = build(OmegaConf.load(CONF / f"{name}.yaml"), groups=groups_of(parameters))
    assert isinstance(optimizer, kind)
    set_gradients(parameters, 0)
    optimizer.step()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    torch.load(tmp_path / "state.pt", weights_only=True)
