"""Where the levels of a remote array lie, by its metadata alone."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from emporter_archives import arrays
from emporter_contracts.commands import Select
from emporter_contracts.geometry import VoxelSize
from emporter_readers.chunked.following import followed_documents
from emporter_readers.chunked.pyramids import Pyramid, pyramids
from emporter_readers.errors import ReaderError, UnsupportedContentError
from emporter_readers.protocol import Hints

VOXELS = np.zeros((41, 50, 60), "uint8")


def found(objects: arrays.Objects, user: VoxelSize | None = None, **hints: Any) -> list[Pyramid]:
    async def fetch(name: str) -> bytes | None:
        return objects.get(name)

    return pyramids(asyncio.run(followed_documents(fetch, level=None)), Hints(**hints), user)


def a_zarr(unit: str | None = "nanometer", step: int = 2, levels: int = 3) -> arrays.Objects:
    factors = [step**k for k in range(levels)]
    said = [
        (f"s{k}", (3.0 * f, 4.0 * f, 5.0 * f), (3 * (f - 1) / 2, 4 * (f - 1) / 2, 5 * (f - 1) / 2)) for k, f in enumerate(factors)
    ]
    written: arrays.Objects = {".zgroup": b'{"zarr_format": 2}', ".zattrs": arrays.ome_zattrs(said, unit=unit)}
    for k, f in enumerate(factors):
        written |= arrays.zarr2(VOXELS[::f, ::f, ::f].copy(), path=f"s{k}")
    return written


def test_every_level_is_found_with_its_own_scale_and_place() -> None:
    (volume,) = found(a_zarr())
    assert [k.factor for k in volume.levels] == [(1, 1, 1), (2, 2, 2), (4, 4, 4)]
    assert volume.levels[2].scale == pytest.approx((12, 16, 20))
    assert volume.levels[2].translation == pytest.approx((4.5, 6, 7.5))
    assert volume.levels[2].reader.shape == (11, 13, 15)


def test_a_pyramid_of_thirds_is_one_of_thirds() -> None:
    (volume,) = found(a_zarr(step=3))
    assert [k.factor for k in volume.levels] == [(1, 1, 1), (3, 3, 3), (9, 9, 9)]


def test_without_a_unit_levels_are_placed_in_voxels_of_the_finest() -> None:
    (volume,) = found(a_zarr(unit=None))
    assert volume.voxel_size.nm == (None, None, None)
    assert [k.scale for k in volume.levels] == [(1, 1, 1), (2, 2, 2), (4, 4, 4)]
    assert volume.levels[1].translation == (0.5, 0.5, 0.5)


def test_what_the_user_says_counts_more_and_for_every_level() -> None:
    (volume,) = found(a_zarr(), VoxelSize.said("user", (50.0, None, None)))
    assert volume.voxel_size.nm == (50.0, 4.0, 5.0)
    assert volume.voxel_size.said_by == ("user", "file", "file")
    assert volume.levels[1].scale == pytest.approx((100, 8, 10))
    assert volume.levels[1].translation == pytest.approx((25, 2, 2.5))


def test_scales_of_precomputed_lie_where_their_offsets_say() -> None:
    objects = arrays.precomputed(VOXELS, offset=(8, 16, 32), resolution=(3, 4, 5))
    name = next(name for name in objects if name.endswith("info"))
    said = json.loads(objects[name])
    finest = said["scales"][0]
    coarse = finest | {"key": "half", "size": [30, 25, 21], "resolution": [10, 8, 6], "voxel_offset": [16, 8, 4]}
    (volume,) = found({name: json.dumps(said | {"scales": [finest, coarse]}).encode()})
    assert volume.start == (8, 16, 32)
    assert volume.levels[0].translation == pytest.approx((24, 64, 160))
    # Level 1 begins at the same corner: half a voxel of level 0 further along each axis.
    assert volume.levels[1].translation == pytest.approx((24 + 1.5, 64 + 2, 160 + 2.5))
    assert volume.levels[1].factor == (2, 2, 2)


def test_levels_of_n5_are_followed_until_there_is_none() -> None:
    raw = {"type": "raw"}
    objects = {
        k: v
        for n in range(3)
        for k, v in arrays.n5(VOXELS[:: 2**n, :: 2**n, :: 2**n].copy(), (16, 16, 16), raw, path=f"s{n}").items()
    }
    (volume,) = found(objects)
    assert [k.reader.shape for k in volume.levels] == [(41, 50, 60), (21, 25, 30), (11, 13, 15)]


def test_a_level_of_another_dtype_is_refused() -> None:
    with pytest.raises(UnsupportedContentError, match="its finest level"):
        found(a_zarr() | arrays.zarr2(VOXELS[::2, ::2, ::2].astype("uint16"), path="s1"))


def test_a_level_that_is_named_and_not_there_is_refused() -> None:
    objects = {name: body for name, body in a_zarr().items() if not name.startswith("s1/")}
    with pytest.raises(ReaderError, match="s1"):
        found(objects)


def test_nothing_is_no_array() -> None:
    with pytest.raises(UnsupportedContentError):
        found({})


def test_a_channel_is_chosen() -> None:
    objects = {
        ".zgroup": b'{"zarr_format": 2}',
        ".zattrs": arrays.ome_zattrs([("0", (1, 3, 4, 5), (0, 0, 0, 0))], axes="czyx"),
        **arrays.zarr2(np.stack([VOXELS, VOXELS]), (1, 16, 16, 16), path="0"),
    }
    assert [one.series for one in found(objects)] == ["s0-c0-t0", "s0-c1-t0"]
    (alone,) = found(objects, select=Select(channel=1))
    assert (alone.series, alone.select.channel) == ("", 1)
