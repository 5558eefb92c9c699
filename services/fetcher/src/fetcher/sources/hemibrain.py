"""Source `hemibrain`: FlyEM's fly brain, precomputed volumes in a public bucket over HTTPS, or raw boxes from DVID.

The EM is sharded JPEG: each chunk of a region is fetched as the span of its shard that it is, as the archive serves it. Sizes are
those of `info`: the figures in FlyEM's texts are last indices of blocks. The whole is tens of terabytes, so without a word about
the region a random crop is taken; places that turn out empty are drawn again.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest, RandomRegion
from emporter_contracts.errors import RefusedError
from emporter_contracts.geometry import Box, Index3, Shape3, added
from emporter_contracts.plans import Licence, PlannedObject, Role, Segments
from emporter_readers.array import MemorySource
from emporter_readers.chunked.dvid import INFO, DvidVolume, box_name, read_info
from emporter_readers.chunked.tree import MOST_JSON_BYTES, read_document
from fetcher.gate import Gate
from fetcher.regions import random_origins, region_of
from fetcher.settings import FetcherSettings
from fetcher.sources.arrays import MOST_OBJECTS, RemoteArray, array_objects, lookup_of, remote_array
from fetcher.sources.http_arrays import HttpRoot
from fetcher.sources.over_http import HttpObjects, planned_object
from fetcher.sources.protocol import Context, Listing, Part
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.http import HttpLimits

DEFAULT_CROP: Shape3 = (1000, 1000, 1000)
"""Taken where a request says no region and the volume holds more than this: a gigabyte of voxels."""
TRIES = 16
"""Places drawn at most; afterwards the fullest of them is taken, and the record says so."""
FILLED_SHARE = 0.5
"""Of sampled chunks that must hold something for a place to be taken."""
SAMPLES_PER_AXIS = 3
FLAT = 8
"""Levels of grey within which a chunk holds nothing: what JPEG makes of one value, and no tissue."""
DVID_BOX: Shape3 = (256, 256, 256)
"""Voxels of one request: whole blocks of DVID's own, few megabytes, which its keepers ask for."""
DVID = "dvid/"
LICENCE = Licence(
    spdx="CC-BY-4.0",
    url="https://www.janelia.org/project-team/flyem/hemibrain",
    text="the bucket states none; third parties report CC BY",
    known=False,
)
CITATION = (
    "L. K. Scheffer et al.: A connectome and analysis of the adult Drosophila central brain. eLife 9:e57443, 2020. "
    "doi:10.7554/eLife.57443"
)

_PATH = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*\Z")


@dataclass(frozen=True, slots=True)
class KnownVolume:
    """One volume of the bucket by a short name."""

    path: str
    description: str
    role: Role | None = None


KNOWN: Mapping[str, KnownVolume] = {
    "em": KnownVolume("emdata/raw/jpeg", "aligned FIB-SEM", "image"),
    "em-clahe": KnownVolume("emdata/clahe_yz/jpeg", "aligned FIB-SEM, contrast enhanced", "image"),
    "segmentation": KnownVolume("v1.2/segmentation", "neurons, v1.2", "labels"),
    "mask": KnownVolume("mask_normalized_round6", "classes of tissue", "labels"),
}

Fullness = Callable[[Box], Awaitable[float]]
"""Share of the sampled chunks of a box that hold something."""


