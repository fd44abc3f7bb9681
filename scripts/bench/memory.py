"""How much memory a piece of work needs at its peak, beyond what its process held before."""

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_extra_bytes(work: Callable[[], Any]) -> int:
    """Run ``work`` in a forked copy of this process; how far its resident memory rose above where it began.

    Linux alone. Threads do not survive a fork: the process should compute with one.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            ctypes.CDLL(None).malloc_trim(0)  # what was freed before shall not hide what is taken now
            before = _resident_bytes()
            work()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            os.write(writer, str(peak - before).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    os.waitpid(child, 0)
    if not answer:
        raise RuntimeError("the process whose memory was to be measured ended without an answer")
    return int(answer)


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status gives no VmRSS")
