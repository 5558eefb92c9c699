"""What to ask the block-server for: paths below its base, and bodies. Axis order z, y, x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from emporter.described import Outside, triple
from emporter.errors import MistakeError
from emporter_contracts.ids import VolumeRef

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from emporter_contracts.training import SampleRequest

Document = dict[str, Any]


def volume(ref: VolumeRef) -> str:
    return f"/v1/volumes/{ref}"


def provenance(ref: VolumeRef) -> str:
    return f"/v1/volumes/{ref}/provenance"


def block(
    ref: VolumeRef, origin: Sequence[int], shape: Sequence[int], level: int, outside: Outside
) -> tuple[str, dict[str, str | int]]:
    """Path and parameters of one box."""
    asked: dict[str, str | int] = {"level": level, "origin": _joined(origin, "origin"), "shape": _joined(shape, "shape")}
    return f"/v1/volumes/{ref}/block", {**asked, "format": "raw", "outside": outside}


def blocks(ref: VolumeRef, origins: ArrayLike, shape: Sequence[int], level: int) -> tuple[str, Document]:
    """Path and body of many boxes of one shape."""
    import numpy as np

    places = np.asarray(origins)
    if places.ndim != 2 or places.shape[1] != 3 or not len(places) or places.dtype.kind not in "iu":
        raise MistakeError("origins are not (N, 3) whole numbers z, y, x", hint="give one z, y, x for each block")
    return f"/v1/volumes/{ref}/blocks", {"level": level, "shape": triple(shape, "shape"), "origins": places.tolist()}


def sample(ref: VolumeRef, wanted: SampleRequest) -> tuple[str, Document]:
    """Path and body of a sample."""
    return f"/v1/volumes/{ref}/sample", wanted.model_dump(mode="json")


def _joined(values: Sequence[int], what: str) -> str:
    return ",".join(map(str, triple(values, what)))
