"""Keep freed memory: glibc would return it to Linux after every network call and fault it in again."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # <malloc.h>


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed tensors; True if it listened. Call before the first large allocation.

    Half of the time of drawing on two CPU cores went into page faults without it. Elsewhere than glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    limits = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
    taken = [mallopt(name, value) for name, value in limits]
    return all(taken)
