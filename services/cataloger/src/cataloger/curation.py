"""What people and outside scripts write: annotations of any volume, and records of volumes no job of ours makes.

Each is kept in the object store too, so that a catalog rebuilt from there holds them. A record entered from outside keeps the
rules of ours: its schema, the states a job may move through, one source and id for ever.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Any

from pydantic import Field, ValidationError

from cataloger.database import Database
from cataloger.errors import AlreadyThereError, InvalidRecordError, NotInCatalogError
from cataloger.models import Revision
from cataloger.records import document
from cataloger.repository import Writer, find_volume, locked_revision
from cataloger.validation import problems
from emporter_contracts import storage
from emporter_contracts.commands import Message
from emporter_contracts.ids import is_volume_id, record_uuid, slug
from emporter_contracts.jobs import MOVES, JobState
from emporter_contracts.records import MetadataRecord
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects, json_bytes

KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}\Z")
"""Of an annotation: it is part of an object's name."""
VALUE_CHARACTERS = 500
"""Of an annotation: it is a label to be looked up, and no index entry may be longer than 2,700 bytes."""
MAX_ANNOTATIONS = 100
"""Of one volume."""
FIXED = ("version", "id", "volume", "revision", "source", "source_id", "created_at", "updated_at")
"""What a change of a record may not touch."""

SCHEMA_HINT = "metadata-record-2.0.json says what a record may hold"

log = get_logger(__name__)
Document = dict[str, Any]


class Annotated(Message):
    """An annotation as the store keeps it."""

    volume: str
    key: str
    value: str = Field(max_length=VALUE_CHARACTERS)
    updated_at: datetime


class Curation:
    """Takes writes."""

    def __init__(self, database: Database, objects: Objects) -> None:
        self._database = database
        self._objects = objects

    async def annotate(self, volume: str, key: str, value: str) -> None:
        """Set one annotation. Raises NotInCatalogError, InvalidRecordError."""
        if not KEY.match(key):
            raise InvalidRecordError(f"{key[:80]!r} is no key", hint="a letter, then up to 63 letters, digits, _ . or -")
        if not value.strip() or len(value) > VALUE_CHARACTERS:
            raise InvalidRecordError(
                f"the value of {key} is empty or too long", hint=f"up to {VALUE_CHARACTERS} characters; DELETE takes it away"
            )
        note = Annotated(volume=volume, key=key, value=value, updated_at=datetime.now(UTC))
        async with self._database.writing() as session:
            writer = Writer(session)
            job = await self._job(writer, volume)
            if await writer.annotations(volume, but=key) >= MAX_ANNOTATIONS:
                raise InvalidRecordError(f"{volume} has {MAX_ANNOTATIONS} annotations", hint="take one away first")
            await writer.annotate(volume, key, value, note.updated_at)
            await writer.refresh(job)
            await self._objects.put(storage.RAW, storage.annotation(volume, key), json_bytes(note))

    async def unannotate(self, volume: str, key: str) -> None:
        """Take one annotation away. Raises NotInCatalogError."""
        async with self._database.writing() as session:
            writer = Writer(session)
            job = await self._job(writer, volume)
            if not KEY.match(key) or not await writer.drop_annotation(volume, key):
                raise NotInCatalogError(f"{volume} has no annotation {key[:64]}", hint=f"GET /v1/volumes/{volume} shows them")
            await writer.refresh(job)
            await self._objects.delete(storage.RAW, [storage.annotation(volume, key)])

    async def enter(self, body: Document) -> Document:
        """A new volume, `pending`. Raises AlreadyThereError, InvalidRecordError."""
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        source, identity = body.get("source"), body.get("source_id")
        if not (isinstance(source, str) and isinstance(identity, str) and source and identity):
            raise InvalidRecordError("source and source_id are missing", hint='{"source": "idr", "source_id": "9846137", …}')
        volume = body.get("volume") or slug(f"{source}-{identity}")
        if not isinstance(volume, str) or not is_volume_id(volume):
            raise InvalidRecordError(f"{str(volume)[:80]!r} is no volume id", hint="small letters, digits, _ and - in between")
        given = {"status": "pending", "created_at": now, "updated_at": now}
        whole = {**given, **body, "version": "2.0", "id": str(record_uuid(volume)), "volume": volume, "revision": 1}
        return await self._enter(whole)

    async def enrich(self, volume: str, patch: Document) -> Document:
        """Change a record entered from outside, by JSON merge patch (RFC 7396). Raises NotInCatalogError, InvalidRecordError."""
        touched = [name for name in FIXED if name in patch]
        if touched:
            raise InvalidRecordError(
                f"{', '.join(touched)} can't be changed", hint="leave it out; another source id is another volume"
            )
        async with self._database.writing() as session:
            row = await locked_revision(session, volume, 1)
            if row is None:
                raise NotInCatalogError(f"there is no volume {volume[:80]}", hint="POST /v1/volumes enters one")
            before = _own(row)
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            record = checked({**merged(before, patch), "updated_at": now})
            _check_move(volume, before["status"], record["status"])
            await Writer(session).put_external(record)
            await self._keep(record)
        return record

    async def take(self, record: Document) -> bool:
        """Enter a whole record, or put it in the place of one entered before; False where a job of ours made that volume."""
        known = checked(record)
        async with self._database.writing() as session:
            row = await locked_revision(session, known["volume"], 1)
            if (row is not None and not row.external) or (
                row is None and await find_volume(session, known["volume"]) is not None
            ):
                return False
            await Writer(session).put_external(known)
            await self._keep(known)
        return True

    async def restore(self) -> int:
        """Take in what the store keeps of all this; how much of it can't be read."""
        unreadable = 0
        for name in await self._objects.names(storage.RAW, storage.EXTERNALS_PREFIX):
            unreadable += not await self._restore_record(storage.EXTERNALS_PREFIX + name)
        for volume in await self._objects.folders(storage.RAW, storage.ANNOTATIONS_PREFIX):
            prefix = f"{storage.ANNOTATIONS_PREFIX}{volume}/"
            for name in await self._objects.names(storage.RAW, prefix):
                unreadable += not await self._restore_note(prefix + name)
        return unreadable

    async def _enter(self, whole: Document) -> Document:
        record = checked(whole)
        if record["status"] not in (JobState.PENDING, JobState.COMPLETE):
            raise InvalidRecordError(f"a volume can't begin as {record['status']}", hint="begin as pending or complete")
        async with self._database.writing() as session:
            if await find_volume(session, record["volume"]) is not None:
                raise AlreadyThereError(f"{record['volume']} is in the catalog", hint="PATCH changes it")
            await Writer(session).put_external(record)
            await self._keep(record)
        return record

    async def _keep(self, record: Document) -> None:
        await self._objects.put(storage.RAW, storage.external(record["volume"]), json.dumps(record).encode())

    async def _job(self, writer: Writer, volume: str) -> str:
        job = await writer.lock_volume(volume)
        if job is None:
            raise NotInCatalogError(f"there is no volume {volume[:80]}", hint="emporter volumes lists what there is")
        return job

    async def _restore_record(self, key: str) -> bool:
        try:
            record = checked(json.loads(await self._objects.get(storage.RAW, key)))
        except (ValueError, InvalidRecordError) as error:
            log.warning("unreadable", what=key, error=str(error)[:500])
            return False
        async with self._database.writing() as session:
            if await find_volume(session, record["volume"]) is None:
                await Writer(session).put_external(record)
        return True

    async def _restore_note(self, key: str) -> bool:
        try:
            note = Annotated.model_validate_json(await self._objects.get(storage.RAW, key))
        except ValidationError as error:
            log.warning("unreadable", what=key, error=str(error)[:500])
            return False
        async with self._database.writing() as session:
            writer = Writer(session)
            job = await writer.lock_volume(note.volume)
            await writer.annotate(note.volume, note.key, note.value, note.updated_at)
            if job is not None:
                await writer.refresh(job)
        return True


