from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import numpy as np
import pytest

from emporter_archives import arrays, hemibrain
from emporter_archives.hemibrain import HemibrainServer
from emporter_contracts.errors import RefusedError
from emporter_contracts.geometry import Box
from emporter_contracts.plans import FetchPlan
from emporter_readers.array import MemorySource
from emporter_readers.discover import open_volume
from emporter_readers.errors import OutsideVolumeError
from emporter_readers.protocol import FoundVolume, Reader
from fetcher.errors import NotInArchiveError, RegionOutsideError
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.regions import random_origin, random_origins
from fetcher.settings import FetcherSettings
from fetcher.sources.hemibrain import HemibrainSource
from fetcher.testing import a_request


@pytest.fixture
def flyem() -> Iterator[HemibrainServer]:
    with HemibrainServer() as server:
        yield server


@pytest.fixture
async def source(flyem: HemibrainServer) -> AsyncIterator[HemibrainSource]:
    settings = FetcherSettings(hemibrain_base_url=flyem.base, hemibrain_dvid_url=flyem.dvid, url_allow_private=True)
    made = HemibrainSource(settings, Gate(2**28))
    yield made
    await made.close()


async def planned(source: HemibrainSource, name: str = "em", **fields: object) -> FetchPlan:
    return await make_plan(a_request("hemibrain", name, **fields), "job", 1, source)


async def fetched(plan: FetchPlan, source: HemibrainSource) -> Reader:
    (volume,) = plan.volumes
    sources = []
    for n in volume.objects:
        place = plan.objects[n]
        sources.append(MemorySource(place.path, b"".join([piece async for piece in source.fetch(place, 0, place.bytes)])))
        assert len(sources[-1].data) == place.bytes
    found = FoundVolume(
        format=volume.format,
        objects=tuple(range(len(sources))),
        series="",
        select=volume.select,
        shape=volume.source_shape,
        dtype=volume.dtype,
        voxel_size=volume.voxel_size,
        native=None,  # type: ignore[arg-type]
        region=volume.region if volume.region != Box.whole(volume.source_shape) else None,
    )
    return open_volume(sources, found)


def decoder() -> np.ndarray:
    return arrays.decoded(hemibrain.jpeg(), "neuroglancer_precomputed")[..., 0].T


async def test_a_region_of_em_equals_the_decoders_output_and_is_lossy(source: HemibrainSource) -> None:
    plan = await planned(source, region={"origin": [5, 20, 33], "shape": [30, 40, 50]})
    (volume,) = plan.volumes
    assert (volume.source_shape, volume.shape, volume.source_origin) == (hemibrain.SHAPE, (30, 40, 50), (5, 20, 33))
    assert volume.voxel_size.nm == (8.0, 8.0, 8.0)
    assert volume.role == "image"
    assert "quality 90" in next(c.evidence for c in volume.caveats if c.code == "lossy")
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(volume.region), decoder()[5:35, 20:60, 33:83])
    with pytest.raises(OutsideVolumeError):
        reader.read(Box.whole(reader.shape))


async def test_bytes_fetched_are_those_of_the_chunks_of_the_region(source: HemibrainSource, flyem: HemibrainServer) -> None:
    plan = await planned(source, region={"origin": [0, 0, 0], "shape": [16, 32, 16]})
    assert len(plan.objects) == 1 + 2
    flyem.sent.clear()
    await fetched(plan, source)
    assert sum(flyem.sent.values()) == plan.raw_bytes


async def test_labels_are_exact(source: HemibrainSource) -> None:
    plan = await planned(source, "segmentation", region={"origin": [40, 41, 42], "shape": [17, 18, 19]})
    (volume,) = plan.volumes
    assert (volume.role, volume.dtype) == ("labels", "uint64")
    assert "lossy" not in {c.code for c in volume.caveats}
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(volume.region), hemibrain.neurons()[40:57, 41:59, 42:61])


