"""The environment variables that learners read and that they set for torch: no other module reads or sets any.

A launcher (torchrun, scripts/launch.py) gives RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and
MASTER_PORT; SLURM says where a task is in variables of its own (slurm.py). ``MURMURATION_SECRET`` is what the learners of a launch prove to each other that they know: see
distributed/learners/secret.py.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from distributed.errors import UsageError

SECRET = "MURMURATION_SECRET"
KERNELS = 512  # of oneDNN that are kept: those of some ten shapes
_LAUNCHER = "MURMURATION_LAUNCHER"  # set by scripts/launch.py, which prints the last error itself
_RETURNED = "MURMURATION_RETURNED"  # set where a learner has started anew by itself


class LaunchError(UsageError):
    """The environment of a launcher, or the GPUs of a host, do not fit; the message names the remedy."""


@dataclass(frozen=True, slots=True)
class Place:
    """Which learner this process is, as its launcher says."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    launched: bool  # whether a launcher such as torchrun started it; a process started by hand is alone

    @property
    def one_host(self) -> bool:
        """Whether all learners run on this host."""
        return self.local_size == self.size


@dataclass(frozen=True, slots=True)
class Meeting:
    """The address at which the learners find each other."""

    address: str
    port: int
    hosted: bool  # whether the launcher's agent hosts the store; otherwise learner 0 opens it


def place() -> Place:
    """Read from the environment which learner this is; LaunchError where some of the variables are missing."""
    if "RANK" not in os.environ:
        return Place(rank=0, size=1, local_rank=0, local_size=1, launched=False)
    rank, size = _integer("RANK"), _integer("WORLD_SIZE")
    local_rank, local_size = _integer("LOCAL_RANK"), _integer("LOCAL_WORLD_SIZE")
    if not 0 <= rank < size or not 0 <= local_rank < local_size <= size:
        raise LaunchError(
            f"RANK={rank} of WORLD_SIZE={size}, LOCAL_RANK={local_rank} of LOCAL_WORLD_SIZE={local_size} do not fit "
            "together; start the learners with torchrun"
        )
    return Place(rank, size, local_rank, local_size, launched=True)


def meeting() -> Meeting:
    """Read the learners' meeting address from the environment; LaunchError where it is missing."""
    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == str(True)
    return Meeting(_text("MASTER_ADDR"), _integer("MASTER_PORT"), hosted)


def secret_given() -> str | None:
    """The launch's secret from the environment; None where it is not set."""
    return os.environ.get(SECRET) or None


def has_returned() -> bool:
    """Whether this learner has started anew since its launch, as numbers went bad."""
    return _RETURNED in os.environ


def is_started_again() -> bool:
    """Whether this launch has started the learners before: by itself, or by the launcher after a failure."""
    return has_returned() or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def note_return() -> None:
    """Let the program that replaces this one know that it has started anew."""
    os.environ[_RETURNED] = "1"


def cache_folder() -> Path:
    """The user's cache folder, for files that can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def with_variables(variables: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process to be started: this one's, and ``variables``."""
    return {**os.environ, **variables}


def slurm_variables() -> dict[str, str]:
    """The variables that SLURM sets for a task, and where learners meet if the user has chosen that."""
    chosen = ("MASTER_ADDR", "MASTER_PORT")
    return {name: value for name, value in os.environ.items() if name.startswith("SLURM_") or name in chosen}


def take(place: Place, meeting: Meeting) -> None:
    """Set what a launcher gives the learner that this process is to become."""
    os.environ |= {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_size),
        "MASTER_ADDR": meeting.address,
        "MASTER_PORT": str(meeting.port),
    }
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def prepare_for_learners(secret: str | None) -> None:
    """Set the environment variables that scripts/launch.py passes on to the learners that it starts.

    ``secret``: drawn for this launch; None where launchers on several hosts must share one.
    """
    if secret is not None:
        os.environ.setdefault(SECRET, secret)
    # Ranks follow from the launcher's number and the learners of each: no store between launchers is asked for them.
    os.environ["TORCH_ELASTIC_WORKER_IDENTICAL"] = "1"
    os.environ[_LAUNCHER] = "1"
    without_stack_frames()
    os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun sets the same, and warns


def without_stack_frames() -> None:
    """Let torch's transports report no warnings, unless the user chose otherwise; call before torch is imported.

    Whatever they warn of, as of a store that is lost, comes with stack frames of C++; a learner says it in one line.
    """
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def stay_on_this_host() -> str:
    """Make torch's transports listen on the loopback, unless the user chose otherwise; call before the first group.

    Returns the interface that gloo uses.
    """
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(name, loopback)
    return os.environ["GLOO_SOCKET_IFNAME"]


def gloo_connects_lazily() -> bool:
    """Whether gloo's transport on this system can connect two members when they first need it: plain TCP alone can."""
    return sys.platform == "linux" and os.environ.get("GLOO_DEVICE_TRANSPORT", "TCP") == "TCP"


def gloo_interfaces() -> list[str]:
    """The network interfaces that gloo is told to use; none: it chooses."""
    return [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]


def prepare_for_groups(*, addresses_at_once: bool = True) -> None:
    """Set what torch's groups read from the environment, unless the user chose otherwise; call before the first one is made.

    The flight recorder is off: its map of groups has no lock (torch 2.11: ``all_pg_status_``, FlightRecorderDetail.hpp),
    so that the first operation of a group, while another thread has one of its own, can crash or hang the process.
    Gloo reads the addresses of all members in one request to the store, unless ``addresses_at_once`` is False: its default,
    one request for each of them. An earlier call wins.
    """
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "0")
    os.environ.setdefault("GLOO_ENABLE_STORE_V2_API", str(int(addresses_at_once)))


def bound_kernels() -> None:
    """Let oneDNN keep few of the kernels that it compiles, unless the user says how many; call before the first is compiled.

    It compiles some for every new shape of a unit, 56 of a Conformer-S, and keeps 1,024 of them; units of speech seldom have
    the shape of one before (docs/measured/throughput.md).
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))


def leave_word(line: str, own: bool, code: int) -> bool:
    """Write the last line of this learner to the file from which its launcher's agent reports it.

    ``own``: the error is this learner's own, not the loss of another one. ``code``: the exit code that follows.
    Returns whether the launcher prints it: scripts/launch.py does, unless it starts the learners again.
    """
    file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if file:
        extra = {"timestamp": str(int(time.time())), "nanoseconds": time.time_ns(), "own": own, "code": code}
        message = {"message": line, "extraInfo": extra}
        try:
            Path(file).write_text(json.dumps({"message": message}), encoding="utf-8")
        except OSError:  # a full disk, or no such folder any more: the line is printed here then
            return False
    restarts = [os.environ.get(f"TORCHELASTIC_{name}") for name in ("RESTART_COUNT", "MAX_RESTARTS")]
    return bool(file) and _LAUNCHER in os.environ and restarts[0] == restarts[1]


def _text(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise LaunchError(f"RANK is set but {name} is not; start the learners with torchrun, or unset RANK")
    return value


def _integer(name: str) -> int:
    value = _text(name)
    try:
        return int(value)
    except ValueError:
        raise LaunchError(f"environment variable {name} must be an integer, got {value!r}") from None
