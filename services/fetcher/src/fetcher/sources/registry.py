"""Every archive this fetcher knows, by name."""

from __future__ import annotations

from emporter_contracts.plans import SEGMENT_BYTES
from emporter_contracts.topology import SOURCES
from emporter_runtime.errors import NotProvisionedError
from emporter_runtime.objects import Objects
from fetcher.gate import Gate
from fetcher.settings import FetcherSettings
from fetcher.sources.empiar import EmpiarSource
from fetcher.sources.epfl import EpflSource
from fetcher.sources.file_root import FileRootSource
from fetcher.sources.hemibrain import HemibrainSource
from fetcher.sources.idr import IdrSource
from fetcher.sources.inbox import InboxSource
from fetcher.sources.openorganelle import OpenOrganelleSource
from fetcher.sources.packed import PackedSource, elsewhere, in_file_root, in_inbox
from fetcher.sources.protocol import Source
from fetcher.sources.url import UrlSource


def all_sources(settings: FetcherSettings, objects: Objects) -> dict[str, Source]:
    """Raises NotProvisionedError where the bus has other sources than these: a command would wait for ever."""
    gate = Gate(settings.segments_in_flight * SEGMENT_BYTES)
    made: tuple[Source, ...] = (
        PackedSource(InboxSource(objects, gate, settings.connections_per_host), in_inbox, settings.unpacked_bytes),
        PackedSource(FileRootSource(settings.file_roots, gate), in_file_root, settings.unpacked_bytes),
        PackedSource(UrlSource(settings, gate), elsewhere, settings.unpacked_bytes),
        EpflSource(settings, gate),
        IdrSource(settings, gate),
        PackedSource(EmpiarSource(settings, gate), elsewhere, settings.unpacked_bytes),
        OpenOrganelleSource(settings, gate),
        HemibrainSource(settings, gate),
    )
    sources = {source.name: source for source in made}
    if sources.keys() != SOURCES.keys():
        raise NotProvisionedError(
            f"this fetcher has {', '.join(sorted(sources))}, the bus {', '.join(sorted(SOURCES))}",
            hint="sources/registry.py and topology.SOURCES name the same archives",
        )
    return sources
