"""Learners that are killed, stopped, crash or hold the interpreter's lock; that never come; that the launcher starts again."""

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from typing import Literal

from asr.training.stopped import EXIT_CODE
from tests.chaos.ground import Ground, Tried
from tests.chaos.injector import Fault, Point
from tests.chaos.oracle import check_fault, intact
from tests.chaos.trial import GRACE, PATIENCE, BrokenPromiseError, Ended, Trial

POINTS: tuple[Point, ...] = (
    "on_step_start", "on_gradients", "on_update", "on_step_end", "on_evaluation", "on_checkpoint",
)  # fmt: skip
JOIN_SECONDS = 12.0
SAVED_WITHIN_SECONDS = 10.0
START_SECONDS = 8.0  # that a learner takes on a busy machine before it joins, and its clock starts


def kill(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """SIGKILL in the midst of training."""
    yield from _lost(ground, draw, "kill", signal.SIGKILL)


def crash(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """SIGSEGV in the midst of training."""
    yield from _lost(ground, draw, "crash", signal.SIGSEGV)


def stop(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """SIGSTOP in the midst of training: the process stays, and its sockets with it."""
    yield from _lost(ground, draw, "stop", signal.SIGSTOP)


def _lost(
    ground: Ground, draw: random.Random, deed: Literal["kill", "crash", "stop"], blow: signal.Signals
) -> Iterator[Tried]:
    """One learner after the other is lost in the same run, from within the loop or from outside at any instant."""
    trial = ground.trial(draw)
    for first, last in ground.windows:
        victim, step = draw.randrange(trial.learners), draw.randint(first, last)
        before, faulted = intact(trial), None
        left = [victim] if deed == "stop" else []
        if draw.random() < 0.5:
            trial.start(Fault(deed=deed, learner=victim, step=step, point=draw.choice(POINTS)))
        else:
            trial.start()
            trial.wait_for_step(step)
            time.sleep(draw.uniform(0, 0.1))
            before |= intact(trial)
            faulted = time.time()
            os.kill(trial.running[victim].pid, blow)
        ended = trial.wait(left=left, within=PATIENCE + GRACE, faulted=faulted)
        yield Tried(check_fault(trial, ended, before), ended.seconds)
        if not ended.fired and faulted is None:
            raise BrokenPromiseError(f"the fault was not done; exit codes {ended.codes}: {ended.printed}")
    ground.finish(trial)


def hold_shortly(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """The interpreter's lock is held for a moment: the run goes on as if nothing had happened."""
    trial = ground.trial(draw)
    faults = [_held(trial, draw, window, draw.uniform(0.2, 2.0)) for window in ground.windows]
    trial.start(*faults)
    ended = trial.wait()
    yield Tried(check_fault(trial, ended, ()), None, len(ended.fired))
    ground.judge(trial, ended)


def hold(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """The interpreter's lock is held for longer than the others' patience."""
    trial = ground.trial(draw)
    for window in ground.windows[:2]:
        before, fault = intact(trial), _held(trial, draw, window, PATIENCE + draw.uniform(2.0, 6.0))
        trial.start(fault)
        ended = trial.wait(within=fault.seconds + PATIENCE + GRACE)  # the learner itself has that long once it goes on
        yield Tried(check_fault(trial, ended, before), ended.seconds)
    ground.finish(trial)


def _held(trial: Trial, draw: random.Random, window: tuple[int, int], seconds: float) -> Fault:
    victim, point = draw.randrange(trial.learners), draw.choice(POINTS[:4])
    return Fault(deed="hold", learner=victim, step=draw.randint(*window), point=point, seconds=seconds)


def joining(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """Learners are killed or stopped at any instant of the start, or never come."""
    trial = ground.trial(draw, extra=(f"launch.join_seconds={JOIN_SECONDS}",))
    for _ in ground.windows:
        victim, deed = draw.randrange(trial.learners), draw.choice(("kill", "kill", "stop", "absent"))
        before = intact(trial)
        trial.start(absent=[victim] if deed == "absent" else [])
        left = [victim] if deed == "stop" else []
        delay = draw.uniform(0, 3.0)
        if deed != "absent":
            time.sleep(delay)
            os.kill(trial.running[victim].pid, signal.SIGSTOP if deed == "stop" else signal.SIGKILL)
        ended = trial.wait(left=left, within=START_SECONDS + JOIN_SECONDS + GRACE, faulted=time.time())
        yield Tried(f"{check_fault(trial, ended, before)} ({deed})", ended.seconds)
    ground.finish(trial)


def restarts(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """scripts/launch.py --restarts: a learner is lost in each of its attempts but the last."""
    trial = ground.trial(draw, learners=2)
    faults = [
        Fault(
            deed=draw.choice(("kill", "kill", "crash")), learner=draw.randrange(2), step=draw.randint(*window),
            point=draw.choice(POINTS), attempt=attempt,
        )
        for attempt, window in enumerate(ground.windows)
    ]  # fmt: skip
    trial.start_launcher(*faults, restarts=len(faults))
    ended = trial.wait()
    if len(ended.fired) != len(faults):
        raise BrokenPromiseError(f"{len(ended.fired)} of {len(faults)} faults were done: {ended.printed}")
    yield Tried(check_fault(trial, ended, ()), ended.seconds, len(faults))
    ground.judge(trial, ended)


def asked(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """SIGTERM, SIGINT or SIGUSR1 on a learner, from within the loop or from outside at any instant: no step is lost."""
    trial = ground.trial(draw, pace=0.05)
    for first, last in ground.windows:
        victim, step = draw.randrange(trial.learners), draw.randint(first, last)
        number = draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        before, faulted = intact(trial), None
        if draw.random() < 0.5:
            trial.start(Fault(deed="signal", learner=victim, step=step, point=draw.choice(POINTS), number=number))
        else:
            trial.start()
            trial.wait_for_step(step)
            faulted = time.time()
            os.kill(trial.running[victim].pid, number)
        ended = trial.wait(within=SAVED_WITHIN_SECONDS, faulted=faulted)
        check_fault(trial, ended, before)
        _check_saved(trial, ended)
        yield Tried(f"saved ({signal.Signals(number).name})", ended.seconds)
    return ground.finish(trial)


def asked_launcher(ground: Ground, draw: random.Random) -> Iterator[Tried]:
    """The same on scripts/launch.py, which passes it on and starts nobody again."""
    trial = ground.trial(draw, learners=2, pace=0.05)
    for first, last in ground.windows:
        number = draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGUSR1))
        before = intact(trial)
        trial.start_launcher(restarts=2)
        trial.wait_for_step(draw.randint(first, last))
        faulted = time.time()
        os.kill(trial.running[0].pid, number)
        ended = trial.wait(within=SAVED_WITHIN_SECONDS, faulted=faulted)
        check_fault(trial, ended, before)
        _check_saved(trial, ended)
        yield Tried(f"saved ({signal.Signals(number).name})", ended.seconds)
    return ground.finish(trial)


def _check_saved(trial: Trial, ended: Ended) -> None:
    """All have stopped with the code for it, and the newest checkpoint is of the last step that was made.

    Learners that were near their end may have come to it before all had heard of the signal.
    """
    if ended.done:
        return
    if set(ended.codes) != {EXIT_CODE}:
        raise BrokenPromiseError(f"exit codes {ended.codes} after a signal: {ended.printed}")
    said = re.search(r"saved step (\d+); the same command goes on", "".join(ended.printed))
    if said is None:
        raise BrokenPromiseError(f"no line names the step that is saved: {ended.printed}")
    reached = max(int(row["global_step"]) for row in trial.rows())
    newest = max(intact(trial), default="none")
    # Without lockstep another learner may have made the last step, which is then in no row of learner 0.
    if newest != f"step-{int(said[1]):08d}" or int(said[1]) < reached:
        raise BrokenPromiseError(f"step {reached} was made, the newest checkpoint is {newest}: {ended.printed}")
