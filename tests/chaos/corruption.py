"""Numbers that turn into NaN, or of which a bit flips: in weights, in gradients, in messages."""

import random
from collections.abc import Iterator, Sequence
from typing import Literal

from tests.chaos.ground import Ground, Tried
from tests.chaos.injector import Fault
from tests.chaos.oracle import check_fault, intact
from tests.chaos.trial import BACKENDS, BrokenPromiseError, Ended, Trial
from tests.schemes import SCHEMES

RETURNING = "returning to the newest checkpoint by itself"
UNDECIDED = "or they than it"  # of two learners with different weights nobody can tell which one is wrong
BAD_STEPS = 3  # in a row, after which a run gives up


def weights(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """A weight of one learner changes, as by a fault of memory."""
    yield from _changed(ground, draw, "weights", BACKENDS)


def gradients(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """A gradient of one learner changes before it is sent."""
    yield from _changed(ground, draw, "gradients", BACKENDS)


def messages(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """Weights that a neighbour has sent arrive changed."""
    yield from _changed(ground, draw, "messages", [each for each in BACKENDS if SCHEMES[each].gossip])


def _check_return(trial: Trial, ended: Ended, faults: Sequence[Fault], had_checkpoint: bool) -> None:
    """Numbers that went bad cost a return, by which the run goes on, and the learner whose they were is named."""
    returned = [text for text in ended.printed if RETURNING in text]
    if not ended.done and had_checkpoint and not returned:
        raise BrokenPromiseError(f"the run has not returned by itself: {ended.printed}")
    culprits = {fault.learner for fault in faults} if faults[0].deed == "weights" else set(range(trial.learners))
    named = [f"learner {rank}" for rank in culprits] + [UNDECIDED]
    if returned and not any(name in text for text in returned for name in named):
        raise BrokenPromiseError(f"none of learners {culprits} is named: {ended.printed}")


def _changed(
    ground: Ground, draw: random.Random, deed: Literal["weights", "gradients", "messages"], backends: Sequence[str]
) -> Iterator[Tried]:
    trial = ground.trial(draw, backends, extra=(f"trainer.max_bad_steps={BAD_STEPS}",))
    faults = [
        Fault(
            deed=deed, learner=draw.randrange(trial.learners), step=draw.randint(*window), seed=draw.randrange(1 << 30),
            point="on_update" if deed == "weights" else "on_step_start",
            bit=draw.choice((None, None, 30, 30, draw.randrange(32))), attempt=None,
        )
        for window in ground.windows
    ]  # fmt: skip
    while faults:
        before = intact(trial)
        trial.start(*faults)
        ended = trial.wait()
        if not ended.fired:
            raise BrokenPromiseError(f"the run cannot be gone on with: exit codes {ended.codes}: {ended.printed}")
        outcome = check_fault(trial, ended, before, steady=False)
        _check_return(trial, ended, faults, bool(before))
        yield Tried(outcome, None if ended.done else ended.seconds, len(ended.fired))
        if ended.done:
            return ground.judge(trial, ended, bitwise=False)
        faults = faults[len(ended.fired) :]
    return ground.finish(trial, bitwise=False)
