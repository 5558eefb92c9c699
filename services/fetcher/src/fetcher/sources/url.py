"""Source `url`: one file, or the root of an array, behind http:// or https:// on hosts the operator allowed."""

from __future__ import annotations

from emporter_contracts.commands import IngestRequest
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.arrays import array_objects, remote_array
from fetcher.sources.http_arrays import HttpRoot, root_of
from fetcher.sources.over_http import HttpObjects, planned_object
from fetcher.sources.protocol import Context, Listing
from fetcher.transports.addresses import HostPolicy
from fetcher.transports.http import HttpLimits


class UrlSource(HttpObjects):
    """source_id is the URL itself."""

    name = "url"

    def __init__(self, settings: FetcherSettings, gate: Gate) -> None:
        hosts = HostPolicy(settings.url_allowed_hosts, settings.url_allow_private)
        limits = HttpLimits(settings.connections_per_host, settings.http_connect_seconds, settings.http_stall_seconds)
        super().__init__(hosts, limits, gate)

    async def resolve(self, request: IngestRequest, context: Context) -> Listing:
        root = root_of(request.source_id)
        if root is not None:
            return await self._array(root, request, context)
        probe = await self.client.probe(request.source_id)
        said = {"etag": probe.pinned.etag, "last_modified": probe.pinned.modified, "accepts_ranges": probe.ranges}
        return Listing(
            objects=(planned_object(probe, context),),
            download_url=request.source_id,
            description=probe.name,
            archive={"http": {name: value for name, value in said.items() if value is not None}},
        )

    async def _array(self, url: str, request: IngestRequest, context: Context) -> Listing:
        array = await remote_array(HttpRoot(self, url, context), request)
        region = array.region(request)
        objects, counted = await array_objects(array, region)
        return Listing(
            objects=objects,
            download_url=url,
            description=array.first.image.name or url.rstrip("/").rpartition("/")[2],
            region=region,
            archive={"array": counted},
        )
