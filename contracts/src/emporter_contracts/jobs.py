"""The state of a job: one value, complete in itself, with the moves it may make (PROTOCOL section 4)."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, computed_field

from emporter_contracts.commands import Message, Refusal
from emporter_contracts.errors import IllegalMoveError


class JobState(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    PROCESSING = "processing"
    SAVING = "saving-data"
    COMPLETE = "complete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def running(self) -> bool:
        return self in RUNNING


RUNNING = frozenset({JobState.PENDING, JobState.PROCESSING, JobState.SAVING})
"""States in which work goes on."""

MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.PENDING: frozenset({JobState.PROCESSING, JobState.FAILED, JobState.CANCELLED}),
    JobState.PROCESSING: frozenset({JobState.SAVING, JobState.FAILED, JobState.CANCELLED}),
    JobState.SAVING: frozenset({JobState.COMPLETE, JobState.FAILED}),
    JobState.COMPLETE: frozenset({JobState.PENDING}),
    JobState.FAILED: frozenset({JobState.PENDING}),
    JobState.CANCELLED: frozenset({JobState.PENDING}),
}
"""Every legal move; anything else is a bug and raises."""

WaitReason = Literal["host_down", "rate_limited", "disk_full", "paused"]


class Waiting(Message):
    """Why a job can't go on now, since when, and when it is tried again (None: when somebody says so)."""

    reason: WaitReason
    since: datetime
    next_try: datetime | None = None
    message: str = ""


class Tally(Message):
    """How much of a stage or level is done."""

    done: Annotated[int, Field(ge=0)] = 0
    total: Annotated[int, Field(ge=0)] = 0
    bytes_done: Annotated[int, Field(ge=0)] = 0
    bytes_total: Annotated[int, Field(ge=0)] = 0
    bytes_per_second: Annotated[float, Field(ge=0)] | None = None
    """Over about the last minute that anything was counted; None where nothing can be said yet."""
    seconds_left: Annotated[float, Field(ge=0)] | None = None
    """From `counted_at` on, at that rate."""
    began_at: datetime | None = None
    counted_at: datetime | None = None
    """When it was seen last that more is done. Long ago means that it stands still, whatever the rate says."""


class VolumeProgress(Message):
    """One volume of a job: tasks by level (0 = full resolution), and whether it is committed."""

    volume: str
    levels: tuple[Tally, ...] = ()
    committed: bool = False


class JobStatus(Message):
    """The last message on `status.<job>` is the state. Order is (revision, generation, version), never a stream sequence."""

    job: str
    source: str
    source_id: str
    revision: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]
    version: Annotated[int, Field(ge=1)]
    state: JobState
    waiting: Waiting | None = None
    fetch: Tally = Tally()
    volumes: tuple[VolumeProgress, ...] = ()
    error: Refusal | None = None
    caveats: tuple[str, ...] = ()
    planned_bytes: Annotated[int, Field(ge=0)] = 0
    """What the plan will store in all, so that other plans know what of the free room is spoken for."""
    created_at: datetime
    updated_at: datetime
    ended_at: datetime | None = None
    progressed_at: datetime | None = None

    @property
    def order(self) -> tuple[int, int, int]:
        """Later states of one job compare greater."""
        return (self.revision, self.generation, self.version)

    @property
    def run(self) -> tuple[int, int]:
        """The run this state belongs to: (revision, generation)."""
        return (self.revision, self.generation)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def convert(self) -> Tally:
        """Tasks of all levels of all volumes together; its rate is that of the levels being worked on."""
        levels = [level for volume in self.volumes for level in volume.levels]
        done, total = sum(t.bytes_done for t in levels), sum(t.bytes_total for t in levels)
        rate = sum(t.bytes_per_second or 0.0 for t in levels if t.done < t.total)
        return Tally(
            done=sum(t.done for t in levels),
            total=sum(t.total for t in levels),
            bytes_done=done,
            bytes_total=total,
            bytes_per_second=round(rate, 1) or None,
            seconds_left=round((total - done) / rate, 1) if rate else None,
            began_at=min((t.began_at for t in levels if t.began_at), default=None),
            counted_at=max((t.counted_at for t in levels if t.counted_at), default=None),
        )


def check_move(status: JobStatus, to: JobState) -> None:
    """Raises IllegalMoveError unless a job in this state may move to `to`."""
    if to not in MOVES[status.state]:
        raise IllegalMoveError(f"job {status.job}: {status.state} can't become {to}")
