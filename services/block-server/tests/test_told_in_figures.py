"""Where time and bytes go, as Server-Timing and /metrics tell it."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.registry import REGISTRY

from block_server.telemetry import CacheCollector
from block_server.testing import House, Made
from emporter_testing.in_place import registered

SIDE = 32
"""Voxels of a chunk along each axis."""


@pytest.fixture(scope="module")
def stored(beside: House) -> Made:
    """Eight chunks."""
    voxels = np.random.default_rng(0).integers(0, 2**16, (2 * SIDE,) * 3, dtype="u2")
    return beside.commit(Made(voxels, name="stored", chunk=(SIDE,) * 3, shard=(2 * SIDE,) * 3, halvings=()))


def stages(answer: httpx.Response) -> list[str]:
    assert answer.is_success, answer.text
    return [stage.split(";")[0] for stage in answer.headers["server-timing"].split(", ")]


def test_stored_bytes_tell_what_they_took(beside: House, stored: Made):
    zarr, zarr2 = (f"{beside.url}/{view}/{stored.ref}.ome.zarr" for view in ("zarr", "zarr2"))
    assert stages(httpx.get(f"{zarr}/zarr.json")) == ["find", "wait", "read"]
    assert stages(httpx.get(f"{zarr}/0/c/0/0/0", headers={"range": "bytes=0-9"})) == ["find", "wait", "read"]
    assert stages(httpx.get(f"{zarr2}/.zattrs")) == ["find", "read"]
    assert stages(httpx.get(f"{zarr2}/0/0/0/0")) == ["find", "index", "wait", "read"]


def decodes() -> float:
    (found,) = (one for one in CacheCollector().collect() if one.name == "emporter_blocks_cache_decodes")
    return found.samples[0].value


def test_what_is_decoded_is_told_apart_from_what_is_in_the_cache(beside: House, stored: Made):
    url, counts = f"{beside.url}/v1/volumes/{stored.ref}/block?shape={SIDE},{SIDE},1", [decodes()]
    for path in (url, url, f"{url}&origin=0,{SIDE // 2},0"):
        assert httpx.get(path).is_success
        counts.append(decodes())
    assert np.diff(counts).tolist() == [2, 0, 1]  # a chunk and the index of its shard; nothing; the chunk beside it


def test_bytes_decoded_of_a_source_are_those_of_its_chunks_each_time_it_is_decoded(beside: House, files: Path):
    zeros = np.zeros((2 * SIDE,) * 3, "u2")
    ref = registered(beside, files, "lies-there", zeros, (SIDE, SIDE, SIDE))

    def decoded() -> float:
        return REGISTRY.get_sample_value("emporter_blocks_source_decoded_bytes_total") or 0.0

    counts = [decoded()]
    for _ in range(2):
        assert httpx.get(f"{beside.url}/v1/volumes/{ref}/block?shape=1,1,{SIDE + 1}").is_success
        counts.append(decoded())
    assert np.diff(counts).tolist() == [2 * 2 * SIDE**3, 0]
