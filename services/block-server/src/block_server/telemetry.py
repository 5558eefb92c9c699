"""Metrics. No label ever holds a volume: routes are labelled by their pattern."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import tensorstore as ts
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry
from starlette.types import Scope

from block_server.admission import Admission

REQUESTS = Counter("emporter_blocks_requests_answered_total", "By route, method and status", ["route", "method", "status"])
SECONDS = Histogram(
    "emporter_blocks_request_duration_seconds",
    "From the first byte of a request to the last of its answer",
    ["route"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
SENT = Counter("emporter_blocks_sent_bytes_total", "Bytes of bodies", ["route"])
STAGES = Histogram(
    "emporter_blocks_stage_duration_seconds",
    "By stage of an answer: find the volume, look up the chunk in its shard's index, wait for memory, read, encode",
    ["stage"],
    buckets=(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
VOXELS = Counter("emporter_blocks_voxel_bytes_total", "Bytes of voxels asked for, as stored")
TOUCHED = Counter(
    "emporter_blocks_chunk_bytes_total",
    "Bytes of the chunks that held them, decoded now or still in the cache: over voxel bytes, the read amplification",
)
SOURCE_DECODED = Counter(
    "emporter_blocks_source_decoded_bytes_total", "Bytes of chunks that were decoded of volumes that are read where they lie"
)
NEAR_HITS = Counter("emporter_blocks_disk_cache_hits_total", "Shards that were read from their copies on the near disk")
NEAR_MISSES = Counter("emporter_blocks_disk_cache_misses_total", "Shards that had no copy there")
NEAR_EVICTIONS = Counter("emporter_blocks_disk_cache_evictions_total", "Copies given up for others")
NEAR_FAILURES = Counter("emporter_blocks_disk_cache_failures_total", "Copies that could not be written, or not be read")
NEAR_BYTES = Gauge("emporter_blocks_disk_cache_bytes", "Bytes of copies")
HELD = Gauge("emporter_blocks_held_bytes", "Bytes that requests hold just now", ["kind"])

METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST"})
CACHE = "/tensorstore/cache/"
"""TensorStore's own counts of its caches, for all volumes together."""


def observe(scope: Scope, status: int, sent: int, seconds: float) -> None:
    """Count one answered request."""
    method = scope["method"] if scope["method"] in METHODS else "other"
    requests, durations, bodies = _counted(getattr(scope.get("route"), "path", "none"), method, status)
    requests.inc()
    durations.observe(seconds)
    bodies.inc(sent)


@cache  # as many as there are stages
def stage(name: str) -> Histogram:
    """The seconds of one stage."""
    return STAGES.labels(name)


@cache  # as many as there are routes, methods and statuses; looking them up by label takes longer than counting
def _counted(route: str, method: str, status: int) -> tuple[Counter, Histogram, Counter]:
    return REQUESTS.labels(route, method, status), SECONDS.labels(route), SENT.labels(route)


def count_voxels(asked: int, touched: int) -> None:
    """Count the bytes asked for, and of the chunks that have to be decoded for them where no cache has them."""
    VOXELS.inc(asked)
    TOUCHED.inc(touched)


def watch(kind: str, admission: Admission) -> None:
    """Show how much of an admission's limit is held."""
    HELD.labels(kind).set_function(lambda: admission.held)


class CacheCollector(Collector):
    """Hits, misses and evictions of the decoded-chunk cache."""

    def collect(self) -> Iterator[Metric]:
        """One counter per count that TensorStore has."""
        for name in ("hit_count", "miss_count", "evict_count"):
            total = sum(
                value["value"] for metric in ts.experimental_collect_matching_metrics(CACHE + name) for value in metric["values"]
            )
            family = CounterMetricFamily(f"emporter_blocks_cache_{name.removesuffix('_count')}s", f"Cache: {name}")
            family.add_metric([], float(total))
            yield family
        yield _decodes()
        read = sum(
            value["value"]
            for metric in ts.experimental_collect_matching_metrics("/tensorstore/kvstore/")
            if metric["name"].endswith("/bytes_read")
            for value in metric["values"]
        )
        stored = CounterMetricFamily("emporter_blocks_stored_bytes_read", "Bytes read from the store to decode them")
        stored.add_metric([], float(read))
        yield stored


def _decodes() -> CounterMetricFamily:
    """TensorStore counts what it decodes, and does not say of how many bytes."""
    counted = ts.experimental_collect_matching_metrics(CACHE + "kvs_cache_read")
    total = sum(value["value"] for metric in counted for value in metric["values"] if value["category"] == "changed")
    family = CounterMetricFamily("emporter_blocks_cache_decodes", "Chunks and shard indexes that no cache had, read and decoded")
    family.add_metric([], float(total))
    return family


def watch_cache(registry: CollectorRegistry = REGISTRY) -> None:
    """Show the cache in /metrics; to be called once."""
    registry.register(CacheCollector())
