"""Roots of arrays in public buckets of S3, and the objects below them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from typing import Any, TypeVar

from emporter_contracts import storage
from emporter_contracts.plans import PlannedObject, Segments
from emporter_readers.cached import CachedSource
from emporter_readers.protocol import ByteSource
from fetcher.gate import Gate
from fetcher.sources.over_http import first_byte, pinned
from fetcher.sources.protocol import Context
from fetcher.transports.reading import from_thread
from fetcher.transports.s3 import Bucket, S3Object, S3Place, listing_prefixes

MOST_AT_ONCE = 256
"""Names looked at at once, before the bucket's own limit: a bound on tasks, not on connections."""
SCHEME = "s3://"

T = TypeVar("T")


class S3Objects:
    """Opens and fetches objects of one public bucket. URLs are `s3://bucket/key`; the endpoint is the operator's."""

    def __init__(self, place: S3Place, gate: Gate) -> None:
        self.bucket = Bucket(place)
        self.gate = gate
        self.connections = place.connections

    def open(self, planned: PlannedObject) -> ByteSource:
        there, first = self._there(planned)

        async def read(start: int, stop: int) -> bytes:
            return await self.bucket.read(there, first + start, first + stop)

        return CachedSource(planned.path, planned.bytes, from_thread(read))

    def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        there, first = self._there(planned)
        return self.bucket.pieces(there, first + start, first + stop)

    async def close(self) -> None:
        await self.bucket.close()

    def planned(self, path: str, there: S3Object, context: Context) -> PlannedObject:
        """One object of the bucket, to be copied under the name `path`."""
        url = f"{SCHEME}{self.bucket.place.bucket}/{there.key}"
        version = there.etag or f"{there.size} as seen by {context.job} r{context.revision}"
        return PlannedObject(
            path=path,
            url=url,
            location=Segments(origin=storage.origin(url, version)),
            bytes=there.size,
            version=there.etag or str(there.size),
            etag=there.etag,
        )

    def _there(self, planned: PlannedObject) -> tuple[S3Object, int]:
        whole = pinned(planned)
        key = whole.url.removeprefix(f"{SCHEME}{self.bucket.place.bucket}/")
        return S3Object(key, whole.size, whole.etag), first_byte(planned)


class S3Root:
    """An ArrayRoot below a folder of a bucket."""

    def __init__(self, objects: S3Objects, folder: str, context: Context) -> None:
        self._objects = objects
        self._folder = folder.strip("/") + "/"
        self._context = context
        self._turns = asyncio.Semaphore(MOST_AT_ONCE)
        self.url = f"{SCHEME}{objects.bucket.place.bucket}/{folder.strip('/')}"

    async def document(self, name: str) -> bytes | None:
        return await self._objects.bucket.whole(self._folder + name)

    async def objects(self, names: Sequence[str]) -> list[PlannedObject]:
        keys = [self._folder + name for name in names]
        prefixes = listing_prefixes(keys, self._folder)
        found = await (self._each(keys) if prefixes is None else self._listed(prefixes))
        pairs = [(name, found[key]) for name, key in zip(names, keys, strict=True) if key in found]
        return [self._objects.planned(name, there, self._context) for name, there in pairs]

    def open(self, planned: PlannedObject) -> ByteSource:
        return self._objects.open(planned)

    async def _each(self, keys: Sequence[str]) -> dict[str, S3Object]:
        async def one(key: str) -> S3Object | None:
            async with self._turns:
                return await self._objects.bucket.look(key)

        looked = await _all_of([one(key) for key in keys])
        return {there.key: there for there in looked if there is not None}

    async def _listed(self, prefixes: Sequence[str]) -> dict[str, S3Object]:
        pages = await _all_of([self._objects.bucket.listed(prefix) for prefix in prefixes])
        return {there.key: there for page in pages for there in page}


async def _all_of(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All at once; the first error ends the others."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
