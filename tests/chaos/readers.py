"""Bad input for every reader of foreign files and of run folders: the cases of tests/unit/hostile, many more of them, with
limits on memory and time that only a process of its own can have.
"""

import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tests.chaos.ground import Ground, Tried
from tests.chaos.trial import BrokenPromiseError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CHANGED = 24  # ways to damage a good file that the seed decides, beside those that are the same for all
MEMORY_BYTES = 1 << 30  # that reading may take beyond what the process has at its start
LONGEST_SECONDS = 900.0  # for all cases of a reader

_server = multiprocessing.get_context("forkserver")


def read(ground: Ground, draw: random.Random, name: str) -> Iterator[Tried]:
    """Every damaged tree of one reader is read, or refused in one line, within two seconds and a gigabyte."""
    receiver, sender = _server.Pipe(duplex=False)
    process = _server.Process(target=_read_all, args=(name, str(draw.randrange(1 << 30)), sender))
    began = time.monotonic()
    process.start()
    sender.close()
    try:
        answer = receiver.recv() if receiver.poll(LONGEST_SECONDS) else "a hang: it still reads"
    except EOFError:
        answer = "the process that read has ended"
    if process.exitcode is None and isinstance(answer, str):
        process.kill()
    process.join()
    if isinstance(answer, str):
        raise BrokenPromiseError(f"reader {name}: {answer}")
    cases, peak = answer
    if peak > MEMORY_BYTES:
        raise BrokenPromiseError(f"reader {name}: took {peak / 1e6:.0f} MB")
    yield Tried("read or refused in a line", time.monotonic() - began, cases)


def _read_all(name: str, seed: str, answer: "Connection") -> None:
    """In a process of its own: send the number of cases and the bytes that they took at most, or what was wrong."""
    from tests.unit.hostile.cases import check_every_case
    from tests.unit.hostile.readers import READERS

    silence = os.open(os.devnull, os.O_WRONLY)  # what is left out is listed, in thousands of lines
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    reader = READERS[name]
    resource.setrlimit(resource.RLIMIT_AS, (_virtual_bytes() + MEMORY_BYTES, resource.RLIM_INFINITY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as folder:
        reader.make(Path(folder))
        try:
            cases = sum(check_every_case(Path(folder), file, reader.read, CHANGED, seed) for file in reader.files)
        except Exception as error:  # whatever a reader raises that is not for people is what is looked for
            answer.send(f"{type(error).__name__}: {error}"[:4000])
            return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer.send((cases, (peak - before) << 10))


def _virtual_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
