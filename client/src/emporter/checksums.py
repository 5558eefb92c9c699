"""Checksums of what was ingested, kept in a file: a later run of the same requests says "same bytes", or what differs.

Compared are sha256 of every object as the archive served it, and of the voxels of every volume (level 0, C order, little-endian).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from emporter.errors import MistakeError
from emporter_contracts.commands import IngestRequest
from emporter_contracts.ids import canonical, short_hash

Record = Mapping[str, Any]
"""A metadata record as the catalog gives it."""
MOST_TOLD = 3
"""Differences named one by one; of more the number is told."""


class Sums(BaseModel):
    """Of one request. Objects by URL, volumes by their place in the request."""

    model_config = ConfigDict(frozen=True)

    source: str
    source_id: str
    objects: dict[str, str]
    voxels: dict[str, str]

    @classmethod
    def of(cls, request: IngestRequest, job: str, records: Sequence[Record]) -> Self:
        """Those of a request that was carried out. Raises MistakeError where a record says none."""
        objects = {one["url"]: one["sha256"] for record in records for one in record["metadata"]["provenance"].get("objects", ())}
        found = {_series(record["volume"], job): of_voxels(record["metadata"]["technical"]) for record in records}
        voxels = {series: digest for series, digest in found.items() if digest is not None}
        if len(voxels) < len(found):
            raise MistakeError(f"{job}: the catalog has no checksum of its voxels", hint="emporter doctor")
        return cls(source=request.source, source_id=request.source_id, objects=objects, voxels=voxels)


def of_voxels(technical: Record) -> str | None:
    """The SHA-256 of a volume's voxels; `planes:` and that of its planes where those were hashed each for itself
    (emporter_contracts.records.Technical); None where nothing is said.
    """
    of_planes = technical.get("planes_sha256")
    return technical.get("sha256") or (f"planes:{of_planes}" if of_planes else None)


@dataclass(slots=True)
class Checksums:
    """The file, read once; `compare` and then `save`."""

    path: Path
    known: dict[str, Sums]
    added: bool = False

    @classmethod
    def at(cls, path: Path) -> Self:
        """What `path` holds; nothing where it does not exist. Raises MistakeError where it is something else."""
        if not path.exists():
            return cls(path, {})
        try:
            held = json.loads(path.read_text())
            return cls(path, {key: Sums.model_validate(sums) for key, sums in held["requests"].items()})
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise MistakeError(f"{path} holds no checksums of an ingest", hint="name another file, or a new one") from error

    def compare(self, request: IngestRequest, sums: Sums) -> list[str]:
        """What differs from the first run of this request, each in one phrase; where there was none, these are kept."""
        known = self.known.get(_key(request))
        if known is not None:
            return list(differences(known, sums))
        self.known[_key(request)] = sums
        self.added = True
        return []

    def knows(self, request: IngestRequest) -> bool:
        """Whether an earlier run was kept."""
        return _key(request) in self.known

    def save(self) -> None:
        """Write what was added; what was kept before is never changed."""
        if not self.added:
            return
        held = {"requests": {key: self.known[key].model_dump() for key in sorted(self.known)}}
        beside = self.path.with_name(self.path.name + ".part")
        beside.write_text(json.dumps(held, indent=2, sort_keys=True) + "\n")
        beside.replace(self.path)


def differences(before: Sums, now: Sums) -> Iterator[str]:
    """Each in one phrase, objects first: where these are the same and voxels are not, it is ours."""
    told = [*_changed("object", before.objects, now.objects), *_changed("voxels of", before.voxels, now.voxels)]
    yield from told[:MOST_TOLD]
    if len(told) > MOST_TOLD:
        yield f"and {len(told) - MOST_TOLD} more"


def _changed(what: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    for name in [*before, *(name for name in now if name not in before)]:
        was, is_ = before.get(name), now.get(name)
        if was is None:
            yield f"{what} {name or 'the volume'}: is new"
        elif is_ is None:
            yield f"{what} {name or 'the volume'}: is gone"
        elif was != is_:
            yield f"{what} {name or 'the volume'}: sha256 was {was[:12]}…, is {is_[:12]}…"


def _key(request: IngestRequest) -> str:
    """Of what is asked for, whatever the job that carries it out is called."""
    return f"{request.source} {request.source_id} {short_hash(canonical(request))}"


def _series(volume: str, job: str) -> str:
    return volume.removeprefix(job).removeprefix("--")
