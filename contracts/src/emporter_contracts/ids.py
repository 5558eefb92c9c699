"""Who is who: job ids, volume ids, upload ids. All are derived, none is random (PROTOCOL section 1)."""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from emporter_contracts.errors import InvalidValueError

if TYPE_CHECKING:
    from emporter_contracts.commands import IngestRequest

SLUG_LENGTH = 48
"""Characters of the readable part of a job id; with a hash it stays under 64, what subjects and S3 keys take with ease."""
HASH_LENGTH = 12
"""Hex digits of SHA-256 in ids: 48 bits, a collision among a million ids of one slug is one in 500."""
VOLUME_NAMESPACE = uuid.UUID("6f1d3a52-1b5e-5c68-9a0f-3d4c6a3f2c11")
"""Namespace of the uuid5 of volume ids in metadata records."""

_VOLUME = re.compile(r"(?P<job>[a-z0-9_]+(?:-[a-z0-9_]+)*)(?:--(?P<series>[a-z0-9_]+(?:-[a-z0-9_]+)*))?\Z")
_PINNED = re.compile(r"(?P<volume>[a-z0-9_-]+)(?:@r(?P<revision>[1-9][0-9]{0,7}))?\Z")


def slug(text: str) -> str:
    """`text` in `[a-z0-9_-]`, at most SLUG_LENGTH characters, runs of `-` collapsed, none at either end."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower())[:SLUG_LENGTH].strip("-")


def short_hash(text: str | bytes) -> str:
    """The first HASH_LENGTH hex digits of SHA-256."""
    data = text.encode() if isinstance(text, str) else text
    return hashlib.sha256(data).hexdigest()[:HASH_LENGTH]


def canonical(request: IngestRequest) -> str:
    """The request as one line of JSON, defaults filled in, without `force` and `refresh`: equal requests, equal lines."""
    body = request.model_dump(mode="json", exclude={"force", "refresh"})
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def job_id(request: IngestRequest) -> str:
    """The job of a request: its readable slug, and a hash of the whole request where the slug doesn't say it all."""
    plain = f"{request.source}-{request.source_id}"
    readable = slug(plain)
    bare = type(request)(source=request.source, source_id=request.source_id)
    if readable == plain and canonical(request) == canonical(bare):
        return readable
    return f"{readable}-{short_hash(canonical(request))}"


def volume_id(job: str, series: str = "") -> str:
    """The volume of a job; `series` (such as `s0-c1-t0`) only where the job holds several."""
    return f"{job}--{series}" if series else job


def job_of(volume: str) -> str:
    """The job that made a volume."""
    return volume.split("--", 1)[0]


def record_uuid(volume: str) -> uuid.UUID:
    """The `id` of a volume's metadata record."""
    return uuid.uuid5(VOLUME_NAMESPACE, volume)


def is_volume_id(text: str) -> bool:
    """Whether `text` may name a volume at all."""
    return len(text) <= 128 and _VOLUME.match(text) is not None


def upload_id(files: Iterable[tuple[str, int, str]]) -> str:
    """The id of uploaded files, each (path, bytes, sha256 hex): the same files give the same id in any order."""
    lines = [f"{path}\0{size}\0{digest}\n" for path, size, digest in sorted(files)]
    return short_hash("".join(lines))


@dataclass(frozen=True, slots=True)
class VolumeRef:
    """`<volume>` or, pinned to one immutable state, `<volume>@r<N>`."""

    volume: str
    revision: int | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidValueError."""
        match = _PINNED.match(text)
        if match is None or not is_volume_id(match["volume"]):
            raise InvalidValueError(
                f"{text[:80]!r} is no volume",
                hint="a volume is written <volume> or <volume>@r<N>, as `emporter volumes` lists it",
            )
        return cls(match["volume"], int(match["revision"]) if match["revision"] else None)

    def __str__(self) -> str:
        return self.volume if self.revision is None else f"{self.volume}@r{self.revision}"
