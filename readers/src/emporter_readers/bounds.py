"""A box must lie inside the volume it is read from."""

from __future__ import annotations

from emporter_contracts.geometry import Box, Shape3
from emporter_readers.errors import OutsideVolumeError


def require_within(box: Box, shape: Shape3, name: str) -> None:
    """Raises OutsideVolumeError where `box` leaves a volume of `shape` voxels, z, y, x."""
    if box.within(Box.whole(shape)):
        return
    raise OutsideVolumeError(
        f"{name}: box {list(box.start)}..{list(box.stop)} leaves the volume of {list(shape)} voxels",
        hint="ask for a box inside the volume; nothing is padded",
    )
