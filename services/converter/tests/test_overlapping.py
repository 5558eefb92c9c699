"""What a conversion may do while its raw objects are still on their way."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from converter import overlapping, sources
from converter.errors import NotFetchedYetError
from converter.overlapping import (
    FIRST_LOOK_SECONDS,
    LONGEST_LOOK_SECONDS,
    LOOK_SECONDS,
    STEPS,
    Arrivals,
    once_there,
    ready_tasks,
    steps,
    thinned,
    with_readiness,
)
from converter.sources import Awaited, open_early
from converter.testing import a_volume, run_of, tissue
from converter.testing_fleet import cut_small
from emporter_contracts import plans, storage
from emporter_contracts.commands import Output
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import ConversionPlan, FetchPlan, PlannedObject, PlannedVolume, Segments, Unit
from emporter_readers.array import ArrayReader, FileSource
from emporter_readers.discover import discover, open_volume
from emporter_readers.protocol import Hints
from emporter_readers.testing_mrc import mrc_file
from emporter_runtime.errors import TransientError
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

SEGMENT = 2**14
SHAPE = (64, 64, 128)
OUTPUT = Output(chunk=(8, 32, 32), shard=(8, 32, 64))


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects.open(file_store(tmp_path / "store"))


@pytest.fixture(autouse=True)
def _small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (plans, sources, overlapping):
        monkeypatch.setattr(module, "SEGMENT_BYTES", SEGMENT)


class Archive:
    """Files of an archive that arrive unit by unit, in the order of `paths`; as a volume they stand in the order of their names."""

    def __init__(self, objects: Objects, paths: list[Path]) -> None:
        self._objects = objects
        self._data = [path.read_bytes() for path in paths]
        files = [FileSource(path.name, path) for path in paths]
        by_name = sorted(range(len(paths)), key=lambda n: paths[n].name)
        found = discover([files[n] for n in by_name], Hints())[0]
        held_as = tuple(by_name[n] for n in found.objects)
        volume = PlannedVolume(
            volume="url-brain", name="brain", format=found.format, objects=held_as, select=found.select, axes=found.axes,
            shape=found.shape, dtype=found.dtype, voxel_size=VoxelSize(), role="image", source_shape=found.shape,
        )  # fmt: skip
        held = tuple(
            PlannedObject(path=path.name, url=path.name, location=Segments(origin=f"o{n}"), bytes=len(self._data[n]), version="1")
            for n, path in enumerate(paths)
        )
        run = run_of(open_volume([files[n] for n in held_as], found), volume, OUTPUT)
        self.request = run.request
        self.fetch: FetchPlan = run.fetch.model_copy(update={"objects": held})
        self.conversion: ConversionPlan = with_readiness(
            cut_small(run.plan(), (8, 64, 128)), self.fetch, {"url-brain": run.reader}
        )

    def arrive(self, unit: Unit) -> None:
        start = unit.segment * SEGMENT
        data = self._data[unit.obj][start : start + SEGMENT]
        self._objects.put_sync(storage.RAW, storage.segment(f"o{unit.obj}", unit.segment), data)

    def reader(self, awaited: Awaited) -> Any:
        return open_early(self._objects, self.fetch, "url-brain", {}, awaited)


def one_file(folder: Path, voxels: NDArray[Any]) -> list[Path]:
    path = folder / "brain.mrc"
    path.write_bytes(mrc_file(voxels.astype("int16")))
    return [path]


def slices(folder: Path, voxels: NDArray[Any]) -> list[Path]:
    paths = [folder / f"{z:03}.tif" for z in range(len(voxels))]
    for path, plane in zip(paths, voxels, strict=True):
        tifffile.imwrite(path, plane, photometric="minisblack", compression="zlib")
    return paths


def slices_of_which_the_first_come_late(folder: Path, voxels: NDArray[Any]) -> list[Path]:
    paths = slices(folder, voxels)
    return paths[8:32] + paths[:8] + paths[32:]


@pytest.mark.parametrize("stored_as", [one_file, slices, slices_of_which_the_first_come_late])
def test_whenever_a_task_is_said_to_be_ready_all_its_voxels_are_there(objects: Objects, tmp_path: Path, stored_as: Any) -> None:
    voxels = tissue(SHAPE)
    archive = Archive(objects, stored_as(tmp_path, voxels))
    (volume,) = archive.conversion.volumes
    level, units = volume.levels[0], list(archive.fetch.units())
    assert len(volume.ready) > 3
    assert volume.ready[-1] == (len(units), level.tasks)
    read = 0
    for arrived, unit in enumerate(units, start=1):
        archive.arrive(unit)
        ready = ready_tasks(volume, arrived)
        for n in range(read, ready):
            box = level.box(n)
            np.testing.assert_array_equal(archive.reader(Awaited()).read(box), voxels[box.slices()])
        read = max(read, ready)
    assert read == level.tasks


def test_what_is_not_there_yet_is_no_damage_and_no_zeros(objects: Objects, tmp_path: Path) -> None:
    archive = Archive(objects, one_file(tmp_path, tissue(SHAPE)))
    level, awaited = archive.conversion.volumes[0].levels[0], Awaited()
    assert once_there(awaited, lambda: archive.reader(awaited)) is None
    assert awaited
    archive.arrive(Unit(0, 0))
    reader = archive.reader(Awaited())
    with pytest.raises(NotFetchedYetError) as caught:
        reader.read(level.box(level.tasks - 1))
    assert isinstance(caught.value, TransientError)


def test_an_error_that_waiting_cannot_mend_is_raised_at_once() -> None:
    def broken() -> None:
        raise NotFetchedYetError("of something else")

    with pytest.raises(NotFetchedYetError):
        once_there(Awaited(), broken)


def test_a_reader_that_cannot_tell_where_its_voxels_lie_waits_for_all_of_them(objects: Objects, tmp_path: Path) -> None:
    archive = Archive(objects, one_file(tmp_path, tissue(SHAPE)))
    (volume,) = archive.conversion.volumes
    every = sum(planned.segments for planned in archive.fetch.objects)
    told = steps(archive.fetch, archive.fetch.volumes[0], volume, ArrayReader(tissue(SHAPE)))
    assert told == ((every, volume.levels[0].tasks),)


def test_a_plan_of_earlier_software_waits_for_the_manifest() -> None:
    plan = run_of(ArrayReader(tissue(SHAPE)), a_volume(SHAPE)).plan().volumes[0]
    assert plan.ready == ()
    assert ready_tasks(plan, 10**9) == 0


@given(tasks=st.integers(1, 5 * STEPS), units=st.integers(1, 10 * STEPS), seed=st.integers(0, 2**32))
@example(tasks=STEPS + 1, units=10**6, seed=0)
@example(tasks=5 * STEPS, units=10**6, seed=0)
def test_steps_are_few_never_too_early_and_end_with_all_tasks(tasks: int, units: int, seed: int) -> None:
    dice = random.Random(seed)
    needed = sorted(dice.randint(1, units) for _ in range(tasks))
    found = thinned(needed)
    assert len(found) <= STEPS + 1
    assert found[-1] == (needed[-1], len(needed))
    assert all(needed[ready - 1] <= stored for stored, ready in found)
    assert list(found) == sorted(found)


class Entered:
    """A ledger that is read as often as it is asked, and counts what it gave."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self.made = "1"
        self.read = 0

    async def begun(self) -> str:
        return self.made

    async def since(self, _: str, after: int) -> AsyncIterator[tuple[int, str]]:
        for sequence, subject in enumerate(self.subjects[after:], start=after + 1):
            self.read += 1
            yield sequence, subject


