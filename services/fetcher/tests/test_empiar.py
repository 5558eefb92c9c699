from __future__ import annotations

import gzip
import hashlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from emporter_archives import empiar
from emporter_archives.empiar import NUMBER, SHAPE
from emporter_archives.epfl import multipage
from emporter_archives.faults import Status
from emporter_archives.ftp import FtpArchive
from emporter_archives.server import FileServer
from emporter_contracts.errors import RefusedError
from emporter_contracts.geometry import Box
from emporter_contracts.plans import FetchPlan, Unit
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.protocol import Hints
from emporter_readers.testing_mrc import mrc_file
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import ArchiveMisbehavesError, ForbiddenError, NotInArchiveError, TooManyVolumesError
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources.empiar import EmpiarSource
from fetcher.sources.empiar_files import grouped
from fetcher.sources.packed import PackedSource, elsewhere
from fetcher.testing import a_request
from fetcher.transports.listing import index_entries

Opened = Callable[..., EmpiarSource]
API = f"/empiar/api/entry/EMPIAR-{NUMBER}/"
FOLDER = f"{empiar.FILES}/{NUMBER}/data/"


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    made: list[EmpiarSource] = []

    def open_(**settings: object) -> EmpiarSource:
        made.append(EmpiarSource(FetcherSettings.model_validate({"url_allow_private": True, **settings}), Gate(2**28)))
        return made[-1]

    yield open_
    for source in made:
        await source.close()


async def planned(source: EmpiarSource, source_id: str = f"EMPIAR-{NUMBER}", **fields: object) -> FetchPlan:
    return await make_plan(a_request("empiar", source_id, **fields), "empiar-x", 1, source)


def evidence(plan: FetchPlan, code: str) -> list[str]:
    return [c.evidence for c in (*plan.caveats, *(c for v in plan.volumes for c in v.caveats)) if c.code == code]


def an_mrc(shape: tuple[int, int, int] = (3, 8, 9)) -> bytes:
    return mrc_file(np.arange(np.prod(shape), dtype=np.int16).reshape(shape))


async def test_slices_become_one_volume_in_their_order_with_z_from_the_files(archive: FileServer, opened: Opened) -> None:
    plan = await planned(opened(**empiar.serve(archive)))
    (volume,) = plan.volumes
    assert (volume.volume, volume.shape, volume.dtype, volume.format) == ("empiar-x", SHAPE, "uint8", "dm")
    assert volume.voxel_size.nm == pytest.approx((50.0, 7.998, 7.998))
    assert volume.voxel_size.said_by == ("file", "file", "file")
    assert [plan.objects[n].path for n in volume.objects] == [f"data/{name}" for name in empiar.names(SHAPE[0])]
    assert plan.licence.spdx == "CC0-1.0"
    assert plan.modality == "SBF-SEM"
    assert any(f"10.6019/EMPIAR-{NUMBER}" in paper for paper in plan.citation)


async def test_the_voxels_are_the_slices_wherever_their_data_begins(archive: FileServer, opened: Opened) -> None:
    settings = empiar.serve(archive)
    source = opened(**settings)
    plan = await planned(source)
    files = [archive.files[f"{empiar.FILES}/{NUMBER}/{o.path}"].content for o in plan.objects]
    assert len({len(file) for file in files}) > 1
    sources = [MemorySource(o.path, file[0 : len(file)]) for o, file in zip(plan.objects, files, strict=True)]
    reader = open_volume(sources, discover(sources, Hints())[0])
    np.testing.assert_array_equal(reader.read(Box.whole(SHAPE)), empiar.voxels())


async def test_an_entry_may_be_asked_for_by_number_and_is_found_by_its_accession(archive: FileServer, opened: Opened) -> None:
    plan = await planned(opened(**empiar.serve(archive)), NUMBER)
    assert plan.description == "Developing retina in zebrafish larval eye."
    assert next(r.path for r in archive.requests) == API


async def test_what_lies_about_is_passed_over_never_opened_and_told(archive: FileServer, opened: Opened) -> None:
    plan = await planned(opened(**empiar.serve(archive)))
    skipped = plan.archive["skipped"]
    assert isinstance(skipped, dict)
    assert set(skipped) == {"data/F57-8_test1.xml.gz", f"data/{empiar.MIPMAPS}/"}
    assert not [r.path for r in archive.requests if "mipmaps" in r.path]
    assert any("F57-8_test1.xml.gz" in e or "trakem2" in e for e in evidence(plan, "unaligned"))


