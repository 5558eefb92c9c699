"""From parts to an answer: how much memory that takes, reading in order, and the body in the form asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from block_server import telemetry
from block_server.admission import Hold
from block_server.answers import PiecewiseResponse, while_wanted
from block_server.arrays import OpenVolume
from block_server.cropping import Crop
from block_server.errors import DamagedVolumeError, TooLargeError
from block_server.formats import BLOSC_LONGEST, MEDIA_TYPES, BlockFormat, Conversion, compressed, npy_header, raw
from block_server.reading import AHEAD, SLAB_BYTES, Part, Plan, amplification, decoded_in_turn, in_order, planned, slabs
from block_server.rooms import Rooms, removed_or_damaged, rooms_of
from block_server.settings import MIB

Pieces = AsyncIterator[bytes | memoryview]


class Given(Protocol):
    """How voxels are given: what stands before them, and what becomes of each part."""

    @property
    def head(self) -> bytes: ...
    @property
    def media_type(self) -> str: ...
    @property
    def conversion(self) -> Conversion | None: ...
    @property
    def frames(self) -> Sequence[bytes]: ...
    def bytes_of(self, parts: Iterable[Part]) -> int: ...


@dataclass(frozen=True, slots=True)
class Form:
    """How voxels of `stored` dtype are given: of what shape in all, in which format, converted or not."""

    shape: tuple[int, ...]
    stored: np.dtype[Any]
    encoding: BlockFormat
    conversion: Conversion | None = None
    frames: tuple[bytes, ...] = ()
    """What stands before the voxels of each part, where anything does."""

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.stored if self.conversion is None else self.conversion.dtype

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self.encoding]

    @property
    def head(self) -> bytes:
        """What comes before the voxels."""
        return npy_header(self.shape, self.dtype) if self.encoding == "npy" else b""

    def bytes_of(self, parts: Iterable[Part]) -> int:
        """Of their voxels, as given."""
        voxels = sum(part.bytes for part in parts) // self.stored.itemsize
        return voxels * self.dtype.itemsize + sum(map(len, self.frames))


class Timing:
    """Milliseconds by stage, for Server-Timing (W3C) and the metrics."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self._stages: list[str] = []

    def over(self, stage: str) -> None:
        """`stage` ends now and the next begins."""
        now = time.perf_counter()
        telemetry.stage(stage).observe(now - self._last)
        self._stages.append(f"{stage};dur={(now - self._last) * 1e3:.2f}")
        self._last = now

    @property
    def header(self) -> dict[str, str]:
        return {"server-timing": ", ".join(self._stages)}


async def deliver(
    request: Request, parts: Sequence[Part], form: Given, headers: Mapping[str, str], timing: Timing, *, together: bool
) -> Response:
    """The voxels of `parts`, one after the other. `together` reads them in one go where memory allows, so that no chunk is
    decoded twice; else they are parts of one large box, and read a little ahead of what is sent.

    Raises TooLargeError, BusyError, DamagedVolumeError, StoreUnavailableError, ClientGoneError.
    """
    rooms = rooms_of(request)
    check_decoding(rooms, parts)
    if isinstance(form, Form) and form.encoding in {"zstd", "blosc"}:
        return await _whole(request, rooms, parts, form, headers, timing)
    plan, hold = await _admitted(request, rooms, parts, _converted(parts, form), together=together)
    timing.over("wait")
    try:
        async with _named(rooms, parts):
            voxels, rest = await while_wanted(request.receive, _begun(plan, form, hold))
    except BaseException:
        hold.shrink(0)
        raise
    timing.over("read")
    head, length = form.head, form.bytes_of(parts)
    said = {**headers, **timing.header}
    if rest is None:
        hold.shrink(min(hold.bytes, voxels.nbytes))
        pieces: list[bytes | memoryview] = [*(part for part in (head, *form.frames) if part), raw(voxels)]
        return PiecewiseResponse(pieces, len(head) + length, headers=said, media_type=form.media_type, hold=hold)
    body = _body(head, voxels, rest, form)
    return PiecewiseResponse(body, len(head) + length, headers=said, media_type=form.media_type, hold=hold)


