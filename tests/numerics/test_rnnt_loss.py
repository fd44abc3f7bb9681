"""The transducer loss against independent references: torchaudio, the paper's recursion, and all alignments counted."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torchaudio
from torch import Tensor

from asr.data.tokenizer import BLANK
from asr.losses.inputs import LossInputs
from asr.losses.reference import joiner_logits, reference_loss
from asr.losses.rnnt import ExactLoss

COMBINE = ("add", "multiply")


@dataclass
class Case:
    """Random inputs of the loss over a ragged batch; the longest utterance fills the tensors."""

    tensors: list[Tensor]  # encoder_BTJ, predictor_BSJ, weight_VJ, bias_V
    targets_BU: Tensor
    frames_B: Tensor
    labels_B: Tensor
    combine: str = "add"

    def loss(self, tile_cells: int = 64) -> Tensor:
        encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = self.tensors
        inputs = LossInputs(
            encoder_BTJ=encoder_BTJ,
            predictor_BSJ=predictor_BSJ,
            weight_VJ=weight_VJ,
            bias_V=bias_V,
            targets_BU=self.targets_BU,
            encoder_lengths_B=self.frames_B,
            target_lengths_B=self.labels_B,
            combine=self.combine,
            blank=BLANK,
        )
        return ExactLoss(tile_cells=tile_cells, min_occupancy=0.0, fastemit=0.0, delay_penalty=0.0, kernels="auto")(
            inputs
        )

    def logits(self) -> Tensor:
        encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = self.tensors
        merge = torch.add if self.combine == "add" else torch.mul
        return torch.tanh(merge(encoder_BTJ[:, :, None], predictor_BSJ[:, None])) @ weight_VJ.t() + bias_V

    def torchaudio_loss(self) -> Tensor:
        lengths = self.frames_B.int(), self.labels_B.int()
        return torchaudio.functional.rnnt_loss(
            self.logits(), self.targets_BU.int(), *lengths, blank=BLANK, reduction="none", fused_log_softmax=True
        )

    def reference(self) -> Tensor:
        return torch.stack([self.reference_of(index) for index in range(len(self.frames_B))])

    def reference_of(self, index: int) -> Tensor:
        encoder_BTJ, predictor_BSJ, weight_VJ, bias_V = self.tensors
        frames, labels = int(self.frames_B[index]), int(self.labels_B[index])
        states = (encoder_BTJ[index, :frames], predictor_BSJ[index, : labels + 1])
        logits_TSV = joiner_logits(*states, weight_VJ, bias_V, self.combine)
        return reference_loss(logits_TSV, self.targets_BU[index, :labels], BLANK)

    def gradients(self, loss: Callable[[], Tensor], scale_B: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad((loss() * scale_B).sum(), self.tensors))


def make_case(
    batch: int, frames: int, labels: int, width: int, classes: int, combine: str = "add", seed: int = 0
) -> Case:
    rng = torch.Generator().manual_seed(seed)
    frames_B = torch.randint(1, frames + 1, (batch,), generator=rng)
    labels_B = torch.randint(0, labels + 1, (batch,), generator=rng)
    frames_B[0], labels_B[-1] = frames, labels
    tensors = [
        torch.randn(batch, frames, width, generator=rng),
        torch.randn(batch, labels + 1, width, generator=rng),
        2 * torch.randn(classes, width, generator=rng) / width**0.5,
        torch.randn(classes, generator=rng),
    ]
    targets_BU = torch.randint(1, classes, (batch, labels), generator=rng)
    return Case([tensor.requires_grad_() for tensor in tensors], targets_BU, frames_B, labels_B, combine)


def double(case: Case) -> Case:
    tensors = [tensor.detach().double().requires_grad_() for tensor in case.tensors]
    return Case(tensors, case.targets_BU, case.frames_B, case.labels_B, case.combine)


def relative(value: Tensor, expected: Tensor) -> float:
    return ((value - expected).norm() / expected.norm().clamp(min=1e-30)).item()


# batch, frames, labels, width, classes: U = 0, T = 1, T < U, few and many classes, more than one tile per frame
SHAPES = [
    (1, 1, 0, 4, 2),
    (3, 6, 0, 8, 5),
    (3, 1, 4, 8, 7),
    (4, 3, 9, 8, 2),
    (5, 17, 8, 16, 29),
    (2, 12, 70, 8, 11),
    (3, 9, 4, 16, 1000),
    (2, 5, 3, 8, 5000),
]


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_torchaudio(shape: tuple[int, ...], combine: str) -> None:
    case = make_case(*shape, combine=combine)
    scale_B = torch.linspace(0.5, 2.0, shape[0])
    assert relative(case.loss(), case.torchaudio_loss()) < 1e-5
    ours = case.gradients(case.loss, scale_B)
    for gradient, expected in zip(ours, case.gradients(case.torchaudio_loss, scale_B), strict=True):
        assert relative(gradient, expected) < 1e-4


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_torchaudio_on_random_ragged_shapes(seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    sizes = [int(torch.randint(1, high, (), generator=rng)) for high in (9, 40, 25, 33, 60)]
    sizes[-1] += 1
    case = make_case(*sizes, combine=COMBINE[seed % 2], seed=seed)
    scale_B = torch.ones(sizes[0])
    assert relative(case.loss(200), case.torchaudio_loss()) < 1e-5
    ours = case.gradients(lambda: case.loss(200), scale_B)
    for gradient, expected in zip(ours, case.gradients(case.torchaudio_loss, scale_B), strict=True):
        assert relative(gradient, expected) < 1e-4


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("shape", [(3, 4, 3, 5, 4), (2, 2, 5, 4, 3), (2, 1, 2, 4, 2)])
def test_agrees_with_the_paper_in_double_precision(shape: tuple[int, ...], combine: str) -> None:
    case = double(make_case(*shape, combine=combine))
    scale_B = torch.linspace(-1.0, 2.0, shape[0], dtype=torch.float64)
    torch.testing.assert_close(case.loss(5), case.reference(), rtol=1e-12, atol=1e-12)
    ours = case.gradients(lambda: case.loss(5), scale_B)
    for gradient, expected in zip(ours, case.gradients(case.reference, scale_B), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("frames", "labels"), [(1, 0), (1, 3), (2, 3), (4, 2), (3, 0)])
def test_is_the_sum_over_all_alignments(frames: int, labels: int) -> None:
    case = double(make_case(1, frames, labels, 4, 3))
    log_probs_TSV = case.logits()[0].log_softmax(-1)
    total = torch.zeros((), dtype=torch.float64)
    # an alignment is an order of `frames` blanks and `labels` labels that ends with a blank
    for places in itertools.combinations(range(frames + labels - 1), labels):
        t = u = 0
        log_prob = torch.zeros((), dtype=torch.float64)
        for step in range(frames + labels):
            emits = step in places
            log_prob = log_prob + log_probs_TSV[t, u, case.targets_BU[0, u] if emits else 0]
            t, u = (t, u + 1) if emits else (t + 1, u)
        total = total + log_prob.exp()
    torch.testing.assert_close(case.loss(), -total.log()[None])


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("seed", range(5))
def test_directional_derivative(seed: int, combine: str) -> None:
    case = double(make_case(3, 7, 5, 6, 9, combine=combine, seed=seed))
    rng = torch.Generator().manual_seed(seed + 100)
    directions = [torch.randn(t.shape, generator=rng, dtype=torch.float64) for t in case.tensors]
    scale_B = torch.randn(3, generator=rng, dtype=torch.float64)
    gradients = case.gradients(case.loss, scale_B)
    predicted = sum(float((g * d).sum()) for g, d in zip(gradients, directions, strict=True))

    def at(step: float) -> float:
        moved = [t.detach() + step * d for t, d in zip(case.tensors, directions, strict=True)]
        shifted = Case(moved, case.targets_BU, case.frames_B, case.labels_B, combine)
        return float((shifted.loss() * scale_B).sum())

    step = 1e-5
    observed = (at(step) - at(-step)) / (2 * step)
    assert observed == pytest.approx(predicted, rel=1e-7, abs=1e-8)


def test_long_lattices_keep_the_precision_of_the_posteriors() -> None:
    """A recursion in float32 loses it: at a loss of 1000 one unit in the last place is 6e-5."""
    case = make_case(2, 150, 40, 16, 60)
    exact = double(case)
    scale_B = torch.ones(2)
    for gradient, expected in zip(
        case.gradients(case.loss, scale_B), exact.gradients(exact.loss, scale_B), strict=True
    ):
        assert relative(gradient.double(), expected) < 5e-6


@pytest.mark.parametrize("combine", COMBINE)
def test_bfloat16_products_keep_the_loss_in_float32(combine: str) -> None:
    case = make_case(3, 20, 8, 64, 50, combine=combine)
    scale_B = torch.ones(3)
    with torch.autocast("cpu", torch.bfloat16):
        loss_B = case.loss()
        gradients = case.gradients(case.loss, scale_B)
    assert loss_B.dtype == torch.float32
    assert relative(loss_B, case.loss()) < 5e-3
    for gradient, expected, tensor in zip(gradients, case.gradients(case.loss, scale_B), case.tensors, strict=True):
        assert gradient.dtype == tensor.dtype
        assert 0 < relative(gradient, expected) < 5e-2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("combine", COMBINE)
def test_a_gpu_gives_what_the_processor_gives(combine: str) -> None:
    case = double(make_case(5, 17, 8, 16, 29, combine=combine))
    there = [tensor.detach().cuda().requires_grad_() for tensor in case.tensors]
    moved = Case(there, case.targets_BU.cuda(), case.frames_B.cuda(), case.labels_B.cuda(), combine)
    scale_B = torch.linspace(0.5, 2.0, 5, dtype=torch.float64)
    torch.testing.assert_close(moved.loss().cpu(), case.loss(), rtol=1e-12, atol=1e-12)
    ours = moved.gradients(moved.loss, scale_B.cuda())
    for gradient, expected in zip(ours, case.gradients(case.loss, scale_B), strict=True):
        torch.testing.assert_close(gradient.cpu(), expected, rtol=1e-10, atol=1e-12)
