"""What hooks read from other runs: fingerprints of content, the same on all learners and after every resume."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from asr.data.pipeline import HookError
from asr.hooks.pinned import Pinned, fingerprint
from distributed.launch import World

HERE = Path("exp/a")


def test_a_fingerprint_is_one_of_all_that_was_read() -> None:
    values = torch.arange(6.0)
    same = {fingerprint("a", [values]), fingerprint("a", [values.clone()]), fingerprint("a", [torch.arange(12.0)[:6]])}
    assert same == {fingerprint("a", [values])}
    others = [
        fingerprint("b", [values]),
        fingerprint("a", []),
        fingerprint("a", [values.view(2, 3)]),
        fingerprint("a", [values.double()]),
        fingerprint("a", [values[:3], values[3:]]),
        fingerprint("a", [values + torch.tensor([0, 0, 0, 0, 0, 1e-6])]),
        fingerprint("a", [torch.zeros(0), torch.tensor(1.0)]),
    ]
    assert len({*same, *others}) == 1 + len(others)
    assert all(0 <= each < 2**60 for each in others)


def test_it_is_kept_through_a_resume_and_another_one_is_refused(alone: World) -> None:
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
