"""The five archives of the demo, where they are at hand.

What speaks their protocols is a package for developers, in the repository beside this one; it is found by its entry point, and
nothing here or in a service knows it otherwise than by its addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from typing import Any, Protocol, cast

from numpy.typing import NDArray

from emporter_contracts.commands import IngestRequest

GROUP = "emporter.demo"
"""Of entry points: functions without arguments that give a context manager of Archives."""


class Exhibit(Protocol):
    """One request, and what an archive holds for it."""

    @property
    def request(self) -> IngestRequest: ...
    @property
    def speaks(self) -> str:
        """The archive's protocols, for people."""

    @property
    def voxels(self) -> NDArray[Any]:
        """The archive's whole array, z y x."""

    @property
    def voxel_size_nm(self) -> tuple[float, float, float]: ...


class Archives(Protocol):
    """Archives that answer."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Settings of a stack by which it asks these archives."""

    @property
    def exhibits(self) -> Sequence[Exhibit]: ...


def installed() -> Callable[[], AbstractContextManager[Archives]] | None:
    """What starts them; None where nobody brought any."""
    found = list(entry_points(group=GROUP))
    return cast("Callable[[], AbstractContextManager[Archives]]", found[0].load()) if found else None
