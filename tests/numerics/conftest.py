"""What schemes are compared on: a small network and global batches of unequal units; gradients set by hand; random lattices."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from asr.losses.inputs import Combine, LossInputs
from distributed.backend import Backend, GradientReport
from distributed.learners.world import World
from distributed.sparse.compressed import CompressedBackend
from tests.schemes import SCHEMES, words

Unit = tuple[Tensor, Tensor]


class Network(nn.Module):
    """An LSTM and two layers, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 6, batch_first=True)
        self.hidden = nn.Linear(6, 16)
        self.output = nn.Linear(16, 2)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.hidden(self.lstm(x.view(len(x), 4, 3))[0][:, -1]).tanh())


@dataclass(frozen=True)
class Laboratory:
    """Makes the same network and the same data for every scheme, and trains."""

    train_steps: Callable[..., Iterator[GradientReport]]

    def network(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """The same weights at every call; from a generator of its own, as learners are threads that share torch's."""
        model, generator = Network(), torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5, generator=generator)
        return model.to(dtype)

    def global_steps(self, sizes: Sequence[int], steps: int, dtype: torch.dtype = torch.float64) -> list[list[Unit]]:
        """Per step the units of the global batch, of ``sizes`` utterances each."""
        generator = torch.Generator().manual_seed(1)

        def unit(size: int) -> Unit:
            x, y = (torch.randn(size, width, generator=generator).to(dtype) for width in (12, 2))
            return x, y

        return [[unit(size) for size in sizes] for _ in range(steps)]

    def train(
        self,
        backend: Backend,
        steps: Sequence[Sequence[Unit]],
        max_norm: float | None = None,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.SGD,
        model: nn.Module | None = None,
        of_all: Sequence[Sequence[Unit]] | None = None,
    ) -> tuple[list[GradientReport], dict[str, Tensor]]:
        """The reports of all steps and the final weights; ``of_all``: every learner's units, where theirs differ in weight."""
        model = self.network() if model is None else model
        wrapped = backend.wrap(model)
        optimizer = optimizer_class(model.parameters(), lr=0.1)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        learners = backend.world.size
        planned = of_all and [sum(len(x) for x, _ in units) / learners for units in of_all]
        reports = list(self.train_steps(backend, wrapped, optimizer, steps, max_norm, planned))
        backend.close()
        return reports, {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture
def laboratory(train_steps: Callable[..., Iterator[GradientReport]]) -> Laboratory:
    """Networks, data and a loop."""
    return Laboratory(train_steps)


@pytest.fixture
def compressed() -> Mapping[str, Callable[[World], Any]]:
    """``compressed[scheme](world)``: every scheme of compressed gradients; of sparse ones one entry in ten, beta 0.5."""
    return {word: partial(SCHEMES[word].build, rate=10, beta=0.5) for word in words(lambda each: each.compresses)}


class ByHand:
    """Two small layers, and steps of compressed schemes on them with gradients that are set by hand."""

    def layers(self) -> nn.Module:
        """Two matrices of different shapes, and biases."""
        return nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 7)).double()

    def prepared(self, backend: CompressedBackend) -> CompressedBackend:
        """The same backend, ready for steps."""
        backend.attach(torch.optim.SGD(backend.wrap(self.layers()).parameters(), lr=1.0))
        return backend

    def draw(self, step: int, rank: int) -> list[Tensor]:
        """A learner's own gradients of a step, in the order of the parameters."""
        generator = torch.Generator().manual_seed(100 * step + rank)
        return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in self.layers().parameters()]

    def step(self, backend: CompressedBackend, values: list[Tensor]) -> tuple[bool, Tensor, Tensor]:
        """Whether it was applied, what was given and what came of it, both as they lie in the flat buffer."""
        backend.begin_step(1.0, 1.0)
        backend.zero_grad()
        for parameter, value in zip(backend.model.parameters(), values, strict=True):
            parameter.grad.copy_(value)
        given = backend.flat.flat_grad[0].clone()
        finite = backend.reduce_gradients(None).finite
        with backend.updating(apply=finite):
            pass
        return finite, given, backend.flat.flat_grad[0].clone()


@pytest.fixture
def by_hand() -> ByHand:
    """Layers, gradients and steps."""
    return ByHand()


@pytest.fixture
def make_inputs() -> Callable[..., LossInputs]:
    """``make_inputs(frames=[..], labels=[..], classes=9, width=6, combine="add", dtype=..)``: joiner inputs drawn at random."""

    def make(
        frames: list[int],
        labels: list[int],
        classes: int = 9,
        width: int = 6,
        combine: Combine = "add",
        dtype: torch.dtype = torch.float64,
    ) -> LossInputs:
        rng = torch.Generator().manual_seed(7)
        batch = len(frames)
        sizes = [(batch, max(frames), width), (batch, max(labels) + 1, width), (classes, width), (classes,)]
        tensors = [torch.randn(size, generator=rng, dtype=dtype).requires_grad_() for size in sizes]
        return LossInputs(
            encoder_BTJ=tensors[0],
            predictor_BSJ=tensors[1],
            weight_VJ=tensors[2],
            bias_V=tensors[3],
            targets_BU=torch.randint(1, classes, (batch, max(labels)), generator=rng),
            encoder_lengths_B=torch.tensor(frames),
            target_lengths_B=torch.tensor(labels),
            combine=combine,
            blank=0,
        )

    return make
