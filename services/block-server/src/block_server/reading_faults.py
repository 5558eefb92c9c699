"""What TensorStore says went wrong, as an error that names volume, level and chunk."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from block_server.errors import RESTORE, DamagedVolumeError
from emporter_contracts import storage
from emporter_contracts.errors import EmporterError
from emporter_contracts.geometry import Index3
from emporter_contracts.ids import VolumeRef
from emporter_runtime.errors import StoreUnavailableError
from emporter_runtime.objects import StoreRefusedError

if TYPE_CHECKING:
    from block_server.arrays import Level

_CHUNK = re.compile(r"shard entry \{(\d+), (\d+), (\d+)\}.*?/c/(\d+)/(\d+)/(\d+)\"")


@contextmanager
def named_faults(ref: VolumeRef, level: Level) -> Iterator[None]:
    """What goes wrong while voxels are read, by volume, level and chunk."""
    try:
        yield
    except ValueError as error:
        raise fault_of(error, f"{ref} level {level.number}", _chunk_named(str(error), level)) from error


def fault_of(error: ValueError, where: str, what: str) -> EmporterError:
    """TensorStore says everything with ValueError, and begins with the kind, an absl status code."""
    kind = str(error).split(":", 1)[0]
    if kind == "NOT_FOUND":
        return DamagedVolumeError(f"{where}: {what} is missing", hint=RESTORE)
    if kind in {"FAILED_PRECONDITION", "DATA_LOSS", "INVALID_ARGUMENT", "OUT_OF_RANGE"}:
        return DamagedVolumeError(f"{where}: {what} can't be read", hint=RESTORE)
    if kind in {"PERMISSION_DENIED", "UNAUTHENTICATED"}:
        return StoreRefusedError(f"{where}: the store refuses {what}", hint="check the block-server's keys to the store")
    return StoreUnavailableError(f"{where}: the store does not give {what} ({kind.lower()})", hint="ask again in a moment")


def _chunk_named(text: str, level: Level) -> str:
    """Which chunk is meant, without the paths of this machine."""
    match = _CHUNK.search(text)
    if match is None:
        return "a chunk"
    entry, shard = _index(match.groups()[:3]), _index(match.groups()[3:])
    chunk = [s * (w // c) + e for s, e, w, c in zip(shard, entry, level.shard, level.chunk, strict=True)]
    return f"chunk {chunk}, in shard {storage.shard_key(level.number, shard)},"


def _index(texts: tuple[str, ...]) -> Index3:
    z, y, x = (int(t) for t in texts)
    return (z, y, x)
