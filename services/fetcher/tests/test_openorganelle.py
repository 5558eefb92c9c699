from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from emporter_archives import arrays, openorganelle
from emporter_archives.faults import Drop, Fault, Hangup, LyingLength, Silence, Stall, Status
from emporter_archives.s3 import S3Server
from emporter_contracts.errors import RefusedError
from emporter_contracts.plans import FetchPlan
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import ArchiveUnreachableError, HostRefusedError, NotInArchiveError, SourceChangedError
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources.openorganelle import OpenOrganelleSource
from fetcher.sources.url import UrlSource
from fetcher.testing import a_request
from fetcher.transports.s3 import listing_prefixes

FOLDER = f"/janelia-cosem-datasets/{openorganelle.DATASET}/{openorganelle.DATASET}.zarr/recon-2/em/fibsem-int16"


@pytest.fixture
def bucket() -> Iterator[S3Server]:
    with S3Server(page=5) as server:
        openorganelle.serve(server)
        yield server


@pytest.fixture
async def source(bucket: S3Server) -> AsyncIterator[OpenOrganelleSource]:
    made = OpenOrganelleSource(FetcherSettings(openorganelle_endpoint=bucket.url("")), Gate(2**28))
    yield made
    await made.close()


async def planned(source: OpenOrganelleSource | UrlSource, name: str = openorganelle.DATASET, **fields: object) -> FetchPlan:
    return await make_plan(a_request(source.name, name, **fields), "job", 1, source)


def chunks(plan: FetchPlan) -> list[str]:
    return [o.path for o in plan.objects if o.path[-1].isdigit()]


async def test_the_default_image_is_found_by_listing(source: OpenOrganelleSource) -> None:
    plan = await planned(source)
    (volume,) = plan.volumes
    assert (volume.shape, volume.dtype, volume.role) == ((70, 100, 90), "int16", "image")
    assert volume.voxel_size.nm == (2.96, 4.0, 4.0)
    assert volume.voxel_size.said_by == ("file", "file", "file")
    assert plan.download_url == f"s3:/{FOLDER}"
    assert plan.modality == "FIB-SEM"
    assert "doi:10.25378/janelia.24222898" in plan.citation[0]
    assert plan.licence.spdx == "CC-BY-4.0"
    assert not plan.licence.known
    assert len(chunks(plan)) == 8
    assert "null" not in str(volume.said[".zattrs" if ".zattrs" in volume.said else "attributes"])


async def test_another_image_and_labels_are_named_by_a_parameter(source: OpenOrganelleSource) -> None:
    plan = await planned(source, parameters={"array": "recon-1/em/fibsem-uint8"})
    assert plan.volumes[0].dtype == "uint8"
    labels = await planned(source, parameters={"array": "recon-1/labels/nuc"})
    assert (labels.volumes[0].dtype, labels.volumes[0].role) == ("uint64", "labels")


async def test_several_images_without_a_default_are_named(source: OpenOrganelleSource) -> None:
    with pytest.raises(RefusedError) as refused:
        await planned(source, "two")
    assert "recon-1/em/fibsem-int16, recon-1/em/fibsem-uint8" in refused.value.hint


@pytest.mark.parametrize("array", ["../../secret", "a//b", 7, "", "recon-1/../../x"])
async def test_a_parameter_that_is_no_path_is_refused(source: OpenOrganelleSource, array: object) -> None:
    with pytest.raises(RefusedError, match="is no path"):
        await planned(source, parameters={"array": array})


async def test_an_unknown_data_set_is_named(source: OpenOrganelleSource) -> None:
    with pytest.raises(NotInArchiveError, match="jrc_nothing"):
        await planned(source, "jrc_nothing")


async def test_an_older_data_set_in_n5_says_its_resolution(source: OpenOrganelleSource) -> None:
    plan = await planned(source, openorganelle.OLDER)
    assert plan.volumes[0].shape == (20, 30, 40)
    assert plan.volumes[0].voxel_size.nm == (5.24, 4.0, 4.0)


async def test_a_region_copies_only_its_chunks(source: OpenOrganelleSource, bucket: S3Server) -> None:
    plan = await planned(source, region={"origin": [0, 64, 0], "shape": [64, 36, 64]})
    assert chunks(plan) == ["s0/0/1/0"]
    bucket.sent.clear()
    objects = Objects.in_memory()
    for unit in plan.units():
        await store_unit(plan, unit, source, objects)
    sizes = sum(len(bucket.files[f"{FOLDER}/{path}"].content) for path in (o.path for o in plan.objects))
    assert sum(bucket.sent.values()) == sizes


