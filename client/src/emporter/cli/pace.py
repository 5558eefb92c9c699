"""How fast a stage goes and how long it will still take, from what was seen of it lately."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

WINDOW_SECONDS = 60.0
"""What a rate is averaged over: long enough for tasks of a minute, short enough to notice that an archive became slow."""
LEAST_SECONDS = 1.0
"""Shorter than this nothing can be said."""


class Pace:
    """Bytes per second over the last WINDOW_SECONDS."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def see(self, done: int) -> None:
        """`done` bytes are done by now. Fewer than before means that the work began anew."""
        now = self._clock()
        if self._seen and done < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float | None:
        """Bytes per second; None where nothing was done for as long as it was looked at."""
        if not self._seen:
            return None
        (began, first), (_, last) = self._seen[0], self._seen[-1]
        seconds = self._clock() - began
        return (last - first) / seconds if seconds >= LEAST_SECONDS and last > first else None

    def left(self, total: int) -> float | None:
        """Seconds until `total` bytes are done at this rate; None where there is no rate."""
        rate = self.rate
        return max(0, total - self._seen[-1][1]) / rate if rate else None

    def said(self, total: int) -> str:
        """For people, such as `120 MB/s, 2 min left`; empty where nothing can be said or nothing is left."""
        from emporter.cli import showing

        rate, left = self.rate, self.left(total)
        if rate is None or left is None or not left:
            return ""
        return f"{showing.size(round(rate))}/s, {_span(left)} left"


def _span(seconds: float) -> str:
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(1, round(seconds))} s"
