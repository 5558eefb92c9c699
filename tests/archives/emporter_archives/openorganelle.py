"""OpenOrganelle's bucket: small data sets in the dress of jrc_mus-nacc-2 (int16, zstd, nested) and of an older N5."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from emporter_archives import arrays
from emporter_archives.s3 import S3Server

DATASET = "jrc_mus-nacc-2"
OLDER = "jrc_hela-2"
ZSTD = {"id": "zstd", "level": 1}
LEVELS = [("s0", (2.96, 4.0, 4.0), (0.0, 0.0, 0.0)), ("s1", (5.92, 8.0, 8.0), (1.48, 2.0, 2.0))]


def em(shape: tuple[int, int, int] = (70, 100, 90), seed: int = 0) -> NDArray[np.int16]:
    """Noise about 0, both signs."""
    return np.random.default_rng(seed).integers(-(2**15), 2**15, shape, dtype=np.int16)


def image(voxels: NDArray[Any]) -> arrays.Objects:
    """A group of two levels, the second by leaving voxels out."""
    return {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": arrays.ome_zattrs(LEVELS),
        **arrays.zarr2(voxels, (64, 64, 64), path="s0", compressor=ZSTD),
        **arrays.zarr2(np.ascontiguousarray(voxels[::2, ::2, ::2]), (64, 64, 64), path="s1", compressor=ZSTD),
    }


def serve(server: S3Server, voxels: NDArray[Any] | None = None) -> None:
    """Put three data sets into the bucket: one with a known default, one with several images, one in N5."""
    folder = f"{DATASET}/{DATASET}.zarr"
    server.put_all(folder, {".zgroup": b'{"zarr_format": 2}', "recon-2/.zgroup": b'{"zarr_format": 2}'})
    server.put_all(f"{folder}/recon-2/em/fibsem-int16", image(em() if voxels is None else voxels))
    server.put_all(f"{folder}/recon-1/em/fibsem-uint8", image(em((20, 30, 40)).astype(np.uint8)))
    nuclei = np.zeros((20, 30, 40), np.uint64)
    nuclei[5:15, 5:15, 5:15] = 2**40
    server.put_all(f"{folder}/recon-1/labels/nuc", image(nuclei))
    for name in ("fibsem-uint8", "fibsem-int16"):
        server.put_all(f"two/two.zarr/recon-1/em/{name}", image(em((20, 30, 40))))
    older = {
        "attributes.json": b'{"pixelResolution": {"dimensions": [4.0, 4.0, 5.24], "unit": "nm"}}',
        **arrays.n5(em((20, 30, 40)), (16, 16, 16), {"type": "gzip", "level": 6, "useZlib": False}, path="s0"),
    }
    server.put_all(f"{OLDER}/{OLDER}.n5/em/fibsem-int16", older)
