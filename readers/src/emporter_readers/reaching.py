"""Which bytes a box needs, told without reading them: what lets a conversion begin while the rest is still being fetched."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, runtime_checkable

from emporter_contracts.geometry import Box
from emporter_readers.array import RegionReader
from emporter_readers.protocol import ByteSource, Reader


class Reach(NamedTuple):
    """Of the source called `name` no byte at `stop` or behind it is needed."""

    name: str
    stop: int


@runtime_checkable
class Reaching(Protocol):
    """A Reader that knows where its voxels lie. Readers that must look for them are not: they need everything."""

    def reach(self, box: Box) -> Iterable[Reach]:
        """All that `read(box)` may touch, headers that are read again included; more is allowed, less is not."""


def reach_of(reader: Reader, box: Box) -> Iterable[Reach] | None:
    """What reading `box` needs; None where the reader can't tell."""
    if isinstance(reader, RegionReader):
        return reach_of(reader.whole, box.moved(reader.region.start))
    return reader.reach(box) if isinstance(reader, Reaching) else None


def whole(source: ByteSource) -> Reach:
    """All of one source."""
    return Reach(source.name, source.size)
