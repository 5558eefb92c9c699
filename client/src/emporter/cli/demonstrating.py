"""`emporter demo`, step by step. Each step says what it does and how long it took."""

from __future__ import annotations

import asyncio
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emporter import aio, uploading
from emporter.aio import AsyncClient, AsyncVolume
from emporter.cli import showing
from emporter.cli.sending import upload_with_bars
from emporter.cli.up import start_in_background
from emporter.cli.watching import follow_job
from emporter.demo.archive import archive
from emporter.demo.comparing import read_tiff_box
from emporter.demo.phantom import VOXEL_SIZE_NM, phantom, write_tiff
from emporter.errors import ClientError, MistakeError
from emporter.pictures import png, three_slices
from emporter.stack.files import StackFiles
from emporter.stack.plan import StackOptions
from emporter.stack.stopping import take_down
from emporter_contracts.commands import IngestRequest
from emporter_contracts.geometry import Box, Index3, Shape3

FOLDER = Path(".emporter-demo")
LOOPBACK_ARCHIVE = {"EMPORTER_URL_ALLOWED_HOSTS": "127.0.0.1", "EMPORTER_URL_ALLOW_PRIVATE": "true"}
"""A stack opens no address of this machine or its network unless told to."""
BLOCK: Shape3 = (128, 128, 128)
ODD: Index3 = (17, 33, 51)
"""An origin on no chunk's edge."""
PICTURE_VOXELS = 2**25
"""The picture is made of the finest level that has no more."""
CATALOG_SECONDS = 30.0


class Subject(Protocol):
    """What the demo ingests, and what it knows of its voxels."""

    async def request(self, client: AsyncClient) -> IngestRequest: ...

    def voxels(self, box: Box, volume: AsyncVolume) -> NDArray[Any] | None:
        """The source's own voxels, None where they can't be had without Emporter."""


def run_demo(path: Path | None, data: Path | None, output: Path, *, keep: bool) -> int:
    """The exit status: 0 when the block is the source's, voxel for voxel. Raises ClientError."""
    if path is not None:
        uploading.collect([path])
    check_folder(output)
    files = StackFiles.at(data or FOLDER)
    with stack_of(files, LOOPBACK_ARCHIVE, keep=keep), _subject(path) as subject:
        status = asyncio.run(_run(files, subject, output))
    if status == 0:
        say_what_next(files)
    return status


def is_up(files: StackFiles) -> bool:
    """Whether somebody's stack runs in that folder."""
    info = files.info()
    return info is not None and info.live


@contextmanager
def stack_of(files: StackFiles, environment: Mapping[str, str], *, keep: bool) -> Iterator[None]:
    """A stack that is up: the one that is there, else one of our own, which goes down again."""
    if is_up(files):
        print(f"The stack in {files.root} is up already.")
        yield
        return
    step("Starting NATS, an S3 server and the four services")
    start_in_background(StackOptions(files.root, environment=environment))
    try:
        yield
    finally:
        if not keep:
            take_down(files)


@contextmanager
def _subject(path: Path | None) -> Iterator[Subject]:
    if path is not None:
        yield _OwnFiles(path)
        return
    step("Making a phantom volume (a formula, no microscopy) and an archive on the loopback that serves it")
    voxels = phantom()
    with tempfile.TemporaryDirectory() as folder:
        write_tiff(Path(folder) / "phantom.tif", voxels)
        print(f"  {showing.voxels(voxels.shape)} voxels {voxels.dtype} (z,y,x), {showing.nanometres(VOXEL_SIZE_NM)} nm")
        with archive(Path(folder)) as url:
            yield _Phantom(voxels, f"{url}/phantom.tif")


@dataclass(frozen=True)
class _Phantom:
    data: NDArray[np.uint8]
    url: str

    async def request(self, _: AsyncClient) -> IngestRequest:
        step(f"Asking for {self.url} on the bus")
        return IngestRequest(source="url", source_id=self.url)

    def voxels(self, box: Box, _: AsyncVolume) -> NDArray[Any] | None:
        return self.data[box.slices()]


@dataclass(frozen=True)
class _OwnFiles:
    path: Path

    async def request(self, client: AsyncClient) -> IngestRequest:
        step(f"Uploading {self.path} to the inbox, and asking for it on the bus")
        return (await upload_with_bars(client, [self.path], None)).request()

    def voxels(self, box: Box, volume: AsyncVolume) -> NDArray[Any] | None:
        return read_tiff_box(self.path, box, volume.shape, volume.dtype)


