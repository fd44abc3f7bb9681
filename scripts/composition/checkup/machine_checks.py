"""What scripts/doctor.py looks at on a machine, whatever the run: each check is a function that returns findings."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed import HashStore

from asr.models.recurrence import bf16_lstm_works
from asr.training.meter import ResidentMeter
from asr.training.precision import choose_matmul
from asr.training.probe import GIB
from asr.training.processor import bf16_slowness, cpu_info, usable_cores
from distributed.learners.environment import slurm_variables, stay_on_this_host
from distributed.learners.gloo import gloo_group
from scripts.composition.checkup.finding import Finding, error, ok, warning
from scripts.composition.checkup.locked_versions import differing_versions, installed_version, locked_versions
from scripts.composition.startup import REMEDY

SHARED_MEMORY = Path("/dev/shm")
SMALL_SHARED_GIB = 1.0  # containers often have 64 MiB, of which a few batches of loader processes are more
SMALL_DISK_GIB = (
    5.0  # a checkpoint of a model of 100 million parameters with its moments has 1.2 GiB, and some are kept
)
SMALL_MEMORY_GIB = 4.0
GLOO_SECONDS = 20.0
SLURM_SECONDS = 20.0
FEW_SHOWN = 5  # of packages whose version differs


def check_machine(folder: Path) -> Iterator[Finding]:
    """All findings about this machine; runs would be written below ``folder``."""
    yield from check_versions()
    yield from check_processor()
    yield from check_memory()
    yield from check_gpus()
    yield from check_gloo()
    yield from check_slurm()
    yield from check_disk("disk", folder)
    yield from check_disk("temporary files", Path(tempfile.gettempdir()))


def check_versions() -> Iterator[Finding]:
    """Installed packages against requirements.lock; extras may be missing."""
    differing = differing_versions()
    wrong = [f"{name} {have} in place of {want}" for name, (have, want) in differing.items() if have is not None]
    missing = [name for name, (have, _) in differing.items() if have is None]
    versions = f"torch {torch.__version__}, torchaudio {installed_version('torchaudio')}"
    if wrong:
        yield warning("versions", f"{versions}; not those of the lock: {_some(wrong)}; {REMEDY}")
    else:
        yield ok("versions", f"{versions}; {len(locked_versions()) - len(missing)} packages as locked")
    if missing:
        yield warning("packages", f"not installed: {_some(missing)}; only needed for what they belong to, or {REMEDY}")


def check_processor() -> Iterator[Finding]:
    """Cores that this process may use, how busy they are, and how matrix products are computed."""
    usable, all_cores = usable_cores(), os.cpu_count() or 1
    limited = "" if usable >= all_cores else f" of {all_cores}"
    text = f"{usable:g}{limited} usable cores, {cpu_info('model name') or 'unknown processor'}; {choose_matmul('auto')}"
    load = os.getloadavg()[0]
    if load > usable:
        yield warning("cores", f"{text}; {load:.1f} processes want them already, so that figures of speed mean little")
    else:
        yield ok("cores", text)
    slower = bf16_slowness()
    pays = f"bf16 takes {slower:.2f} times as long as fp32 in a linear layer"
    yield ok("bf16", pays if bf16_lstm_works() else f"{pays}; LSTMs cannot be made in it and compute in fp32")


def check_memory() -> Iterator[Finding]:
    """Memory of the host or of this control group, and the shared memory through which loader processes hand batches over."""
    gib = ResidentMeter(learners=1).capacity() / GIB
    find = warning if gib < SMALL_MEMORY_GIB else ok
    yield find("memory", f"{gib:.1f} GiB for all learners of this host")
    if SHARED_MEMORY.is_dir():
        gib = shutil.disk_usage(SHARED_MEMORY).free / GIB
        if gib < SMALL_SHARED_GIB:
            yield warning(
                "shared memory",
                f"{gib:.2f} GiB free in {SHARED_MEMORY}: loader.num_workers above 0 may end with a bus error; start "
                "the container with --shm-size=8g, or keep loader.num_workers=0",
            )
        else:
            yield ok("shared memory", f"{gib:.1f} GiB free in {SHARED_MEMORY}")


def check_gpus() -> Iterator[Finding]:
    """GPUs that torch sees, and whether it can talk between them."""
    number = torch.cuda.device_count()
    if not number:
        made_for = f", although it is built for CUDA {torch.version.cuda}" if torch.version.cuda else ""
        yield ok("GPUs", f"none that torch sees{made_for}; runs compute on the processor")
        return
    names = [torch.cuda.get_device_properties(index) for index in range(number)]
    yield ok("GPUs", ", ".join(f"{each.name} ({each.total_memory / GIB:.0f} GiB)" for each in names))
    if dist.is_nccl_available():
        yield ok("NCCL", ".".join(map(str, torch.cuda.nccl.version())))
    else:
        yield error(
            "NCCL", "torch is built without it: several learners cannot use GPUs; launch.device=cpu, or another torch"
        )


def check_gloo() -> Iterator[Finding]:
    """Whether two learners of this host can exchange numbers, and under which address others would find it."""
    interface = stay_on_this_host()
    try:
        _sum_of_two()
        yield ok("gloo", f"two learners exchange numbers over the interface {interface}")
    except RuntimeError as failed:
        why = " ".join(str(failed).split())
        yield error("gloo", f"two learners cannot talk over the interface {interface} (GLOO_SOCKET_IFNAME): {why}")
    host = socket.gethostname()
    try:
        address = socket.gethostbyname(host)
    except OSError as unknown:
        yield warning("host name", f"{host} has no address ({unknown}); {_SEVERAL_HOSTS}")
        return
    if address.startswith("127."):
        yield ok("host name", f"{host} is {address}: right for one host; {_SEVERAL_HOSTS}")
    else:
        yield ok("host name", f"{host} is {address}, at which learners on other hosts must reach it")


_SEVERAL_HOSTS = "for several hosts set GLOO_SOCKET_IFNAME to the interface between them"


def _sum_of_two() -> None:
    """Sum two numbers by all-reduce between two threads, over sockets; RuntimeError if it does not come about."""
    store, sums, errors = HashStore(), [torch.tensor([1.0]), torch.tensor([2.0])], []

    def learner(rank: int) -> None:
        try:
            group = gloo_group(store, rank, 2, GLOO_SECONDS)
            group.allreduce([sums[rank]]).wait()
        except RuntimeError as failed:
            errors.append(failed)

    threads = [threading.Thread(target=learner, args=(rank,), daemon=True) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * GLOO_SECONDS)
    if errors:
        raise errors[0]
    if any(thread.is_alive() for thread in threads) or sums[0] != sums[1]:
        raise RuntimeError(f"no answer within {2 * GLOO_SECONDS:g} seconds")


def check_slurm() -> Iterator[Finding]:
    """Whether jobs can be submitted here, and the job that this process runs in."""
    if shutil.which("sbatch") is None:
        yield ok("SLURM", "no sbatch here")
        return
    try:
        version = _output(["sinfo", "--version"])
        nodes = _output(["sinfo", "--noheader", "--format", "%D"]).split()
    except (OSError, subprocess.SubprocessError) as failed:
        said = getattr(failed, "stderr", None) or failed
        yield warning("SLURM", f"sbatch is here, but nobody answers: {' '.join(str(said).split())}")
        return
    inside = slurm_variables().get("SLURM_JOB_ID")
    yield ok("SLURM", f"{version}, {sum(map(int, nodes))} nodes" + (f"; this is job {inside}" if inside else ""))


def _output(line: Sequence[str]) -> str:
    done = subprocess.run(line, capture_output=True, text=True, check=True, timeout=SLURM_SECONDS)
    return done.stdout.strip()


def check_disk(what: str, folder: Path) -> Iterator[Finding]:
    """Free space of a folder that need not exist yet, and whether it can be written to."""
    exists = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    gib = shutil.disk_usage(exists).free / GIB
    if not os.access(exists, os.W_OK):
        yield error(what, f"{exists} cannot be written to")
    elif gib < SMALL_DISK_GIB:
        yield warning(what, f"{gib:.1f} GiB free in {exists}: checkpoints of a large model may fill it")
    else:
        yield ok(what, f"{gib:.0f} GiB free in {exists}")


def _some(entries: Sequence[str]) -> str:
    rest = len(entries) - FEW_SHOWN
    return ", ".join(entries[:FEW_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
