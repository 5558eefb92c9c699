"""How large a voxel is, where a TIFF says so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from emporter_contracts.geometry import VoxelSize, to_nm

NM_PER_RESOLUTION_UNIT = {2: 2.54e7, 3: 1e7}
"""TIFF 6.0, ResolutionUnit: 2 is the inch, 3 the centimetre, 1 no unit."""
PRINT_DPI = (72, 96, 100, 150, 200, 300, 600, 1200)
"""Dots per inch that printers, scanners and image libraries write when they know nothing."""
LARGEST_NM = 100_000.0
"""No microscope that makes volumes has pixels of 0.1 mm."""


def imagej_voxel_size(meta: Mapping[str, Any], said: Mapping[str, Any]) -> VoxelSize:
    """Of an ImageJ file: x and y are 1/resolution, z is `spacing`, all in `unit` (`yunit` and `zunit` where they differ).

    Source: ij.io.TiffEncoder and ij.io.FileOpener. A unit of inches or centimetres is ImageJ's reading of the resolution tags
    of some other file, so there the rule of `tag_voxel_size` holds.
    """
    unit = str(meta.get("unit", ""))
    x, y = (_reciprocal(said.get(tag)) for tag in ("XResolution", "YResolution"))
    sizes = [
        None if x is None else to_nm(x, unit),
        None if y is None else to_nm(y, str(meta.get("yunit", unit))),
    ]
    if unit.lower() in ("inch", "in", "cm"):
        sizes = [size if size is not None and _plausible(size) else None for size in sizes]
    spacing = _reciprocal([1, meta.get("spacing")])
    z = None if spacing is None else to_nm(spacing, str(meta.get("zunit", unit)))
    return VoxelSize.said("file", (z, sizes[1], sizes[0]))


def tag_voxel_size(said: Mapping[str, Any]) -> VoxelSize:
    """Of a TIFF that says nothing but its resolution tags: x and y, z is unknown.

    The tags are meant for printing, and most writers fill them in without knowing a size. They are believed only with a unit
    (ResolutionUnit inch or centimetre), where they give a pixel under 0.1 mm, and where they are none of the usual print
    resolutions: 72, 96, 100, 150, 200, 300, 600 or 1200 dots per inch, or these converted to or taken for dots per centimetre.
    """
    unit = said.get("ResolutionUnit", 2)
    factor = NM_PER_RESOLUTION_UNIT.get(unit) if isinstance(unit, int) else None
    x, y = (_reciprocal(said.get(tag)) for tag in ("XResolution", "YResolution"))
    sizes = (None if n is None or factor is None else n * factor for n in (y, x))
    y_nm, x_nm = (nm if nm is not None and _plausible(nm) else None for nm in sizes)
    return VoxelSize.said("file", (None, y_nm, x_nm))


def _plausible(nm: float) -> bool:
    """Whether a pixel of `nm` may have been measured, not printed."""
    if nm >= LARGEST_NM:
        return False
    per_inch, per_cm = 2.54e7 / nm, 1e7 / nm
    # Rationals of whole numbers per centimetre: 300 dpi is written as 118 per cm.
    return not any(
        abs(per_inch - dpi) < 0.005 * dpi or abs(per_cm - dpi) < 0.005 * dpi or round(dpi / 2.54) == per_cm for dpi in PRINT_DPI
    )


def _reciprocal(rational: Any) -> float | None:
    """Length of a pixel from a rational of pixels per unit; None where it is zero, negative or absent."""
    try:
        numerator, denominator = (float(n) for n in rational)
    except (TypeError, ValueError, OverflowError):
        return None
    if numerator <= 0 or denominator <= 0:
        return None
    length = denominator / numerator
    return length if math.isfinite(length) else None
