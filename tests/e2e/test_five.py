"""The five archives, asked as on the command line: what comes out is what the archive holds; a killed fetcher fetches no byte twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import nats
import numpy as np
import pytest
from numpy.typing import NDArray

from emporter.testing import RunningStack, running_stack
from emporter_archives import arrays, empiar, epfl, omero, openorganelle
from emporter_archives.demo import Archives, archives, tissue
from emporter_archives.hemibrain import HemibrainServer
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts import storage, subjects
from emporter_contracts.commands import IngestRequest, RandomRegion
from emporter_contracts.geometry import Box
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import FetchPlan

FIVE = ("idr", "empiar", "epfl", "openorganelle", "hemibrain")
SEGMENTED = (33, 2048, 2048)
"""138 MB of voxels: three segments, the last one small."""


@pytest.fixture(scope="module")
def up() -> Iterator[Archives]:
    with archives() as up:
        yield up


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory, up: Archives) -> Iterator[RunningStack]:
    """A stack of which nothing but addresses says that its archives are small ones."""
    with running_stack(tmp_path_factory.mktemp("stack"), env=up.environment) as running:
        yield running


@pytest.mark.parametrize("source", FIVE)
def test_a_request_becomes_a_volume_whose_every_voxel_is_the_archives(five: RunningStack, up: Archives, source: str) -> None:
    (exhibit,) = (e for e in up.exhibits if e.request.source == source)
    client = five.client()
    status = client.wait(client.ingest(exhibit.request).job)
    assert status.state == JobState.COMPLETE, status.error
    (name,) = client.volumes_of(status.job)
    record = five.record(name)["metadata"]
    volume = client.volume(name)
    origin = tuple(record["core"]["source_origin"])
    expected = exhibit.voxels[Box.at(origin, volume.shape).slices()]
    voxels = volume.block((0, 0, 0), volume.shape)
    assert (voxels.dtype, voxels.shape) == (exhibit.voxels.dtype, expected.shape)
    np.testing.assert_array_equal(voxels, expected)
    assert record["core"]["voxel_size_nm"] == pytest.approx(exhibit.voxel_size_nm)
    assert None not in record["provenance"]["voxel_size"]["said_by"]
    assert (record["core"]["data_type"], record["core"]["axes"]) == (exhibit.voxels.dtype.name, "zyx")
    if exhibit.request.random_region is None:
        assert (volume.shape, origin) == (exhibit.voxels.shape, (0, 0, 0))


@dataclass
class Slow:
    """An archive on a slow line, what is asked of it, and what it holds."""

    server: FileServer
    request: IngestRequest
    voxels: NDArray[Any]
    at_least: int
    """Units stored before the fetcher dies."""
    dies: Callable[[str], float]
    """Its pace by path."""


@pytest.fixture(scope="module")
def slow() -> Iterator[dict[str, Slow]]:
    with FileServer() as web, FileServer() as slices, FileServer() as page, S3Server() as bucket, HemibrainServer() as flyem:
        large = np.stack([np.roll(tissue((1, *SEGMENTED[1:]), 6)[0], 13 * z) for z in range(SEGMENTED[0])])
        omero.serve(web, [omero.Image(omero.IMAGE, large)])
        epfl.serve(page)
        page.put(f"{epfl.FOLDER}volumedata.tif", epfl.multipage(large))
        dm3 = tissue((24, 80, 90), 7)
        empiar.serve(slices, empiar.tree(dm3), empiar.entry(empiar.image_set(num_images_or_tilt_series=24)))
        chunks = openorganelle.em((60, 70, 80))
        folder = f"{openorganelle.DATASET}/{openorganelle.DATASET}.zarr"
        tree = {
            ".zgroup": b'{"zarr_format": 2}',
            ".zattrs": arrays.ome_zattrs(openorganelle.LEVELS[:1]),
            **arrays.zarr2(chunks, (8, 8, 8), path="s0", compressor=openorganelle.ZSTD),
        }
        bucket.put_all(folder, {".zgroup": b'{"zarr_format": 2}', "recon-2/.zgroup": b'{"zarr_format": 2}'})
        bucket.put_all(f"{folder}/recon-2/em/fibsem-int16", tree)
        decoded = arrays.decoded(flyem.em, "neuroglancer_precomputed")[..., 0].T
        crop = RandomRegion(shape=(40, 90, 100), seed=7)
        yield {
            "idr": Slow(web, _ask("idr", str(omero.IMAGE)), large, 1, lambda path: 0.005 * path.endswith(".tif")),
            "epfl": Slow(page, _ask("epfl", "volumedata"), large, 1, lambda path: 0.005 * path.endswith("volumedata.tif")),
            "empiar": Slow(slices, _ask("empiar", "EMPIAR-11759"), dm3, 4, lambda path: 0.15 * path.endswith(".dm3")),
            "openorganelle": Slow(
                bucket, _ask("openorganelle", openorganelle.DATASET), chunks, 50, lambda path: 0.1 * ("/s0/" in path)
            ),
            "hemibrain": Slow(
                flyem, _ask("hemibrain", "em", random_region=crop), decoded, 20, lambda path: 0.1 * path.endswith(".shard")
            ),
        }


def _ask(source: str, source_id: str, **fields: Any) -> IngestRequest:
    return IngestRequest(source=source, source_id=source_id, **fields)


@pytest.fixture(scope="module")
def modest_stacks(tmp_path_factory: pytest.TempPathFactory, slow: dict[str, Slow]) -> Iterator[list[RunningStack]]:
    """Stacks with few connections, so that units are stored one after the other. Two: a stack goes down by itself when a process
    dies five times within a minute.
    """
    web, page, slices, bucket, flyem = (slow[name].server for name in ("idr", "epfl", "empiar", "openorganelle", "hemibrain"))
    assert isinstance(flyem, HemibrainServer)
    settings = {
        "idr_base_url": web.url("").rstrip("/"), "idr_files_url": web.url(omero.FILES), "idr_ftp_url": "",
        "epfl_base_url": page.url(epfl.FOLDER), "empiar_base_url": slices.url("/empiar"),
        "empiar_files_url": slices.url(empiar.FILES), "empiar_ftp_url": "", "openorganelle_endpoint": bucket.url(""),
        "openorganelle_connections": "16", "hemibrain_base_url": flyem.base, "hemibrain_dvid_url": flyem.dvid,
        "hemibrain_connections": "4", "connections_per_host": "1",
    }  # fmt: skip
    env = {f"EMPORTER_{name.upper()}": value for name, value in settings.items()}
    with ExitStack() as stacks:
        yield [stacks.enter_context(running_stack(tmp_path_factory.mktemp("stack"), env=env)) for _ in range(2)]


@pytest.fixture
def modest(modest_stacks: list[RunningStack], source: str) -> RunningStack:
    return modest_stacks[FIVE.index(source) % 2]


@pytest.mark.parametrize("source", FIVE)
def test_a_killed_fetcher_fetches_no_stored_byte_again(modest: RunningStack, slow: dict[str, Slow], source: str) -> None:
    archive = slow[source]
    archive.server.pace = archive.dies
    client = modest.client()
    job = client.ingest(archive.request).job
    modest.until(lambda: len(stored_units(modest, job)) >= archive.at_least, "a part is stored", 120)
    dead = modest.kill("fetcher")
    modest.until(lambda: archive.server.open_now == 0, "its connections are gone")
    kept, before = stored_units(modest, job), sum(archive.server.sent.values())
    archive.server.pace = lambda _: 0.0
    modest.restarted("fetcher", after=dead)
    status = client.wait(job)
    assert status.state == JobState.COMPLETE, status.error
    plan = plan_of(modest, job)
    missing = sum(plan.unit_bytes(unit) for unit in plan.units() if unit.id not in kept)
    assert 0 < len(kept) < len(list(plan.units()))
    assert sum(archive.server.sent.values()) - before <= missing
    origin = modest.record(job)["metadata"]["core"]["source_origin"]
    volume = client.volume(job)
    expected = archive.voxels[Box.at(tuple(origin), volume.shape).slices()]
    for z in range(0, volume.shape[0], 8):
        slab = volume.block((z, 0, 0), (min(8, volume.shape[0] - z), *volume.shape[1:]))
        np.testing.assert_array_equal(slab, expected[z : z + 8])


def stored_units(stack: RunningStack, job: str) -> set[str]:
    """Units the ledger shows as stored."""

    async def listed() -> set[str]:
        settings = stack.settings()
        assert settings.nats_password is not None
        connection = await nats.connect(
            settings.nats_url, user=settings.nats_user, password=settings.nats_password.get_secret_value()
        )
        wildcard = subjects.raw_objects_stored(job, 1)
        info = await connection.jetstream().stream_info("LEDGER", subjects_filter=wildcard)
        await connection.close()
        return {subject.rpartition(".")[2] for subject in info.state.subjects or {}}

    return asyncio.run(listed())


def plan_of(stack: RunningStack, job: str) -> FetchPlan:
    return FetchPlan.model_validate_json(asyncio.run(stack.objects().get(storage.RAW, storage.plan(job, 1))))
