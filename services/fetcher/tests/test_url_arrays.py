from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emporter_archives import arrays
from emporter_archives.faults import Status, Unsized
from emporter_archives.server import FileServer
from emporter_contracts.geometry import Box
from emporter_contracts.plans import FetchPlan
from emporter_readers.array import MemorySource
from emporter_readers.chunked.following import root_of
from emporter_readers.discover import open_volume
from emporter_readers.errors import OutsideVolumeError, ReaderError
from emporter_readers.protocol import FoundVolume, Reader
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import ForbiddenError, NotInArchiveError, RegionOutsideError
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources.url import UrlSource
from fetcher.testing import a_request

GZIP = {"type": "gzip", "level": 1, "useZlib": False}


@pytest.fixture
async def source() -> AsyncIterator[UrlSource]:
    made = UrlSource(FetcherSettings(url_allowed_hosts=("127.0.0.1",), url_allow_private=True), Gate(2**28))
    yield made
    await made.close()


def noise(shape: tuple[int, ...], dtype: str = "int16", seed: int = 0) -> NDArray[Any]:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def em(shape: tuple[int, int, int], dtype: str = "uint8") -> NDArray[Any]:
    """Smooth, as JPEG likes it."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    return (127 + 100 * np.sin(z / 7) * np.cos(y / 9) * np.sin(x / 11 + 1)).astype(dtype)


async def planned(source: UrlSource, url: str, **fields: object) -> FetchPlan:
    return await make_plan(a_request("url", url, **fields), "job", 1, source)


async def fetched(plan: FetchPlan, source: UrlSource, number: int = 0) -> Reader:
    """The reader of one volume over what was fetched, and nothing else."""
    volume, objects = plan.volumes[number], Objects.in_memory()
    bodies = {}
    for unit in plan.units():
        place = plan.objects[unit.obj]
        await store_unit(plan, unit, source, objects)
        parts = [piece async for piece in source.fetch(place, 0, place.bytes)]
        bodies[unit.obj] = b"".join(parts)
    sources = [MemorySource(plan.objects[n].path, bodies[n]) for n in volume.objects]
    whole = Box.whole(volume.source_shape)
    found = FoundVolume(
        format=volume.format,
        objects=tuple(range(len(sources))),
        series="",
        select=volume.select,
        shape=volume.source_shape,
        dtype=volume.dtype,
        voxel_size=volume.voxel_size,
        native=None,  # type: ignore[arg-type]
        axes=volume.axes,
        region=volume.region if volume.region != whole else None,
    )
    return open_volume(sources, found)


def a_zarr(voxels: NDArray[Any]) -> arrays.Objects:
    """An OME-Zarr whose second level is marked by other values."""
    zstd = {"id": "zstd", "level": 1}
    return {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": arrays.ome_zattrs([("s0", (2.96, 4.0, 4.0), (0.0, 0.0, 0.0)), ("s1", (5.92, 8.0, 8.0), (1.48, 2.0, 2.0))]),
        **arrays.zarr2(voxels, path="s0", compressor=zstd),
        **arrays.zarr2(voxels[::2, ::2, ::2].copy(), path="s1", compressor=zstd),
    }


TREES: dict[str, tuple[Callable[[NDArray[Any]], arrays.Objects], str]] = {
    "zarr2": (a_zarr, "{}"),
    "zarr2-dots": (lambda v: arrays.zarr2(v, separator="."), "{}/"),
    "zarr2-fortran": (
        lambda v: arrays.zarr2(v, order="F", compressor={"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1}),
        "{}/",
    ),
    "zarr3": (lambda v: arrays.zarr3(v, [{"name": "bytes", "configuration": {"endian": "big"}}], (16, 16, 16)), "zarr://{}"),
    "n5": (lambda v: arrays.n5(v, (16, 16, 16), GZIP), "n5://{}"),
    "precomputed": (lambda v: arrays.precomputed(v, offset=(10, 20, 30)), "precomputed://{}"),
    "precomputed-sharded": (lambda v: arrays.precomputed(v, sharding=arrays.SHARDING), "precomputed://{}"),
}


@pytest.mark.parametrize("kind", TREES)
async def test_a_root_becomes_the_voxels_of_its_array(archive: FileServer, source: UrlSource, kind: str) -> None:
    voxels = noise((40, 50, 60))
    make, shown = TREES[kind]
    url = arrays.put(archive, "/data.zarr" if kind == "zarr2" else "/data", make(voxels))
    plan = await planned(source, shown.format(url))
    (volume,) = plan.volumes
    assert (volume.shape, volume.dtype) == ((40, 50, 60), "int16")
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), voxels)


@pytest.mark.parametrize("kind", TREES)
async def test_a_region_fetches_the_chunks_it_touches_and_no_others(archive: FileServer, source: UrlSource, kind: str) -> None:
    voxels = noise((40, 50, 60))
    make, shown = TREES[kind]
    url = arrays.put(archive, "/data.zarr" if kind == "zarr2" else "/data", make(voxels))
    start = (10, 20, 30) if kind == "precomputed" else (0, 0, 0)
    origin = [5 + start[0], 20 + start[1], 33 + start[2]]
    plan = await planned(source, shown.format(url), region={"origin": origin, "shape": [10, 13, 14]})
    (volume,) = plan.volumes
    assert (volume.shape, volume.source_shape) == ((10, 13, 14), (40, 50, 60))
    assert volume.source_origin == tuple(origin)
    assert volume.region == Box.at((5, 20, 33), (10, 13, 14))
    chunks = [
        o
        for o in plan.objects
        if o.path.rpartition("/")[2] not in {".zarray", ".zattrs", ".zgroup", "zarr.json", "attributes.json", "info"}
    ]
    assert len(chunks) == 1 * 2 * 1
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(volume.region), voxels[5:15, 20:33, 33:47])
    with pytest.raises(OutsideVolumeError, match="was not fetched"):
        reader.read(Box.whole(reader.shape))


async def test_scale_offset_and_level_are_those_of_the_level_asked_for(archive: FileServer, source: UrlSource) -> None:
    voxels = noise((40, 50, 60))
    url = arrays.put(archive, "/data.zarr", a_zarr(voxels))
    volume = (await planned(source, url)).volumes[0]
    assert volume.voxel_size.nm == (2.96, 4.0, 4.0)
    assert volume.voxel_size.said_by == ("file", "file", "file")
    assert volume.translation_nm == (0.0, 0.0, 0.0)
    plan = await planned(source, url, select={"level": 1})
    assert plan.volumes[0].voxel_size.nm == (5.92, 8.0, 8.0)
    assert plan.volumes[0].translation_nm == (1.48, 2.0, 2.0)
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), voxels[::2, ::2, ::2])
    with pytest.raises(ReaderError, match="2 resolution levels"):
        await planned(source, url, select={"level": 2})


async def test_a_chunk_that_is_not_there_is_fill_value_and_counted(archive: FileServer, source: UrlSource) -> None:
    voxels = noise((40, 50, 60))
    tree = arrays.zarr2(voxels, fill=7)
    del tree["1/2/0"]
    plan = await planned(source, arrays.put(archive, "/data", tree) + "/")
    (caveat,) = (c for c in plan.volumes[0].caveats if c.code == "chunks_missing")
    assert "1 of 48" in caveat.evidence
    assert plan.volumes[0].fill_value == 7
    assert plan.archive["array"] == {"chunks_in_region": 48, "objects_found": 47}
    reader = await fetched(plan, source)
    expected = voxels.copy()
    expected[16:32, 32:48, 0:16] = 7
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), expected)


async def test_a_chunk_that_may_not_be_read_is_an_error_not_a_hole(archive: FileServer, source: UrlSource) -> None:
    url = arrays.put(archive, "/data", arrays.zarr2(noise((40, 50, 60))))
    archive.always("/data/1/2/0", Status(403))
    with pytest.raises(ForbiddenError, match="1/2/0"):
        await planned(source, f"{url}/")


async def test_jpeg_is_lossy_and_equals_the_decoders_output(archive: FileServer, source: UrlSource) -> None:
    tree = arrays.precomputed(em((40, 50, 60)), encoding="jpeg", jpeg_quality=75, sharding=arrays.SHARDING)
    plan = await planned(source, f"precomputed://{arrays.put(archive, '/jpeg', tree)}")
    (caveat,) = (c for c in plan.volumes[0].caveats if c.code == "lossy")
    assert "quality 75" in caveat.evidence
    reader = await fetched(plan, source)
    decoder = arrays.decoded(tree, "neuroglancer_precomputed")[..., 0].T
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), decoder)
    assert not np.array_equal(decoder, em((40, 50, 60)))


async def test_a_segmentation_is_labels_by_its_own_word(archive: FileServer, source: UrlSource) -> None:
    labels = (em((40, 50, 60), "uint64") // 20) * 10**15
    tree = arrays.precomputed(labels, encoding="compressed_segmentation", kind="segmentation", sharding=arrays.SHARDING)
    plan = await planned(
        source, f"precomputed://{arrays.put(archive, '/seg', tree)}", region={"origin": [3, 4, 5], "shape": [30, 20, 10]}
    )
    (volume,) = plan.volumes
    assert (volume.role, volume.dtype) == ("labels", "uint64")
    np.testing.assert_array_equal((await fetched(plan, source)).read(volume.region), labels[3:33, 4:24, 5:15])


async def test_channels_are_volumes_and_one_alone_fetches_its_own_chunks(archive: FileServer, source: UrlSource) -> None:
    voxels = noise((3, 20, 30, 40), "uint8")
    tree = {
        ".zattrs": arrays.ome_zattrs([("0", (1, 40, 8, 8), (0, 0, 0, 0))], axes="czyx"),
        **arrays.zarr2(voxels, (1, 16, 16, 16), path="0"),
    }
    url = arrays.put(archive, "/c.zarr", tree)
    plan = await planned(source, url)
    assert [v.volume for v in plan.volumes] == ["job--s0-c0-t0", "job--s0-c1-t0", "job--s0-c2-t0"]
    reader = await fetched(plan, source, 2)
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), voxels[2])
    alone = await planned(source, url, select={"channel": 1})
    assert {o.path.split("/")[1] for o in alone.objects if o.path[-1].isdigit()} == {"1"}
    assert (await fetched(alone, source)).read(Box.at((0, 0, 0), (1, 1, 1))) == voxels[1, 0, 0, 0]


async def test_a_random_region_is_drawn_from_the_shape_the_metadata_says(archive: FileServer, source: UrlSource) -> None:
    voxels = noise((40, 50, 60))
    url = arrays.put(archive, "/data", arrays.zarr2(voxels)) + "/"
    plans = [await planned(source, url, random_region={"shape": [10, 10, 10], "seed": seed}) for seed in (7, 7, 8)]
    assert plans[0].volumes[0].region == plans[1].volumes[0].region != plans[2].volumes[0].region
    region = plans[0].volumes[0].region
    np.testing.assert_array_equal((await fetched(plans[0], source)).read(region), voxels[region.slices()])


async def test_a_region_outside_is_refused_with_the_shape_there_is(archive: FileServer, source: UrlSource) -> None:
    url = arrays.put(archive, "/data", arrays.precomputed(noise((40, 50, 60)), offset=(10, 20, 30)))
    with pytest.raises(RegionOutsideError, match=r"\[40, 50, 60\].*from \[10, 20, 30\] on"):
        await planned(source, f"precomputed://{url}", region={"origin": [0, 0, 0], "shape": [10, 10, 10]})


async def test_a_root_without_an_array_says_what_to_name(archive: FileServer, source: UrlSource) -> None:
    with pytest.raises(NotInArchiveError) as missing:
        await planned(source, archive.url("/nothing.zarr"))
    assert missing.value.hint


async def test_metadata_whose_server_says_no_size_is_read_all_the_same(archive: FileServer, source: UrlSource) -> None:
    voxels = noise((40, 50, 60))
    url = arrays.put(archive, "/data", arrays.precomputed(voxels, sharding=arrays.SHARDING))
    archive.always("/data/info", Unsized())
    plan = await planned(source, f"precomputed://{url}")
    reader = await fetched(plan, source)
    np.testing.assert_array_equal(reader.read(Box.whole(reader.shape)), voxels)


async def test_headers_are_all_that_a_plan_reads(archive: FileServer, source: UrlSource) -> None:
    url = arrays.put(archive, "/data", arrays.zarr2(noise((64, 64, 64), "uint8")))
    await planned(source, f"{url}/")
    assert sum(n for path, n in archive.sent.items() if path[-1].isdigit()) <= 64 * 2


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("https://host/a/b.tif", None),
        ("https://host/a/b.zarr", "https://host/a/b.zarr"),
        ("https://host/a/b.zarr/recon-1/em", "https://host/a/b.zarr/recon-1/em"),
        ("https://host/a/b.zarr.zip", None),
        ("https://host/a.n5/em/s0/", "https://host/a.n5/em/s0"),
        ("precomputed://https://host/em/jpeg", "https://host/em/jpeg"),
        ("https://host/em/jpeg/info", "https://host/em/jpeg"),
        ("https://host/x/.zattrs?token=1", "https://host/x?token=1"),
        ("https://host/a.zarr/scan.tif", None),
    ],
)
def test_a_root_is_known_by_its_url(url: str, root: str | None) -> None:
    assert root_of(url) == root
