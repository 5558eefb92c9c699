"""How the C library's allocator treats the few MiB that every request takes and gives back."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
"""Numbers of mallopt(3)."""
KEPT_BYTES = 64 * 2**20
"""Free memory at the end of a heap that is kept for the next request. By default all past some 4 MiB goes back to the system, and
eight readers of 2 MiB crops take 200 page faults a crop, which cost half as much as sending it; with this they take 5."""
FROM_SYSTEM_BYTES = 32 * 2**20
"""What is larger comes from the system and goes back to it at once; the most that mallopt takes."""


def keep_freed_memory() -> None:
    """Have malloc keep what requests give back, where the C library is glibc; elsewhere nothing is changed."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, FROM_SYSTEM_BYTES)
