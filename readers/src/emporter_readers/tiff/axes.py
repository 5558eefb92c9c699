"""From the axes of a series to volumes: which pages, in z order, are channel c at time t."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from emporter_contracts.plans import Caveat
from emporter_readers.errors import AmbiguousContentError
from emporter_readers.tiff.series import UNNAMED, Series

FOUND = "say axes with one letter of z, c, t for each, slowest first, then yx, such as axes: tzyx"


@dataclass(frozen=True, slots=True)
class Placed:
    """Where each axis of a series leads: sizes of z, c, t in pages, and for each of them its place among the series' axes."""

    axes: str
    sizes: tuple[int, ...]
    caveats: tuple[Caveat, ...]

    def size(self, axis: str) -> int:
        return math.prod(n for a, n in zip(self.axes, self.sizes, strict=True) if a == axis)

    def planes(self, channel: int, time: int) -> list[int]:
        """Positions of the pages of one channel and time, in z order."""
        pages = np.arange(math.prod(self.sizes)).reshape(self.sizes)
        at = {"c": channel, "t": time}
        indices = tuple(slice(None) if axis == "z" else at[axis] for axis in self.axes)
        return [int(k) for k in np.atleast_1d(pages[indices])]


def placed(series: Series, axes: str | None, name: str) -> Placed:
    """The axes of `series`, named by `axes` where the user says so. Raises AmbiguousContentError."""
    real = [(axis, size) for axis, size in zip(series.axes, series.sizes, strict=True) if size > 1]
    letters = "".join(axis for axis, _ in real)
    sizes = tuple(size for _, size in real)
    if axes is not None:
        return Placed(_said(axes, letters, sizes, series, name), sizes, ())
    if UNNAMED not in letters:
        return Placed(_unique(letters, sizes, name), sizes, ())
    if letters.count(UNNAMED) > 1 or "z" in letters or series.layout.depth > 1:
        raise AmbiguousContentError(f"{name}: does not name its axes {_shown(letters, sizes)}", hint=FOUND)
    evidence = f"{sizes[letters.index(UNNAMED)]} pages of an unnamed axis are taken as z"
    return Placed(letters.replace(UNNAMED, "z"), sizes, (Caveat(code="axes_assumed", evidence=evidence),))


def _said(axes: str, letters: str, sizes: tuple[int, ...], series: Series, name: str) -> str:
    outer = axes.removesuffix("c") if axes.endswith("yxc") and series.layout.samples > 1 else axes
    if not outer.endswith("yx"):
        raise AmbiguousContentError(f"{name}: axes {axes!r} do not end in yx, as the pages of a TIFF do", hint=FOUND)
    outer = outer[:-2]
    if len(outer) == len(series.sizes):
        outer = "".join(axis for axis, size in zip(outer, series.sizes, strict=True) if size > 1)
    if not sizes:
        return ""
    if len(outer) != len(sizes) or set(outer) - set("zct"):
        raise AmbiguousContentError(f"{name}: axes {axes!r} do not fit {_shown(letters, sizes)}", hint=FOUND)
    return _unique(outer, sizes, name)


def _unique(letters: str, sizes: tuple[int, ...], name: str) -> str:
    if len(set(letters)) != len(letters):
        raise AmbiguousContentError(f"{name}: names an axis twice: {_shown(letters, sizes)}", hint=FOUND)
    return letters


def _shown(letters: str, sizes: tuple[int, ...]) -> str:
    named = [f"{'?' if axis == UNNAMED else axis}={size}" for axis, size in zip(letters, sizes, strict=True)]
    return "(" + ", ".join([*named, "y", "x"]) + ")"
