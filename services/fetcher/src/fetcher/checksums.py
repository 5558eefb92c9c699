"""Hashes of whole objects, and what archive or uploader say they are."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from typing import Protocol

from emporter_contracts.plans import PlannedObject
from fetcher.errors import ChecksumMismatchError


class Digest(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None: ...

    def hexdigest(self) -> str: ...


def digests_for(planned: PlannedObject) -> dict[str, Digest]:
    """sha256 always, and the algorithm of the checksum that came with the object."""
    names = {"sha256"} | ({planned.checksum.algorithm} if planned.checksum else set())
    return {name: new_digest(name) for name in sorted(names)}


def new_digest(algorithm: str) -> Digest:
    """An old algorithm is good enough to notice a broken transfer."""
    return hashlib.new(algorithm, usedforsecurity=False)


async def updated(digests: Mapping[str, Digest], piece: bytes) -> None:
    """Hash off the loop, each in a thread of its own: heartbeats must not wait for it."""
    await asyncio.gather(*(asyncio.to_thread(digest.update, piece) for digest in digests.values()))


def check(planned: PlannedObject, found: Mapping[str, str]) -> None:
    """Compare `found`, hex by algorithm, with the checksum of `planned`; silent where either is missing.

    Raises ChecksumMismatchError naming the object.
    """
    said = planned.checksum
    if said is None or said.algorithm not in found or found[said.algorithm] == said.hex.lower():
        return
    raise ChecksumMismatchError(
        f"{planned.path} has {said.algorithm} {found[said.algorithm]}, {said.hex} was promised",
        hint="the file is damaged, or is no longer the one the checksum was made of",
    )
