"""torch's elastic agent for the learners of a host: a restart of them is reported in one line.

On one host only the loopback is used. On several, as SLURM starts agents, each keeps to its own learners: these meet at
learner 0's store, and find by themselves that others are lost. So agents exchange nothing and listen nowhere.
"""

import sys
import uuid
from abc import ABC
from collections.abc import Sequence
from datetime import timedelta

from torch.distributed import HashStore
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler
from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

from distributed.learners.liveness import LOOPBACK
from distributed.learners.slurm import SlurmTask
from distributed.learners.store import listening_store
from scripts.composition.learner_failures import failure_line, first_failure, were_stopped
from scripts.composition.startup import print_last

_SAVING_SECONDS = 3600  # for which learners that were asked to stop may save; a second signal ends them at once
_STORE_SECONDS = 60.0  # timeout of a request to the store, which runs in this process


class Hosts(RendezvousHandler, ABC):
    """Tells learners where they meet; their number, and that of hosts, is fixed."""

    def __init__(self) -> None:
        self._run_id = str(uuid.uuid4())

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        """Does nothing: there are no other agents to notify."""

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self._run_id

    def shutdown(self) -> bool:
        return True


class OneHost(Hosts):
    """Rendezvous of a single agent: gives the learners a store on the loopback, a new one for each attempt."""

    def __init__(self, learners: int) -> None:
        super().__init__()
        self._learners = learners

    def get_backend(self) -> str:
        return "one-host"

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        store = listening_store(LOOPBACK, 0, self._learners, timedelta(seconds=_STORE_SECONDS))
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo(LOOPBACK, store.port))


class SlurmNodes(Hosts):
    """Rendezvous of one agent on each node of a job step: learner 0 opens the store, at the address of the step."""

    def __init__(self, task: SlurmTask) -> None:
        super().__init__()
        self._task = task

    def get_backend(self) -> str:
        return "slurm-nodes"

    @property
    def use_agent_store(self) -> bool:
        return False

    def next_rendezvous(self) -> RendezvousInfo:
        where = self._task.meeting
        info = RendezvousStoreInfo(where.address, where.port)
        return RendezvousInfo(HashStore(), self._task.node, self._task.nodes, info)


class Agent(LocalElasticAgent):
    """Supervises the learners: ends all of them when one fails, and restarts them up to the allowed number of times."""

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if were_stopped(result.failures):
            self._remaining_restarts = 0  # they were asked to stop
        elif result.is_failed() and self._remaining_restarts > 0:
            most = worker_group.spec.max_restarts
            failures = result.failures
            why = failure_line(*first_failure(failures)) if failures else "error: a learner does not answer"
            print_last(f"{why}; restart {most - self._remaining_restarts + 1} of {most}\n")
        return result

    def _exit_barrier(self) -> None:
        """Does nothing: who has started agents on several hosts waits for all of them."""

    def exit_codes(self) -> list[int | None]:
        """Exit codes of the learners that were started last; None for one that is still running."""
        handlers: dict[int, SubprocessHandler] = getattr(self._pcontext, "subprocess_handlers", {})
        return [each.proc.poll() for each in handlers.values()]


def agent_of(learners: int, restarts: int, line: Sequence[str], folder: str, task: SlurmTask | None = None) -> Agent:
    """An agent that runs ``python <line>`` for each learner of this host; they write their last lines into ``folder``.

    ``task``: where SLURM has put this agent; None: it is the only one.
    """
    spec = WorkerSpec(
        role="learner",
        local_world_size=learners,
        entrypoint=sys.executable,
        args=tuple(line),
        rdzv_handler=OneHost(learners) if task is None or task.nodes == 1 else SlurmNodes(task),
        max_restarts=restarts,
    )
    return Agent(spec, DefaultLogsSpecs(log_dir=folder), shutdown_timeout=_SAVING_SECONDS)
