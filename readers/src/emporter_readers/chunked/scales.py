"""What an array's attributes say of physical space: OME-Zarr's transformations, N5's several customs. All becomes nm."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emporter_contracts.geometry import NM_PER_UNIT
from emporter_readers.chunked.tree import Document
from emporter_readers.chunked.values import numbers, texts

OME_AXES_5D = ("t", "c", "z", "y", "x")
"""OME-Zarr 0.1 and 0.2 name no axes: there are always these."""


@dataclass(frozen=True, slots=True)
class Space:
    """Of each axis, slowest first: its name, nm per voxel and where the centre of voxel 0 lies in nm; None where unknown."""

    names: tuple[str, ...] | None = None
    scale: tuple[float | None, ...] | None = None
    translation: tuple[float | None, ...] | None = None

    def along(self, k: int) -> tuple[float | None, float]:
        """(nm per voxel, nm of voxel 0) of axis k."""
        scale = None if self.scale is None else self.scale[k]
        shift = None if self.translation is None or scale is None else self.translation[k]
        return scale, shift or 0.0


def ome_axes(multiscale: Document, dimensions: int) -> tuple[tuple[str, ...] | None, tuple[str | None, ...]]:
    """(names, units) of the axes of OME-Zarr 0.1 to 0.5; a unit is None where it is not said."""
    nothing: tuple[str | None, ...] = (None,) * dimensions
    axes = multiscale.get("axes")
    if axes is None:
        return (OME_AXES_5D if dimensions == 5 else None), nothing
    if not isinstance(axes, list) or len(axes) != dimensions:
        return None, nothing
    if all(isinstance(axis, str) for axis in axes):
        return tuple(axes), nothing
    if not all(isinstance(axis, dict) and isinstance(axis.get("name"), str) for axis in axes):
        return None, nothing
    by_type = {"channel": "c", "time": "t"}
    names = tuple(by_type.get(str(axis.get("type")), axis["name"]) for axis in axes)
    units = tuple(axis["unit"] if isinstance(axis.get("unit"), str) else None for axis in axes)
    return names, units


def ome_space(multiscale: Document, dataset: Document, dimensions: int) -> Space:
    """Scale and translation of one dataset, then of the whole multiscale (NGFF, section "coordinateTransformations")."""
    names, units = ome_axes(multiscale, dimensions)
    own_scale, own_shift = _transformed(dataset, dimensions)
    scale, shift = _transformed(multiscale, dimensions)
    if own_scale is None:
        return Space(names)
    outer = scale or (1.0,) * dimensions
    shifts = [a * b + c for a, b, c in zip(own_shift or (0.0,) * dimensions, outer, shift or (0.0,) * dimensions, strict=True)]
    scales = [a * b for a, b in zip(own_scale, outer, strict=True)]
    return in_nm(names, scales, shifts, units)


def n5_space(group: Document, array: Document, dimensions: int) -> Space:
    """From `transform` (COSEM, slowest first), `pixelResolution` or `resolution` (fastest first), with `downsamplingFactors`."""
    transform = array.get("transform")
    if isinstance(transform, dict) and (scale := numbers(transform.get("scale"), dimensions)) is not None:
        shift = numbers(transform.get("translate"), dimensions) or (0.0,) * dimensions
        units: tuple[str | None, ...] = texts(transform.get("units"), dimensions) or (None,) * dimensions
        return in_nm(texts(transform.get("axes"), dimensions), scale, shift, units)
    names = _reversed(texts(array.get("axes"), dimensions) or texts(group.get("axes"), dimensions))
    for said, whole in ((array, False), (group, True)):
        found = _n5_resolution(said, dimensions)
        if found is None:
            continue
        scale, units = found
        factors = numbers(array.get("downsamplingFactors"), dimensions) or (1.0,) * dimensions
        if not whole:
            # What an array says of itself is of its own voxels, by the custom of n5-ij; only the shift comes from the factors.
            shift = tuple(s * (1 - 1 / f) / 2 if f else 0.0 for s, f in zip(scale, factors, strict=True))
            return in_nm(names, scale[::-1], shift[::-1], units[::-1])
        own = tuple(s * f for s, f in zip(scale, factors, strict=True))
        shift = tuple(s * (f - 1) / 2 for s, f in zip(scale, factors, strict=True))
        return in_nm(names, own[::-1], shift[::-1], units[::-1])
    return Space(names)


def in_nm(
    names: tuple[str, ...] | None, scale: Sequence[float], translation: Sequence[float], units: Sequence[str | None]
) -> Space:
    """Lengths of known units in nm; the others are unknown."""
    factors = [None if unit is None else NM_PER_UNIT.get(unit.strip().lower()) for unit in units]
    sizes = tuple(_length(s, f) for s, f in zip(scale, factors, strict=True))
    shifts = tuple(None if f is None or not math.isfinite(t * f) else t * f for t, f in zip(translation, factors, strict=True))
    return Space(names, sizes, shifts)


def _length(value: float, factor: float | None) -> float | None:
    nm = value * factor if factor is not None else math.nan
    return nm if math.isfinite(nm) and nm > 0 else None


def _transformed(said: Document, dimensions: int) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """(scale, translation); None where not said."""
    scale = shift = None
    transformations = said.get("coordinateTransformations")
    for one in transformations if isinstance(transformations, list) else []:
        if isinstance(one, dict) and one.get("type") == "scale":
            scale = numbers(one.get("scale"), dimensions)
        if isinstance(one, dict) and one.get("type") == "translation":
            shift = numbers(one.get("translation"), dimensions)
    return scale, shift


def _n5_resolution(said: Document, dimensions: int) -> tuple[tuple[float, ...], tuple[str | None, ...]] | None:
    pixel: Any = said.get("pixelResolution")
    if isinstance(pixel, dict):
        scale, units = numbers(pixel.get("dimensions"), dimensions), texts(pixel.get("unit"), dimensions)
    else:
        scale = numbers(said.get("resolution"), dimensions) or numbers(pixel, dimensions)
        units = texts(said.get("units"), dimensions) or texts(said.get("unit"), dimensions)
    return None if scale is None else (scale, units or (None,) * dimensions)


def _reversed(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if names is None else names[::-1]
