"""What a client knows of one revision of a volume before it reads a voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal, Self

from emporter.errors import MistakeError
from emporter_contracts.geometry import Index3, Shape3
from emporter_contracts.ids import VolumeRef, job_of

if TYPE_CHECKING:
    import numpy as np

Outside = Literal["error", "constant", "reflect", "edge"]
"""What to give for voxels outside the volume."""
NmOrNone3 = tuple[float | None, float | None, float | None]


@dataclass(frozen=True, slots=True)
class Grid:
    """One level, z, y, x. nm are None where nobody knows them; `translation_nm` is where the centre of its first voxel lies in
    the world, `factor` how many voxels of level 0 one of its voxels spans.
    """

    level: int
    shape: Shape3
    chunk: Shape3
    shard: Shape3
    voxel_size_nm: NmOrNone3
    translation_nm: NmOrNone3
    factor: Shape3

    @classmethod
    def told(cls, info: Mapping[str, Any]) -> Self:
        """From one of `levels` in the answer about a volume."""
        return cls(int(info["level"]), *(_three(info[name]) for name in cls.__slots__[1:]))


class Described:
    """One revision of one volume, seen at one level: its shape, dtype and voxel size are that level's.

    What is read from it never changes, whatever becomes of the volume meanwhile.
    """

    def __init__(self, info: dict[str, Any], level: int = 0) -> None:
        self.info = info
        self.levels: tuple[Grid, ...] = tuple(Grid.told(found) for found in info["levels"])
        if not -len(self.levels) <= level < len(self.levels):
            raise MistakeError(
                f"{info['ref']} has no level {level}", hint=f"its levels are 0 (full resolution) to {len(self.levels) - 1}"
            )
        self.grid: Grid = self.levels[level]

    @property
    def ref(self) -> VolumeRef:
        """Pinned to its revision."""
        return VolumeRef.parse(self.info["ref"])

    @property
    def job(self) -> str:
        return job_of(self.ref.volume)

    @property
    def shape(self) -> Shape3:
        """Voxels z, y, x."""
        return self.grid.shape

    @property
    def ndim(self) -> int:
        return 3

    @property
    def size(self) -> int:
        """Voxels."""
        z, y, x = self.shape
        return z * y * x

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        import numpy as np

        dtype: np.dtype[Any] = np.dtype(self.info["dtype"])
        return dtype

    @property
    def voxel_size_nm(self) -> NmOrNone3:
        """z, y, x; None where nobody knows."""
        return self.grid.voxel_size_nm

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.shape))
        what = f"({shape}) {self.info['dtype']}, {_nm(self.voxel_size_nm)}"
        return f"<{type(self).__name__} {self.ref} level {self.grid.level}: {what}>"

    def _repr_html_(self) -> str:
        """For notebooks: what it is, its levels, its terms, and a picture where it has one."""
        rows = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th><td>{v}</td></tr>" for k, v in self._facts())
        return f"<div style='display:flex;gap:1em;align-items:flex-start'>{self._picture()}<table>{rows}</table></div>"

    def _facts(self) -> Sequence[tuple[str, str]]:
        licence = self.info["licence"]
        terms = licence["spdx"] or licence["url"] or licence["text"] or "unknown"
        levels = "; ".join(f"{k.level}: {_voxels(k.shape)}" for k in self.levels)
        facts = [
            ("volume", f"<a href='{escape(self.info['links']['view'], quote=True)}'>{escape(str(self.ref))}</a>"),
            ("description", escape(self.info["description"])),
            ("shape z, y, x", f"{_voxels(self.shape)} {escape(self.info['dtype'])} (level {self.grid.level})"),
            ("voxel size z, y, x", _nm(self.voxel_size_nm)),
            ("levels", levels),
            ("role", escape(self.info["role"])),
            ("licence", escape(terms)),
        ]
        return [*facts, *(("caveat", escape(f"{c['code']}: {c['evidence']}")) for c in self.info["caveats"])]

    def _picture(self) -> str:
        """The middle slice of a level small enough for one; labels have no grey values."""
        if self.info["role"] == "labels":
            return ""
        grid = next((k for k in self.levels if max(k.shape[1:]) <= PICTURE_PIXELS), self.levels[-1])
        url = f"{self.info['links']['self']}/slice/z/{grid.shape[0] // 2}?level={grid.level}"
        return f"<img src='{escape(url, quote=True)}' alt='middle slice' style='max-width:256px;max-height:256px'>"


PICTURE_PIXELS = 512
"""Of the longer side of a slice shown in a notebook."""


def triple(values: Sequence[Any], what: str) -> Index3:
    """Three whole numbers z, y, x. Raises MistakeError."""
    from operator import index

    try:
        z, y, x = (index(value) for value in values)
    except (TypeError, ValueError):
        raise MistakeError(f"{what} {values!r} is not z, y, x", hint="give three whole numbers") from None
    return (z, y, x)


def _three(values: Sequence[Any]) -> Any:
    z, y, x = values
    return (z, y, x)


def _voxels(shape: Shape3) -> str:
    return ", ".join(map(str, shape))


def _nm(size: NmOrNone3) -> str:
    return ", ".join("?" if nm is None else f"{nm:g}" for nm in size) + " nm"
