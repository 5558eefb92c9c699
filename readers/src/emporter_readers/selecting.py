"""Which of the volumes in a file a request means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from emporter_contracts.commands import Select
from emporter_contracts.plans import MAX_VOLUMES
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError
from emporter_readers.protocol import FoundVolume, Reader

SAY_AXES = "say axes: zyx, tyx or cyx"


class Selectable(Protocol):
    @property
    def select(self) -> Select: ...


T = TypeVar("T", bound=Selectable)


def selected(choices: Sequence[T], wanted: Select, name: str) -> list[T]:
    """Those of `choices` that `wanted` does not exclude. Raises AmbiguousContentError where none is left."""
    if wanted.level:
        raise AmbiguousContentError(f"{name}: has no resolution level {wanted.level}", hint="it has level 0 only; leave it out")
    left = [choice for choice in choices if matches(choice.select, wanted)]
    if not left:
        raise AmbiguousContentError(
            f"{name}: holds nothing that {spoken(wanted)} selects",
            hint=f"it holds {len(choices)} volumes; leave the selection out to see them",
        )
    return left


def third_axis(axes: str | None, *, stacked: bool, name: str) -> str | None:
    """What `axes` of a request say of the third axis of an image: z, t or c, or None where they say nothing.

    Raises AmbiguousContentError where they are not of an image of two axes or, where `stacked`, three.
    """
    if axes is None:
        return None
    letter = axes.removesuffix("yx")
    if letter == axes or letter not in (("z", "t", "c") if stacked else ("", "z")):
        raise AmbiguousContentError(f"{name}: axes {axes!r} do not fit {3 if stacked else 2} dimensions", hint=SAY_AXES)
    return letter or "z"


def planes_along(letter: str, size: int, wanted: Select, name: str) -> list[tuple[int, dict[str, int]]]:
    """Of `size` planes along t or c those that `wanted` does not exclude, each with what selects it.

    Raises AmbiguousContentError where they are more volumes than a job may hold.
    """
    key = "time" if letter == "t" else "channel"
    asked: int | None = getattr(wanted, key)
    planes = range(size) if asked is None else range(asked, min(asked + 1, size))
    if len(planes) > MAX_VOLUMES:
        raise AmbiguousContentError(
            f"{name}: holds {len(planes)} volumes along {key}", hint=f"say select.{key} to take one of them"
        )
    return [(k, {key: k}) for k in planes]


def matches(select: Select, wanted: Select) -> bool:
    """Whether series, channel and time of `select` are those of `wanted`, where it says any."""
    pairs = ((wanted.series, select.series), (wanted.channel, select.channel), (wanted.time, select.time))
    return all(asked is None or asked == here for asked, here in pairs)


def series_name(select: Select, *, alone: bool) -> str:
    """Names a volume among those of one listing; empty where it is the only one."""
    return "" if alone else f"s{select.series or 0}-c{select.channel or 0}-t{select.time or 0}"


def spoken(select: Select) -> str:
    """Such as `series 0, time 3`."""
    named = [f"{key} {value}" for key, value in select.model_dump().items() if value is not None]
    return ", ".join(named) or "the whole"


def checked(reader: Reader, found: FoundVolume) -> Reader:
    """`reader`, which is still of the shape and dtype that were found. Raises CorruptObjectError."""
    if tuple(reader.shape) == tuple(found.shape) and reader.dtype.name == found.dtype:
        return reader
    raise CorruptObjectError(
        f"{found.name or 'the volume'}: is {list(reader.shape)} {reader.dtype}, was planned as {list(found.shape)} {found.dtype}",
        hint="the file has changed; plan the ingest again",
    )
