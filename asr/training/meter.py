"""Meters of memory, of a GPU or of the host: what this process holds, its peak, and the capacity.

A GPU is asked through torch's allocator. On the host the resident set counts, since torch's allocator for the CPU keeps
no books: Linux has its present size and its peak in /proc, where the peak can also be set back.
"""

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import torch

USABLE = 0.9  # usable fraction of a device's memory; the rest is for fragmentation and for other processes

STATUS = Path("/proc/self/status")
CLEAR_PEAK = Path("/proc/self/clear_refs"), "5"  # proc(5): resets VmHWM
CGROUPS = Path("/proc/self/cgroup")
CGROUP_ROOT = Path("/sys/fs/cgroup")


class Meter(Protocol):
    """The interface through which the probe reads a device's memory. All values are in bytes."""

    def held(self) -> int:
        """Memory that this process holds now; on a CPU with what was freed since the last reset."""

    def reset(self) -> None:
        """Release cached memory, and restart the peak from the present value."""

    def peak(self) -> int:
        """The most memory held since the last reset."""

    def capacity(self) -> int:
        """Memory that this process may hold in all, where no limit is configured."""


class CudaMeter:
    """The memory of a GPU: what torch's allocator has handed out."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def held(self) -> int:
        return torch.cuda.memory_allocated(self.device)

    def reset(self) -> None:
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> int:
        torch.cuda.synchronize(self.device)
        return torch.cuda.max_memory_allocated(self.device)

    def capacity(self) -> int:
        """The free memory, and what torch holds already."""
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(USABLE * (free + torch.cuda.memory_reserved(self.device)))


class ResidentMeter:
    """The host's memory, of which ``learners`` processes on it have equal shares.

    Where there is no /proc, the peak is that of the whole process so far, and so a lower bound of what a step adds.
    """

    def __init__(self, learners: int) -> None:
        self.learners = learners

    def held(self) -> int:
        return _status("VmRSS") or _all_time_peak()

    def reset(self) -> None:
        # glibc keeps freed memory: using it again would not show in the peak.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        path, command = CLEAR_PEAK
        if path.is_file() and os.access(path, os.W_OK):
            path.write_text(command)

    def peak(self) -> int:
        return _status("VmHWM") or _all_time_peak()

    def capacity(self) -> int:
        """This process's share of the control group's limit or of physical memory; independent of the host's load."""
        physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return int(USABLE * min([physical, *cgroup_limits()]) / self.learners)


def meter_of(device: torch.device, learners_on_host: int) -> Meter:
    """The meter of a learner's device."""
    return CudaMeter(device) if device.type == "cuda" else ResidentMeter(learners_on_host)


def _status(field: str) -> int | None:
    """A size in bytes from /proc/self/status; None where there is none."""
    if STATUS.is_file():
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
    return None


def _all_time_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def cgroup_limits() -> Iterator[int]:
    """Memory limits of the control groups that this process is in, versions 1 and 2, those of their parents included."""
    lines = CGROUPS.read_text().splitlines() if CGROUPS.is_file() else []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = CGROUP_ROOT, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = CGROUP_ROOT / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            file = folder / name
            if folder.is_relative_to(root) and file.is_file() and (limit := file.read_text().strip()).isdigit():
                yield int(limit)