async def test_the_files_count_where_the_api_says_otherwise(archive: FileServer, opened: Opened) -> None:
    said = empiar.entry(
        empiar.image_set(
            image_width="5628", image_height="5632", num_images_or_tilt_series="17", voxel_type="SIGNED 16 BIT INTEGER"
        )
    )
    plan = await planned(opened(**empiar.serve(archive, said=said)))
    assert plan.volumes[0].shape == SHAPE
    told = evidence(plan, "archive_disagrees")
    assert [e.split(" by the file")[0] for e in told] == [
        "voxels along z: 5", "voxels along y: 44", "voxels along x: 36", "voxel type: uint8",
    ]  # fmt: skip
    about = [caveat.about for caveat in plan.volumes[0].caveats if caveat.code == "archive_disagrees"]
    assert about == ["shape", "shape", "shape", None], "the gate of shapes is told which of them are of the shape"


async def test_pixel_sizes_of_the_api_are_angstrom_and_z_is_never_guessed_from_text(archive: FileServer, opened: Opened) -> None:
    plain = {f"data/slice_{n}.tif": multipage(plane[np.newaxis]) for n, plane in enumerate(empiar.voxels())}
    said = empiar.entry(empiar.image_set(data_format="TIFF", pixel_width="80.0", pixel_height=65))
    plan = await planned(opened(**empiar.serve(archive, plain, said)))
    assert plan.volumes[0].voxel_size.nm == (None, 6.5, 8.0)
    assert plan.volumes[0].voxel_size.said_by == (None, "api", "api")
    assert evidence(plan, "voxel_size_unknown") == ["nobody says it along z"]
    assert "99nm per section" in str(plan.archive["entry"])


async def test_image_sets_are_volumes_of_their_own_and_one_can_be_chosen(archive: FileServer, opened: Opened) -> None:
    files = empiar.tree(folder="left") | empiar.tree(empiar.voxels(seed=2)[:4], folder="right")
    said = empiar.entry(
        empiar.image_set(name="l", directory="left"), empiar.image_set(name="r", directory="/right/", num_images_or_tilt_series=4)
    )
    settings = empiar.serve(archive, files, said)
    plan = await planned(opened(**settings))
    assert [v.shape[0] for v in plan.volumes] == [5, 4]
    assert [v.volume for v in plan.volumes] == [
        f"empiar-x--{side}-f57-8_test1_3vbsed_slice-{n}" for n, side in enumerate(("left", "right"))
    ]
    assert evidence(plan, "archive_disagrees") == []
    only = await planned(opened(**settings), parameters={"imageset": 1})
    assert [v.shape[0] for v in only.volumes] == [4]
    with pytest.raises(RefusedError) as refused:
        await planned(opened(**settings), parameters={"imageset": 2})
    assert "0: l, 1: r" in refused.value.hint


async def test_files_that_are_volumes_themselves_are_not_stacked(archive: FileServer, opened: Opened) -> None:
    files = {f"data/tomo_{n}.mrc": an_mrc() for n in range(3)}
    said = empiar.entry(empiar.image_set(data_format="MRC", image_width=9, image_height=8, voxel_type="SIGNED 16 BIT INTEGER"))
    plan = await planned(opened(**empiar.serve(archive, files, said)))
    assert [v.shape for v in plan.volumes] == [(3, 8, 9)] * 3
    assert len({v.volume for v in plan.volumes}) == 3
    assert not evidence(plan, "unaligned")
    some = await planned(opened(**empiar.serve(archive, files, said)), parameters={"files": "tomo_2.mrc"})
    assert [o.path for o in some.objects] == ["data/tomo_2.mrc"]
    pages = {f"data/stack_{n}.tif": multipage(empiar.voxels()) for n in range(2)}
    plan = await planned(opened(**empiar.serve(archive, pages, empiar.entry(empiar.image_set(data_format="TIFF")))))
    assert [v.shape for v in plan.volumes] == [SHAPE, SHAPE]


