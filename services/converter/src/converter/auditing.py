"""Is a committed revision still what was committed? `python -m converter.auditing VOLUME@rN`, which `emporter verify` runs.

Reads and compares, changes nothing: every shard with its checksum, the volume's digest with its commit, the voxels' SHA-256 with
the record, and, where the raw objects still exist, their SHA-256 with the manifest and every voxel of level 0 with theirs, the
stored ones read by zarr-python. Prints one JSON finding a line; exit status 1 where one is not well, 2 where there is nothing
to look at.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from converter.digesting import sum_of, sums_said, volume_digest
from converter.entered import Entered
from converter.errors import ChangedSourceError, CorruptVolumeError
from converter.hashing import Order, voxel_hash
from converter.memory import working_memory
from converter.settings import ConverterSettings
from converter.sources import open_reader, open_source
from converter.stored import StoredLevel
from converter.verifying import Checks, compare_level, look_above, looking_threads, read_in, require_complete
from emporter_contracts import storage
from emporter_contracts.errors import EmporterError, RefusedError
from emporter_contracts.events import ShardWritten
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import (
    SEGMENT_BYTES,
    Commit,
    ConversionPlan,
    FetchPlan,
    FileRootPath,
    InboxKey,
    Manifest,
    ManifestObject,
    VolumePlan,
)
from emporter_readers.errors import ReaderError
from emporter_runtime.commits import current, read_commit
from emporter_runtime.errors import ObjectMissingError
from emporter_runtime.objects import Objects

PIECE_BYTES = 16 * 2**20
"""Of a raw object hashed at once."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, whether it is as it should be, and what was seen."""

    what: str
    well: bool
    found: str


@dataclass(frozen=True, slots=True)
class Audited:
    """What a revision says of itself."""

    commit: Commit
    digests: Mapping[str, Any]
    plan: VolumePlan
    fetch: FetchPlan
    manifest: Manifest
    memory: int

    @property
    def entered(self) -> Entered:
        return Entered.of(self.plan, (ShardWritten(key=key, **said) for key, said in self.digests["shards"].items()))

    @property
    def raw(self) -> list[ManifestObject]:
        """The raw objects this volume was made of."""
        planned = next(v for v in self.fetch.volumes if v.volume == self.plan.volume)
        return [self.manifest.objects[n] for n in planned.objects]


def audited(objects: Objects, ref: VolumeRef) -> Audited:
    """A committed revision, the current one where `ref` names none; blocking. Raises ObjectMissingError."""
    revision = ref.revision or asyncio.run(current(objects, ref.volume))
    commit = asyncio.run(read_commit(objects, ref.volume, revision)) if revision is not None else None
    if commit is None:
        raise ObjectMissingError(f"{ref} is not committed in the store", hint="emporter volumes lists what is")
    if objects.find_sync(storage.VOLUMES, storage.registration(ref.volume, commit.revision)) is not None:
        raise RefusedError(
            f"{ref} is read where it lies: nothing of it is kept here that could be compared",
            code="not_stored_here",
            hint=f"its source is compared with every answer; emporter ingest {ref.volume} copies it in",
        )

    def read(bucket: str, key: str) -> bytes:
        return objects.get_sync(bucket, key)

    run = (commit.job, commit.arrays_of)
    conversion = ConversionPlan.model_validate_json(read(storage.RAW, storage.conversion(*run)))
    return Audited(
        commit=commit,
        digests=json.loads(read(storage.VOLUMES, storage.digests(ref.volume, commit.arrays_of))),
        plan=conversion.volume(ref.volume),
        fetch=FetchPlan.model_validate_json(read(storage.RAW, storage.plan(*run))),
        manifest=Manifest.model_validate_json(read(storage.RAW, storage.manifest(*run))),
        memory=working_memory(conversion.memory_bytes),
    )


def audit(objects: Objects, revision: Audited, file_roots: Mapping[str, Path]) -> Iterator[Finding]:
    """One finding after the other; blocking."""
    yield _finding("shards", lambda: _shards(objects, revision))
    yield _finding("digest", lambda: _digest(objects, revision))
    yield _finding("voxels", lambda: _voxels(objects, revision))
    gone = next((o.path for o in revision.raw if not _is_stored(objects, o, file_roots)), None)
    if gone is not None:
        yield Finding("raw objects", well=True, found=f"not there any more, so not compared: {gone}")
        return
    raw = _finding("raw objects", lambda: _raw(objects, revision, file_roots))
    yield raw
    if raw.well:
        yield _finding("voxels against the raw objects", lambda: _against_raw(objects, revision, file_roots))


def _finding(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, well=True, found=look())
    except (CorruptVolumeError, ChangedSourceError, ObjectMissingError, ReaderError) as error:
        return Finding(what, well=False, found=error.message)


