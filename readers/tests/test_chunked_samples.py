from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import FileSource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import ReaderError
from emporter_readers.protocol import Hints
from emporter_testing.samples import ROOT, samples_of, wants_samples

pytestmark = wants_samples

FORMATS = ("zarr2", "zarr3", "n5", "precomputed")
REFUSED = {
    "zarr2/ng_1d.contiguous.lz4.i2": "one axis",
    "zarr2/ng_1d.contiguous.zstd.i2": "one axis",
    "zarr2/ng_1d.contiguous.raw.i2": "one axis",
    "zarr2/ng_1d.contiguous.f4.le": "one axis",
    "zarr3/ng_1d.contiguous.gzip.i2": "one axis",
    "zarr3/ng_1d.contiguous.blosc.i2": "one axis",
    "zarr3/ng_1d.contiguous.compressed.sharded.u1": "one axis",
    "zarr3/simple_0.5.zip": "ZIP archive",
    "n5/ng_multiscale_modern.n5": "none of its chunks",
    "precomputed/ng_one_channel_info.json": "JSON document",
}
"""What is no volume, and the words that say why."""
VOXEL_NM = {
    "zarr3/wk_simple_zarr3": (1.0, 1.0, 1.0),
    "zarr2/ng_ome_simple_0.4": (None, 4.0, 30.0),
    "zarr3/ng_ome_simple_0.5": (None, 4.0, 30.0),
    "precomputed/em_jpeg_unsharded": (40.0, 8.0, 8.0),
    "precomputed/em_raw_unsharded_offset": (40.0, 8.0, 8.0),
    "precomputed/boss_raw_sharded_gzip": (40.0, 4.0, 4.0),
    "precomputed/seg_cseg_unsharded": (8.0, 8.0, 8.0),
}
"""What the metadata says; the others say nothing of lengths."""
CAVEATS = {"precomputed/em_jpeg_unsharded": {"lossy"}, "zarr3/ng_3d.chunked.i2": {"chunks_missing"}}
STORED_AS = {"zarr3/wk_simple_zarr3": "cxyz"}
"""Axes of the stored array, where they are not in the order of ours."""


def sources_of(sample: dict[str, Any]) -> list[FileSource]:
    root = ROOT / sample["path"]
    if root.is_file():
        return [FileSource(root.name, root)]
    return [FileSource(path.relative_to(root).as_posix(), path) for path in sorted(root.rglob("*")) if path.is_file()]


def levels_of(sample: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Every array independent readers saw, the finest of a pyramid first, slowest axis first."""
    expected = sample["expected"]
    if "datasets" in expected:
        return sorted((name, one["reversed_zyx"]) for name, one in expected["datasets"].items())
    if "scales" in expected:
        return [(one["key"], one["reversed_czyx"]) for one in expected["scales"]]
    return sorted(expected["arrays"].items())


def joined(parts: list[NDArray[Any]], shape: list[int], axes: str | None) -> NDArray[Any]:
    """The volumes of one array, channel by channel, as it is stored."""
    stacked = np.stack(parts)
    return stacked.reshape(shape) if axes is None else stacked.transpose(["czyx".index(axis) for axis in axes])


@pytest.mark.parametrize("sample", samples_of(*FORMATS).values(), ids=lambda s: s["path"].replace("/", "-"))
def test_a_sample_equals_what_independent_readers_saw_or_is_refused_by_name(sample: dict[str, Any]) -> None:
    sources = sources_of(sample)
    if sample["path"] in REFUSED:
        with pytest.raises(ReaderError, match=REFUSED[sample["path"]]) as refused:
            discover(sources, Hints())
        assert refused.value.hint
        return
    for level, (name, facts) in enumerate(levels_of(sample)):
        hints = Hints(select=Select(level=level))
        found = discover(sources, hints)
        voxels = []
        for volume in found:
            reader = open_volume([sources[k] for k in volume.objects], volume)
            voxels.append(reader.read(Box.whole(reader.shape)))
            assert volume.dtype == facts["dtype"]
            assert {c.code for c in volume.caveats} - {"axes_assumed", "role_guessed"} == CAVEATS.get(sample["path"], set())
        data = joined(voxels, facts["shape"], STORED_AS.get(sample["path"]))
        little = data.astype(data.dtype.newbyteorder("<"))
        assert hashlib.sha256(little.tobytes()).hexdigest() == facts["sha256_c_order_le"], name
        if level == 0:
            assert found[0].voxel_size.nm == VOXEL_NM.get(sample["path"], (None, None, None))


def test_every_sample_of_a_chunked_format_is_in_the_table() -> None:
    paths = {sample["path"] for sample in samples_of(*FORMATS).values()}
    assert len(paths) >= 30
    assert REFUSED.keys() <= paths
    assert VOXEL_NM.keys() <= paths


def test_the_offset_of_a_precomputed_volume_is_the_archives_own_index() -> None:
    sample = next(s for s in samples_of(*FORMATS).values() if s["path"] == "precomputed/em_raw_unsharded_offset")
    (volume,) = discover(sources_of(sample), Hints())
    assert volume.start == (7, 50, 100)
    assert volume.shape == (2, 200, 255)