def merged(document: Any, patch: Any) -> Any:
    """RFC 7396: objects are merged, null takes a member away, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merged(result.get(name), value)
    return result


def checked(record: Document) -> Document:
    """The record with its defaults filled in. Raises InvalidRecordError for what its schema does not know or allow."""
    try:
        known = document(MetadataRecord.model_validate(record))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidRecordError(f"{where}: {first['msg']}", hint=SCHEMA_HINT) from error
    found = [*_unknown(record, known), *problems(known)]
    if found:
        raise InvalidRecordError(found[0], hint=SCHEMA_HINT)
    return known


def _unknown(given: Any, known: Any, path: str = "$") -> list[str]:
    """Fields that were given and are none of the record's: a misspelt one must not vanish."""
    if isinstance(given, dict) and isinstance(known, dict):
        strange = [f"{path}.{name}: no such field" for name in given if name not in known]
        return strange + [w for name in given if name in known for w in _unknown(given[name], known[name], f"{path}.{name}")]
    if isinstance(given, list) and isinstance(known, list):
        return [w for n, (a, b) in enumerate(zip(given, known, strict=False)) for w in _unknown(a, b, f"{path}[{n}]")]
    return []


def _own(row: Revision) -> Document:
    if not row.external:
        raise AlreadyThereError(f"{row.volume} was made by a job", hint="annotate it instead")
    return row.record


def _check_move(volume: str, now: str, to: str) -> None:
    if now != to and JobState(to) not in MOVES[JobState(now)]:
        allowed = ", ".join(sorted(MOVES[JobState(now)]))
        raise InvalidRecordError(f"{volume}: {now} can't become {to}", hint=f"from {now} it may become {allowed}")