async def _run(files: StackFiles, subject: Subject, output: Path) -> int:
    async with aio.connect(files.root) as client:
        request = await subject.request(client)
        began = time.monotonic()
        accepted = await client.ingest(request)
        async with cancelled_unless_done(client, accepted.job):
            if await follow_job(client, accepted.job, json=False) != 0:
                return 1
        print(f"  ingested in {time.monotonic() - began:.1f} s")
        name, *more = await client.volumes_of(accepted.job)
        if more:
            print(f"  {1 + len(more)} volumes; looking at the first")
        await _show_row(client, name)
        volume = await client.volume(name)
        status = await _compare(volume, subject)
        await draw(volume, output)
        return status


def check_folder(output: Path) -> None:
    """Raises MistakeError where a picture can't be written."""
    if not output.resolve().parent.is_dir():
        raise MistakeError(f"there is no folder {output.resolve().parent}", hint="name another file with -o")


@asynccontextmanager
async def cancelled_unless_done(client: AsyncClient, job: str) -> AsyncIterator[None]:
    """The demo's archive ends with the demo, so a job that did not end would wait for it in vain."""
    try:
        yield
    except BaseException:
        with suppress(ClientError):
            await client.cancel(job)
        raise


async def _show_row(client: AsyncClient, pinned: str) -> None:
    step("The catalog's row")
    name = pinned.partition("@")[0]
    deadline = time.monotonic() + CATALOG_SECONDS
    # The catalog hears of the commit over the bus, a moment after it was made.
    while not (rows := [row for row in await client.volumes(status="complete") if row["volume"] == name]):
        if time.monotonic() > deadline:
            raise MistakeError(f"{name} is committed but not in the catalog", hint="emporter doctor says what is not well")
        await asyncio.sleep(0.1)
    row = rows[0]
    print(f"  {row['volume']}  r{row['revision']}  {row['status']}")
    print(
        f"  {showing.voxels(row['shape'])} {row['dtype']}  {showing.nanometres(row['voxel_size_nm'])} nm  {row['levels']} levels"
    )
    print(f"  stored {showing.size(row['stored_bytes'])}  sha256 of the voxels {row['sha256']}")


async def _compare(volume: AsyncVolume, subject: Subject) -> int:
    box = odd_box(volume.shape)
    step(f"Fetching the block at {showing.voxels(box.start)} of {showing.voxels(box.shape)} voxels over HTTP")
    began = time.monotonic()
    block = await volume.block(box.start, box.shape)
    print(f"  {showing.size(block.nbytes)} in {1000 * (time.monotonic() - began):.0f} ms")
    source = await asyncio.to_thread(subject.voxels, box, volume)
    if source is None:
        print("  not compared: the source is no plain TIFF of one volume")
        return 0
    if source.shape == block.shape and source.dtype == block.dtype and np.array_equal(source, block):
        print(f"  compared with the source: all {block.size:,} voxels are equal")
        return 0
    differing = int(np.sum(source != block)) if source.shape == block.shape else block.size
    print(f"emporter: {differing:,} of {block.size:,} voxels differ from the source; this is a bug of emporter", file=sys.stderr)
    return 1


def odd_box(shape: Shape3) -> Box:
    """BLOCK at an odd place, as far as the volume is large enough."""
    z, y, x = (min(side, most) for side, most in zip(BLOCK, shape, strict=True))
    start = tuple(min(odd, n - side) for odd, n, side in zip(ODD, shape, (z, y, x), strict=True))
    return Box.at((start[0], start[1], start[2]), (z, y, x))


async def draw(volume: AsyncVolume, output: Path) -> None:
    step("Drawing three orthogonal slices")
    levels = [(int(level["level"]), tuple(level["shape"])) for level in volume.info["levels"]]
    level, shape = next((found for found in levels if np.prod(found[1]) <= PICTURE_VOXELS), levels[-1])
    voxels = await volume.block((0, 0, 0), (shape[0], shape[1], shape[2]), level)
    await asyncio.to_thread(output.write_bytes, png(three_slices(voxels)))
    print(f"  {output} (level {level})")


def say_what_next(files: StackFiles) -> None:
    print()
    info = files.info()
    if info is not None and info.live:
        folder = shlex.quote(str(files.root))
        print(f"Look at what is there:                   {info.blocks}")
        print(f"The stack stays up. With your own file:  emporter ingest --stack {folder} --watch FILE.tif")
        print(f"Stop it:                                 emporter down --data {folder}")
        return
    print("With your own file:       emporter demo FILE.tif")
    print("Leave the stack up:       emporter demo --keep")
    print("A stack to keep:          emporter up, then emporter ingest FILE.tif --watch in another terminal")


def step(what: str) -> None:
    sys.stdout.flush()
    print(f"\n{what}", flush=True)