def test_only_new_entries_are_read_a_gap_holds_back_what_is_behind_it_and_a_new_ledger_counts_anew(
    objects: Objects, tmp_path: Path
) -> None:
    archive = Archive(objects, one_file(tmp_path, tissue(SHAPE)))
    arrivals, ledger = Arrivals(archive.fetch), Entered()

    def after(*segments: int) -> int:
        ledger.subjects += [f"raw.object.stored.j.1.0-{k}" for k in segments]
        asyncio.run(arrivals.catch_up(ledger))  # type: ignore[arg-type]
        return arrivals.unbroken

    assert after() == 0
    assert after(1, 2) == 0
    assert after(0) == 3
    assert after(5) == 3
    assert after(3, 4) == 6
    assert ledger.read == 6
    ledger.made, ledger.subjects = "2", []
    assert after(0) == 1


def test_a_run_of_which_nothing_arrives_is_looked_at_less_and_less_often(objects: Objects, tmp_path: Path) -> None:
    archive, ledger, now = Archive(objects, one_file(tmp_path, tissue(SHAPE))), Entered(), [0.0]
    arrivals = Arrivals(archive.fetch, clock=lambda: now[0])
    seen = []
    for now[0] in (0.0, 0.1, 0.4, 1.2, 2.0, 8.0, 100.0):
        asyncio.run(arrivals.catch_up(ledger))  # type: ignore[arg-type]
        seen.append(arrivals.look_again)
    assert seen == [FIRST_LOOK_SECONDS, 0.1, 0.2, 0.6, LOOK_SECONDS, 4.0, LONGEST_LOOK_SECONDS]
    ledger.subjects.append("raw.object.stored.j.1.0-0")
    asyncio.run(arrivals.catch_up(ledger))  # type: ignore[arg-type]
    assert arrivals.look_again == LOOK_SECONDS
