"""How learners of a launch have failed: which one first, the line that it has left, and the exit code."""

import signal
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from asr.training.stopped import EXIT_CODE as STOPPED

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def agreed(codes: Iterable[int | None]) -> int | None:
    """The common exit code, if all learners ended by themselves with the same one above 0; else None."""
    different = set(codes)
    code = different.pop() if len(different) == 1 else None
    return code if code is not None and code > 0 else None


def were_stopped(failures: "Mapping[int, ProcessFailure]") -> bool:
    """Whether the learners have stopped because they were asked to; the agent may have ended some of them meanwhile."""
    return any(failure.exitcode == STOPPED for failure in failures.values())


def first_failure(failures: "Mapping[int, ProcessFailure]") -> "tuple[int, ProcessFailure]":
    """Rank and failure of the learner that failed first: others failed because of it, or the agent ended them."""

    def order(each: "tuple[int, ProcessFailure]") -> tuple[int, int, int]:
        rank, failure = each
        word = _word(failure)
        if word is not None:
            return (0 if word["extraInfo"]["own"] else 2), int(word["extraInfo"]["nanoseconds"]), rank
        return (0 if failure.exitcode > 0 else 3 if failure.exitcode == -signal.SIGTERM else 1), sys.maxsize, rank

    return min(failures.items(), key=order)


def _word(failure: "ProcessFailure") -> "Mapping[str, Any] | None":
    """The message that the learner has written with ``environment.leave_word``; None without one."""
    message = failure.error_file_data["message"]
    return message if isinstance(message, dict) else None


def failure_line(rank: int, failure: "ProcessFailure") -> str:
    """The error line that the failed learner has written, or else one that says how its process ended."""
    word = _word(failure)
    if word is not None:
        return str(word["message"]).strip()
    if failure.exitcode < 0:
        number = -failure.exitcode
        return f"error: learner {rank} was killed by signal {number} ({signal.Signals(number).name})"
    return f"error: learner {rank} ended with exit code {failure.exitcode}: see what it has printed"


def exit_code(failure: "ProcessFailure") -> int:
    """The code that the failed learner has written before it ended, as the agent may have ended it meanwhile; or its own."""
    word = _word(failure)
    if word is not None:
        return int(word["extraInfo"]["code"])
    return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode
