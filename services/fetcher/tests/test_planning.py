from __future__ import annotations

import io
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from emporter_contracts.commands import IngestRequest
from emporter_contracts.errors import EmporterError
from emporter_contracts.geometry import ChunkGrid, VoxelSize
from emporter_contracts.plans import MAX_VOLUMES, Caveat, FetchPlan, InboxKey
from emporter_readers.protocol import ByteSource, FoundVolume, Hints
from emporter_runtime.errors import InsufficientStorageError
from fetcher import planning
from fetcher.errors import RegionOutsideError, TooManyVolumesError
from fetcher.planning import check_space, make_plan
from fetcher.regions import random_origin
from fetcher.sources.protocol import Part
from fetcher.testing import MemoryArchive, a_request

SHAPE = (6, 40, 30)
VOXELS = np.random.default_rng(0).integers(0, 60000, SHAPE, dtype=np.uint16)


def a_tiff(voxels: np.ndarray[Any, Any] = VOXELS, spacing_nm: tuple[float, float, float] | None = None) -> bytes:
    """A multipage TIFF; with a voxel size an ImageJ one, in micrometres."""
    file = io.BytesIO()
    if spacing_nm is None:
        with tifffile.TiffWriter(file) as tiff:
            for page in voxels:
                tiff.write(page, contiguous=False, metadata=None, photometric="minisblack")
    else:
        z, y, x = (nm / 1000 for nm in spacing_nm)
        tifffile.imwrite(
            file, voxels, imagej=True, resolution=(1 / x, 1 / y), metadata={"axes": "ZYX", "spacing": z, "unit": "um"}
        )
    return file.getvalue()


async def plan(archive: MemoryArchive, **request: object) -> FetchPlan:
    return await make_plan(a_request(**request), "job", 1, archive)  # type: ignore[arg-type]


def codes(caveats: Sequence[Caveat]) -> set[str]:
    return {c.code for c in caveats}


async def test_a_plan_says_what_will_be_there_before_any_of_it_is_fetched() -> None:
    archive = MemoryArchive({"stack.tif": a_tiff()})
    made = await plan(archive)
    volume = made.volumes[0]
    assert (volume.volume, volume.shape, volume.dtype, volume.source_shape) == ("job", SHAPE, "uint16", SHAPE)
    assert made.raw_bytes == len(archive.files["stack.tif"])
    assert made.voxel_bytes == VOXELS.nbytes
    assert made.stored_bytes_estimate == pytest.approx(VOXELS.nbytes * 8 / 7 + made.raw_bytes, abs=1)
    assert archive.fetched["stack.tif"] == 0
    assert made.software.startswith("emporter-fetcher ")


async def test_a_voxel_size_nobody_says_is_unknown_and_said_to_be() -> None:
    volume = (await plan(MemoryArchive({"stack.tif": a_tiff()}))).volumes[0]
    assert volume.voxel_size.nm == (None, None, None)
    assert {"voxel_size_unknown", "isotropy_assumed"} <= codes(volume.caveats)


async def test_an_axis_of_one_voxel_needs_no_isotropy() -> None:
    archive = MemoryArchive({"a.tif": a_tiff(VOXELS[:1])})
    volume = (await plan(archive, voxel_size_nm=(None, 8.0, 8.0))).volumes[0]
    assert "voxel_size_unknown" in codes(volume.caveats)
    assert "isotropy_assumed" not in codes(volume.caveats)


async def test_the_files_voxel_size_stands_before_the_archives_and_a_difference_is_told() -> None:
    page = Part((0,), voxel_size=VoxelSize.said("page", (5.0, 5.0, 5.0)))
    volume = (await plan(MemoryArchive({"stack.tif": a_tiff(spacing_nm=(50, 8, 8))}, page))).volumes[0]
    assert volume.voxel_size.nm == pytest.approx((50, 8, 8))
    assert set(volume.voxel_size.said_by) == {"file"}
    assert len([c for c in volume.caveats if c.code == "archive_disagrees"]) == 3


