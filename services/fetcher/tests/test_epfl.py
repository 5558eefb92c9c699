from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable

import pytest

from emporter_archives import epfl
from emporter_archives.server import FileServer
from emporter_contracts.errors import RefusedError
from emporter_contracts.events import RawObjectStored
from emporter_contracts.plans import FetchPlan
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import ChecksumMismatchError, NotInArchiveError, PrivateAddressError
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources.epfl import FILES, EpflSource, KnownFile
from fetcher.testing import a_request
from fetcher.verifying import finish

Opened = Callable[..., EpflSource]


@pytest.fixture
async def opened(archive: FileServer) -> AsyncIterator[Opened]:
    made: list[EpflSource] = []

    def open_(**files: KnownFile) -> EpflSource:
        settings = FetcherSettings(epfl_base_url=epfl.serve(archive), url_allow_private=True)
        made.append(EpflSource(settings, Gate(2**28), {**FILES, **files}))
        return made[-1]

    yield open_
    for source in made:
        await source.close()


async def planned(source: EpflSource, name: str) -> FetchPlan:
    return await make_plan(a_request("epfl", name), f"epfl-{name}", 1, source)


async def entries(plan: FetchPlan, source: EpflSource, objects: Objects) -> dict[str, RawObjectStored]:
    stored = [await store_unit(plan, unit, source, objects) for unit in plan.units()]
    return {
        s.unit: RawObjectStored(job=plan.job, revision=1, generation=1, unit=s.unit, bytes=s.bytes, sha256=s.sha256)
        for s in stored
    }


async def test_the_blank_before_the_folders_name_stays_quoted_once(archive: FileServer, opened: Opened) -> None:
    plan = await planned(opened(), "volumedata")
    assert {r.path for r in archive.requests} == {f"{epfl.FOLDER}volumedata.tif"}
    assert "/%20ElectronMicroscopy_Hippocampus/volumedata.tif" in plan.download_url


async def test_the_page_says_the_voxel_size_and_what_is_not_known_is_said_to_be(opened: Opened) -> None:
    plan = await planned(opened(), "training")
    volume = plan.volumes[0]
    assert volume.volume == "epfl-training"
    assert volume.shape == (12, 48, 64)
    assert volume.dtype == "uint8"
    assert volume.voxel_size.nm == (5.0, 5.0, 5.0)
    assert volume.voxel_size.said_by == ("page", "page", "page")
    assert "voxel_size_unknown" not in {c.code for c in volume.caveats}
    assert not plan.licence.known
    assert plan.citation
    assert plan.modality == "FIB-SEM"


async def test_groundtruth_is_the_labels_of_its_image(opened: Opened) -> None:
    volume = (await planned(opened(), "testing_groundtruth")).volumes[0]
    assert (volume.role, volume.labels_of) == ("labels", "epfl-testing")
    assert "role_guessed" not in {c.code for c in volume.caveats}
    assert (await planned(opened(), "testing")).volumes[0].role == "image"


async def test_a_name_epfl_does_not_have_is_refused_with_those_it_has(opened: Opened) -> None:
    with pytest.raises(RefusedError) as refused:
        await planned(opened(), "volumedata.tif")
    assert "volumedata, training" in refused.value.hint


async def test_a_file_that_is_no_longer_there_is_named(archive: FileServer, opened: Opened) -> None:
    source = opened()
    del archive.files[f"{epfl.FOLDER}training.tif"]
    with pytest.raises(NotInArchiveError) as missing:
        await planned(source, "training")
    assert "training.tif" in missing.value.message


async def test_the_known_md5_is_checked(archive: FileServer, opened: Opened) -> None:
    source = opened()
    data = archive.files[f"{epfl.FOLDER}volumedata.tif"].content[0 : 10**6]
    right = opened(volumedata=KnownFile("", bytes=len(data), md5=hashlib.md5(data).hexdigest()))
    objects = Objects.in_memory()
    plan = await planned(right, "volumedata")
    manifest = await finish(plan, await entries(plan, right, objects), objects, right)
    assert manifest.objects[0].sha256 == hashlib.sha256(data).hexdigest()
    wrong = opened(volumedata=KnownFile("", bytes=len(data), md5="0" * 32))
    plan = await planned(wrong, "volumedata")
    with pytest.raises(ChecksumMismatchError) as mismatch:
        await finish(plan, await entries(plan, wrong, objects), objects, wrong)
    assert mismatch.value.code == "checksum_mismatch"
    assert "volumedata.tif" in mismatch.value.message
    assert source is not wrong


async def test_a_file_of_another_size_than_the_md5_is_of_gets_a_caveat(opened: Opened) -> None:
    plan = await planned(opened(), "volumedata")
    assert plan.objects[0].checksum is None
    assert [c.code for c in plan.caveats] == ["archive_disagrees"]
    assert FILES["volumedata"].md5 == "14fc2fb6a5061ea4ea9b69a090c327c9"


async def test_an_archive_inside_ones_own_network_needs_the_operators_word(archive: FileServer) -> None:
    source = EpflSource(FetcherSettings(epfl_base_url=epfl.serve(archive)), Gate(2**28))
    with pytest.raises(PrivateAddressError):
        await planned(source, "training")
    await source.close()
