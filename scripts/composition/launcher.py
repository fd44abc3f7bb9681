"""scripts/launch.py: the learners of one host as processes, supervised by torch's elastic agent.

Unlike torchrun, the rendezvous' store listens on the loopback and is a new one for each attempt, the learners get a
secret of their own, and the error of the learner that failed is the last line, instead of the agent's report.
"""

import logging
import tempfile
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from asr.foreign.terminal import say
from distributed.errors import UsageError
from scripts.composition.learner_failures import STOPPED, agreed, exit_code, failure_line, first_failure, were_stopped
from scripts.composition.startup import REPOSITORY, print_last

LAUNCHED = ("train", "train_lm", "make_nbest")  # the entry points that several processes share


@dataclass(frozen=True, slots=True)
class Launch:
    """The checked command line of scripts/launch.py."""

    learners: int
    restarts: int
    entry_point: str
    arguments: Sequence[str]


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see python scripts/launch.py --help")


def launch_options(arguments: Sequence[str], usage: str) -> Launch | None:
    """Parse and check the command line; None if it asked for help.

    Raises:
        UsageError: the command line is wrong.
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
    """Run the learners to their end and return the exit code."""
    from torch.distributed.elastic.multiprocessing import SignalException  # seconds to import

    from distributed.learners.connections import allow_all_descriptors
    from distributed.learners.environment import prepare_for_learners
    from distributed.learners.secret import drawn
    from scripts.composition.agent import agent_of

    prepare_for_learners(drawn())
    allow_all_descriptors()  # foreign connections to the store may use some
    logging.disable(logging.CRITICAL)  # suppresses the agent's own report
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        script = str(REPOSITORY / "scripts" / f"{options.entry_point}.py")
        line = ("-u", script, *options.arguments)
        agent = agent_of(options.learners, options.restarts, line, folder)
        try:
            result = agent.run()
        except SignalException as ended:
            codes = agent.exit_codes()
            if codes and not any(code != 0 for code in codes):
                return 0  # they had just come to their end
            code = agreed(codes) or 128 + ended.sigval
            if code != STOPPED:  # learner 0 has logged then how far they have come
                print_last(f"ended by {ended.sigval.name}\n")
            return code
    if not result.is_failed():
        return 0
    if were_stopped(result.failures):
        return STOPPED
    rank, failure = first_failure(result.failures)
    print_last(f"{failure_line(rank, failure)}\n")
    return exit_code(failure)
