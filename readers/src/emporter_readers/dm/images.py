"""What the tags of a DM file say of its images: which is the true one, of what shape and dtype, how large a voxel is.

Sources as for the tags; codes of `DataType` as in Gatan's scripting documentation (`ImageGetDataType`).
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import JsonValue

from emporter_contracts.geometry import VoxelSize, to_nm
from emporter_contracts.plans import Caveat
from emporter_contracts.records import json_safe
from emporter_readers.dm.tags import Located, Tags, TagTree
from emporter_readers.errors import CorruptObjectError

DTYPES = {
    1: "i2", 2: "f4", 6: "u1", 7: "i4", 9: "i1", 10: "u2", 11: "u4", 12: "f8", 14: "u1", 39: "i8", 40: "u8",
}  # fmt: skip
"""numpy types by `DataType`; 14 is binary, a byte of 0 or 1 per pixel."""
BINARY = 14
COLOURED = {8: "RGB", 23: "RGBA"}
REFUSED = {
    3: "complex64", 5: "packed complex64 (half a Fourier transform)", 13: "complex128", 27: "packed complex64",
    28: "packed complex128",
}  # fmt: skip
ENERGY_UNITS = {"ev", "kev", "mev"}
TIME_UNITS = {"s", "sec", "ms", "min", "us", "µs"}
MOST_SAID_CHARACTERS = 256 * 1024
"""Of what is kept verbatim, as JSON; beyond it the tags of the instrument are left out; 400 tags are 20 KiB."""
EXPORT_IMAGE = "export an energy slice or a map as an image and ingest that"


@dataclass(frozen=True, slots=True)
class Axis:
    """Length, scale and unit of one dimension, as calibrated."""

    size: int
    scale: float
    unit: str

    @property
    def nm(self) -> float | None:
        return to_nm(self.scale, self.unit)


@dataclass(frozen=True, slots=True)
class DmImage:
    """One image of a file. `axes` slowest first; `refusal` says why no volume can be made of it, empty where one can."""

    axes: tuple[Axis, ...]
    dtype: np.dtype[Any] | None
    """With the byte order of the file; None where it is refused."""
    offset: int
    name: str
    said: dict[str, JsonValue]
    voxel_size: VoxelSize
    caveats: tuple[Caveat, ...] = ()
    refusal: str = ""
    hint: str = ""

    @property
    def outer(self) -> Axis | None:
        """The third dimension, where there is one."""
        return self.axes[0] if len(self.axes) == 3 else None


def true_images(tree: TagTree, name: str, size: int) -> list[DmImage]:
    """The images of a file of `size` bytes, thumbnails left out. Raises CorruptObjectError."""
    entries = _children(_group(tree.root, "ImageList"))
    images = {k: entry for k, entry in enumerate(entries) if isinstance(_group(entry, "ImageData").get("Data"), Located)}
    if not images:
        raise CorruptObjectError(f"{name}: holds no image", hint="the file is truncated, or was saved without its data")
    thumbnails = {_number(entry, "ImageIndex") for entry in _children(_group(tree.root, "Thumbnails"))}
    kept = {k: entry for k, entry in images.items() if k not in thumbnails} or images
    if not thumbnails and any(_type(entry) not in COLOURED for entry in kept.values()):
        # Files of old versions have no list of thumbnails; theirs is the first image, in colours.
        kept = {k: entry for k, entry in kept.items() if k > 0 or _type(entry) not in COLOURED}
    return [_image(entry, f"{name}, image {k}", tree.order, size) for k, entry in kept.items()]


def _image(entry: Tags, label: str, order: str, size: int) -> DmImage:
    data = _group(entry, "ImageData")
    axes = _axes(data, label)
    tags = _group(entry, "ImageTags")
    refusal, hint = _refusal(_type(entry), axes, tags)
    dtype = np.dtype(order + DTYPES[_type(entry)]) if not refusal else None
    located: Located = data["Data"]
    if dtype is not None:
        _require_whole(located, math.prod(axis.size for axis in axes), dtype, label, size)
    voxel_size, caveats = _voxel_size(axes, tags)
    if _type(entry) == BINARY:
        caveats = (*caveats, Caveat(code="bool_as_uint8", evidence="binary image of DigitalMicrograph, kept as it is stored"))
    return DmImage(
        axes=axes,
        dtype=dtype,
        offset=located.offset,
        name=_text(entry, "Name"),
        said=_said(entry, data, tags),
        voxel_size=voxel_size,
        caveats=caveats,
        refusal=f"{label}: {refusal}" if refusal else "",
        hint=hint,
    )


def _axes(data: Tags, label: str) -> tuple[Axis, ...]:
    """Slowest first; further dimensions of one pixel are left out."""
    sizes = list(_group(data, "Dimensions").values())
    if not sizes or not all(isinstance(n, int) and n > 0 for n in sizes):
        raise CorruptObjectError(f"{label}: is said to have dimensions {sizes}")
    calibrations = _children(_group(_group(data, "Calibrations"), "Dimension"))
    calibrations += [{}] * (len(sizes) - len(calibrations))
    axes = [Axis(n, _float(c, "Scale"), _text(c, "Units").strip()) for n, c in zip(sizes, calibrations, strict=False)]
    while len(axes) > 2 and axes[-1].size == 1:
        axes.pop()
    return tuple(reversed(axes))


def _refusal(kind: Any, axes: tuple[Axis, ...], tags: Tags) -> tuple[str, str]:
    """Why no volume can be made of an image, and what to do; empty where one can."""
    shape = " x ".join(str(axis.size) for axis in axes)
    spectrum = "spectrum" in _text(_group(tags, "Meta Data"), "Format").lower()
    if spectrum or len(axes) == 1 or any(axis.unit.lower() in ENERGY_UNITS for axis in axes):
        return f"spectral data ({shape} values) is no image volume", EXPORT_IMAGE
    if kind in COLOURED:
        return f"{COLOURED[kind]} colours are a picture, not measured values", "export the measured image as 8 or 16 bit grey"
    if kind in REFUSED:
        return f"dtype {REFUSED[kind]} is not an image volume", "export amplitude or phase as float32 and ingest that"
    if kind not in DTYPES:
        return f"DataType {kind} is none that is known here", "save it as an integer or real image with DigitalMicrograph"
    if len(axes) > 3:
        return f"{len(axes)}-dimensional data ({shape}), such as 4D STEM, is not an image volume", EXPORT_IMAGE
    return "", ""


def _require_whole(data: Located, values: int, dtype: np.dtype[Any], label: str, size: int) -> None:
    needed = values * dtype.itemsize
    if data.bytes != needed:
        raise CorruptObjectError(f"{label}: has {data.bytes} bytes of data, its dimensions need {needed}")
    if data.offset + needed > size:
        raise CorruptObjectError(
            f"{label}: reaches byte {data.offset + needed} of {size}", hint="the file is truncated; fetch it again"
        )


def _voxel_size(axes: tuple[Axis, ...], tags: Tags) -> tuple[VoxelSize, tuple[Caveat, ...]]:
    """x, y and the z of a stack from the calibration; the z of a slice from what the microtome noted of it.

    `Meta Data.Dimension info.2` and `SBFSEM.Record.Slice thickness` (in nm) are of the cut that was recorded;
    `SBFSEM.Approach` is of another.
    """
    y, x = (axis.nm for axis in axes[-2:]) if len(axes) > 1 else (None, None)
    stack = axes[0].nm if len(axes) == 3 else None
    third = _group(_group(_group(tags, "Meta Data"), "Dimension info"), "2")
    noted = to_nm(_float(third, "Scale"), _text(third, "Units"))
    cut = to_nm(_float(_group(_group(tags, "SBFSEM"), "Record"), "Slice thickness"), "nm")
    known = [nm for nm in (stack, noted, cut) if nm is not None]
    caveats: tuple[Caveat, ...] = ()
    if known and not all(math.isclose(nm, known[0], rel_tol=1e-3) for nm in known):
        evidence = "tags of the file disagree about the z of its voxels: " + ", ".join(f"{nm:g} nm" for nm in known)
        caveats = (Caveat(code="archive_disagrees", evidence=evidence),)
    return VoxelSize.said("file", (known[0] if known else None, y, x)), caveats


def _said(entry: Tags, data: Tags, tags: Tags) -> dict[str, JsonValue]:
    kept = {
        "Name": entry.get("Name"),
        "DataType": data.get("DataType"),
        "Dimensions": list(_group(data, "Dimensions").values()),
        "Calibrations": data.get("Calibrations"),
        "ImageTags": tags,
    }
    said = json_safe(_plain(kept))
    assert isinstance(said, dict)
    if len(json.dumps(said)) > MOST_SAID_CHARACTERS:
        del said["ImageTags"]
    return said


def _plain(value: Any) -> Any:
    """Texts for what was located, without what is no number or text."""
    if isinstance(value, dict):
        plain = {key: _plain(child) for key, child in value.items()}
        return {key: child for key, child in plain.items() if child is not None}
    return value.text if isinstance(value, Located) else value


def _group(tags: Any, name: str) -> Tags:
    child = tags.get(name) if isinstance(tags, dict) else None
    return child if isinstance(child, dict) else {}


def _children(group: Tags) -> list[Tags]:
    return [child if isinstance(child, dict) else {} for child in group.values()]


def _type(entry: Tags) -> Any:
    return _number(_group(entry, "ImageData"), "DataType")


def _number(tags: Tags, name: str) -> int | None:
    value = tags.get(name)
    return value if isinstance(value, int) else None


def _float(tags: Tags, name: str) -> float:
    """NaN where there is no number, which is no length."""
    value = tags.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _text(tags: Tags, name: str) -> str:
    value = tags.get(name)
    return (value.text or "") if isinstance(value, Located) else ""
