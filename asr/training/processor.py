"""The processor: its maker, its cores, the instructions that torch uses, and the speed of bf16 on it."""

import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.nn import functional

from asr.training.meter import CGROUP_ROOT

# Instructions of low precision beside those that torch reports, by their names in /proc/cpuinfo.
EXTENSIONS = {
    "AVX2": ("avx_vnni",),
    "AVX512": ("avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8"),
}
ROUNDS = 5


def instruction_set() -> str:
    """The widest instructions that torch uses here: AVX2 or AVX512; DEFAULT or a name of its own elsewhere."""
    return torch.backends.cpu.get_cpu_capability()


def extensions() -> list[str]:
    """The processor's instructions of low precision beside ``instruction_set``."""
    flags = (cpu_info("flags") or "").split()
    return [each for each in EXTENSIONS.get(instruction_set(), ()) if each in flags]


def cpu_vendor() -> str:
    """The processor's maker as it names itself (GenuineIntel, AuthenticAMD), or its architecture where it does not."""
    return cpu_info("vendor_id") or platform.machine() or "an unknown processor"


def cpu_info(field: str) -> str | None:
    """A field of the first processor in /proc/cpuinfo; None where file or field is missing."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith(field):
                return line.partition(":")[2].strip()
    return None


def usable_cores() -> float:
    """Cores that this process may use: those it is bound to, or the quota of its control group where that is less."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min([float(bound), *_quotas()])


def _quotas() -> Iterator[float]:
    """Limits of processor time, in cores, of the control group that a container sees as its root; versions 2 and 1."""
    period = CGROUP_ROOT / "cpu" / "cpu.cfs_period_us"
    for files in ([CGROUP_ROOT / "cpu.max"], [period.with_name("cpu.cfs_quota_us"), period]):
        if all(file.is_file() for file in files):
            quota, per = " ".join(file.read_text() for file in files).split()
            if quota not in ("max", "-1"):
                yield int(quota) / int(per)


def bf16_slowness() -> float:
    """The time of a linear layer under bf16 autocast over that in fp32; above 1, bf16 is slower.

    The shortest processor time of a few tries each, in turns, 5 to 50 ms in all, which other load does not lengthen. It
    draws no random number and changes nothing.
    """
    x, weight = torch.ones(256, 256), torch.ones(256, 256)

    def seconds(bf16: bool) -> float:
        start = time.thread_time()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            functional.linear(x, weight)
        return time.thread_time() - start

    tries = [(seconds(bf16=False), seconds(bf16=True)) for _ in range(1 + ROUNDS)][1:]  # the first ones set up
    fp32, bf16 = (min(times) for times in zip(*tries, strict=True))
    return bf16 / fp32
