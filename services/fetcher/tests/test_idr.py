from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from emporter_archives import omero
from emporter_archives.faults import Status, redirect
from emporter_archives.ftp import FtpArchive
from emporter_archives.omero import IMAGE, REFERENCE, Image
from emporter_archives.omero_login import PrivateOmero
from emporter_archives.server import FileServer
from emporter_contracts.errors import RefusedError
from emporter_contracts.plans import FetchPlan, Unit
from emporter_runtime.errors import RateLimitedError
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import (
    ArchiveMisbehavesError,
    ArchiveRefusedError,
    ArchiveUnreachableError,
    FetcherError,
    ForbiddenError,
    NotInArchiveError,
    TooManyVolumesError,
    UrlRefusedError,
)
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources.idr import IdrSource
from fetcher.testing import a_request

Opened = Callable[..., IdrSource]
API = f"/api/v0/m/images/{IMAGE}/"
WEB = f"/webclient/imgData/{IMAGE}/"
PATHS = f"/webgateway/original_file_paths/{IMAGE}/"
FILE = f"{omero.FILES}/{REFERENCE}"


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    made: list[IdrSource] = []

    def open_(**settings: object) -> IdrSource:
        made.append(IdrSource(FetcherSettings.model_validate({"url_allow_private": True, **settings}), Gate(2**28)))
        return made[-1]

    yield open_
    for source in made:
        await source.close()


async def planned(source: IdrSource, source_id: str = str(IMAGE), **fields: object) -> FetchPlan:
    return await make_plan(a_request("idr", source_id, **fields), "idr-x", 1, source)


def codes(plan: FetchPlan) -> list[str]:
    return [caveat.code for caveat in (*plan.caveats, *(c for v in plan.volumes for c in v.caveats))]


async def test_the_reference_image_is_planned_from_api_and_file(archive: FileServer, opened: Opened) -> None:
    data = omero.voxels()
    plan = await planned(opened(**omero.serve(archive, [Image(IMAGE, data)])))
    (volume,) = plan.volumes
    assert (volume.volume, volume.shape, volume.dtype, volume.format) == ("idr-x", data.shape, "uint8", "tiff")
    assert volume.voxel_size.nm == (20.0, 20.0, 20.0)
    assert volume.voxel_size.said_by == ("file", "file", "file")
    assert plan.download_url == archive.url(FILE)
    assert plan.licence.spdx == "CC-BY-4.0"
    assert "FIB-SEM" in plan.modality
    assert any("aba8811" in paper for paper in plan.citation)
    assert any("nmeth.4326" in paper for paper in plan.citation)
    assert codes(plan) == ["resampled"]


async def test_what_the_archive_said_is_kept_and_annotations_are_ordered_pairs(archive: FileServer, opened: Opened) -> None:
    image = Image(IMAGE, omero.voxels(), annotations=[["Gene", "a"], ["Cell Line", "U2OS"], ["Gene", "b"]])
    said = (await planned(opened(**omero.serve(archive, [image])))).archive[str(IMAGE)]
    assert isinstance(said, dict)
    assert said["image"] == image.api()
    assert said["map_annotations"][:3] == [["Gene", "a"], ["Cell Line", "U2OS"], ["Gene", "b"]]  # type: ignore[index]


async def test_no_rendered_picture_is_ever_asked_for(archive: FileServer, opened: Opened) -> None:
    await planned(opened(**omero.serve(archive, [Image(IMAGE, omero.voxels())])))
    assert not [r.path for r in archive.requests if "render" in r.path or "thumbnail" in r.path]


@pytest.mark.parametrize(
    ("unit", "factor"), [("MICROMETER", 1e-3), ("NANOMETER", 1.0), ("ANGSTROM", 10.0), ("MILLIMETER", 1e-6), ("PICOMETER", 1e3)]
)
async def test_lengths_are_converted_by_their_unit(archive: FileServer, opened: Opened, unit: str, factor: float) -> None:
    image = Image(IMAGE, omero.voxels(), unit=(unit, factor), nm=(50.0, 8.0, 4.0))
    settings = omero.serve(archive, [image])
    archive.put(FILE, omero.imagej_tiff(image.voxels, unit="", pixels_per_unit=1, spacing=1))
    size = (await planned(opened(**settings))).volumes[0].voxel_size
    assert size.nm == pytest.approx((50.0, 8.0, 4.0))
    assert size.said_by == ("api", "api", "api")


