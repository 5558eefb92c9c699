"""Source `url`: one file, or the root of an array, behind http://, https://, ftp:// or s3:// on hosts the operator allowed."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator

from emporter_contracts.commands import IngestRequest
from emporter_contracts.plans import PlannedObject
from emporter_readers.chunked.following import root_of
from emporter_readers.protocol import ByteSource
from fetcher.errors import NotInArchiveError, UrlRefusedError
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.arrays import ArrayRoot, array_objects, remote_array
from fetcher.sources.http_arrays import HttpRoot
from fetcher.sources.over_files import FileObjects
from fetcher.sources.over_http import planned_object
from fetcher.sources.protocol import Context, Listing
from fetcher.sources.s3_arrays import SCHEME, S3Objects, S3Root
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.http import HttpLimits
from fetcher.transports.s3 import S3Place

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]\Z")


class UrlSource(FileObjects):
    """source_id is the URL itself."""

    name = "url"

    def __init__(self, settings: FetcherSettings, gate: Gate) -> None:
        hosts = HostPolicy(settings.url_allowed_hosts, settings.url_allow_private, schemes=("http", "https", "ftp"))
        limits = HttpLimits(settings.connections_per_host, settings.http_connect_seconds, settings.http_stall_seconds)
        super().__init__(hosts, limits, gate)
        self._hosts = hosts
        self._settings = settings
        self._buckets: dict[str, S3Objects] = {}

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        root = root_of(request.source_id)
        if (root or request.source_id).startswith(SCHEME):
            return await self._in_bucket(root or request.source_id, request, context, is_root=root is not None)
        if root is not None:
            return await _array(HttpRoot(self, root, context), request)
        probe = await self.probed(request.source_id)
        said = {"etag": probe.pinned.etag, "last_modified": probe.pinned.modified, "accepts_ranges": probe.ranges}
        return Listing(
            objects=(planned_object(probe, context),),
            download_url=request.source_id,
            description=probe.name,
            archive={"http": {name: value for name, value in said.items() if value is not None}},
        )

    def open(self, planned: PlannedObject) -> ByteSource:
        if planned.url.startswith(SCHEME):
            return self._bucket(_bucket_of(planned.url)).open(planned)
        return super().open(planned)

    def fetch(self, planned: PlannedObject, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        if planned.url.startswith(SCHEME):
            return self._bucket(_bucket_of(planned.url)).fetch(planned, start, stop)
        return super().fetch(planned, start, stop)

    async def close(self) -> None:
        await super().close()
        for bucket in self._buckets.values():
            await bucket.close()

    async def _in_bucket(self, url: str, request: IngestRequest, context: Context, *, is_root: bool) -> Listing:
        name = _bucket_of(url)
        objects = self._bucket(name)
        key = url.removeprefix(f"{SCHEME}{name}").strip("/")
        if is_root:
            return await _array(S3Root(objects, key, context), request)
        there = await objects.bucket.look(key)
        if there is None:
            raise NotInArchiveError(f"{url} does not exist", hint="the root of an array ends in a slash: s3://bucket/folder/")
        planned = objects.planned(key.rpartition("/")[2], there, context)
        return Listing(objects=(planned,), download_url=url, description=planned.path, archive={"s3": {"etag": there.etag}})

    def _bucket(self, name: str) -> S3Objects:
        """Raises HostRefusedError where the operator did not allow the bucket's host."""
        if name not in self._buckets:
            settings = self._settings
            place = S3Place(
                bucket=name,
                endpoint=settings.url_s3_endpoint.rstrip("/"),
                region=settings.url_s3_region,
                connections=settings.connections_per_host,
                connect_seconds=settings.http_connect_seconds,
                stall_seconds=settings.http_stall_seconds,
            )
            self._hosts.checked(place.endpoint or f"https://{name}.s3.{place.region}.amazonaws.com")
            self._buckets[name] = S3Objects(place, self.gate)
        return self._buckets[name]


async def _array(root: ArrayRoot, request: IngestRequest) -> Listing:
    array = await remote_array(root, request)
    region = array.region(request)
    objects, counted = await array_objects(array, region)
    return Listing(
        objects=objects,
        download_url=root.url,
        description=array.first.image.name or root.url.rstrip("/").rpartition("/")[2],
        region=region,
        archive={"array": counted},
    )


def _bucket_of(url: str) -> str:
    name = url.removeprefix(SCHEME).partition("/")[0]
    if not _BUCKET.match(name):
        raise UrlRefusedError(f"{url[:200]!r} names no bucket", hint="write s3://bucket/key")
    return name
