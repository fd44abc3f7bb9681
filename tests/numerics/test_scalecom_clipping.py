"""ScaleCom clips before it compresses: how long the mean of what learners clip may be."""

import math

import pytest
import torch
from torch import Tensor, nn

from distributed.learners.world import World
from tests.schemes import SCHEMES

ENTRIES = (9 + 1) * 7 + (7 + 1) * 11  # of the model below


def noise(rank: int) -> Tensor:
    """The gradient of a learner, independent of the others'."""
    return torch.randn(ENTRIES, generator=torch.Generator().manual_seed(rank), dtype=torch.float64)


def clipped_mean(world: World, own: Tensor, max_norm: float) -> tuple[Tensor, bool]:
    """What learners apply of their gradients ``own``, nothing of which is left out, and whether this one's was clipped."""
    backend = SCHEMES["scalecom"].build(world, rate=1, bucket_mb=1)
    model = backend.wrap(nn.Sequential(nn.Linear(9, 7), nn.Linear(7, 11)).double())
    backend.attach(torch.optim.SGD(model.parameters(), lr=1.0))
    backend.begin_step(1.0, 1.0)
    parameters = list(model.parameters())
    for parameter, value in zip(parameters, own.split([each.numel() for each in parameters]), strict=True):
        parameter.grad.copy_(value.view_as(parameter))
    report = backend.reduce_gradients(max_norm)
    assert report.norm == pytest.approx(own.norm().item())
    return torch.cat([each.grad.flatten() for each in parameters]), report.clipped


def test_learners_clip_their_gradients_to_the_norm_that_fits_the_mean(run_learners) -> None:
    """A mean just below ``max_norm`` passes almost whole, and one twice as long is halved."""

    def learner(world: World) -> None:
        own = noise(world.rank)
        length = world.all_reduce_sum(own.clone()).div_(world.size).norm().item()
        passed, _ = clipped_mean(world, own, length / 0.95)
        assert passed.norm().item() == pytest.approx(length, rel=0.05)
        cut, was_clipped = clipped_mean(world, own, length / 2)
        assert was_clipped
        assert cut.norm().item() == pytest.approx(length / 2, rel=0.1)

    run_learners(4, learner)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_the_mean_of_clipped_gradients_has_at_most_sqrt_l_times_max_norm(run_learners, size: int) -> None:
    """However long they are; just that where all agree. A single learner clips as if nothing were compressed."""

    def learner(world: World) -> None:
        for scale in (1.0, 100.0):
            own = scale * (1 + world.rank) * noise(world.rank)
            assert clipped_mean(world, own, 0.5)[0].norm() <= 0.5 * math.sqrt(size) * (1 + 1e-6)
        same, _ = clipped_mean(world, 100.0 * noise(0), 0.5)
        assert same.norm().item() == pytest.approx(0.5 * math.sqrt(size))

    run_learners(size, learner)
