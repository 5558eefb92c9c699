"""What only voxels can tell, from a bounded sample of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_contracts.geometry import Box, Shape3
from emporter_contracts.plans import Caveat, Role
from emporter_readers.protocol import Hints, Reader

ROWS, COLUMNS = 16, 1024
"""Of one sampled box: wide enough for runs to show, a few rows so that little is decoded."""
PLACES = (0.5, 0.25, 0.75)
"""Along z, as shares of the depth; the middle first, where a specimen is."""
LABEL_SHARE = 0.8
"""Of neighbours along x that are equal, from which integers of 32 or 64 bits are taken for labels: mean runs of five voxels.
Counts of electrons differ at almost every voxel."""


def sample_boxes(shape: Shape3) -> list[Box]:
    """Boxes at three depths, about the middle of the plane."""
    depth, height, width = shape
    rows, columns = min(ROWS, height), min(COLUMNS, width)
    planes = dict.fromkeys(int(share * (depth - 1)) for share in PLACES)
    return [Box.at((z, (height - rows) // 2, (width - columns) // 2), (1, rows, columns)) for z in planes]


def role_of(reader: Reader, hints: Hints) -> tuple[Role, tuple[Caveat, ...]]:
    """What the user says; else labels where unsigned integers of 32 or 64 bits come in long runs; else an image."""
    if hints.role != "auto":
        return hints.role, ()
    if reader.dtype.kind != "u" or reader.dtype.itemsize < 4:
        return "image", ()
    samples = [reader.read(box) for box in sample_boxes(reader.shape)]
    share = _equal_neighbours(samples)
    if share < LABEL_SHARE or len(np.unique(np.concatenate([part.ravel() for part in samples]))) == 1:
        return "image", ()
    evidence = f"{reader.dtype} with {share:.0%} of neighbouring voxels equal in a sample"
    return "labels", (Caveat(code="role_guessed", evidence=evidence),)


def _equal_neighbours(samples: list[NDArray[Any]]) -> float:
    pairs = sum(part[..., 1:].size for part in samples)
    equal = sum(int(np.count_nonzero(part[..., 1:] == part[..., :-1])) for part in samples)
    return equal / pairs if pairs else 0.0
