"""Which of the volumes in a file a request means."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

from emporter_contracts.commands import Select
from emporter_readers.errors import AmbiguousContentError


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
