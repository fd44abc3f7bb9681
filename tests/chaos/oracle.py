"""What must hold after every fault: nothing for people is a traceback, no good checkpoint is lost, every unit is counted."""

import re
from collections.abc import Collection, Sequence

from asr.foreign.files import ForeignError
from asr.runs.checkpoint import list_checkpoints
from asr.runs.left_out import batches_left_out
from tests.chaos.trial import EVERY, KEPT, STEPS, BrokenPromiseError, Ended, Trial

# Of Python, of C++ (terminate), of torch's agent: all that nobody should see who only wants to train.
TRACEBACK = re.compile(r"Traceback|terminate called|Fatal Python error|Exception raised from|Root Cause")


def intact(trial: Trial) -> set[str]:
    """Names of the checkpoints that a run could go on from, whether or not it is under way."""
    found = set()
    for checkpoint in list_checkpoints(trial.run / "checkpoints")[0]:
        try:
            if checkpoint.damaged_file() is None:
                checkpoint.refuse_non_finite()
                found.add(checkpoint.folder.name)
        except (ForeignError, FileNotFoundError):  # non-finite; or removed meanwhile, as newer ones are there
            pass
    return found


def check_printed(printed: Sequence[str]) -> None:
    """What people see is lines for people."""
    for text in printed:
        if found := TRACEBACK.search(text):
            raise BrokenPromiseError(f"a traceback: {text[max(0, found.start() - 500) : found.start() + 3000]}")


def check_checkpoints(trial: Trial, before: Collection[str], *, steady: bool = True) -> None:
    """Every checkpoint is whole, finite and where it was, or retired by newer ones; ``steady``: none was left out."""
    complete, problems = list_checkpoints(trial.run / "checkpoints")
    now = intact(trial)
    spoiled = {each.folder.name for each in complete} - now
    if problems or spoiled:
        raise BrokenPromiseError(f"checkpoints that are no good: {problems or spoiled}")
    for name in sorted(set(before) - now):
        if sum(other > name for other in now) < KEPT:
            raise BrokenPromiseError(f"good checkpoint {name} is lost; left: {sorted(now)}")
    reached = max((int(row["global_step"]) for row in trial.rows()), default=0)
    due = EVERY * (
        reached // EVERY - 2
    )  # that of the newest mark, and while it is begun the one before, may be under way
    newest = max((each.progress.global_step for each in complete), default=0)
    if steady and newest < due:
        raise BrokenPromiseError(f"step {reached} was reached, the newest checkpoint is of step {newest}")


def check_fault(trial: Trial, ended: Ended, before: Collection[str], *, steady: bool = True) -> str:
    """What came of a fault, in a word, unless it breaks a promise."""
    check_printed(ended.printed)
    check_checkpoints(trial, before, steady=steady)
    if ended.done:
        return "went on"
    if any(code == 0 for code in ended.codes):
        raise BrokenPromiseError(f"exit codes {ended.codes}, though the run is not at its end")
    return "ended"


def check_finished(trial: Trial, ended: Ended, reference: bytes | None) -> None:
    """The run is at its end, with every unit once; in schemes that repeat, its weights are bitwise ``reference``."""
    check_printed(ended.printed)
    if not ended.done:
        raise BrokenPromiseError(f"the same command does not go on: exit codes {ended.codes}: {ended.printed}")
    check_checkpoints(trial, ())
    final = trial.run / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors"
    if not final.is_file():
        raise BrokenPromiseError(f"the run is done, but {final.parent.name} is not there")
    units = sum(trial.rows(rank)[-1]["data/units"] for rank in range(trial.learners))
    left_out = len(batches_left_out(trial.run))  # listed, since numbers were bad after them
    planned = (STEPS - left_out) * trial.learners
    if units != planned:
        raise BrokenPromiseError(
            f"{units:.0f} units were processed, {planned} were planned, {left_out} batches left out"
        )
    if reference is not None and final.read_bytes() != reference:
        raise BrokenPromiseError("the weights differ from those of a run that nothing happened to")