@pytest.mark.parametrize("name", ["em", "dvid/grayscale"])
async def test_empty_places_are_drawn_again_and_the_record_says_all_draws(source: HemibrainSource, name: str) -> None:
    shape = (16, 32, 32)
    first = next(s for s in range(100) if random_origin(hemibrain.SHAPE, shape, s)[0] >= hemibrain.SHAPE[0] // 2)
    plan = await planned(source, name, random_region={"shape": shape, "seed": first})
    said = plan.archive["random_region"]
    assert isinstance(said, dict)
    draws = said["draws"]
    assert isinstance(draws, list)
    assert len(draws) > 1
    assert draws[0] == {"origin": list(random_origin(hemibrain.SHAPE, shape, first)), "filled": 0.0}
    (volume,) = plan.volumes
    assert list(volume.source_origin) == said["origin"] == draws[-1]["origin"]  # type: ignore[index,call-overload]
    drawn = [origin for origin, _ in zip(random_origins(hemibrain.SHAPE, shape, first), draws, strict=False)]
    assert volume.source_origin == drawn[-1]
    again = await planned(source, name, random_region={"shape": shape, "seed": first})
    assert again.volumes[0].source_origin == volume.source_origin
    assert (await fetched(plan, source)).read(volume.region).any()


async def test_where_all_is_empty_the_draws_end(source: HemibrainSource, flyem: HemibrainServer) -> None:
    empty = arrays.precomputed(np.zeros((40, 40, 40), np.uint8), encoding="jpeg", sharding=arrays.SHARDING)
    arrays.put(flyem, f"{hemibrain.BUCKET}/empty", empty)
    with pytest.raises(Exception, match="none of its chunks"):
        # tensorstore leaves chunks of zeros out: nothing at all is stored.
        await planned(source, "empty", random_region={"shape": [10, 10, 10], "seed": 1})
    flat = arrays.precomputed(np.full((40, 40, 40), 90, np.uint8), encoding="jpeg", sharding=arrays.SHARDING)
    arrays.put(flyem, f"{hemibrain.BUCKET}/flat", flat)
    plan = await planned(source, "flat", random_region={"shape": [10, 10, 10], "seed": 1})
    said = plan.archive["random_region"]
    assert isinstance(said, dict)
    assert (len(said["draws"]), said["filled"]) == (16, 0.0)  # type: ignore[arg-type]


async def test_dvid_gives_the_same_region_voxel_for_voxel(source: HemibrainSource, flyem: HemibrainServer) -> None:
    plan = await planned(source, "dvid/grayscale", region={"origin": [5, 20, 33], "shape": [30, 40, 50]})
    (volume,) = plan.volumes
    assert (volume.source_shape, volume.voxel_size.nm) == (hemibrain.SHAPE, (8.0, 8.0, 8.0))
    assert [o.path for o in plan.objects] == ["info", "raw/0_1_2/50_40_30/33_20_5"]
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(volume.region), hemibrain.em()[5:35, 20:60, 33:83])
    with pytest.raises(OutsideVolumeError, match="was not fetched"):
        reader.read(Box.whole(reader.shape))
    assert not [r for r in flyem.requests if "raw" in r.path and r.status != 200]


async def test_a_volume_smaller_than_the_default_crop_is_taken_whole(source: HemibrainSource) -> None:
    plan = await planned(source)
    assert plan.volumes[0].shape == hemibrain.SHAPE
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), decoder())


async def test_the_default_is_a_random_crop_of_the_size_info_says(
    source: HemibrainSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fetcher.sources.hemibrain.DEFAULT_CROP", (20, 30, 200))
    plan = await planned(source)
    assert plan.volumes[0].shape == (20, 30, 128)
    assert plan.archive["random_region"]["seed"] == 0  # type: ignore[index,call-overload]


async def test_a_crop_larger_than_the_volume_is_refused_with_its_shape(source: HemibrainSource) -> None:
    with pytest.raises(RegionOutsideError, match=r"\[96, 112, 128\]"):
        await planned(source, random_region={"shape": [1000, 1000, 1000], "seed": 7})


@pytest.mark.parametrize("name", ["../secret", "a/../../b", "a b"])
async def test_a_path_that_leaves_the_bucket_is_refused(source: HemibrainSource, name: str) -> None:
    with pytest.raises(RefusedError) as refused:
        await planned(source, name)
    assert "segmentation" in refused.value.hint


async def test_a_volume_that_is_not_there_is_named(source: HemibrainSource) -> None:
    with pytest.raises(NotInArchiveError, match=r"v9\.9"):
        await planned(source, "v9.9/segmentation")
