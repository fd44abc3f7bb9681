"""Laws of the quantisers: clips of known densities, levels, codes, and gradients of smooth surrogates and closed forms."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from compression.quantization.activations import SMALLEST, FixedBound, LearnedBounds, bounded, codes_between, grid
from compression.quantization.squashing import CodedTanh
from compression.quantization.weights import SAWB, WeightQuantizer, fake_quantize, from_codes, levels, sawb_clip
from distributed.errors import UsageError

QUANTILES = (torch.arange(200_001, dtype=torch.float64) + 0.5) / 200_001
GAUSS = math.sqrt(2) * torch.erfinv(2 * QUANTILES - 1)
LAPLACE = -torch.sign(QUANTILES - 0.5) * torch.log1p(-2 * (QUANTILES - 0.5).abs())
UNIFORM = 2 * QUANTILES - 1


def squared_error(values: Tensor, clip: float, bits: int) -> float:
    step_1 = torch.tensor([clip / levels(bits)], dtype=values.dtype)
    return float((fake_quantize(values, step_1, bits, clipped=True) - values).square().mean())


@pytest.mark.parametrize(
    ("density", "sigmas"), [(GAUSS, 2.44), (LAPLACE, 3.53), (UNIFORM, 1.62)], ids=["gauss", "laplace", "uniform"]
)
def test_sawb_clips_known_densities_at_so_many_standard_deviations(density: Tensor, sigmas: float) -> None:
    clip_1 = sawb_clip(density[None], bits=4)
    assert float(clip_1 / density.square().mean().sqrt()) == pytest.approx(sigmas, rel=0.02)


@pytest.mark.parametrize("bits", SAWB)
@pytest.mark.parametrize("density", [GAUSS, LAPLACE], ids=["gauss", "laplace"])
def test_no_other_clip_is_much_better_than_sawbs(density: Tensor, bits: int) -> None:
    clip = float(sawb_clip(density[None], bits))
    others = [squared_error(density, factor * clip, bits) for factor in torch.linspace(0.5, 1.6, 34).tolist()]
    assert squared_error(density, clip, bits) < 1.15 * min(others)


def test_weights_of_one_magnitude_are_not_clipped_away() -> None:
    weight = torch.tensor([[0.5, -0.5, 0.5, 0.5]])
    for bits in SAWB:
        torch.testing.assert_close(WeightQuantizer("sawb_plus", bits, "tensor")(weight), weight)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["max", "sawb", "sawb_plus"])
def test_codes_times_steps_are_the_quantised_weights(kind: str, bits: int) -> None:
    weight = torch.randn(8, 6, generator=torch.Generator().manual_seed(bits))
    weight[3] = 0
    for groups, count in (("tensor", 1), ("gate", 4), ("row", 8)):
        quantizer = WeightQuantizer(kind, bits, groups, gates=4)
        step_G, codes = quantizer.step(weight), quantizer.codes(weight)
        quantized = quantizer(weight)
        assert step_G.shape == (count,)
        assert codes.dtype == torch.int8
        assert codes.abs().max() <= levels(bits)
        assert kind != "max" or codes.abs().max() == levels(bits)
        assert torch.equal(from_codes(codes, step_G), quantized)
        assert torch.equal(fake_quantize(quantized, step_G, bits, clipped=True), quantized), "idempotent"
        assert (quantized[3] == 0).all()
        for group, step in zip(quantized.view(count, -1), step_G, strict=True):
            assert len(group.unique()) <= 2 * levels(bits) + 1
            assert torch.equal(group.abs().max() / step <= levels(bits) + 1e-3, torch.tensor(True))


def test_groups_have_their_own_steps() -> None:
    weight = torch.randn(8, 50) * torch.tensor([1.0, 2, 4, 8]).repeat_interleave(2)[:, None]
    step_4 = WeightQuantizer("sawb", 4, "gate", gates=4).step(weight)
    alone = [WeightQuantizer("sawb", 4, "tensor").step(gate) for gate in weight.chunk(4)]
    torch.testing.assert_close(step_4, torch.cat(alone))


def test_sixteen_bits_round_almost_nothing_and_sawb_refuses_them() -> None:
    weight = torch.randn(7, 5, dtype=torch.float64)
    assert (WeightQuantizer("max", 16, "row")(weight) - weight).abs().max() < weight.abs().max() / 2**15
    with pytest.raises(UsageError, match=r"^sawb has a rule for 2 to 8 bits, got 16"):
        WeightQuantizer("sawb", 16, "row")


def test_the_clip_follows_the_weights() -> None:
    """The step of a mean of weights is not the mean of their steps, so that no step may be stored."""
    one, other = torch.randn(2, 4, 100)
    quantizer = WeightQuantizer("sawb_plus", 4, "tensor")
    mean_of_steps = (quantizer.step(one) + quantizer.step(other)) / 2
    assert quantizer.step((one + other) / 2) < 0.9 * mean_of_steps


@pytest.mark.parametrize("kind", ["max", "sawb", "sawb_plus"])
def test_gradients_of_weights_pass_straight_through(kind: str) -> None:
    weight = torch.randn(4, 200, dtype=torch.float64, requires_grad=True)
    quantizer = WeightQuantizer(kind, 4, "gate", gates=4)
    upstream = torch.randn(4, 200, dtype=torch.float64)
    (found,) = torch.autograd.grad(quantizer(weight), weight, upstream)
    clip_41 = 7 * quantizer.step(weight)[:, None]
    surrogate = weight if kind == "sawb_plus" else torch.maximum(torch.minimum(weight, clip_41), -clip_41)
    (expected,) = torch.autograd.grad(surrogate, weight, upstream)
    if kind != "max":
        assert (weight.abs() > clip_41).any(), "some are clipped"
        torch.testing.assert_close(found, expected)
    else:
        torch.testing.assert_close(found, upstream)


def slopes(function: Callable[[Tensor], Tensor], at: Tensor, upstream: Tensor) -> Tensor:
    """Central differences of sum(upstream x function) by each entry of ``at``."""
    width, found = 1e-6, []
    for place in range(len(at)):
        moved = [at.clone(), at.clone()]
        moved[0][place] += width
        moved[1][place] -= width
        up, down = ((upstream * function(each)).sum() for each in moved)
        found.append((up - down) / (2 * width))
    return torch.stack(found)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("residual", [False, True], ids=["pact", "pact_plus"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_of_bounds_are_those_of_the_smooth_surrogate(bits: int, residual: bool, symmetric: bool) -> None:
    """The surrogate: between the bounds x plus a rounding error that is a constant number of steps; else the bound."""
    x = 1.5 * torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    upstream = torch.randn(300, dtype=torch.float64)
    bounds = torch.tensor([1.2] if symmetric else [0.7, 1.2], dtype=torch.float64)
    step_1, zero_1 = grid(bounds[:1], bounds[-1:], bits)
    rounding = codes_between(x, step_1, zero_1, bits) - x / step_1 if residual else torch.zeros_like(x)

    def surrogate(values: Tensor, at: Tensor) -> Tensor:
        step = (at[:1] + at[-1:]) / (2 * levels(bits))
        inside = values + step * rounding
        return torch.where(values > at[-1:], at[-1:], torch.where(values < -at[:1], -at[:1], inside))

    leaves = [bounds[:1].clone().requires_grad_(), bounds[-1:].clone().requires_grad_()]
    lower, upper = (leaves[1], leaves[1]) if symmetric else leaves
    x.requires_grad_()
    quantized = bounded(x, lower, upper, bits, residual=residual)
    by_x, *by_bounds = torch.autograd.grad(quantized, [x, *leaves[symmetric:]], upstream)
    expected = slopes(lambda at: surrogate(x.detach(), at), bounds, upstream)
    torch.testing.assert_close(torch.cat(by_bounds), expected, rtol=1e-6, atol=1e-6)
    x_detached, frozen = x.detach(), rounding * step_1
    slope_of_x = slopes(
        lambda at: torch.maximum(torch.minimum(at, bounds[-1:]), -bounds[:1]) + frozen, x_detached, upstream
    )
    torch.testing.assert_close(by_x, slope_of_x, rtol=1e-6, atol=1e-6)


def learned(kind: str, bits: int = 4, lowest: float = -0.7, highest: float = 1.2) -> LearnedBounds:
    made = LearnedBounds(bits=bits, kind=kind, device=torch.device("cpu"), dtype=torch.float32)
    made.set_bounds(lowest, highest)
    return made


KINDS = ("pact", "pact_symmetric", "pact_plus", "pact_plus_symmetric", "max", "max_symmetric")


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_codes_times_the_step_are_the_quantised_activations(kind: str, bits: int) -> None:
    quantizer = learned(kind, bits)
    x = torch.linspace(-3, 3, 4001)
    codes, step_1, quantized = quantizer.codes(x), quantizer.step(), quantizer(x)
    assert torch.equal(codes, codes.round())
    assert torch.equal(codes * step_1, quantized)
    assert torch.equal(quantizer(quantized), quantized), "idempotent"
    assert len(codes.unique()) == 2 * levels(bits) + 1
    assert codes.min() == -quantizer.zero_point()
    assert quantizer(torch.zeros(1)) == 0, "zero is a level"
    inside = (x > -quantizer.bounds()[0] + step_1) & (x < quantizer.bounds()[1] - step_1)
    assert ((quantized - x).abs() <= step_1 / 2 + 1e-6)[inside].all()


def test_values_that_are_never_negative_use_all_levels() -> None:
    quantizer = learned("pact", lowest=0.0)
    assert quantizer.codes(torch.linspace(0, 1.2, 100)).unique().tolist() == list(range(15))


def test_max_bounds_are_not_trained_and_learned_ones_are() -> None:
    trained = {kind: [each.requires_grad for each in learned(kind).parameters()] for kind in KINDS}
    assert {kind: len(flags) for kind, flags in trained.items()} == {
        kind: 1 if kind.endswith("symmetric") else 2 for kind in KINDS
    }
    assert all(all(flags) != kind.startswith("max") for kind, flags in trained.items())


def test_a_bound_acts_as_no_less_than_the_smallest_and_can_rise_again() -> None:
    quantizer = learned("pact_plus_symmetric")
    with torch.no_grad():
        quantizer.upper.fill_(-5.0)
    x = torch.tensor([0.5, -2.0])
    assert quantizer(x).abs().max() <= SMALLEST * 1.001
    quantizer(x).square().sum().backward()
    assert quantizer.upper.grad is not None
    assert quantizer.upper.grad > 0


def test_a_fixed_bound_is_a_learned_one_that_has_learned_it() -> None:
    x, fixed = torch.randn(500), FixedBound(bits=4, bound=1.25)
    same = learned("pact_symmetric", lowest=-1.25, highest=1.25)
    assert torch.equal(fixed(x), same(x))
    assert torch.equal(fixed.codes(x) * fixed.step(), fixed(x))
    assert not list(fixed.parameters())


def test_the_gradient_of_a_bound_does_not_depend_on_how_a_unit_is_split() -> None:
    x, upstream = torch.randn(6, 40, 8), torch.randn(6, 40, 8)
    gradients = []
    for parts in ([slice(0, 6)], [slice(0, 2), slice(2, 6)]):
        quantizer = learned("pact_plus")
        for part in parts:
            quantizer(x[part]).backward(upstream[part])
        gradients.append(torch.stack([quantizer.lower.grad, quantizer.upper.grad]))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_coded_tanh_rounds_tanh_and_both_of_its_forms_agree(bits: int) -> None:
    coded, x = CodedTanh(bits=bits), torch.randn(1000, dtype=torch.float64, requires_grad=True)
    values, upstream = coded(x), torch.randn(1000, dtype=torch.float64)
    in_place, kept = coded.squash_(x.detach().clone())
    assert torch.equal(values.detach(), in_place)
    torch.testing.assert_close(coded.codes(x) * coded.step(), values.detach())
    assert (values - x.tanh()).abs().max() <= coded.step() / 2 + 1e-12
    (found,) = torch.autograd.grad(values, x, upstream)
    coded.backward_(upstream.clone(), kept)
    gradient = upstream.clone()
    coded.backward_(gradient, kept)
    torch.testing.assert_close(found, gradient)
    torch.testing.assert_close(found, slopes(torch.tanh, x.detach(), upstream), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("lowest", "highest"), [(-math.inf, 1), (-1, math.inf), (math.nan, 1), (-1, math.nan), (0, -math.inf)]
)
def test_a_range_that_is_not_finite_is_refused(lowest: float, highest: float) -> None:
    made = LearnedBounds(bits=4, kind="pact", device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(UsageError, match=r"^a calibrated range of .* is not finite; start from sound weights"):
        made.set_bounds(lowest, highest)
    assert not made.calibrated
