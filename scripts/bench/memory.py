"""Peak memory of a piece of work, beyond the memory that its process held before."""

import ctypes
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


def peak_extra_bytes(work: Callable[[], Any], rehearsal: Callable[[], Any]) -> int:
    """Run ``work`` in a forked copy of this process; returns the rise of its resident memory at the peak, in bytes.

    ``rehearsal`` runs before, so that code which is loaded when it is first used is not counted. Linux alone. Threads do
    not survive a fork: the process should compute with one.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        status = 1
        try:
            rehearsal()
            ctypes.CDLL(None).malloc_trim(0)  # memory freed earlier must not hide new allocations
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
            before = _status_bytes("VmRSS")
            work()
            os.write(writer, str(_status_bytes("VmHWM") - before).encode())
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


def _status_bytes(field: str) -> int:
    match = re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None, field
    return int(match[1]) * 1024
