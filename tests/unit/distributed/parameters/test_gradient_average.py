"""What an average of gradients leaves behind: nothing, so that a group's threads end with the last who uses it."""

import gc
import os
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from distributed.learners.world import World
from tests.schemes import SCHEMES


@pytest.mark.parametrize("word", ["allreduce", "hierarchical", "hierarchical_adpsgd"])
def test_the_threads_of_a_group_end_with_its_backend(run_learners: Any, word: str) -> None:
    def threads() -> int:
        DistributedDataParallel._active_ddp_module = None  # learners that are threads may leave one of theirs behind
        gc.collect()
        return len(os.listdir("/proc/self/task"))

    def train(world: World) -> None:
        backend: Any = SCHEMES[word].build(world, group_size=2)
        model = nn.Linear(4, 4)
        wrapped = backend.wrap(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        backend.attach(optimizer)
        backend.synchronise(resumed=False)
        backend.begin_step(1.0, 1.0)
        wrapped(torch.ones(2, 4)).sum().backward()
        with backend.updating(apply=backend.reduce_gradients(None).finite):
            optimizer.step()
        backend.drain()
        backend.close()

    run_learners(4, train)  # what is made once
    before = threads()
    for _ in range(3):
        run_learners(4, train)
    assert threads() <= before
