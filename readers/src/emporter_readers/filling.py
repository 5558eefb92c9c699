"""What is there, and what is only what a source reads as where it stored nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.fills import Fill
from emporter_contracts.plans import Role
from emporter_contracts.records import exact


def fill_said(value: Any) -> Fill:
    """A value of some dtype as it is written down; of booleans 0 or 1."""
    number = np.asarray(value)[()].item()
    if not isinstance(number, float) or number == 0:
        return exact(int(number))
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else f"{'-' if number < 0 else ''}Infinity"


def background(fill: Fill, role: Role) -> Fill:
    """What is no foreground: of labels always 0, for that is what "no label" is called, whatever their source is filled with."""
    return 0 if role == "labels" else fill


def foreground(voxels: NDArray[Any], background: Fill) -> NDArray[np.bool_]:
    """Where voxels are something else. What is not a number is something, unless the background is just that."""
    real = voxels.dtype.kind == "f"
    value = voxels.dtype.type(float(background) if real else int(background))
    there: NDArray[np.bool_] = ~np.isnan(voxels) if real and np.isnan(value) else voxels != value
    return there
