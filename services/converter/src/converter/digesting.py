"""The digest that a commit names: whoever has the same one has the same voxels, stored in the same way."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from emporter_contracts.events import ShardWritten


class Sum(NamedTuple):
    """Bytes of a document, and their SHA-256."""

    bytes: int
    sha256: str


Sums = Mapping[str, Sum]


def sum_of(data: bytes) -> Sum:
    """The Sum of a document."""
    return Sum(len(data), hashlib.sha256(data).hexdigest())


def volume_digest(entered: Iterable[ShardWritten], arrays: Sums, occupancy: Sums) -> str:
    """SHA-256 over a line per shard, per level's metadata and per object of the occupancy index; each part sorted by key
    (`entered` comes so).

    Keys of shards and arrays are below the OME-Zarr folder, those of the index below the folder of the revision. Revisions
    whose digests do not name the index are digests without it.
    """
    digest = hashlib.sha256()
    for shard in entered:
        digest.update(f"{shard.key} {shard.crc32c} {shard.bytes}\n".encode())
    for sums in (arrays, occupancy):
        for key in sorted(sums):
            digest.update(f"{key} {sums[key].sha256} {sums[key].bytes}\n".encode())
    return digest.hexdigest()


def sums_said(digests: Mapping[str, Any], part: str) -> dict[str, Sum]:
    """What a `digests.json` says of a part of it; nothing where it has none."""
    return {key: Sum(**said) for key, said in digests.get(part, {}).items()}
