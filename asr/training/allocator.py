"""The host's memory between one batch and the next.

glibc takes large pieces from the system and gives them back when they are freed, as it does with freed memory at the end of its
heap: the first touch of each page then costs again, with every batch. On a CPU this was a third of a small encoder's time in
evaluation and a twentieth to a twelfth of a Conformer's training step. Kept, the process holds what its largest batch needed, and up to a tenth
more where batches of many shapes leave gaps (docs/measured/throughput.md).
"""

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # parameters of mallopt, from glibc's malloc.h
NEVER, NONE = -1, 0  # memory at the end of the heap is never given back; the main thread takes every piece from there


def keep_freed_memory() -> bool:
    """Make this process keep memory that its main thread frees; False where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(bool(mallopt(parameter, value)) for parameter, value in ((TRIM_THRESHOLD, NEVER), (MMAP_MAX, NONE)))