async def test_a_length_in_pixels_or_without_unit_is_unknown(archive: FileServer, opened: Opened) -> None:
    image = Image(IMAGE, omero.voxels(), unit=("PIXEL", 1.0))
    settings = omero.serve(archive, [image])
    archive.put(FILE, omero.imagej_tiff(image.voxels, unit="", pixels_per_unit=1, spacing=1))
    plan = await planned(opened(**settings))
    assert plan.volumes[0].voxel_size.nm == (None, None, None)
    assert "voxel_size_unknown" in codes(plan)


async def test_a_missing_z_is_unknown_unless_the_file_says_it(archive: FileServer, opened: Opened) -> None:
    image = Image(IMAGE, omero.voxels(), nm=(None, 20.0, 20.0))
    settings = omero.serve(archive, [image])
    assert (await planned(opened(**settings))).volumes[0].voxel_size.nm == (20.0, 20.0, 20.0)
    archive.put(FILE, omero.imagej_tiff(image.voxels, unit="", pixels_per_unit=1, spacing=1))
    size = (await planned(opened(**settings))).volumes[0].voxel_size
    assert size.nm == (None, pytest.approx(20.0), pytest.approx(20.0))
    assert size.said_by == (None, "api", "api")


async def test_the_file_counts_where_the_api_says_otherwise(archive: FileServer, opened: Opened) -> None:
    image = Image(IMAGE, omero.voxels(), said_shape=(10, 31, 47), nm=(40.0, 20.0, 20.0))
    plan = await planned(opened(**omero.serve(archive, [image])))
    assert plan.volumes[0].shape == (9, 31, 47)
    assert plan.volumes[0].voxel_size.nm == (20.0, 20.0, 20.0)
    evidence = [c.evidence for c in plan.volumes[0].caveats if c.code == "archive_disagrees"]
    assert any("voxels along z: 9 by the file, 10" in e for e in evidence)
    assert any("voxel size along z: 20 nm by the file, 40 nm by the api" in e for e in evidence)


@pytest.mark.parametrize(
    "prefix", ["uod/idr/filesets", "/uod/idr/filesets", "idr/filesets", "uod/idr/incoming", "nfs/bioimage/drop"]
)
async def test_every_prefix_of_idr_leads_to_its_public_folder(archive: FileServer, opened: Opened, prefix: str) -> None:
    path = "idr0001-x/a b (1)/50% #2+é.tif"
    settings = omero.serve(archive, [Image(1, omero.voxels(), path=path, prefix=prefix)], files=False)
    url = archive.put(f"{omero.FILES}/idr0001-x/a%20b%20(1)/50%25%20%232+%C3%A9.tif", omero.imagej_tiff(omero.voxels()))
    plan = await planned(opened(**settings), "1")
    assert plan.download_url == url
    assert plan.objects[0].path == path


async def test_a_prefix_nobody_mapped_is_refused_and_an_operator_can_map_it(archive: FileServer, opened: Opened) -> None:
    settings: dict[str, object] = dict(omero.serve(archive, [Image(1, omero.voxels(), prefix="data/private")]))
    with pytest.raises(NotInArchiveError) as refused:
        await planned(opened(**settings), "1")
    assert "EMPORTER_IDR_PREFIXES" in refused.value.hint
    mapped = opened(**settings, idr_prefixes={"data/private": archive.url(omero.FILES)})
    assert (await planned(mapped, "1")).volumes[0].shape == (9, 31, 47)


async def test_a_path_that_leads_out_of_the_folder_is_refused(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [Image(1, omero.voxels(), path="../../secret.tif")], files=False)
    with pytest.raises(NotInArchiveError):
        await planned(opened(**settings), "1")


async def test_the_web_client_answers_where_the_api_is_broken(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [Image(IMAGE, omero.voxels(), nm=(None, 20.0, 20.0))])
    archive.put(FILE, omero.imagej_tiff(omero.voxels(), unit="", pixels_per_unit=1, spacing=1))
    archive.always(API, Status(500))
    plan = await planned(opened(**settings))
    assert plan.volumes[0].voxel_size.nm == (None, pytest.approx(20.0), pytest.approx(20.0))
    assert "api_down" not in codes(plan)


async def test_an_api_that_is_down_does_not_keep_the_reference_image_away(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [Image(IMAGE, omero.voxels())])
    for path in list(archive.files):
        if path != FILE:
            archive.always(path, Status(502))
    plan = await planned(opened(**settings))
    assert plan.volumes[0].voxel_size.nm == (20.0, 20.0, 20.0)
    assert plan.licence.spdx == "CC-BY-4.0"
    assert plan.modality == "FIB-SEM"
    assert "api_down" in codes(plan)
    assert "502" in next(c.evidence for c in plan.caveats if c.code == "api_down")


