"""scripts/launch.py: the learners of a host as processes, supervised by torch's elastic agent.

Unlike torchrun, the rendezvous' store listens on the loopback and is a new one for each attempt, the learners get a
secret of their own, and the error of the learner that failed is the last line, instead of the agent's report. Under SLURM
each task of a job step runs it: as the agent of its node, or to become a learner itself.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from asr.foreign.terminal import say
from distributed.errors import UsageError
from scripts.composition.command_line import Parser, split_at
from scripts.composition.learner_failures import STOPPED, agreed, exit_code, failure_line, first_failure, were_stopped
from scripts.composition.startup import REPOSITORY, print_last

if TYPE_CHECKING:
    from distributed.learners.slurm import SlurmTask

LAUNCHED = ("train", "train_lm", "make_nbest")  # the entry points that several processes share


@dataclass(frozen=True, slots=True)
class Launch:
    """The checked command line of scripts/launch.py."""

    learners: int | None  # of this host; None: this process becomes the one learner of its SLURM task
    restarts: int
    entry_point: str
    arguments: Sequence[str]
    slurm: bool = False

    @property
    def script(self) -> str:
        """Path of the entry point."""
        return str(REPOSITORY / "scripts" / f"{self.entry_point}.py")


def launch_options(arguments: Sequence[str], usage: str) -> Launch | None:
    """Parse and check the command line; None if it asked for help.

    Raises:
        UsageError: the command line is wrong.
    """
    parser = Parser("launch")
    parser.add_argument("--slurm", action="store_true")
    parser.add_argument("--learners", type=int)
    parser.add_argument("--restarts", type=int, default=0)
    own, entry_point, rest = split_at(arguments, LAUNCHED)
    options = parser.parse_args(own)
    if options.help:
        say(*usage.strip().splitlines())
        return None
    if entry_point is None:
        raise UsageError(f"what shall be started is not said: one of {', '.join(LAUNCHED)}, then its own arguments")
    if (options.learners is None and not options.slurm) or (options.learners is not None and options.learners < 1):
        raise UsageError(f"--learners={options.learners}: the number of processes is needed, 1 or more")
    if options.restarts < 0:
        raise UsageError(f"--restarts={options.restarts}: must be 0 or more")
    if options.restarts and options.learners is None:
        raise UsageError(
            f"--restarts={options.restarts}: a SLURM task that is a learner has nobody who starts it again; run one "
            "task on each node, with --learners"
        )
    return Launch(options.learners, options.restarts, entry_point, rest, options.slurm)


def launch(options: Launch) -> int:
    """Run the learners to their end and return the exit code.

    Raises:
        UsageError: SLURM's variables are missing, or several of its tasks on a node would each start learners.
    """
    from distributed.learners.environment import slurm_variables
    from distributed.learners.slurm import slurm_task

    task = slurm_task(slurm_variables()) if options.slurm else None
    if options.learners is None:
        if task is None:
            raise UsageError("--learners is needed: the number of processes")
        become_learner(options, task)
    if task is not None and not task.one_per_node:
        raise UsageError(
            f"--learners={options.learners} with {task.tasks} SLURM tasks on {task.nodes} nodes: leave --learners out, "
            "each task is a learner then, or start one task on each node (--ntasks-per-node=1)"
        )
    return _supervise(options, options.learners, task)


def become_learner(options: Launch, task: "SlurmTask") -> NoReturn:
    """Run the entry point in this process, as the learner that its SLURM task is."""
    from distributed.learners.environment import take

    take(task.as_learner(), task.meeting)
    os.execv(sys.executable, [sys.executable, "-u", options.script, *options.arguments])


def _supervise(options: Launch, learners: int, task: "SlurmTask | None") -> int:
    """Start the learners of this host, and again where that is allowed; the exit code."""
    from torch.distributed.elastic.multiprocessing import SignalException  # seconds to import

    from distributed.learners.connections import allow_all_descriptors
    from distributed.learners.environment import prepare_for_learners
    from distributed.learners.secret import drawn
    from scripts.composition.agent import agent_of

    prepare_for_learners(drawn() if task is None or task.nodes == 1 else None)
    allow_all_descriptors()  # foreign connections to the store may use some
    logging.disable(logging.CRITICAL)  # suppresses the agent's own report
    with tempfile.TemporaryDirectory(prefix="launch-") as folder:
        agent = agent_of(learners, options.restarts, ("-u", options.script, *options.arguments), folder, task)
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