async def test_an_array_of_many_chunks_is_listed_not_probed_chunk_by_chunk(source: OpenOrganelleSource, bucket: S3Server) -> None:
    many = arrays.zarr2(np.ones((32, 40, 40), np.uint8), (4, 4, 4), path="s0")
    attributes = {".zattrs": arrays.ome_zattrs([("s0", (1, 1, 1), (0, 0, 0))])}
    bucket.put_all("many/many.zarr/recon-1/em/x", {**attributes, **many})
    bucket.page = 1000
    bucket.requests.clear()
    plan = await planned(source, "many")
    assert len(chunks(plan)) == 800
    assert len(bucket.requests) < 800 / 5


def test_listings_are_taken_apart_as_deep_as_they_stand_for_many_keys() -> None:
    keys = [f"a/s0/{z}/{y}/{x}" for z in range(4, 20) for y in range(16) for x in range(16)]
    prefixes = listing_prefixes(keys, "a/")
    assert prefixes is not None
    assert len(prefixes) == 256
    assert prefixes[0] == "a/s0/4/0/"
    assert listing_prefixes(["a/s0/0/0/0", "a/s0/1/0/0"], "a/") is None
    assert listing_prefixes([f"a/x{k}" for k in range(100)], "a/") is None


async def test_a_chunk_that_changed_since_the_plan_is_not_mixed_in(source: OpenOrganelleSource, bucket: S3Server) -> None:
    plan = await planned(source)
    bucket.put(f"{FOLDER}/s0/0/0/0", bytes(len(bucket.files[f"{FOLDER}/s0/0/0/0"].content)))
    (unit,) = (u for u in plan.units() if plan.objects[u.obj].path == "s0/0/0/0")
    with pytest.raises(SourceChangedError, match="s0/0/0/0 changed"):
        await store_unit(plan, unit, source, Objects.in_memory())


async def test_a_bucket_that_is_busy_lets_the_job_wait(source: OpenOrganelleSource, bucket: S3Server) -> None:
    plan = await planned(source)
    bucket.always(f"{FOLDER}/s0/0/0/0", Status(503))
    (unit,) = (u for u in plan.units() if plan.objects[u.obj].path == "s0/0/0/0")
    with pytest.raises(ArchiveUnreachableError):
        await store_unit(plan, unit, source, Objects.in_memory())


@pytest.mark.parametrize(
    "fault", [Drop(100), Hangup(100), Stall(100), LyingLength(50), Status(500), Status(503), Silence()], ids=str
)
async def test_a_bucket_that_misbehaves_once_gives_the_chunk_all_the_same(bucket: S3Server, fault: Fault) -> None:
    settings = FetcherSettings(openorganelle_endpoint=bucket.url(""), http_stall_seconds=0.5)
    source, objects = OpenOrganelleSource(settings, Gate(2**28)), Objects.in_memory()
    plan = await planned(source)
    path = f"{FOLDER}/s0/1/1/1"
    bucket.misbehave(path, fault)
    (unit,) = (u for u in plan.units() if plan.objects[u.obj].path == "s0/1/1/1")
    stored = await store_unit(plan, unit, source, objects)
    assert stored.sha256 == hashlib.sha256(bucket.files[path].content[0:]).hexdigest()
    assert len(bucket.asked(path)) >= 2 or isinstance(fault, Silence)
    await source.close()


async def test_any_bucket_an_operator_allowed_is_reached_by_its_url(bucket: S3Server) -> None:
    settings = FetcherSettings(url_allowed_hosts=("127.0.0.1",), url_s3_endpoint=bucket.url(""), url_allow_private=True)
    source = UrlSource(settings, Gate(2**28))
    plan = await planned(source, f"s3:/{FOLDER}")
    assert plan.volumes[0].shape == (70, 100, 90)
    assert len(chunks(plan)) == 8
    await source.close()
    strict = UrlSource(FetcherSettings(url_allowed_hosts=("elsewhere.org",), url_s3_endpoint=bucket.url("")), Gate(2**28))
    with pytest.raises(HostRefusedError):
        await planned(strict, f"s3:/{FOLDER}")
    await strict.close()
