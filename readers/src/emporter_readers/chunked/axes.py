"""Which axis of an array is z, y, x, which are channels and time (DESIGN section 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emporter_contracts.plans import Caveat
from emporter_readers.chunked.values import Shape
from emporter_readers.errors import AmbiguousContentError, UnsupportedContentError

SPACE = ("z", "y", "x")
LETTERS = {"z": "z", "y": "y", "x": "x", "c": "c", "t": "t", "channel": "c", "time": "t", "ch": "c"}
"""What archives call their axes, in lower case."""
SAY = "say axes with one letter of z, y, x, c, t for each axis, slowest first, such as axes: czyx"


@dataclass(frozen=True, slots=True)
class Placed:
    """For each axis of an array, slowest first, its letter; None for one of a single voxel that is no axis of ours."""

    letters: tuple[str | None, ...]
    shape: Shape
    caveats: tuple[Caveat, ...] = ()

    def size(self, letter: str) -> int:
        """1 where there is no such axis."""
        return self.shape[self.letters.index(letter)] if letter in self.letters else 1

    def box(self, start: tuple[int, int, int], stop: tuple[int, int, int], channel: int, time: int) -> tuple[Shape, Shape]:
        """The array's own box of a box z, y, x of one channel and time."""
        first = {**dict(zip(SPACE, start, strict=True)), "c": channel, "t": time}
        last = {**dict(zip(SPACE, stop, strict=True)), "c": channel + 1, "t": time + 1}
        return (
            tuple(first[a] if a is not None else 0 for a in self.letters),
            tuple(last[a] if a is not None else 1 for a in self.letters),
        )

    def order(self) -> list[int]:
        """Positions of the axes, so that they end in z, y, x as far as there are such."""
        here = [self.letters.index(letter) for letter in SPACE if letter in self.letters]
        return [k for k in range(len(self.letters)) if k not in here] + here


def placed(shape: Shape, names: Sequence[str] | None, said: str | None, array: str) -> Placed:
    """The axes of an array of `shape`: as the request says by `said`, else as the array's `names` say, else by their number.

    Raises AmbiguousContentError where nobody says, UnsupportedContentError for what has no plane.
    """
    if len(shape) < 2:
        raise UnsupportedContentError(f"{array}: has one axis of {shape[0]}", hint="images have two axes at least")
    if said is not None:
        return _checked(_by_request(shape, said, array), shape, array)
    if names is not None and any(names):
        return _checked(_by_name(shape, names, array), shape, array)
    return _by_number(shape, array)


def _by_request(shape: Shape, said: str, array: str) -> tuple[str | None, ...]:
    if len(said) == len(shape):
        return tuple(said)
    real = [k for k, n in enumerate(shape) if n > 1]
    if len(said) != len(real):
        raise AmbiguousContentError(f"{array}: axes {said!r} do not fit shape {list(shape)}", hint=SAY)
    return tuple(said[real.index(k)] if k in real else None for k in range(len(shape)))


def _by_name(shape: Shape, names: Sequence[str], array: str) -> tuple[str | None, ...]:
    if len(names) != len(shape):
        raise AmbiguousContentError(f"{array}: {len(names)} names of axes for shape {list(shape)}", hint=SAY)
    letters = tuple(LETTERS.get(name.strip().lower()) for name in names)
    for letter, name, size in zip(letters, names, shape, strict=True):
        if letter is None and size > 1:
            raise AmbiguousContentError(f"{array}: axis {name[:50]!r} of {size} is neither space, channel nor time", hint=SAY)
    return letters


def _by_number(shape: Shape, array: str) -> Placed:
    """Without names: two axes are y, x, three z, y, x."""
    real = [k for k, n in enumerate(shape) if n > 1]
    kept = list(range(len(shape))) if len(shape) <= 3 else sorted({*real, len(shape) - 2, len(shape) - 1})
    if len(kept) > 3:
        raise AmbiguousContentError(f"{array}: does not name its axes, shape {list(shape)}", hint=SAY)
    letters: list[str | None] = [None] * len(shape)
    for k, letter in zip(kept, SPACE[-len(kept) :], strict=True):
        letters[k] = letter
    caveats: tuple[Caveat, ...] = ()
    if len(kept) == 3:
        caveats = (Caveat(code="axes_assumed", evidence=f"axes of shape {list(shape)} have no names and are taken as z, y, x"),)
    return Placed(tuple(letters), shape, caveats)


def _checked(letters: tuple[str | None, ...], shape: Shape, array: str) -> Placed:
    named = [letter for letter in letters if letter is not None]
    if len(set(named)) != len(named) or "y" not in named or "x" not in named:
        raise AmbiguousContentError(f"{array}: axes {', '.join(named)} of shape {list(shape)} make no volume", hint=SAY)
    return Placed(letters, shape)
