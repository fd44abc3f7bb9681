"""One real learner of scripts/bench/large_batch.py: a process of its own with the real backend, on its share of the same batches."""

import torch
from torch import Tensor, nn

from distributed.learners.world import World
from distributed.parameters.flat_parameters import FlatParameters
from scripts.bench.spoken_digits import criterion
from scripts.bench.straggler_learner import run_unit
from scripts.composition.backends import build_backend


class Classified(nn.Module):
    """The loss of a network, as a module."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Scalar: the mean over a batch."""
        return criterion(self.network, batch)


def train_real(
    world: World,
    network: nn.Module,
    word: str,
    changes: dict[str, str],
    rates: list[float],
    batches: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """Flat weights after the last step: the mean of those of all learners.

    Args:
        network: of this learner alone; all begin at the same weights.
        word, changes: the backend and what differs from its YAML.
        rates: the learning rate of every step.
        batches: inputs and labels of the global batch of every step, of which each learner trains an equal part.
    """
    model = Classified(network)
    shares = [
        (inputs.chunk(world.size)[world.rank], labels.chunk(world.size)[world.rank]) for inputs, labels in batches
    ]
    backend = build_backend(word, world, **changes)
    wrapped = backend.wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), rates[0])
    backend.attach(optimizer)
    backend.synchronise(False, lambda: wrapped(shares[0]).backward())
    for lr, share in zip(rates, shares, strict=True):
        optimizer.param_groups[0]["lr"] = lr
        run_unit(backend, wrapped, optimizer, [share])
    backend.drain()
    mean: Tensor = world.average(FlatParameters(model, gradients=False).flat[0].clone())
    backend.close()
    return mean