class HemibrainSource(HttpObjects):
    """source_id is one of KNOWN, a path below the base URL such as `v1.1/segmentation`, or `dvid/<instance>`."""

    name = "hemibrain"

    def __init__(self, settings: FetcherSettings, gate: Gate, known: Mapping[str, KnownVolume] = KNOWN) -> None:
        self._base = settings.hemibrain_base_url.rstrip("/")
        self._dvid = settings.hemibrain_dvid_url.rstrip("/")
        self._known = known
        anywhere = HostPolicy(("*",), setting="EMPORTER_HEMIBRAIN_BASE_URL")
        named = tuple(anywhere.checked(url).host for url in (self._base, self._dvid))
        hosts = HostPolicy(named, settings.url_allow_private, anywhere.setting)
        limits = HttpLimits(settings.hemibrain_connections, settings.http_connect_seconds, settings.http_stall_seconds)
        super().__init__(hosts, limits, gate)

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        asked = request.source_id
        known = self._known.get(asked, KnownVolume(asked, asked))
        if not _PATH.match(known.path) or ".." in known.path.split("/"):
            raise RefusedError(
                f"hemibrain has no {asked[:100]!r}", code="not_found", hint=f"one of: {', '.join(self._known)}, {DVID}grayscale"
            )
        if known.path.startswith(DVID):
            return await self._from_dvid(known.path.removeprefix(DVID), request, context)
        array = await remote_array(HttpRoot(self, f"{self._base}/{known.path}", context), request)
        reader = array.first.reader
        draw = _Drawing(reader.shape, reader.level.start, reader.array.name, _array_fullness(array))
        region, drawn = await draw.region(request)
        objects, counted = await array_objects(array, region)
        return _listing(array.root.url, known, objects, region, {**drawn, **counted})

    async def _from_dvid(self, instance: str, request: IngestRequest, context: Context) -> Listing:
        url = f"{self._dvid}/{instance}"
        body = await self.client.document(f"{url}/{INFO}", MOST_JSON_BYTES)
        volume = read_info(read_document(MemorySource(f"{instance}/{INFO}", body)), f"{instance}/{INFO}")
        draw = _Drawing(volume.shape, volume.start, instance, self._dvid_fullness(url, volume))
        region, drawn = await draw.region(request)
        there = (region or Box.whole(volume.shape)).moved(volume.start)
        if math.prod(-(-n // b) + 1 for n, b in zip(there.shape, DVID_BOX, strict=True)) > MOST_OBJECTS:
            raise RefusedError(f"{url}: {list(there.shape)} voxels are too many for one ingest", hint="choose a region")
        info = planned_object(await self.client.probe(f"{url}/{INFO}"), context).model_copy(update={"path": INFO})
        boxes = [_dvid_object(url, box, volume.dtype.itemsize, context) for box in there.tiles(DVID_BOX)]
        known = KnownVolume(f"{DVID}{instance}", f"{instance} by DVID")
        said: dict[str, JsonValue] = {**drawn, "dvid": self._dvid, "instance": instance}
        return _listing(url, known, (info, *boxes), region, said)

    def _dvid_fullness(self, url: str, volume: DvidVolume) -> Fullness:
        async def filled(box: Box) -> float:
            parts = [part.moved(volume.start) for part in _samples(box)]
            size = volume.dtype.itemsize
            bodies = await asyncio.gather(
                *(self.client.document(f"{url}/{box_name(part)}", math.prod(part.shape) * size) for part in parts)
            )
            return _share([np.frombuffer(body, volume.dtype) for body in bodies])

        return filled


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Where a region lies: as the request says, or drawn until a place holds something."""

    shape: Shape3
    start: Index3
    name: str
    filled: Fullness

    async def region(self, request: IngestRequest) -> tuple[Box | None, dict[str, JsonValue]]:
        """The box (None: all), counted from the first voxel, and how it was drawn. Raises RegionOutsideError."""
        if request.region is None and request.random_region is None and math.prod(self.shape) <= math.prod(DEFAULT_CROP):
            return None, {}
        if request.region is not None:
            return region_of(request, self.shape, self.start, self.name), {}
        z, y, x = (min(a, b) for a, b in zip(self.shape, DEFAULT_CROP, strict=True))
        random = request.random_region or RandomRegion(shape=(z, y, x))
        # Also where the volume is too small for the crop: then this says so.
        region_of(request.model_copy(update={"random_region": random}), self.shape, self.start, self.name)
        return await self._drawn(random)

    async def _drawn(self, random: RandomRegion) -> tuple[Box, dict[str, JsonValue]]:
        draws: list[tuple[float, Box]] = []
        for origin, _ in zip(random_origins(self.shape, random.shape, random.seed), range(TRIES), strict=False):
            box = Box.at(origin, random.shape)
            draws.append((await self.filled(box), box))
            if draws[-1][0] >= FILLED_SHARE:
                break
        share, chosen = draws[-1] if draws[-1][0] >= FILLED_SHARE else max(draws, key=lambda draw: draw[0])
        said: dict[str, JsonValue] = {
            "seed": random.seed,
            "shape": list(random.shape),
            "origin": list(added(chosen.start, self.start)),
            "filled": share,
            "filled_wanted": FILLED_SHARE,
            "draws": [{"origin": list(added(box.start, self.start)), "filled": full} for full, box in draws],
        }
        return chosen, {"random_region": said}


def _array_fullness(array: RemoteArray) -> Fullness:
    reader = array.first.reader

    async def filled(box: Box) -> float:
        cell = reader.native.cell
        parts = _samples(box, cell)
        names = [name for part in parts for each in reader.cells(part) for name in reader.array.names(each)[-1:]]
        here = replace(reader, lookup=await lookup_of(array.root, names), region=None)
        pool = ThreadPoolExecutor(1, thread_name_prefix="samples")
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(pool, lambda: _share([here.read(part) for part in parts]))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    return filled


def _samples(box: Box, cell: Shape3 = (64, 64, 64)) -> list[Box]:
    """Parts of single chunks at places spread over `box`."""
    marks = [
        [start + (2 * k + 1) * size // (2 * SAMPLES_PER_AXIS) for k in range(SAMPLES_PER_AXIS)]
        for start, size in zip(box.start, box.shape, strict=True)
    ]
    parts = []
    for z, y, x in product(*marks):
        first = [at // c * c for at, c in zip((z, y, x), cell, strict=True)]
        part = Box.at((first[0], first[1], first[2]), cell).overlap(box)
        assert part is not None
        parts.append(part)
    return list(dict.fromkeys(parts))


def _share(parts: list[NDArray[Any]]) -> float:
    """How many of `parts` hold something: other greys than one, or labels."""
    return round(sum(_holds_something(part) for part in parts) / len(parts), 3)


def _holds_something(part: NDArray[Any]) -> bool:
    if part.dtype.itemsize >= 4 and part.dtype.kind == "u":
        return bool(np.count_nonzero(part) * 2 > part.size)
    return bool(int(part.max()) - int(part.min()) > FLAT)


def _dvid_object(url: str, box: Box, itemsize: int, context: Context) -> PlannedObject:
    """A box of voxels, whose size is known before it is asked for; DVID tells no versions apart."""
    there, size = f"{url}/{box_name(box)}", math.prod(box.shape) * itemsize
    version = f"{size} as seen by {context.job} r{context.revision}"
    origin = storage.origin(there, version)
    return PlannedObject(path=box_name(box), url=there, location=Segments(origin=origin), bytes=size, version=str(size))


def _listing(
    url: str, known: KnownVolume, objects: tuple[PlannedObject, ...], region: Box | None, said: dict[str, JsonValue]
) -> Listing:
    return Listing(
        objects=objects,
        download_url=url,
        parts=(Part(tuple(range(len(objects))), role=known.role),),
        description=f"FlyEM hemibrain: {known.description}",
        modality="FIB-SEM",
        licence=LICENCE,
        citation=(CITATION,),
        region=region,
        archive={"path": known.path, **said},
    )