async def _admitted(request: Request, rooms: Rooms, parts: Sequence[Part], beside: int, *, together: bool) -> tuple[Plan, Hold]:
    """How parts are read, and the memory for it, with `beside` bytes more. Half of what there is is for one request, all of it if
    that is free just now and parts can share their chunks then.
    """
    limit = rooms.decoding.limit
    if together:
        whole = planned(parts, limit)
        hold = rooms.decoding.hold_now(whole.at_once + beside) if whole.at_once >= whole.all_bytes else None
        if hold is not None:
            return whole, hold
        plan = planned(parts, limit // 2)
    else:
        plan = planned(parts, min(limit // 2, AHEAD * max(part.needed_bytes for part in parts)))
    return plan, await held(request, rooms, parts, plan.at_once + beside)


async def held(request: Request, rooms: Rooms, parts: Sequence[Part], wanted: int) -> Hold:
    """So many bytes of memory to read `parts` in, while the client waits for them.

    Raises TooLargeError, BusyError, ClientGoneError.
    """
    if wanted > rooms.decoding.limit:
        _check_chunks(rooms, parts)
    at_once = rooms.decoding.hold_now(wanted)
    return at_once if at_once is not None else await while_wanted(request.receive, rooms.decoding.hold(wanted))


async def _made(form: Given, voxels: NDArray[Any]) -> NDArray[Any]:
    """Voxels as given, from voxels as stored."""
    return voxels if form.conversion is None else await asyncio.to_thread(form.conversion, voxels)


async def _begun(plan: Plan, form: Given, hold: Hold) -> tuple[NDArray[Any], AsyncGenerator[NDArray[Any], None] | None]:
    """The first part's voxels, and the others if there are any: what can't be read at all is told before an answer begins."""
    if len(plan.parts) == 1:
        return await _made(form, await plan.parts[0].begin(None).voxels()), None
    rest = in_order(plan, hold)
    try:
        return await _made(form, await anext(rest)), rest
    except BaseException:
        await rest.aclose()
        raise


async def _body(head: bytes, first: NDArray[Any], rest: AsyncGenerator[NDArray[Any], None], form: Given) -> Pieces:
    async with aclosing(rest):
        frames = iter(form.frames)
        yield head + next(frames, b"")
        yield raw(first)
        del first
        async for voxels in rest:
            frame = next(frames, b"")
            if frame:
                yield frame
            yield raw(await _made(form, voxels))


async def _whole(
    request: Request, rooms: Rooms, parts: Sequence[Part], form: Form, headers: Mapping[str, str], timing: Timing
) -> Response:
    """A compressed body, which is made as a whole: its length must be known, and one frame is what every reader takes."""
    assert form.encoding in {"zstd", "blosc"}
    size = form.bytes_of(parts)
    plan = planned(parts, rooms.decoding.limit // 2)
    if plan.at_once > rooms.decoding.limit:
        _check_chunks(rooms, parts)
    if 2 * size + plan.at_once > rooms.decoding.limit or (form.encoding == "blosc" and size > BLOSC_LONGEST):
        raise TooLargeError(
            f"{size} bytes can't be compressed as one body, which takes more memory than there is for all",
            hint="ask for format=raw, which has no such limit, or for smaller boxes",
        )
    hold = await held(request, rooms, parts, plan.at_once + 2 * size + _converted(parts, form))
    timing.over("wait")
    try:
        async with _named(rooms, parts):
            voxels = await while_wanted(request.receive, _gathered(plan, form, size))
        timing.over("read")
        body = await asyncio.to_thread(compressed, raw(voxels), form.dtype.itemsize, form.encoding)
        del voxels
        timing.over("encode")
        hold.shrink(len(body))
    except BaseException:
        hold.shrink(0)
        raise
    said = {**headers, **timing.header}
    return PiecewiseResponse([body], len(body), headers=said, media_type=form.media_type, hold=hold)


async def _gathered(plan: Plan, form: Form, size: int) -> NDArray[Any]:
    if len(plan.parts) == 1:
        return await _made(form, await plan.parts[0].begin(None).voxels())
    out, at = np.empty(size // form.dtype.itemsize, form.dtype), 0
    async with aclosing(in_order(plan, Hold.nothing())) as parts:
        async for voxels in parts:
            out[at : at + voxels.size] = (await _made(form, voxels)).reshape(-1)
            at += voxels.size
    return out


def cut(rooms: Rooms, wanted: Crop) -> Sequence[Crop]:
    """One box as parts that follow each other in C order. Raises TooLargeError."""
    check_size(rooms, wanted.bytes)
    limit, level = rooms.decoding.limit, wanted.level
    # Beside a chunk that takes nearly all there is, slabs are of what is left; edges are made of more.
    left = max(MIB, limit - level.decoding_bytes(level.chunk_bytes)) // (1 if wanted.inside is wanted.box else 4)
    return slabs(wanted, min(left, limit // (2 * AHEAD)), min(left, SLAB_BYTES))


def check_size(rooms: Rooms, wanted: int) -> None:
    """Raises TooLargeError for more voxels than one request may ask for."""
    limit = rooms.settings.blocks_request_bytes
    if wanted > limit:
        raise TooLargeError(
            f"the request is for {wanted} bytes of voxels, the limit is {limit}",
            hint="ask for it in several smaller boxes, take a coarser level, or open the Zarr itself",
        )


def check_decoding(rooms: Rooms, parts: Sequence[Part]) -> None:
    """Count what is asked for. Raises TooLargeError where the chunks that hold it are more than one request may have decoded:
    of few voxels in each of many chunks that is far more than their bytes.
    """
    asked, touched = amplification(parts)
    limit = rooms.settings.blocks_request_decoded_bytes
    if touched > limit:
        kept = max(rooms.settings.blocks_cache_bytes, rooms.decoding.limit) // 2
        decoded = decoded_in_turn(parts, kept)
        if decoded > limit:
            chunk = ",".join(map(str, max((part.level for part in parts), key=lambda level: level.chunk_bytes).chunk))
            raise TooLargeError(
                f"for {asked} bytes of voxels the request needs {decoded} bytes of chunks decoded, the limit is {limit}",
                hint=f"ask for fewer boxes at once, or for boxes that are whole chunks ({chunk} voxels z,y,x)",
            )
    telemetry.count_voxels(asked, touched)


def _check_chunks(rooms: Rooms, parts: Sequence[Part]) -> None:
    """Raises TooLargeError where a single chunk takes more memory than there is for all: no smaller box would help then."""
    largest = max(parts, key=lambda part: part.level.decoding_bytes(part.level.chunk_bytes))
    level, ref = largest.level, largest.volume.ref
    least = level.decoding_bytes(level.chunk_bytes)
    if least < rooms.decoding.limit:
        return
    copied = f"emporter ingest {ref} copies it in, with smaller ones" if largest.volume.watch else "convert it with smaller ones"
    raise TooLargeError(
        f"{ref} level {level.number} has chunks of {level.chunk_bytes} bytes, of which one voxel needs a whole one, and decoding "
        f"that takes {least} bytes at once; the limit is {rooms.decoding.limit}",
        hint=f"{copied}; take a level with smaller chunks; or the operator sets EMPORTER_BLOCKS_IN_FLIGHT_BYTES to {2 * least}",
    )


def _converted(parts: Sequence[Part], form: Given) -> int:
    """Bytes of one part in its new dtype, twice, and of a plane of reals in between."""
    if form.conversion is None:
        return 0
    voxels = max(part.bytes // part.level.dtype.itemsize for part in parts)
    return voxels * (2 * form.conversion.dtype.itemsize + 8)


@asynccontextmanager
async def _named(rooms: Rooms, parts: Sequence[Part]) -> AsyncIterator[None]:
    """What is missing was removed, perhaps. Raises RemovedVolumeError then."""
    try:
        yield
    except DamagedVolumeError as error:
        volumes: dict[Any, OpenVolume] = {part.volume.ref: part.volume for part in parts}
        for volume in volumes.values():
            await removed_or_damaged(rooms, volume, error)
        raise
