"""How the C library hands out memory in a process of many threads and large buffers."""

from __future__ import annotations

import ctypes

MIB = 2**20
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of glibc's mallopt(3)."""
SETTINGS = (
    # By default each thread has a heap of its own, up to eight per core, and what one frees no other takes: the same conversion
    # then holds 590 MB and more with each task, with one heap 300.
    (M_ARENA_MAX, 1),
    # Pieces and shards come from the heap and stay in it. By default most of them are new pages from the kernel each time, which
    # is a third of the time of a whole conversion.
    (M_MMAP_THRESHOLD, 32 * MIB),
    (M_TRIM_THRESHOLD, 128 * MIB),
)


def keep_buffers() -> None:
    """One heap that keeps what is freed for the next shard; call it before the first thread is started. Only glibc has it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for option, value in SETTINGS:
        mallopt(option, value)
