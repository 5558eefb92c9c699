"""A volume as a state of Neuroglancer: its layers, contrast and place, in Neuroglancer's own axis order, x, y, z.

Source: https://github.com/google/neuroglancer, python/neuroglancer/viewer_state.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from block_server.arrays import OpenVolume

DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "float32")
"""What Neuroglancer can show; anything else is looked at on the plain page."""
NM = 1e-9
"""Metres."""


def showable(volume: OpenVolume) -> bool:
    """Whether Neuroglancer knows the dtype; of one that is read where it lies, which has no OME-Zarr here, also the lengths."""
    known = None not in volume.record.metadata.core.voxel_size_nm
    return volume.levels[0].dtype.name in DTYPES and (volume.watch is None or known)


def state_of(volume: OpenVolume, labels: Sequence[OpenVolume], base: str) -> dict[str, Any]:
    """Where one begins to look: the middle of `volume`, with each of `labels` that can be shown over it.

    `base` is where this service lies, without a slash at the end. Positions count level-0 voxels from the origin of the archive,
    whole numbers at the centre of a voxel, as OME-Zarr has it.
    """
    finest = volume.levels[0]
    middle = [t + n // 2 for n, t in zip(finest.shape, _origin(volume), strict=True)]
    layers = [_layer(volume, base), *(_segmentation(one, base) for one in labels if _segments(one))]
    return {
        "dimensions": _dimensions(volume),
        "position": middle[::-1],
        "crossSectionScale": _zoom(volume),
        "projectionScale": 2 * max(_extents(volume)),
        "layers": layers,
        "selectedLayer": {"layer": layers[0]["name"], "visible": False},
        "layout": "4panel",
    }


def _layer(volume: OpenVolume, base: str) -> dict[str, Any]:
    return _segmentation(volume, base) if _segments(volume) else _image(volume, base)


def _segments(volume: OpenVolume) -> bool:
    """Whether its voxels are names of things: labels in unsigned integers."""
    return showable(volume) and volume.record.metadata.core.role == "labels" and volume.levels[0].dtype.kind == "u"


def _image(volume: OpenVolume, base: str) -> dict[str, Any]:
    return {
        "type": "image",
        "name": str(volume.ref),
        "source": _source(volume, base),
        "shader": "#uicontrol invlerp normalized\nvoid main() { emitGrayscale(normalized()); }",
        "shaderControls": {"normalized": {"range": _contrast(volume)}},
    }


def _segmentation(volume: OpenVolume, base: str) -> dict[str, Any]:
    return {"type": "segmentation", "name": str(volume.ref), "source": _source(volume, base)}


def _origin(volume: OpenVolume) -> tuple[float, ...]:
    """Where the centre of the first voxel lies, in voxels z, y, x."""
    finest = volume.levels[0]
    return tuple(t / s for t, s in zip(finest.translation, finest.scale, strict=True))


def _source(volume: OpenVolume, base: str) -> str | dict[str, Any]:
    if volume.watch is not None:
        return {"url": f"precomputed://{base}/precomputed/{volume.ref}", "transform": _transform(volume)}
    return f"zarr3://{base}/zarr/{volume.ref}.ome.zarr/"


def _transform(volume: OpenVolume) -> dict[str, Any]:
    """From precomputed, where voxel i of an axis lies from i to i + 1 and the first is a whole number, to where voxels lie."""
    first = volume.record.metadata.core.source_origin
    moved = [at - index - 0.5 for at, index in zip(_origin(volume), first, strict=True)]
    matrix = [[float(row == column) for column in range(3)] + [by] for row, by in enumerate(reversed(moved))]
    return {"matrix": matrix, "outputDimensions": _dimensions(volume)}


def _contrast(volume: OpenVolume) -> list[float]:
    """As `/slice` shows it: 8 bits as they are, else the record's window, else its extremes, else what the dtype can say."""
    if volume.levels[0].dtype.name == "uint8":
        return [0.0, 255.0]
    statistics = volume.record.metadata.technical.statistics
    if statistics is not None:
        ends = statistics.window or (statistics.minimum, statistics.maximum)
        if None not in ends:
            low, high = (float(end) for end in ends if end is not None)
            return [low, high if high > low else low + 1]
    return [0.0, 65535.0 if volume.levels[0].dtype.itemsize == 2 else 255.0]


def _dimensions(volume: OpenVolume) -> dict[str, list[Any]]:
    """Axes x, y, z; one whose voxel size nobody knows has no unit, as in the stored OME-Zarr."""
    sizes = volume.voxel_size_nm(volume.levels[0])
    return {axis: [1, ""] if nm is None else [nm * NM, "m"] for axis, nm in zip("xyz", reversed(sizes), strict=True)}


def _extents(volume: OpenVolume) -> list[float]:
    """Along z, y, x, in voxels of the finest axis."""
    finest = volume.levels[0]
    smallest = min(finest.scale)
    return [n * s / smallest for n, s in zip(finest.shape, finest.scale, strict=True)]


def _zoom(volume: OpenVolume) -> float:
    """Voxels of the finest axis in a pixel, so that the whole is seen in a quarter of a usual window."""
    return 2.0 ** math.ceil(math.log2(max(_extents(volume)) / 400))