async def test_a_compressed_map_is_unpacked_on_the_way_and_a_compressed_slice_is_told(
    archive: FileServer, opened: Opened
) -> None:
    files = {"data/emd_1.map.gz": gzip.compress(an_mrc()), "data/emd_2.map": an_mrc(), "data/s_1.tif.gz": gzip.compress(b"x")}
    said = empiar.entry(empiar.image_set(data_format="MRC", image_width=9, image_height=8, voxel_type="SIGNED 16 BIT INTEGER"))
    source = PackedSource(opened(**empiar.serve(archive, files, said)), elsewhere, 2**30)
    plan = await make_plan(a_request("empiar", NUMBER), "empiar-x", 1, source)
    assert [v.shape for v in plan.volumes] == [(3, 8, 9)] * 2
    assert [o.path for o in plan.objects] == ["data/emd_1.map", "data/emd_2.map"]
    assert "compressed slice" in plan.archive["skipped"]["data/s_1.tif.gz"]  # type: ignore[index,call-overload,operator]
    stored = await store_unit(plan, Unit(0, 0), source, Objects.in_memory())
    assert stored.sha256 == hashlib.sha256(an_mrc()).hexdigest()
    await source.close()


async def test_more_volumes_than_a_job_may_hold_are_refused_with_a_choice(archive: FileServer, opened: Opened) -> None:
    files = {f"data/tomo_{n}.mrc": an_mrc() for n in range(65)}
    with pytest.raises(TooManyVolumesError) as refused:
        await planned(opened(**empiar.serve(archive, files, empiar.entry(empiar.image_set(data_format="MRC")))))
    assert "files" in refused.value.hint


async def test_previews_beside_the_data_are_not_taken_for_it(archive: FileServer, opened: Opened) -> None:
    files = empiar.tree() | {f"data/preview_{n}.png": b"\x89PNG\r\n\x1a\n" for n in range(5)}
    plan = await planned(opened(**empiar.serve(archive, files)))
    assert len(plan.volumes) == 1
    assert "data/preview_0.png" in plan.archive["skipped"]  # type: ignore[operator]


async def test_files_of_another_format_than_the_entry_names_are_taken_and_told(archive: FileServer, opened: Opened) -> None:
    said = empiar.entry(empiar.image_set(data_format="MRC"))
    plan = await planned(opened(**empiar.serve(archive, said=said)))
    assert plan.volumes[0].shape == SHAPE
    assert "MRC by the API" in evidence(plan, "archive_disagrees")[0]


async def test_an_api_that_is_down_does_not_keep_the_files_away(archive: FileServer, opened: Opened) -> None:
    settings = empiar.serve(archive)
    archive.always(API, Status(503))
    plan = await planned(opened(**settings))
    assert plan.volumes[0].shape == SHAPE
    assert "503" in evidence(plan, "api_down")[0]
    assert plan.licence.spdx == "CC0-1.0"


async def test_entries_that_are_missing_or_not_released_are_refused(archive: FileServer, opened: Opened) -> None:
    settings = empiar.serve(archive, said=empiar.entry(status="HPUB"))
    with pytest.raises(ForbiddenError):
        await planned(opened(**settings))
    empiar.put_entry(archive, empiar.entry(number="10001"))
    with pytest.raises(NotInArchiveError):
        await planned(opened(**settings))
    with pytest.raises(NotInArchiveError):
        await planned(opened(**settings), "99999")


async def test_an_image_set_that_points_out_of_its_entry_is_refused(archive: FileServer, opened: Opened) -> None:
    settings = empiar.serve(archive, said=empiar.entry(empiar.image_set(directory="../../other/data")))
    with pytest.raises(ArchiveMisbehavesError):
        await planned(opened(**settings))


async def test_an_entry_without_images_says_what_it_has(archive: FileServer, opened: Opened) -> None:
    with pytest.raises(NotInArchiveError) as refused:
        await planned(opened(**empiar.serve(archive, {"data/notes.txt": b"x"})))
    assert "notes.txt" in refused.value.hint


async def test_a_tree_without_end_is_given_up(archive: FileServer, opened: Opened) -> None:
    settings = empiar.serve(archive)
    at = FOLDER
    for _ in range(20):
        archive.put(at, empiar.index_page(at, ["deeper/"]), etag=None, modified=None)
        at += "deeper/"
    with pytest.raises(ArchiveMisbehavesError):
        await planned(opened(**settings))


