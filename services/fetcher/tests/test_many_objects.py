"""Seventeen thousand small objects: planned by listing, stored within a bound."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np

from emporter_archives import arrays
from emporter_archives.s3 import S3Server
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store
from fetcher.downloading import StoredUnit, store_units
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources.openorganelle import OpenOrganelleSource
from fetcher.testing import a_request

SIDE = 104
CHUNK = 4
GROWTH = 300 * 2**20
"""Bytes by which this process may grow, the server in it among them: seventeen thousand segments of 64 MiB would be a terabyte."""


async def test_seventeen_thousand_small_objects_are_stored_in_bounded_memory(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(-100, 100, (SIDE, SIDE, SIDE), dtype=np.int16)
    tree = {
        ".zattrs": arrays.ome_zattrs([("s0", (8, 8, 8), (0, 0, 0))]),
        **arrays.zarr2(voxels, (CHUNK, CHUNK, CHUNK), path="s0"),
    }
    with S3Server() as bucket:
        bucket.put_all("many/many.zarr/recon-1/em/fibsem-int16", tree)
        source = OpenOrganelleSource(FetcherSettings(openorganelle_endpoint=bucket.url("")), Gate(2**28))
        before = _most_held()
        plan = await make_plan(a_request("openorganelle", "many"), "job", 1, source)
        assert len(bucket.listings) < 17_000 / 20
        objects, stored = Objects.open(file_store(tmp_path / "store")), 0

        async def entered(unit: StoredUnit) -> None:
            nonlocal stored
            stored += unit.bytes

        for batch in plan.batches:
            assert len(batch) <= 256
            await store_units(plan, batch, source, objects, entered)
        assert len(list(plan.units())) > 17_000
        assert stored == plan.raw_bytes
        assert _most_held() - before < GROWTH
        await source.close()


def _most_held() -> int:
    """Bytes this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
