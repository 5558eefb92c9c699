"""Every real sample through planning and readers, as an operator's file root would bring it in: voxels as independent readers said,
or a refusal by name. What became of each is in the table at the end of the test report.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from emporter_contracts.errors import EmporterError
from emporter_contracts.geometry import Box
from emporter_contracts.plans import SEGMENT_BYTES, FetchPlan
from emporter_readers.discover import open_volume
from emporter_readers.protocol import FoundVolume, Reader
from emporter_testing.samples import ROOT, samples_of, wants_samples
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.sources.file_root import FileRootSource
from fetcher.sources.packed import PackedSource, in_file_root
from fetcher.testing import a_request

ENTRIES = samples_of()
pytestmark = wants_samples

COLOURED = {"tiff-stack/D75_08b_3page.tiff", "tiff-stack/D75_08b_tiled.tiff"}
"""Refused until the user says what becomes of the colours; then taken apart."""
GREY_RGB = {"tiff-stack/re05.tiff"}
"""Three equal samples: one grey volume, where the manifest lists all three."""
BY_ZARR = {"zarr3/simple_0.5.zip"}
"""Of which the manifest says nothing; zarr-python reads them unpacked."""
STORED_AS = {"zarr3/wk_simple_zarr3": "cxyz"}
"""Axes in the order the manifest has them, where it is neither c, z, y, x nor said."""
REFUSED = {
    "dm3/AL-DFoffset0.00.dm3": "spectral data",
    "dm4/DMReader_EELS_STO.dm4": "spectral data",
    "dm3/rs2D_test-3.dm3": "complex64",
    "dm3/rs3D_test-3.dm3": "complex64",
    "dm3/rs2D_test-23.dm3": "RGBA",
    "dm4/rs2D_test-3.dm4": "complex64",
    "dm4/rs2D_test-27.dm4": "complex64",
    "dm4/rs3D_test-27.dm4": "complex64",
    "zarr2/ng_1d.contiguous.lz4.i2": "one axis",
    "zarr2/ng_1d.contiguous.zstd.i2": "one axis",
    "zarr2/ng_1d.contiguous.raw.i2": "one axis",
    "zarr2/ng_1d.contiguous.f4.le": "one axis",
    "zarr3/ng_1d.contiguous.gzip.i2": "one axis",
    "zarr3/ng_1d.contiguous.blosc.i2": "one axis",
    "zarr3/ng_1d.contiguous.compressed.sharded.u1": "one axis",
    "n5/ng_multiscale_modern.n5": "none of its chunks",
    "precomputed/ng_one_channel_info.json": "JSON document",
    "omero-transfer/valid_single_dataset.zip": "cycle4.ome_cells.png: has a colour palette",
    "omero-transfer/simple_plate.zip": "OMERO_submission_form (1).xlsx is a ZIP archive",
}
"""What is no volume, and words of the refusal."""
NO_VOLUMES = {"ome-xml", "archive-metadata"}
"""Formats of texts about images: every one is refused."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One array as independent readers saw it; `order`: its axes as letters, empty where it is c, z, y, x without single ones."""

    shape: list[int]
    dtype: str
    sha256: str
    level: int | None = None
    order: str = ""


@dataclass(slots=True)
class Outcome:
    """For the table."""

    volumes: list[str] = field(default_factory=list)
    refusal: str = ""

    def text(self) -> str:
        return "; ".join(self.volumes) or self.refusal


def facts_of(entry: dict[str, Any]) -> list[Fact]:
    expected, path = entry["expected"], entry["path"]
    order = STORED_AS.get(path, "")
    if "data" in expected:
        return [_fact(expected["data"])]
    if "rosettasciio" in expected:
        assert expected["readers_agree"]
        return [_fact(one) for one in expected["rosettasciio"]]
    if "series" in expected:
        return [_fact(one, order=one["axes"].lower().replace("i", "z")) for one in expected["series"]]
    if "members" in expected:
        return [_fact(tiff, order=tiff["axes"].lower()) for member in expected["members"] for tiff in member.get("tiff", [])]
    if path in BY_ZARR:
        return list(by_zarr_python(ROOT / path))
    if "datasets" in expected:
        arrays = [one["reversed_zyx"] for _, one in sorted(expected["datasets"].items())]
    elif "scales" in expected:
        arrays = [one["reversed_czyx"] for one in expected["scales"]]
    else:
        arrays = [one for _, one in sorted(expected.get("arrays", {}).items())]
    return [_fact(one, level=level, order=order) for level, one in enumerate(arrays)]