@pytest.mark.parametrize("source_id", ["EMPIAR-", "EMPIAR-1", "11759/data", "EMD-11759", "x11759", "011759"])
async def test_what_is_no_entry_is_refused(opened: Opened, source_id: str) -> None:
    with pytest.raises(RefusedError):
        await opened().resolve(a_request("empiar", source_id), None)  # type: ignore[arg-type]


@pytest.mark.parametrize("without", [set(), {"MLSD"}])
async def test_folders_and_files_are_had_by_ftp_where_https_fails(
    archive: FileServer, opened: Opened, tmp_path: Path, without: set[str]
) -> None:
    settings: dict[str, object] = dict(empiar.serve(archive))
    for path in [path for path in archive.files if path.startswith(empiar.FILES)]:
        archive.always(path, Status(502))
    with FtpArchive(tmp_path) as ftp:
        ftp.without = without
        for path, data in empiar.tree().items():
            ftp.put(f"{empiar.FILES}/{NUMBER}/{path}", data)
        source = opened(**{**settings, "empiar_ftp_url": ftp.url(empiar.FILES)})
        plan = await planned(source)
        assert plan.volumes[0].shape == SHAPE
        assert all(o.url.startswith("ftp://") for o in plan.objects)
        assert f"data/{empiar.MIPMAPS}/" in plan.archive["skipped"]  # type: ignore[operator]
        stored = await store_unit(plan, Unit(2, 0), source, Objects.in_memory())
        content = archive.files[f"{empiar.FILES}/{NUMBER}/{plan.objects[2].path}"].content
        assert stored.sha256 == hashlib.sha256(content[0 : len(content)]).hexdigest()


def test_an_index_page_is_read_for_what_lies_in_the_folder_only() -> None:
    page = b"""<a href="?C=N;O=D">Name</a> <a href="../">up</a> <a href="/">root</a> <a href="/pub/">parent</a> <a href="/pub/x/">here</a>
    <a href="a%20b.dm3">a</a> <a HREF='sub/'>s</a> <a href="/pub/x/absolute.tif">abs</a> <a href="https://other/pub/x/far.tif">far</a>
    <a href="http://archive/pub/x/near.tif">near</a> <a href="%2e%2e/up.tif">e</a> <a href="..%2fup.tif">e</a> <a href="a/b.tif">deep</a>
    <a href="javascript:alert(1)">j</a> <a href="mailto:x@y">m</a> <a href="q.tif?download=1">q</a> <a href="#top">t</a> <a>none</a>
    <a href="a%20b.dm3">twice</a> <a href="bad%ff.tif">bad</a> <a href="line%0Abreak.tif">l</a> <a href="http://[bad/x.tif">v6</a>"""
    found = index_entries("http://archive/pub/x/", page)
    assert [(e.name, e.folder) for e in found] == [
        ("a b.dm3", False), ("sub", True), ("absolute.tif", False), ("near.tif", False),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("paths", "groups"),
    [
        (["a_1.tif", "a_2.tif", "a_10.tif"], [["a_1.tif", "a_2.tif", "a_10.tif"]]),
        (["g1_s1.tif", "g1_s2.tif", "g2_s1.tif", "g2_s2.tif"], [["g1_s1.tif", "g1_s2.tif"], ["g2_s1.tif", "g2_s2.tif"]]),
        (["s1_2227_8bit.tif", "s2_2228_8bit.tif"], [["s1_2227_8bit.tif", "s2_2228_8bit.tif"]]),
        (["s1_8bit.tif", "s2_8bit.tif"], [["s1_8bit.tif", "s2_8bit.tif"]]),
        (["x/s1.tif", "y/s1.tif", "x/s2.tif"], [["x/s1.tif", "x/s2.tif"], ["y/s1.tif"]]),
        (["s1.tif", "s2.dm3"], [["s1.tif"], ["s2.dm3"]]),
        (["t1.mrc", "t2.mrc"], [["t1.mrc"], ["t2.mrc"]]),
        (["only.tif"], [["only.tif"]]),
    ],
)
def test_files_that_differ_in_the_number_of_their_slice_are_one_series(paths: list[str], groups: list[list[str]]) -> None:
    assert [list(group.paths) for group in grouped(paths)] == groups
