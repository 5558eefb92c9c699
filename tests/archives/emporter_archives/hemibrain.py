"""FlyEM's bucket and DVID: a small brain in an empty box, as sharded JPEG, as compressed segmentation and as raw boxes."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_archives import arrays
from emporter_archives.server import File, FileServer

BUCKET = "/neuroglancer-janelia-flyem-hemibrain"
NODE = "/api/node/a89eb3af216a46cdba81204d8f954786"
SHAPE = (96, 112, 128)

_RAW = re.compile(re.escape(NODE) + r"/grayscale/raw/0_1_2/(\d+)_(\d+)_(\d+)/(\d+)_(\d+)_(\d+)(\?.*)?\Z")


def em(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint8]:
    """Tissue in the upper half along z, nothing below; smooth, as JPEG likes it."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    grey = (127 + 60 * np.sin(z / 7) * np.cos(y / 9) + 40 * np.sin(x / 11)).astype(np.uint8)
    grey[shape[0] // 2 :] = 0
    return grey


def neurons(shape: tuple[int, int, int] = SHAPE) -> NDArray[np.uint64]:
    """Ids past 2^32, as those of hemibrain."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return ((z // 20) * 100 + (y // 30) * 10 + x // 25 + 1).astype(np.uint64) * np.uint64(5 * 10**9)


def jpeg(chunk: tuple[int, int, int] = (16, 16, 16), voxels: NDArray[np.uint8] | None = None) -> arrays.Objects:
    grey = em() if voxels is None else voxels
    return arrays.precomputed(grey, chunk, encoding="jpeg", jpeg_quality=90, sharding=arrays.SHARDING)


def segmentation() -> arrays.Objects:
    return arrays.precomputed(neurons(), encoding="compressed_segmentation", kind="segmentation", sharding=arrays.SHARDING)


class HemibrainServer(FileServer):
    """Both hosts in one. DVID answers any box of its voxels."""

    def __init__(self, voxels: NDArray[np.uint8] | None = None, chunk: tuple[int, int, int] = (16, 16, 16)) -> None:
        super().__init__()
        self._voxels = em() if voxels is None else voxels
        self.em = jpeg(chunk, self._voxels)
        arrays.put_paths(self, f"{BUCKET}/emdata/raw/jpeg", self.em)
        arrays.put_paths(self, f"{BUCKET}/v1.2/segmentation", segmentation())
        self.put(f"{NODE}/grayscale/info", json.dumps(dvid_info(self._voxels.shape)).encode(), etag=None, modified=None)

    @property
    def base(self) -> str:
        return self.url(f"{BUCKET}/")

    @property
    def dvid(self) -> str:
        return self.url(f"{NODE}/")

    async def _answer(self, answer: Any) -> None:
        match = _RAW.match(answer.path)
        if match is None:
            await super()._answer(answer)
            return
        dx, dy, dz, x, y, z = (int(n) for n in match.groups()[:6])
        box = self._voxels[z : z + dz, y : y + dy, x : x + dx]
        if box.shape != (dz, dy, dx):
            await answer.status(400, {})
            return
        await answer.file(File(box.tobytes(), None, None, ranges=False), self._always.get(answer.path))


def dvid_info(shape: tuple[int, ...]) -> dict[str, Any]:
    """In the words of the real server; points are x, y, z, the last one inclusive."""
    depth, height, width = shape
    last = [width - 1, height - 1, depth - 1]
    return {
        "Base": {"TypeName": "uint8blk", "DataUUID": "be657e3e00df40f2904282648a330bbc", "Name": "grayscale", "Versioned": True},
        "Extended": {
            "Values": [{"DataType": "uint8", "Label": "uint8"}], "Interpolable": True, "BlockSize": [64, 64, 64],
            "VoxelSize": [8, 8, 8], "VoxelUnits": ["nanometers", "nanometers", "nanometers"], "MinPoint": [0, 0, 0],
            "MaxPoint": last, "Background": 0,
        },
        "Extents": {"MinPoint": [0, 0, 0], "MaxPoint": last},
    }  # fmt: skip
