"""A learner of asynchronous gossip fails where nothing is in flight: the others name it, and why, not each other."""

from contextlib import ExitStack
from typing import Any

import pytest
from torch import nn
from torch.distributed import HashStore

from distributed.learners.environment import Place
from distributed.learners.signs import LearnerLostError
from distributed.learners.watch import Watch
from distributed.learners.world import World
from distributed.schemes.adpsgd import AsynchronousGossip
from tests.schemes import SCHEMES


def test_the_others_name_it_and_its_reason(run_learners: Any) -> None:
    store = HashStore()

    def learn(world: World) -> str:
        watch = Watch(Place(world.rank, 3, world.rank, 3, launched=True), join_seconds=30.0, grace_seconds=30.0)
        watch.start(store=store, master="localhost", secret=b"one", patience_seconds=3.0)
        world = World(world.rank, world.size, world.rank, world.size, world.device, world.group, watch=watch)
        backend = SCHEMES["adpsgd"].build(world)
        backend.wrap(nn.Linear(2, 1))
        backend.synchronise(resumed=False)
        error: BaseException | None = None
        try:
            with ExitStack() as closing:  # as in the trainer
                closing.callback(backend.close)
                closing.enter_context(world.naming_the_lost())
                step(backend)
                backend.drain()
                if world.rank == 1:
                    raise OSError("disk full")
                for _ in range(100_000):
                    step(backend)
        except (OSError, LearnerLostError) as ended:
            error = ended
        finally:
            watch.close()
        return f"{type(error).__name__}: {error}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distributed.gossip.background_rounds._END_SECONDS", 0.2)
        # Learners that are threads cannot tell whose socket is whose: one would shut the others' doors.
        patch.setattr("distributed.learners.connections.Connections.close_doors", lambda self: 0)
        told = run_learners(3, learn)
    assert told[1] == "OSError: disk full"
    for rank in (0, 2):
        assert told[rank].startswith("LearnerLostError: learner 1 failed: disk full;"), told


def step(backend: AsynchronousGossip) -> None:
    backend.begin_step(1.0, 1.0)
    with backend.updating(apply=False):
        pass