async def test_the_users_voxel_size_stands_before_all_with_what_the_file_said() -> None:
    archive = MemoryArchive({"stack.tif": a_tiff(spacing_nm=(50, 8, 8))})
    volume = (await plan(archive, voxel_size_nm=(40.0, None, None))).volumes[0]
    assert volume.voxel_size.nm == pytest.approx((40, 8, 8))
    assert volume.voxel_size.said_by == ("user", "file", "file")
    evidence = [c.evidence for c in volume.caveats if c.code == "voxel_size_by_user"]
    assert evidence == ["z: 40 nm, the file says 50 nm"]
    assert "voxel_size_unknown" not in codes(volume.caveats)


async def test_several_files_are_one_volume_in_natural_order() -> None:
    archive = MemoryArchive({f"s{n:d}.tif": a_tiff(VOXELS[n : n + 1]) for n in range(6)})
    made = await plan(archive)
    assert len(made.volumes) == 1
    assert made.volumes[0].shape == SHAPE
    assert made.volumes[0].objects == (0, 1, 2, 3, 4, 5)


async def test_parts_the_archive_knows_are_volumes_of_their_own() -> None:
    files = {"a.tif": a_tiff(), "a_labels.tif": a_tiff()}
    parts = (Part((0,), "image"), Part((1,), "labels of image", role="labels", labels_of="job--image"))
    made = await plan(MemoryArchive(files, *parts))
    assert [v.volume for v in made.volumes] == ["job--image", "job--labels-of-image"]
    assert [v.objects for v in made.volumes] == [(0,), (1,)]
    assert [v.labels_of for v in made.volumes] == [None, "job--image"]
    assert [v.role for v in made.volumes] == ["image", "labels"]


async def test_what_lies_in_no_volume_is_not_fetched() -> None:
    files = {"thumbnail.jpg": b"\xff\xd8\xff", "a.tif": a_tiff()}
    made = await plan(MemoryArchive(files, Part((1,))))
    assert [o.path for o in made.objects] == ["a.tif"]
    assert made.volumes[0].objects == (0,)


async def test_a_region_is_kept_with_where_it_was_cut() -> None:
    volume = (await plan(MemoryArchive({"a.tif": a_tiff()}), region={"origin": [1, 2, 3], "shape": [2, 3, 4]})).volumes[0]
    assert (volume.shape, volume.source_origin, volume.source_shape) == ((2, 3, 4), (1, 2, 3), SHAPE)


@pytest.mark.parametrize(
    "region",
    [
        {"region": {"origin": [0, 0, 0], "shape": [7, 40, 30]}},
        {"region": {"origin": [5, 0, 0], "shape": [2, 1, 1]}},
        {"region": {"origin": [6, 0, 0], "shape": [1, 1, 1]}},
        {"region": {"origin": [2**31 - 1, 0, 0], "shape": [1, 1, 1]}},
        {"region": {"origin": [0, 0, 0], "shape": [2**31 - 1, 2**31 - 1, 2**31 - 1]}},
        {"random_region": {"shape": [1, 41, 1]}},
    ],
)
async def test_a_region_that_leaves_the_volume_is_refused_with_the_shape_there_is(region: dict[str, object]) -> None:
    with pytest.raises(RegionOutsideError) as outside:
        await plan(MemoryArchive({"a.tif": a_tiff()}), **region)
    assert outside.value.code == "region_outside"
    assert "[6, 40, 30]" in outside.value.message


async def test_a_random_region_is_the_same_for_the_same_seed() -> None:
    archive = MemoryArchive({"a.tif": a_tiff()})
    places = [
        (await plan(archive, random_region={"shape": [2, 10, 10], "seed": seed})).volumes[0].source_origin for seed in (7, 7, 8)
    ]
    assert places[0] == places[1] != places[2]


def test_random_places_are_written_down_for_ever() -> None:
    assert random_origin((1000, 1000, 1000), (100, 100, 100), 7) == (291, 135, 586)
    assert random_origin((41408, 39552, 34432), (1000, 1000, 1000), 0) == (34122, 29221, 14060)