def _shards(objects: Objects, revision: Audited) -> str:
    """Every shard is there in its size, and no other."""
    entered = revision.entered
    require_complete(objects, revision.plan.volume, revision.commit.arrays_of, entered)
    return f"{len(entered):,} in their sizes, {entered.stored_bytes:,} bytes"


def _digest(objects: Objects, revision: Audited) -> str:
    """Metadata, record and all that lies beside the shards are what was committed, and the digest is the commit's."""
    said, volume, number = revision.digests, revision.plan.volume, revision.commit.arrays_of
    beside = storage.revision_folder(volume, number)
    folders = {"arrays": storage.zarr_root(volume, number), "occupancy": beside, "census": beside}
    sums = {folder + key: held.sha256 for part, folder in folders.items() for key, held in sums_said(said, part).items()}
    differing = []
    for key, sha256 in (sums | revision.commit.documents).items():
        body = objects.find_sync(storage.VOLUMES, key)
        if body is None or sum_of(body).sha256 != sha256:
            differing.append(f"{key} is missing" if body is None else f"{key} is not as it was committed")
    found = volume_digest(revision.entered, sums_said(said, "arrays"), sums_said(said, "occupancy"))
    if found != revision.commit.digest:
        differing.append(f"{storage.digests(volume, number)} makes {found}, not the committed {revision.commit.digest}")
    if differing:
        raise CorruptVolumeError("; ".join(differing))
    return found


def _voxels(objects: Objects, revision: Audited) -> str:
    """Every shard's checksum, and the SHA-256 of level 0 in the order in which it was taken."""
    plan, entered, said = revision.plan, revision.entered, revision.digests["voxels"]
    order: Order = said["order"]
    checks, digest = Checks(plan.volume, entered), voxel_hash(order, plan.levels[0].shape)
    level = StoredLevel(objects, plan, revision.commit.arrays_of, 0, checks.look)
    with ThreadPoolExecutor(looking_threads(level), "audit") as pool:
        for voxels in read_in(order, level, revision.memory, pool, _never):
            digest.add(voxels)
        look_above(objects, plan, revision.commit.arrays_of, entered, checks, pool, _never)
    if digest.hexdigest() != said["sha256"]:
        raise CorruptVolumeError(f"sha256 {digest.hexdigest()} is not the recorded {said['sha256']}")
    return f"sha256 {digest.hexdigest()}{'' if order == 'C' else ' of its planes'}"


def _is_stored(objects: Objects, stored: ManifestObject, file_roots: Mapping[str, Path]) -> bool:
    """Whether all of a raw object can still be read from here."""
    where = stored.location
    if isinstance(where, FileRootPath):
        return where.root in file_roots
    if isinstance(where, InboxKey):
        return objects.sizes_sync(storage.INBOX, where.key).get(where.key) is not None
    folder = storage.segment(where.origin, 0).removesuffix("0")
    return len(objects.sizes_sync(storage.RAW, folder)) * SEGMENT_BYTES >= stored.bytes


def _raw(objects: Objects, revision: Audited, file_roots: Mapping[str, Path]) -> str:
    """The raw objects of this volume are the bytes that were fetched."""
    for stored in revision.raw:
        source, digest = open_source(objects, stored, file_roots), hashlib.sha256()
        for start in range(0, stored.bytes, PIECE_BYTES):
            digest.update(source.read(start, min(start + PIECE_BYTES, stored.bytes)))
        if digest.hexdigest() != stored.sha256:
            raise CorruptVolumeError(f"{stored.path}: sha256 {digest.hexdigest()} is not {stored.sha256} of the manifest")
    return f"{len(revision.raw):,} with the sha256 of the manifest, {sum(o.bytes for o in revision.raw):,} bytes"


def _against_raw(objects: Objects, revision: Audited, file_roots: Mapping[str, Path]) -> str:
    reader = open_reader(objects, revision.fetch, revision.manifest, revision.plan.volume, file_roots)
    compared = compare_level(objects, revision.plan, revision.commit.arrays_of, reader, 0, _never)
    return f"{compared:,} are equal"


def _never() -> None:
    """Nobody stops an audit but by ending its process."""


def main(arguments: list[str]) -> int:
    """Findings as JSON lines; the exit status."""
    settings = ConverterSettings()
    objects = Objects.open(settings)
    try:
        revision = audited(objects, VolumeRef.parse(arguments[0]))
        _say({"volume": revision.commit.volume, "revision": revision.commit.revision})
        well = True
        for finding in audit(objects, revision, settings.file_roots):
            _say(asdict(finding))
            well = well and finding.well
    except EmporterError as error:
        _say({"error": error.message, "hint": error.hint})
        return 2
    return 0 if well else 1


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