def by_zarr_python(path: Path) -> Iterator[Fact]:
    """Levels of an OME-Zarr 0.5 in a .zip."""
    with zipfile.ZipFile(path) as packed, tempfile.TemporaryDirectory() as folder:
        packed.extractall(folder)
        multiscale = json.loads(Path(folder, "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
        for level, dataset in enumerate(multiscale["datasets"]):
            array = np.asarray(zarr.open_array(Path(folder, dataset["path"]), mode="r")[...])
            yield Fact(list(array.shape), array.dtype.name, sha256(array), level)


def _fact(one: dict[str, Any], **more: Any) -> Fact:
    return Fact(list(one["shape"]), one["dtype"], one["sha256_c_order_le"], **more)


def sha256(array: NDArray[Any]) -> str:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.tobytes()).hexdigest()


def in_order(volumes: list[NDArray[Any]], fact: Fact) -> NDArray[Any]:
    """Volumes of a job, one for each channel, as the one array the manifest has."""
    stacked = np.stack(volumes)
    if not fact.order:
        return stacked.reshape(fact.shape)
    letters = fact.order.replace("s", "c")
    absent = [axis for axis in "czyx" if axis not in letters]
    return stacked.transpose(["czyx".index(axis) for axis in (*absent, *letters)]).reshape(fact.shape)


def source() -> PackedSource:
    return PackedSource(FileRootSource({"samples": ROOT}, Gate(4 * SEGMENT_BYTES)), in_file_root, 2**30)


async def planned(path: str, archive: PackedSource, level: int | None = None, rgb: str | None = None) -> FetchPlan:
    request = a_request("file-root", f"samples/{path}", select={"level": level}, rgb=rgb)
    return await make_plan(request, "job", 1, archive)


def read_all(plan: FetchPlan, archive: PackedSource) -> list[NDArray[Any]]:
    return [(reader := _reader(plan, n, archive)).read(Box.whole(reader.shape)) for n in range(len(plan.volumes))]


def _reader(plan: FetchPlan, n: int, archive: PackedSource) -> Reader:
    volume = plan.volumes[n]
    found = FoundVolume(
        volume.format, tuple(range(len(volume.objects))), "", volume.select, volume.source_shape, volume.dtype, volume.voxel_size,
        native=None, axes=volume.axes, rgb=volume.rgb, parameters=volume.parameters, start=volume.source_start,
    )  # type: ignore[arg-type]  # fmt: skip
    return open_volume([archive.open(plan.objects[k]) for k in volume.objects], found)


@pytest.mark.parametrize("path", sorted(ENTRIES))
async def test_a_sample_equals_its_facts_or_is_refused_by_name(path: str, record_property: Callable[[str, object], None]) -> None:
    entry, archive, outcome = ENTRIES[path], source(), Outcome()
    try:
        if path in REFUSED or entry["format"] in NO_VOLUMES:
            await _is_refused(path, archive, outcome)
        else:
            await _equals(path, archive, outcome)
    finally:
        record_property("sample", (entry["format"], path, outcome.text()))
        await archive.close()


async def _is_refused(path: str, archive: PackedSource, outcome: Outcome) -> None:
    with pytest.raises(EmporterError) as refusal:
        await planned(path, archive)
    error = refusal.value
    outcome.refusal = f"refused, {error.code}: {error.message}"
    assert error.code in {"unsupported_content", "corrupt_object", "archive_refused"}, error
    assert error.hint
    assert REFUSED.get(path, Path(path).name) in error.message
    assert Path(path).name in error.message or path.endswith(".zip")


async def _equals(path: str, archive: PackedSource, outcome: Outcome) -> None:
    if path in COLOURED:
        with pytest.raises(EmporterError, match="colour"):
            await planned(path, archive)
    for fact in facts_of(ENTRIES[path]) or [None]:
        plan = await planned(path, archive, fact.level if fact else None, "split" if path in COLOURED else None)
        voxels = read_all(plan, archive)
        first = plan.volumes[0]
        outcome.volumes.append(f"{len(voxels)} x {','.join(map(str, first.shape))} {first.dtype}")
        assert fact is not None, "no independent reader says anything about this: an expectation is missing"
        assert {volume.dtype for volume in plan.volumes} == {fact.dtype}
        assert sha256(in_order(voxels * 3 if path in GREY_RGB else voxels, fact)) == fact.sha256


def test_every_entry_is_looked_at() -> None:
    assert len(ENTRIES) == json.loads((ROOT / "MANIFEST.json").read_text())["n_samples"]
    assert REFUSED.keys() | COLOURED | GREY_RGB <= ENTRIES.keys()
