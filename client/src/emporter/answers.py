"""What the block-server's answers mean, whoever asked: voxels, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emporter.errors import RefusedByServiceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUSY = 503
BUSY_TRIES = 8
"""How often a block is asked for again where the server is busy (503), waiting as long as it says."""
LONGEST_WAIT = 10.0
"""Seconds."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the body of an answer begins with: an array in C order, little-endian."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        size = self.dtype.itemsize
        for n in self.shape:
            size *= n
        return size

    def array(self, body: bytearray | memoryview | NDArray[Any]) -> NDArray[Any]:
        """The array in this machine's byte order; shares memory with `body`, which must be written to by nobody else."""
        import numpy as np

        voxels: NDArray[Any] = np.frombuffer(body, self.dtype, self.bytes // self.dtype.itemsize).reshape(self.shape)
        return voxels.astype(self.dtype.newbyteorder("="), copy=False)


def layout_of(headers: Mapping[str, str]) -> Layout:
    """From X-Emporter-Shape and X-Emporter-Dtype."""
    import numpy as np

    shape = tuple(int(n) for n in headers["x-emporter-shape"].split(","))
    return Layout(shape, np.dtype(headers["x-emporter-dtype"]).newbyteorder("<"))


def wait_seconds(headers: Mapping[str, str]) -> float:
    """How long a busy server wants to be left alone."""
    said = headers.get("retry-after", "1")
    return min(LONGEST_WAIT, float(said)) if said.replace(".", "", 1).isdigit() else 1.0


def refusal_of(url: str, status: int, body: bytes) -> RefusedByServiceError:
    """A problem document (RFC 9457) as our error."""
    try:
        told = json.loads(body)
        return RefusedByServiceError(told["title"], code=told["code"], hint=told.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return RefusedByServiceError(f"{url} answered {status}", code="http_error", hint="see the logs of that service")
