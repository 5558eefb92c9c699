"""Every TIFF sample through the real stack: back comes what independent readers saw, byte for byte, or a refusal by name."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import zarr

from emporter.testing import RunningStack
from emporter_contracts.jobs import JobState
from emporter_testing.samples import ROOT, samples_of, wants_samples

pytestmark = wants_samples


XY = 1e6 / 5928571 * 1000
"""Nanometres of a pixel of the two ImageJ files: 5.928571 pixels a micron."""
VOXEL_NM: dict[str, tuple[float | None, float | None, float | None]] = {
    "tiff-stack/test_loading_image_saved_with_imageJ_stack.tif": (2500.0, XY, XY),
    "tiff-stack/test_loading_image_saved_with_imageJ.tif": (None, XY, XY),
}
"""What the files say; the others say nothing, or what a printer would need."""


def arrays(sample: dict[str, Any]) -> list[dict[str, Any]]:
    """What independent readers saw: shape, dtype, sha256 of the voxels, per series."""
    expected = sample["expected"]
    return [expected["data"]] if "data" in expected else [series.get("data", series) for series in expected["series"]]


def one_grey_volume(sample: dict[str, Any]) -> tuple[tuple[int, ...], str, str] | None:
    """(shape z y x, dtype, sha256) where the sample is one grey 2-D or 3-D image in one series, else None."""
    found = arrays(sample)
    if len(found) != 1:
        return None
    axes = found[0].get("axes", "")
    shape = tuple(int(n) for n in found[0]["shape"])
    if any(axis in "SC" for axis in axes) or len(shape) not in (2, 3):
        return None
    return ((1, *shape) if len(shape) == 2 else shape), found[0]["dtype"], found[0]["sha256_c_order_le"]


@pytest.mark.parametrize("sample", samples_of("tiff-stack", "ome-tiff").values(), ids=lambda s: s["path"].replace("/", "-"))
def test_a_sample_comes_back_as_it_went_in_or_is_refused_by_name(stack: RunningStack, sample: dict[str, Any]) -> None:
    client = stack.client()
    upload = client.upload([ROOT / sample["path"]])
    job = client.ingest(upload.request()).job
    status = client.wait(job)
    expected = one_grey_volume(sample)
    if expected is None and status.state == JobState.FAILED:
        assert status.error is not None
        assert status.error.code in {"unsupported_content", "ambiguous_content", "corrupt_object"}
        assert status.error.hint
        return
    assert status.state == JobState.COMPLETE, status.error
    if expected is None:
        return
    shape, dtype, digest = expected
    (volume,) = client.volumes_of(job)
    block = client.block(volume, (0, 0, 0), shape)
    assert (block.shape, _named(block.dtype)) == (shape, dtype)
    assert _sha256(block) == digest
    root = f"{stack.urls.blocks}/zarr/{volume}.ome.zarr"
    over_http = np.asarray(zarr.open_array(f"{root}/0", mode="r")[...])
    assert over_http.shape == shape
    assert _sha256(over_http) == digest
    record = stack.record(volume)["metadata"]
    assert record["technical"]["sha256"] == digest
    assert record["core"]["voxel_size_nm"] == pytest.approx(VOXEL_NM.get(sample["path"], (None, None, None)))
    said = record["provenance"]["voxel_size"]["said_by"]
    assert said == [None if nm is None else "file" for nm in record["core"]["voxel_size_nm"]]


def _named(dtype: np.dtype[Any]) -> str:
    return "bool" if dtype == np.dtype(bool) else dtype.newbyteorder("=").name


def _sha256(voxels: np.ndarray[Any, Any]) -> str:
    little = voxels.astype(voxels.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little).tobytes()).hexdigest()
