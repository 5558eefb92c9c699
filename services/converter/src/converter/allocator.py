"""How the C library hands out memory in a process of many threads and large buffers."""

from __future__ import annotations

import ctypes

M_ARENA_MAX = -8
"""Of glibc's mallopt(3)."""
ARENAS = 2
"""By default each thread gets its own heap, up to eight per core, and what one frees no other takes: a conversion that stays at
435 MB with two heaps begins at 590 then, and grows with each task."""


def share_heaps() -> None:
    """Let all threads share ARENAS heaps; call it before the first thread is started. Does nothing but with glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)
