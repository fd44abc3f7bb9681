"""One run that faults are done to: its folder, its learners as real processes, and how they end."""

import json
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.namespaces import Host
from tests.chaos.injector import PACE, PLAN, Fault, fired, write_plan
from tests.chaos.launcher import LAUNCHER, LEARNER
from tests.conftest import SMALL_LSTM, SMALL_RUN
from tests.processes import Forked, free_port
from tests.schemes import SCHEMES

STEPS = 44  # global steps of a run
EVERY = 4  # of them between two checkpoints
KEPT = 3  # checkpoints that a run keeps
PATIENCE = 5.0  # seconds: launch.patience_seconds
GRACE = 5.0  # seconds beyond it after which a learner that still runs hangs
LONGEST_SECONDS = 150.0  # of a start that nothing happens to
BACKENDS = ("allreduce", "dpsgd", "adpsgd", "delay_by_one", "scalecom")


class BrokenPromiseError(AssertionError):
    """A run has not done what it promises: what it did instead."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How the learners of a start have ended."""

    codes: Sequence[int | None]  # by rank; None: it was still there, which the caller has allowed
    printed: Sequence[str]
    fired: Sequence[float]  # when faults were done, by the clock
    seconds: float  # from the last of them, or else from the start, to the end of the last learner

    @property
    def done(self) -> bool:
        """Whether the run has come to its end."""
        return not any(code != 0 for code in self.codes)


@dataclass
class Trial:
    """A run of a backend in a folder of its own."""

    folder: Path
    corpus: Path
    backend: str
    learners: int
    pace: float = 0.02
    extra: Sequence[str] = ()  # overrides
    running: list[Forked] = field(default_factory=list)
    port: int = 0  # of the rendezvous of the newest start
    reached: int = 0  # global step that was logged before it

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.folder / "exp" / "run"

    @property
    def plan(self) -> Path:
        """The file with the faults of the next start."""
        return self.folder / "plan.json"

    @property
    def variables(self) -> dict[str, str]:
        """What the injector reads in the environment."""
        return {PLAN: str(self.plan), PACE: str(self.pace)}

    @property
    def line(self) -> list[str]:
        """The command line of a learner: the same for all starts."""
        return [
            str(LEARNER), *SMALL_RUN, *SMALL_LSTM, f"data.root={self.corpus}", "name=run",
            *SCHEMES[self.backend].overrides(self.learners), f"batch.units={self.learners}", "seed=3",
            f"trainer.max_steps={STEPS}", f"trainer.checkpoint_every={EVERY}", f"trainer.evaluate_every={3 * EVERY}",
            f"checkpoint.keep_last={KEPT}", f"launch.patience_seconds={PATIENCE}", "launch.join_seconds=20", *self.extra,
        ]  # fmt: skip

    def start(
        self, *faults: Fault, absent: Collection[int] = (), hosts: Sequence[Host] = (), one: bool = False
    ) -> None:
        """Start the learners; nobody ends one because another has ended.

        Args:
            absent: learners that never come.
            hosts: where each is; else all are on this one, as if on hosts of their own,
            one: or as on one host.
        """
        self._make_ready(faults)
        self.port = free_port()
        common = {"WORLD_SIZE": str(self.learners), "MASTER_PORT": str(self.port)} | self.variables
        self.running = []
        for rank in range(self.learners):
            if rank in absent:
                continue
            place = {
                "RANK": str(rank), "LOCAL_RANK": str(rank if one else 0), "LOCAL_WORLD_SIZE": str(self.learners if one else 1),
                "MASTER_ADDR": hosts[0].address if hosts else "127.0.0.1",
            } | ({} if one else {"GLOO_SOCKET_IFNAME": hosts[rank].interface if hosts else "lo"})  # fmt: skip
            namespace = hosts[rank].namespace if hosts else None
            self.running.append(Forked(self.line, self.folder, namespace=namespace, **common | place))

    def start_launcher(self, *faults: Fault, restarts: int) -> None:
        """Start the run with the project's launcher, which is then the only process in ``running``."""
        self._make_ready(faults)
        own = [str(LAUNCHER), "--learners", str(self.learners), "--restarts", str(restarts), "train"]
        self.running = [Forked([*own, *self.line[1:]], self.folder, **self.variables)]

    def _make_ready(self, faults: Sequence[Fault]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_plan(self.plan, faults)
        self.reached = max((int(row["global_step"]) for row in self.rows()), default=0)

    def fired(self) -> list[float]:
        """When faults of this start were done."""
        return [at for at, _ in fired(self.plan)]

    def wait(self, *, left: Collection[int] = (), within: float | None = None, faulted: float | None = None) -> Ended:
        """Wait for the end of all learners but those ``left``, which are then ended.

        Args:
            within: seconds from the (last) fault; None: as long as an undisturbed run may take.
            faulted: when the fault was done from outside, by the clock.

        Raises:
            BrokenPromiseError: a learner still runs after that.
        """
        began = time.time()
        waited = [each for rank, each in enumerate(self.running) if rank not in left]
        while any(each.poll() is None for each in waited):
            fired = self.fired()
            since = faulted or (fired[-1] if fired else None)
            limit = began + LONGEST_SECONDS if since is None or within is None else since + within
            if time.time() > limit:
                still = [rank for rank, each in enumerate(self.running) if each.poll() is None]
                printed = self.end()
                raise BrokenPromiseError(f"a hang: learners {still} still run; printed: {printed}")
            time.sleep(0.01)
        fired, now = self.fired(), time.time()
        codes = [each.poll() for each in self.running]
        printed = self.end()
        return Ended(codes, printed, fired, now - (faulted or (fired[-1] if fired else began)))

    def end(self) -> list[str]:
        """End whatever runs; what the learners printed."""
        for each in self.running:
            if each.poll() is None:
                each.end()
        return [each.communicate()[0] for each in self.running]

    def rows(self, learner: int = 0) -> list[dict[str, float]]:
        """The metric rows of a learner; a last line that is being written is left out."""
        path = self.run / "metrics" / f"{learner}.jsonl"
        found = []
        for line in path.read_text().splitlines() if path.exists() else ():
            with suppress(json.JSONDecodeError):
                found.append(json.loads(line))
        return found

    def wait_for_step(self, step: int) -> None:
        """Until learner 0 has logged the global step ``step``, and one that was not logged before the newest start."""
        deadline = time.monotonic() + LONGEST_SECONDS
        while not any(row["global_step"] >= max(step, self.reached + 1) for row in self.rows()[-3:]):
            if any(each.poll() is not None for each in self.running):
                raise BrokenPromiseError(f"a learner ended before the fault: {self.end()}")
            if time.monotonic() > deadline:
                raise BrokenPromiseError(f"the run does not get going: {self.end()}")
            time.sleep(0.005)
