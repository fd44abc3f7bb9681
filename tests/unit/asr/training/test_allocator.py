"""Memory that is freed stays with the process."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from asr.training.allocator import keep_freed_memory
if not keep_freed_memory():
    raise SystemExit("no mallopt")
if "[always]" in open("/sys/kernel/mm/transparent_hugepage/enabled").read():
    raise SystemExit("no small pages")
size = int(sys.argv[1]) << 18  # floats of so many MiB
pieces = [torch.zeros(size) for _ in range(20)]
del pieces
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
pieces = [torch.ones(size) for _ in range(10)]
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc's allocator")
@pytest.mark.parametrize("mebibytes", [4, 60])
def test_memory_that_was_freed_is_not_touched_for_the_first_time_again(mebibytes: int) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(mebibytes)], capture_output=True, text=True, check=False)
    if done.stderr.startswith("no "):
        pytest.skip(f"{done.stderr.strip()} here")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1000, "10 pieces have 10,240 pages or more"
