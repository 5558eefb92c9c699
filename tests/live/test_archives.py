"""The five requests of the README against the archives themselves: `make test-live`. Some ten gigabytes, hours on a slow line.

Where an archive can't be reached from here its test is skipped, and says so. Hosts are settings: EMPORTER_IDR_BASE_URL and so on lead
the same tests to a mirror.
"""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
import tensorstore as ts
import tifffile
from numpy.typing import NDArray

from emporter.testing import RunningStack, running_stack
from emporter_contracts.commands import IngestRequest, RandomRegion
from emporter_contracts.geometry import Box
from emporter_contracts.jobs import JobState
from fetcher.settings import FetcherSettings

pytestmark = [pytest.mark.live, pytest.mark.timeout(12 * 3600)]

REACHED_SECONDS = 10.0
BOX = (4, 32, 32)
"""Voxels read again by somebody else's reader, at the middle of the volume."""

Read = Callable[[str, Box], NDArray[Any]]


def openorganelle(settings: FetcherSettings) -> str:
    """The bucket over HTTPS."""
    endpoint, bucket = settings.openorganelle_endpoint.rstrip("/"), settings.openorganelle_bucket
    return f"{endpoint}/{bucket}" if endpoint else f"https://{bucket}.s3.amazonaws.com"


def by_tifffile(url: str, box: Box) -> NDArray[Any]:
    """Pages of a TIFF over HTTP ranges."""
    z, y, x = box.slices()
    with tifffile.TiffFile(_RangeFile(url)) as tiff:
        return np.stack([tiff.pages[n].asarray()[y, x] for n in range(z.start, z.stop)])


def by_zarr2(url: str, box: Box) -> NDArray[Any]:
    """OpenOrganelle's level 0, over HTTPS instead of S3."""
    path = "jrc_mus-nacc-2/jrc_mus-nacc-2.zarr/recon-2/em/fibsem-int16/s0/"
    kvstore = {"driver": "http", "base_url": f"{openorganelle(FetcherSettings())}/{path}"}
    store = ts.open({"driver": "zarr", "kvstore": kvstore}).result()
    return np.asarray(store[box.slices()].read().result())


def by_precomputed(url: str, box: Box) -> NDArray[Any]:
    kvstore = {"driver": "http", "base_url": FetcherSettings().hemibrain_base_url.rstrip("/") + "/emdata/raw/jpeg/"}
    store = ts.open({"driver": "neuroglancer_precomputed", "kvstore": kvstore}).result()
    z, y, x = box.slices()
    return np.asarray(store[x, y, z, 0].read().result()).T


@dataclass(frozen=True)
class Live:
    """One request, where it goes, and what is known of the answer: None is not."""

    request: IngestRequest
    host: Callable[[FetcherSettings], str]
    shape: tuple[int, int, int]
    dtype: str
    nm: tuple[float, float, float]
    read: Read | None


FIVE = {
    "idr": Live(
        IngestRequest(source="idr", source_id="9846137"), lambda s: s.idr_files_url,
        (184, 775, 1121), "uint8", (20.0, 20.0, 20.0), by_tifffile,
    ),
    "empiar": Live(
        IngestRequest(source="empiar", source_id="EMPIAR-11759"), lambda s: s.empiar_files_url,
        (16, 5500, 5496), "uint8", (50.0, 7.998, 7.998), None,
    ),
    "epfl": Live(
        IngestRequest(source="epfl", source_id="volumedata"), lambda s: s.epfl_base_url,
        (1065, 1536, 2048), "uint8", (5.0, 5.0, 5.0), by_tifffile,
    ),
    "openorganelle": Live(
        IngestRequest(source="openorganelle", source_id="jrc_mus-nacc-2"), openorganelle,
        (564, 2520, 2596), "int16", (2.96, 4.0, 4.0), by_zarr2,
    ),
    "hemibrain": Live(
        IngestRequest(source="hemibrain", source_id="em", random_region=RandomRegion(shape=(1000, 1000, 1000), seed=7)),
        lambda s: s.hemibrain_base_url, (1000, 1000, 1000), "uint8", (8.0, 8.0, 8.0), by_precomputed,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    with running_stack(tmp_path_factory.mktemp("live")) as running:
        yield running


@pytest.mark.parametrize("name", FIVE)
def test_the_archive_itself_becomes_a_volume(name: str, request: pytest.FixtureRequest) -> None:
    live = FIVE[name]
    _skip_unless_reached(live.host(FetcherSettings()))
    stack: RunningStack = request.getfixturevalue("stack")
    client = stack.client()
    status = client.wait(client.ingest(live.request).job)
    assert status.state == JobState.COMPLETE, status.error
    (ref,) = client.volumes_of(status.job)
    volume, record = client.volume(ref), stack.record(ref)
    core = record["metadata"]["core"]
    assert (volume.shape, str(volume.dtype)) == (live.shape, live.dtype)
    assert core["voxel_size_nm"] == pytest.approx(live.nm, rel=1e-3)
    assert all(o["sha256"] for o in record["metadata"]["provenance"]["objects"])
    if live.read is None:
        return
    middle = tuple((n - side) // 2 for n, side in zip(volume.shape, BOX, strict=True))
    there = tuple(a + b for a, b in zip(core["source_origin"], middle, strict=True))
    expected = live.read(record["metadata"]["provenance"]["download_url"], Box.at(there, BOX))
    np.testing.assert_array_equal(volume.block(middle, BOX), expected)


def _skip_unless_reached(url: str) -> None:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443, "ftp": 21}[parts.scheme]
    try:
        socket.create_connection((parts.hostname or "", port), REACHED_SECONDS).close()
    except OSError as error:
        pytest.skip(f"{parts.hostname} can't be reached from here: {error}")


class _RangeFile(io.RawIOBase):
    """A file behind HTTP, read by ranges."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(timeout=60, follow_redirects=True)
        self._url = url
        self._position = 0
        answer = self._client.get(url, headers={"Range": "bytes=0-0"})
        self._size = int(answer.headers["Content-Range"].rpartition("/")[2])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        stop = min(self._position + len(buffer), self._size)
        if stop <= self._position:
            return 0
        data = self._client.get(self._url, headers={"Range": f"bytes={self._position}-{stop - 1}"}).raise_for_status().content
        memoryview(buffer).cast("B")[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._client.close()
        super().close()
