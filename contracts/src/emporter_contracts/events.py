"""What has happened: facts, never refused. CloudEvents 1.0 in binary mode: attributes in `ce-*` headers, data as the body."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import Field

from emporter_contracts.commands import Message, RunIdentity

TYPE_PREFIX = "io.emporter"


class RunEvent(Message):
    """A fact about one run of a job."""

    job: str
    revision: Annotated[int, Field(ge=1)]
    generation: Annotated[int, Field(ge=1)]

    @classmethod
    def of(cls, run: RunIdentity, **fields: Any) -> Self:
        """The fact about the run that `run` is about."""
        return cls(job=run.job, revision=run.revision, generation=run.generation, **fields)


class RawPlanReady(RunEvent):
    """Headers are read and the plan is stored: this many objects, bytes and volumes."""

    objects: int
    bytes: int
    volumes: tuple[str, ...]


class RawObjectStored(RunEvent):
    """One unit is in the store (or, read in place, was read and hashed): event and ledger entry at once."""

    unit: str
    bytes: int
    sha256: str
    etag: str | None = None


class RawManifestComplete(RunEvent):
    """All objects are stored and hashed, and the manifest is written."""

    objects: int
    bytes: int


class ShardWritten(Message):
    """One shard object: key below the volume's OME-Zarr folder, bytes, CRC-32C of the bytes."""

    key: str
    bytes: int
    crc32c: str


class ConvertDone(RunEvent):
    """These shards are in the store: event and ledger entry at once."""

    volume: str
    level: int
    n: int
    shards: tuple[ShardWritten, ...]


class LevelComplete(RunEvent):
    """Every shard of one level is in the store."""

    volume: str
    level: int


class VolumeComplete(RunEvent):
    """A revision of a volume is committed and can be read."""

    volume: str
    digest: str


class Progress(Message):
    """Core NATS, lossy: how far a worker is inside one unit or task."""

    job: str
    stage: str
    unit: str
    bytes_done: int
    bytes_total: int


class WebhookDue(Message):
    """Something may be due to a subscription of webhooks: whoever hears it looks into the outbox, and believes nothing else."""


class DeadLetter(Message):
    """Why a message was set aside; the body of `dlq.<subject>` is the message itself, this stands in its headers."""

    code: str
    message: str
    stream: str
    sequence: int


def event_type(message: type[Message]) -> str:
    """The CloudEvents `type` of a body, such as `io.emporter.convert_done.v1`."""
    name = "".join(f"_{c.lower()}" if c.isupper() else c for c in message.__name__).lstrip("_")
    return f"{TYPE_PREFIX}.{name}.v1"


def cloud_event(message: Message, *, event_id: str, source: str, subject: str) -> dict[str, str]:
    """The `ce-*` headers of `message` (CloudEvents 1.0, NATS protocol binding, binary mode), and the id JetStream dedupes by."""
    return {
        "ce-specversion": "1.0",
        "ce-id": event_id,
        "ce-source": f"/services/{source}",
        "ce-type": event_type(type(message)),
        "ce-subject": subject,
        "ce-time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "content-type": "application/json",
        "Nats-Msg-Id": event_id,
    }