async def test_without_a_known_file_an_api_that_is_down_is_waited_for(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [Image(5, omero.voxels(), path="idr0001-x/a.tif")])
    for path in ("/api/v0/m/images/5/", "/webclient/imgData/5/"):
        archive.always(path, Status(502))
    with pytest.raises(ArchiveUnreachableError):
        await planned(opened(**settings), "5")
    by_user = opened(**settings)
    plan = await planned(by_user, "5", parameters={"file": "idr0001-x/a.tif"})
    assert plan.volumes[0].shape == (9, 31, 47)


async def test_paths_the_api_does_not_give_are_taken_from_the_table(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [Image(IMAGE, omero.voxels())])
    archive.always(PATHS, Status(403))
    plan = await planned(opened(**settings))
    assert plan.objects[0].path == REFERENCE
    omero.serve(archive, [Image(6, omero.voxels())])
    omero.put_json(archive, "/webgateway/original_file_paths/6/", {"repo": [], "client": []})
    with pytest.raises(NotInArchiveError):
        await planned(opened(**settings), "6")


async def test_an_image_idr_does_not_have_is_named(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [])
    with pytest.raises(NotInArchiveError) as missing:
        await planned(opened(**settings), "7")
    assert "images/7" in missing.value.message


async def test_a_busy_server_is_waited_for_as_long_as_it_says(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [Image(8, omero.voxels())])
    omero.put_json(archive, "/api/v0/m/images/8/", {"ConcurrencyException": {"backOff": 90_000}})
    omero.put_json(archive, "/webclient/imgData/8/", {"ConcurrencyException": {"backOff": 90_000}})
    with pytest.raises(RateLimitedError) as limited:
        await planned(opened(**settings), "8")
    assert limited.value.retry_after == 90.0


@pytest.mark.parametrize(
    "body", [b"<html>maintenance</html>", b"[]", b'{"Exception": "no pixels"}', b"{" * 100_000, b'{"data": []}']
)
async def test_answers_that_are_no_image_are_refused_and_never_guessed_at(
    archive: FileServer, opened: Opened, body: bytes
) -> None:
    settings = omero.serve(archive, [Image(9, omero.voxels())])
    archive.put("/api/v0/m/images/9/", body, etag=None, modified=None)
    del archive.files["/webclient/imgData/9/"]
    with pytest.raises((ArchiveMisbehavesError, ArchiveRefusedError)):
        await planned(opened(**settings), "9")


async def test_several_images_are_volumes_of_one_job(archive: FileServer, opened: Opened) -> None:
    images = [Image(n, omero.voxels(seed=n), path=f"idr0001-x/{n}.tif") for n in (11, 12, 13)]
    plan = await planned(opened(**omero.serve(archive, images)), "12,11,13,11")
    assert [v.volume for v in plan.volumes] == ["idr-x--12", "idr-x--11", "idr-x--13"]
    assert [plan.objects[v.objects[0]].path for v in plan.volumes] == ["idr0001-x/12.tif", "idr0001-x/11.tif", "idr0001-x/13.tif"]


async def test_a_dataset_is_its_images_over_all_pages(archive: FileServer, opened: Opened) -> None:
    images = [Image(n, omero.voxels(seed=n), path=f"idr0001-x/{n}.tif") for n in range(20, 25)]
    settings = omero.serve(archive, images)
    omero.put_dataset(archive, 10740, [image.number for image in images])
    plan = await planned(opened(**settings), "dataset:10740")
    assert [v.volume for v in plan.volumes] == [f"idr-x--{n}" for n in range(20, 25)]


async def test_a_dataset_of_more_images_than_a_job_may_hold_is_refused_at_once(archive: FileServer, opened: Opened) -> None:
    settings = omero.serve(archive, [])
    omero.put_dataset(archive, 1, list(range(1, 201)), total=575)
    with pytest.raises(TooManyVolumesError) as refused:
        await planned(opened(**settings), "dataset:1")
    assert "575" in refused.value.message
    assert len(archive.requests) == 1


@pytest.mark.parametrize("source_id", ["", "x", "1;2", "dataset:", "-1", "1,,2", "project:1", "1e5"])
async def test_what_names_no_image_is_refused(opened: Opened, source_id: str) -> None:
    with pytest.raises(RefusedError):
        await opened().resolve(a_request("idr", source_id or "?"), None)  # type: ignore[arg-type]


