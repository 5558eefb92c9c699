"""How fast a stage or level goes and how long it will still take: worked out where its count is written, from the count before.

Everything it needs is in the state itself, so whichever process writes next goes on with the same rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime

from emporter_contracts.jobs import JobStatus, Tally

WINDOW_SECONDS = 60.0
"""What a rate is averaged over: long enough for tasks of a minute, short enough to notice that an archive became slow."""

Step = Callable[[Tally | None, Tally], Tally]


def carried(before: JobStatus, after: JobStatus) -> JobStatus:
    """`after`, whose counts are new, with the rates of `before`: where no count differs they are equal."""
    return _each(before, after, lambda old, new: _with_pace(new, old) if old is not None else new)


def counted(before: JobStatus, after: JobStatus, at: datetime) -> JobStatus:
    """`after` with the rates its counts make. The first count of a run makes none: what is done then was done before."""
    since = before.progressed_at or before.updated_at
    return _each(before, after, lambda old, new: _counted(old, new, since, at))


def begun_anew(status: JobStatus) -> JobStatus:
    """No rates: what was measured before a pause says nothing of what comes after it."""
    return _each(status, status, lambda _, tally: _with_pace(tally, Tally()))


def _counted(old: Tally | None, new: Tally, since: datetime, at: datetime) -> Tally:
    if old is None or old.counted_at is None or old.began_at is None or new.bytes_done < old.bytes_done:
        return new.model_copy(update={"bytes_per_second": None, "seconds_left": None, "began_at": at, "counted_at": at})
    if new.bytes_done == old.bytes_done:
        return _with_pace(new, old)
    # What was not begun is counted from the last time that anything moved: levels wait for those below them.
    began, last = (old.began_at, old.counted_at) if old.bytes_done else (since, since)
    seconds, whole = ((at - a).total_seconds() for a in (last, began))
    if seconds <= 0 or whole <= 0:
        return _with_pace(new, old)
    now = (new.bytes_done - old.bytes_done) / seconds
    # At first all of it counts alike, later the last minute or so.
    weight = min(1.0, max(seconds / whole, 1 - math.exp(-seconds / WINDOW_SECONDS)))
    earlier = now if old.bytes_per_second is None else old.bytes_per_second
    rate = earlier + weight * (now - earlier)
    left = (new.bytes_total - new.bytes_done) / rate
    return new.model_copy(
        update={"bytes_per_second": round(rate, 1), "seconds_left": round(left, 1), "began_at": began, "counted_at": at}
    )


def _with_pace(tally: Tally, other: Tally) -> Tally:
    kept = ("bytes_per_second", "seconds_left", "began_at", "counted_at")
    return tally.model_copy(update={name: getattr(other, name) for name in kept})


def _each(before: JobStatus, after: JobStatus, step: Step) -> JobStatus:
    """`step` on every stage and level, with its count in `before`; None where there was none."""
    known = {(v.volume, k): level for v in before.volumes for k, level in enumerate(v.levels)}
    volumes = tuple(
        v.model_copy(update={"levels": tuple(step(known.get((v.volume, k)), level) for k, level in enumerate(v.levels))})
        for v in after.volumes
    )
    return after.model_copy(update={"fetch": step(before.fetch, after.fetch), "volumes": volumes})
