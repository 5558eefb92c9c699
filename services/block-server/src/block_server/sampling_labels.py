"""Where the labels of an image's boxes lie: only where the grids coincide, so that no label is ever interpolated."""

from __future__ import annotations

from block_server.arrays import Level, OpenVolume
from block_server.sampling_errors import LabelsMisplacedError
from emporter_contracts.geometry import Box, Index3
from emporter_contracts.training import LabelGrid

SAME_SIZE = 1e-4
"""Relative: archives round voxel sizes, and over 2048 voxels this is a fifth of one."""
SAME_PLACE = 0.05
"""Voxels by which the labels' grid may lie beside the image's: less than anyone can draw."""


def aligned(image: OpenVolume, level: Level, labels: OpenVolume) -> LabelGrid:
    """The level of `labels` with the voxels of `level`, and the offset between them. Raises LabelsMisplacedError."""
    for other in labels.levels:
        offset = _offset(image, level, labels, other)
        if offset is not None:
            return LabelGrid(ref=str(labels.ref), digest=labels.digest, level=other.number, offset=offset)
    raise LabelsMisplacedError(
        f"no level of {labels.ref} has the voxels of {image.ref} level {level.number}",
        hint="their sizes must be equal and their places whole voxels apart; take another level, or resample the labels yourself",
    )


def room(level: Level, labels: Level, offset: Index3) -> Box | None:
    """The voxels of the image's level that have labels."""
    z, y, x = (-o for o in offset)
    return Box.whole(labels.shape).moved((z, y, x)).overlap(Box.whole(level.shape))


def _offset(image: OpenVolume, level: Level, labels: OpenVolume, other: Level) -> Index3 | None:
    known = [[nm is not None for nm in volume.voxel_size_nm(own)] for volume, own in ((image, level), (labels, other))]
    if known[0] != known[1]:
        return None
    apart = []
    for a, b, s, t in zip(level.scale, other.scale, level.translation, other.translation, strict=True):
        if abs(a - b) > SAME_SIZE * a or abs((s - t) / a - round((s - t) / a)) > SAME_PLACE:
            return None
        apart.append(round((s - t) / a))
    return (apart[0], apart[1], apart[2])
