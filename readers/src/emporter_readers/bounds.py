"""Limits every reader keeps."""

from __future__ import annotations

from emporter_contracts.geometry import Box, Shape3
from emporter_contracts.plans import MAX_VOLUMES
from emporter_readers.errors import AmbiguousContentError, OutsideVolumeError


def require_within(box: Box, shape: Shape3, name: str) -> None:
    """Raises OutsideVolumeError where `box` leaves a volume of `shape` voxels, z, y, x."""
    if box.within(Box.whole(shape)):
        return
    raise OutsideVolumeError(
        f"{name}: box {list(box.start)}..{list(box.stop)} leaves the volume of {list(shape)} voxels",
        hint="ask for a box inside the volume; nothing is padded",
    )


def require_few(volumes: int, name: str) -> None:
    """Raises AmbiguousContentError where one request would make more than MAX_VOLUMES volumes."""
    if volumes > MAX_VOLUMES:
        raise AmbiguousContentError(
            f"{name}: holds {volumes} volumes, one request makes {MAX_VOLUMES} at most",
            hint="choose by select.series, select.channel and select.time, or say by axes that what looks like time is z",
        )