@settings(deadline=None)  # a loaded machine takes its time
@given(st.tuples(*[st.integers(1, 5000)] * 3), st.integers(0, 2**63 - 1), st.data())
def test_a_random_region_lies_inside(shape: tuple[int, int, int], seed: int, data: st.DataObject) -> None:
    box = tuple(data.draw(st.integers(1, n)) for n in shape)
    origin = random_origin(shape, box, seed)  # type: ignore[arg-type]
    assert all(0 <= o <= n - b for o, n, b in zip(origin, shape, box, strict=True))


def test_every_place_of_a_random_region_can_come() -> None:
    assert {random_origin((4, 1, 2), (2, 1, 1), seed) for seed in range(200)} == {(z, 0, x) for z in range(3) for x in range(2)}


async def test_labels_are_what_the_user_says_they_are() -> None:
    archive = MemoryArchive({"a.tif": a_tiff()})
    named = (await plan(archive, labels_of="epfl-training")).volumes[0]
    assert (named.role, named.labels_of) == ("labels", "epfl-training")
    said = (await plan(archive, role="labels")).volumes[0]
    assert (said.role, said.labels_of) == ("labels", None)
    assert "role_guessed" not in codes(said.caveats)


async def test_an_image_is_nobodys_labels() -> None:
    with pytest.raises(EmporterError) as refused:
        await plan(MemoryArchive({"a.tif": a_tiff()}), role="image", labels_of="epfl-training")
    assert refused.value.code == "invalid_request"


async def test_what_is_no_image_is_refused_by_name() -> None:
    with pytest.raises(EmporterError) as refused:
        await plan(MemoryArchive({"login.tif": b"<!DOCTYPE html><html>please log in</html>"}))
    assert "login.tif" in refused.value.message


async def test_a_truncated_header_is_refused_by_name() -> None:
    with pytest.raises(EmporterError) as refused:
        await plan(MemoryArchive({"cut.tif": a_tiff()[:2000]}))
    assert "cut.tif" in refused.value.message


async def test_more_volumes_than_a_job_may_hold_are_refused_with_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def many(sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
        return [
            FoundVolume("tiff", (0,), f"c{n}", hints.select, SHAPE, "uint8", VoxelSize(), ChunkGrid(SHAPE))
            for n in range(MAX_VOLUMES + 1)
        ]

    monkeypatch.setattr(planning, "discover", many)
    with pytest.raises(TooManyVolumesError) as refused:
        await plan(MemoryArchive({"a.tif": b""}))
    assert "65 volumes" in refused.value.message
    assert "channel" in refused.value.hint


async def test_more_than_is_free_is_refused_with_the_numbers() -> None:
    made = await plan(MemoryArchive({"a.tif": a_tiff()}))
    need = made.stored_bytes_estimate
    check_space(made, need, 0)
    check_space(made, None, 10**18)
    with pytest.raises(InsufficientStorageError) as refused:
        check_space(made, need + 99, 100)
    assert refused.value.code == "insufficient_storage"
    assert "GiB are free" in refused.value.message


async def test_what_is_read_in_place_needs_room_for_its_voxels_only() -> None:
    archive = MemoryArchive({"a.tif": a_tiff()})
    copied = await plan(archive)
    listing = archive.resolve

    async def in_place(request: IngestRequest, context: Any) -> Any:
        there = await listing(request, context)
        moved = tuple(o.model_copy(update={"location": InboxKey(key="x/a.tif")}) for o in there.objects)
        return type(there)(objects=moved, download_url="")

    archive.resolve = in_place  # type: ignore[method-assign]
    placed = await plan(archive)
    assert copied.stored_bytes_estimate - placed.stored_bytes_estimate == copied.raw_bytes


def test_random_numbers_do_not_touch_the_global_generator() -> None:
    random.seed(1)
    before = random.getstate()
    random_origin((9, 9, 9), (1, 1, 1), 5)
    assert random.getstate() == before
