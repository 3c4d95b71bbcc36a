"""Memory of a process that allocates and frees the same large buffers again and again."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_freed_pages(kept_bytes: int) -> None:
    """Let glibc keep freed buffers of up to kept_bytes for the next round, instead of giving back their pages.

    The kernel zeroes every page that it hands out again: about a third of the CPU of a round of array passes. Another
    libc ignores it.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, kept_bytes)
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)
