"""Boxes drawn by the server for training: what can be wanted of them, and what comes back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from emporter.described import triple
from emporter.errors import MistakeError
from emporter_contracts.training import SamplePlaces, SampleRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ORIGIN_BYTES = 24
"""Of one box's origin in an answer: three 64-bit numbers, z, y, x, little-endian, all of them before the voxels."""
Places = SamplePlaces
"""Where the boxes of a sample lie."""


def sample_request(n: int, shape: Sequence[int], level: int, wanted: Mapping[str, Any]) -> SampleRequest:
    """`wanted` are fields of SampleRequest: seed, min_foreground, labels, exclude, within, split, order. Raises MistakeError."""
    try:
        return SampleRequest.model_validate({**wanted, "n": n, "shape": triple(shape, "shape"), "level": level})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"][:2]))
        raise MistakeError(
            f"sample: {name}: {first['msg']}", hint="help(emporter_contracts.training.SampleRequest) says what there is"
        ) from None


@dataclass(frozen=True, slots=True)
class Sample:
    """Boxes of one volume: `voxels` (N, z, y, x), and `origins` (N, 3) int64, the first voxel of each, of the level asked for.

    `labels` (N, z, y, x): those of the same places, where labels were named.
    """

    voxels: NDArray[Any]
    origins: NDArray[np.int64]
    labels: NDArray[Any] | None = None

    def __len__(self) -> int:
        return len(self.origins)

    @classmethod
    def told(cls, lead: bytes, voxels: NDArray[Any]) -> Self:
        """From the body of an answer: the origins, little-endian, then the voxels."""
        import numpy as np

        return cls(voxels, np.frombuffer(lead, "<i8").reshape(len(voxels), 3).astype(np.int64))


def origins_of(places: Places) -> NDArray[np.int64]:
    """(N, 3), z, y, x."""
    import numpy as np

    return np.array(places.origins, np.int64)
