"""What hooks read from other runs: the same on all learners and after every resume."""

from collections.abc import Callable
from pathlib import Path

import pytest

from asr.data.pipeline import HookError
from asr.hooks.pinned import Pinned
from distributed.learners.world import World

HERE = Path("exp/a")


def test_the_fingerprint_survives_a_resume_and_another_is_refused(alone: World) -> None:
    first, resumed = Pinned("hooks.x.lm"), Pinned("hooks.x.lm")
    first.pin(7, HERE, alone)
    resumed.take_back(first.state())
    resumed.pin(7, HERE, alone)
    with pytest.raises(HookError, match=r"^hooks.x.lm=exp/a: .* not what this run began with; .* under another name=$"):
        resumed.pin(8, HERE, alone)


def test_a_checkpoint_of_an_earlier_version_pins_what_is_found(alone: World) -> None:
    pinned = Pinned("hooks.x.lm")
    pinned.take_back({})
    pinned.pin(8, HERE, alone)
    assert pinned.state() == {"pinned": 8}


def test_learners_that_read_something_else_are_named_by_all(run_learners: Callable[..., list[str]]) -> None:
    def learner(world: World) -> str:
        with pytest.raises(HookError) as caught:
            Pinned("hooks.x.lm").pin(2**59 + (world.rank == 1), HERE, world)
        return str(caught.value)

    for message in run_learners(3, learner):
        assert message.startswith("hooks.x.lm=exp/a: learners [1] read another content there than learner 0; put it")
        assert "\n" not in message
