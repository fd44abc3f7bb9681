"""The host's memory between one batch and the next, in processes that only read a model.

glibc gives freed memory at the end of its heap back to the system, and takes large pieces from there: the first touch of
each page then costs again, with every batch. On batches of changing lengths this was a third of a small encoder's time. Kept,
the process holds up to KEPT_BYTES that it does not use; pieces above LARGEST_BYTES come from the system each time, as ever. Training
leaves it alone: there is more of it, which fragments what is kept.
"""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from glibc's malloc.h
KEPT_BYTES = 512 << 20  # free memory at the end of the heap above which the rest is given back
LARGEST_BYTES = 32 << 20  # glibc accepts no larger pieces on its heap


def keep_freed_memory() -> bool:
    """Make this process keep memory that it frees; False where the C library has no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((TRIM_THRESHOLD, KEPT_BYTES), (MMAP_THRESHOLD, LARGEST_BYTES))
    return all(bool(mallopt(parameter, size)) for parameter, size in settings)