async def test_ftp_stands_in_where_https_fails_and_a_broken_transfer_resumes(
    archive: FileServer, opened: Opened, tmp_path: Path
) -> None:
    data = omero.imagej_tiff(omero.voxels((6, 400, 500)))
    with FtpArchive(tmp_path) as ftp:
        settings: dict[str, object] = dict(omero.serve(archive, [Image(IMAGE, omero.voxels((6, 400, 500)))]))
        ftp.put(FILE, data)
        archive.always(FILE, Status(503))
        source = opened(**{**settings, "idr_ftp_url": ftp.url(omero.FILES)})
        plan = await planned(source)
        assert plan.download_url == plan.objects[0].url == ftp.url(FILE)
        before = ftp.sent
        ftp.drops.append(500_000)
        stored = await store_unit(plan, Unit(0, 0), source, Objects.in_memory())
        assert stored.sha256 == hashlib.sha256(data).hexdigest()
        assert [c for c in ftp.asked("REST") if int(c.split(" ")[1]) >= 400_000]
        assert ftp.sent - before == len(data)


async def test_https_that_dies_in_mid_file_is_continued_over_ftp_where_it_is_the_same_version(
    archive: FileServer, opened: Opened, tmp_path: Path
) -> None:
    data = omero.imagej_tiff(omero.voxels((6, 400, 500)))
    with FtpArchive(tmp_path) as ftp:
        settings: dict[str, object] = dict(omero.serve(archive, [Image(IMAGE, omero.voxels((6, 400, 500)))]))
        ftp.put(FILE, data)
        source = opened(**{**settings, "idr_ftp_url": ftp.url(omero.FILES)})
        plan = await planned(source)
        assert plan.objects[0].url == archive.url(FILE)
        archive.always(FILE, Status(503))
        stored = await store_unit(plan, Unit(0, 0), source, Objects.in_memory())
        assert stored.sha256 == hashlib.sha256(data).hexdigest()
        ftp.put(FILE, data, modified="Mon, 11 Jun 2018 22:28:00 GMT")
        with pytest.raises(Exception, match="changed since it was planned"):
            await store_unit(plan, Unit(0, 0), source, Objects.in_memory())


@pytest.fixture
def private() -> Iterator[PrivateOmero]:
    with PrivateOmero("root", "s&cret=ü") as server:
        yield server


def a_login(server: PrivateOmero, password: str = "s&cret=ü") -> dict[str, str]:
    return {**omero.serve(server, [Image(IMAGE, omero.voxels())]), "idr_user": "root", "idr_password": password}


async def test_an_omero_that_answers_nobody_is_logged_in_to_once_and_asked(private: PrivateOmero, opened: Opened) -> None:
    plan = await planned(opened(**a_login(private)))
    assert codes(plan) == ["resampled"]
    assert "map_annotations" in plan.archive[str(IMAGE)]  # type: ignore[operator]
    assert private.logins == 1
    sent = [request for request in private.requests if "cookie" in request.headers]
    assert all(request.path.startswith(("/api/", "/web")) for request in sent)
    assert "s&cret" not in plan.model_dump_json()


async def test_a_session_that_ran_out_is_made_again(private: PrivateOmero, opened: Opened) -> None:
    source = opened(**a_login(private))
    await planned(source)
    private.sessions.clear()
    await planned(source)
    assert private.logins == 2


async def test_a_login_that_is_refused_says_whose_it_is_and_never_the_password(private: PrivateOmero, opened: Opened) -> None:
    source = opened(**a_login(private, "wrong"))
    with pytest.raises(ForbiddenError, match="refuses the login of 'root'") as refused:
        await source._api.image(IMAGE)
    assert "EMPORTER_IDR_PASSWORD" in refused.value.hint
    assert "wrong" not in str(refused.value)


async def test_without_a_login_a_private_omero_is_forbidden(private: PrivateOmero, opened: Opened) -> None:
    source = opened(**{**a_login(private), "idr_user": ""})
    with pytest.raises(FetcherError):
        await source._api.client_paths(IMAGE)
    assert private.logins == 0


async def test_a_session_never_follows_a_redirect_to_another_server(
    private: PrivateOmero, archive: FileServer, opened: Opened
) -> None:
    source = opened(**a_login(private))
    await planned(source)
    elsewhere = archive.put("/elsewhere", b"{}")
    private.always(f"/webgateway/original_file_paths/{IMAGE}/", redirect(elsewhere))
    with pytest.raises(NotInArchiveError):
        await source._api.client_paths(IMAGE)
    (request,) = archive.asked("/elsewhere")
    assert "cookie" not in request.headers


async def test_a_password_is_not_sent_in_clear_text_over_the_internet(opened: Opened) -> None:
    source = opened(url_allow_private=False, idr_base_url="http://omero.example.org", idr_user="root", idr_password="x")
    with pytest.raises(UrlRefusedError, match="for everybody to read"):
        await source._api.client_paths(IMAGE)
