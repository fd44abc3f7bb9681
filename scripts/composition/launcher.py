"""Learners of one host as processes, kept by torch's elastic agent: what scripts/launch.py does.

Beside torchrun: the rendezvous' store listens on the loopback and is a new one for each attempt, the learners are given
a secret of their own, and the error of the learner that failed is the last line, instead of the agent's report.
"""

import logging
import signal
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from asr.foreign.terminal import say
from distributed.errors import UsageError
from scripts.composition.startup import REPOSITORY, print_last

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

LAUNCHED = ("train", "train_lm", "make_nbest")  # the entry points that several processes share


@dataclass(frozen=True, slots=True)
class Launch:
    """What is started, and how often."""

    learners: int
    restarts: int
    entry_point: str
    arguments: Sequence[str]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python scripts/launch.py --help")


def launch_options(arguments: Sequence[str], usage: str) -> Launch | None:
    """The command line, checked; None if it asked for help.

    Raises:
        UsageError: what is wrong, in one line.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--learners", type=int)
    parser.add_argument("--restarts", type=int, default=0)
    own = next((index for index, each in enumerate(arguments) if each in LAUNCHED), len(arguments))
    options = parser.parse_args(arguments[:own])
    if options.help:
        say(*usage.strip().splitlines())
        return None
    if own == len(arguments):
        raise UsageError(f"what shall be started is not said: one of {', '.join(LAUNCHED)}, then its own arguments")
    if options.learners is None or options.learners < 1:
        raise UsageError(f"--learners={options.learners}: the number of processes is needed, 1 or more")
    if options.restarts < 0:
        raise UsageError(f"--restarts={options.restarts}: must be 0 or more")
    return Launch(options.learners, options.restarts, arguments[own], arguments[own + 1 :])


def launch(options: Launch) -> int:
    """Run the learners to their end; the exit code."""
    from torch.distributed.elastic.multiprocessing import SignalException  # seconds to import

    from distributed.learners.connections import allow_all_descriptors
    from distributed.learners.environment import prepare_for_learners
    from distributed.learners.secret import drawn
    from scripts.composition.agent import agent_of

    prepare_for_learners(drawn())
    allow_all_descriptors()  # of the store, which strangers may connect to
    logging.disable(logging.CRITICAL)  # the agent's own report
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        script = str(REPOSITORY / "scripts" / f"{options.entry_point}.py")
        line = ("-u", script, *options.arguments)
        agent = agent_of(options.learners, options.restarts, line, folder)
        try:
            result = agent.run()
        except SignalException as ended:
            print_last(f"ended by {ended.sigval.name}\n")
            return agreed(agent.exit_codes()) or 128 + ended.sigval
    if not result.is_failed():
        return 0
    rank, failure = first_failure(result.failures)
    print_last(f"{told(rank, failure)}\n")
    return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode


def agreed(codes: Iterable[int | None]) -> int | None:
    """The exit code of all learners, where they have come to an end of their own and agree."""
    different = set(codes)
    code = different.pop() if len(different) == 1 else None
    return code if code is not None and code > 0 else None


def first_failure(failures: "Mapping[int, ProcessFailure]") -> "tuple[int, ProcessFailure]":
    """The learner that failed first, and how: others have failed because of it, or were ended by the agent."""

    def order(each: "tuple[int, ProcessFailure]") -> tuple[int, int, int]:
        rank, failure = each
        word = _word(failure)
        if word is not None:
            return (0 if word["extraInfo"]["own"] else 2), int(word["extraInfo"]["nanoseconds"]), rank
        return (0 if failure.exitcode > 0 else 3 if failure.exitcode == -signal.SIGTERM else 1), sys.maxsize, rank

    return min(failures.items(), key=order)


def _word(failure: "ProcessFailure") -> "Mapping[str, Any] | None":
    """What the learner has left to say: see ``environment.leave_word``."""
    message = failure.error_file_data["message"]
    return message if isinstance(message, dict) else None


def told(rank: int, failure: "ProcessFailure") -> str:
    """The line that the learner has left, or one about its end."""
    word = _word(failure)
    if word is not None:
        return str(word["message"]).strip()
    if failure.exitcode < 0:
        number = -failure.exitcode
        return f"error: learner {rank} was killed by signal {number} ({signal.Signals(number).name})"
    return f"error: learner {rank} ended with exit code {failure.exitcode}: see what it has printed"
