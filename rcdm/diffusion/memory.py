"""Freed memory: kept for the next network call, where glibc would fault it in again, or given back."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # <malloc.h>


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse freed tensors; True if it listened. Call before the first large allocation.

    Half of the time of drawing on two CPU cores went into page faults without it. Elsewhere than glibc nothing happens.
    A server calls it before the first thread: an arena that a thread has made by then stays, and `malloc_trim` does not
    give back its end, up to 64 MiB of decoded pictures.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    limits = ((_ARENA_MAX, 1), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26))
    taken = [mallopt(name, value) for name, value in limits]
    return all(taken)


def give_back_freed_memory() -> bool:
    """Return what is free after something that takes much memory, once; True if glibc did. Takes up to a fifth of a
    second, and the next calls fault their memory in again."""
    trim = _of_glibc("malloc_trim")
    return trim is not None and bool(trim(0))


def _of_glibc(name: str) -> Any:
    """A function of glibc's allocator, or None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError):
        return None
