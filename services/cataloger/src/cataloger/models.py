"""The tables of the catalog, for PostgreSQL and SQLite alike: what is queried has a typed column, the rest is JSON.

What only one of the two has (full-text columns, tables, expression indexes) is made by the migrations alone, and its name begins
with NATIVE.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, DateTime, Dialect, Float, Index, Integer, Text, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

NATIVE = "search_"
"""How the name of whatever the models do not know begins: it belongs to one database's way of searching."""

FOUND = "verdict <> 'pass'"
"""What the indexes of findings hold. SQLite takes them only where a question says so in the same words."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC. SQLite keeps no zone, so it is taken off and put on again here."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def json_type() -> JSON:
    """JSONB on PostgreSQL, JSON text on SQLite."""
    return JSON().with_variant(JSONB(), "postgresql")


class Base(DeclarativeBase):
    """Root of the models."""

    type_annotation_map = {str: Text(), datetime: UtcDateTime(), float: Float(53)}


class Job(Base):
    """The newest state of a job. `version` is 0 where no state was heard yet, only something that belongs to the job."""

    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str]
    source_id: Mapped[str]
    state: Mapped[str]
    revision: Mapped[int] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer)
    version: Mapped[int] = mapped_column(Integer)
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    status: Mapped[dict[str, Any]] = mapped_column(json_type())
    """The body of the last `status.<job>` message."""

    __table_args__ = (
        Index("ix_jobs_created_at", "created_at", "id"),
        Index("ix_jobs_state", "state"),
        Index("ix_jobs_source", "source"),
    )


class Revision(Base):
    """The record of one volume at one revision: a draft while its run goes on, final once committed."""

    __tablename__ = "revisions"

    volume: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    job: Mapped[str]
    committed: Mapped[bool] = mapped_column(Boolean)
    stub: Mapped[bool] = mapped_column(Boolean)
    """Stands for the volumes of a job whose plan is not ready."""
    external: Mapped[bool] = mapped_column(Boolean)
    """Entered by an outside script, not made by a job of ours."""
    removed_at: Mapped[datetime | None]
    held: Mapped[bool] = mapped_column(Boolean, default=False)
    """Committed, but kept from becoming current by a quality gate or a rule of the policy."""
    record: Mapped[dict[str, Any]] = mapped_column(json_type())
    problems: Mapped[list[str]] = mapped_column(json_type())
    """What the record's JSON Schema has against it; empty where it is valid."""

    __table_args__ = (
        Index("ix_revisions_job", "job"),
        Index("ix_revisions_held", "volume", "revision", postgresql_where=text("held"), sqlite_where=text("held = 1")),
    )


class Volume(Base):
    """One volume as the catalog shows it: derived from its revisions, never written from anything else."""

    __tablename__ = "volumes"

    id: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str]
    revision: Mapped[int] = mapped_column(Integer)
    status: Mapped[str]
    """The state in its record, or `removed`."""
    source: Mapped[str]
    source_id: Mapped[str]
    modality: Mapped[str]
    role: Mapped[str]
    labels_of: Mapped[str | None]
    image: Mapped[str | None]
    """The volume `labels_of` names, whichever revision of it."""
    dtype: Mapped[str | None]
    licence: Mapped[str | None]
    organism: Mapped[str | None]
    caveats: Mapped[list[str]] = mapped_column(json_type(), deferred=True)
    shape_z: Mapped[int | None] = mapped_column(BigInteger)
    shape_y: Mapped[int | None] = mapped_column(BigInteger)
    shape_x: Mapped[int | None] = mapped_column(BigInteger)
    voxel_nm_z: Mapped[float | None]
    voxel_nm_y: Mapped[float | None]
    voxel_nm_x: Mapped[float | None]
    min_voxel_nm: Mapped[float | None]
    """The finest axis; NULL where any of the three is unknown."""
    max_voxel_nm: Mapped[float | None]
    """The coarsest axis; NULL where any of the three is unknown."""
    bytes: Mapped[int | None] = mapped_column(BigInteger)
    """Of the level-0 voxels."""
    stored_bytes: Mapped[int | None] = mapped_column(BigInteger)
    mean: Mapped[float | None]
    std: Mapped[float | None]
    zero_share: Mapped[float | None]
    saturated_share: Mapped[float | None]
    nan_share: Mapped[float | None]
    verified: Mapped[str]
    """How much was read back by a second implementation: no, sample or full."""
    verdict: Mapped[str | None]
    """Of the quality gates on the revision shown: pass, warn or fail; NULL where none was asked."""
    held: Mapped[bool] = mapped_column(Boolean)
    """Whether a revision waits to be released: the one shown, or a newer one."""
    managed: Mapped[bool] = mapped_column(Boolean)
    """False where the voxels are read from where they lie."""
    title: Mapped[str] = mapped_column(deferred=True)
    """The part of `search` that names the volume; a word found here counts more."""
    search: Mapped[str] = mapped_column(deferred=True)
    """Lower-case text `q` is looked for in."""
    derivation: Mapped[int] = mapped_column(Integer)
    """Which `records.DERIVATION` made this row; an older one is made anew at the next start."""
    summary: Mapped[dict[str, Any]] = mapped_column(json_type())
    """The row as lists show it, so that a list reads no whole records."""
    problems: Mapped[list[str]] = mapped_column(json_type())
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    __table_args__ = (
        Index("ix_volumes_updated_at", "updated_at", "id"),
        Index("ix_volumes_created_at", "created_at", "updated_at", "id"),
        Index("ix_volumes_job", "job"),
        Index("ix_volumes_source", "source"),
        Index("ix_volumes_status", "status"),
        Index("ix_volumes_source_updated_at", "source", "updated_at", "id"),
        Index("ix_volumes_status_updated_at", "status", "updated_at", "id"),
        Index("ix_volumes_modality", "modality", "updated_at", "id"),
        Index("ix_volumes_organism", "organism", "updated_at", "id"),
        Index("ix_volumes_dtype", "dtype", "updated_at", "id"),
        Index("ix_volumes_licence", "licence", "updated_at", "id"),
        Index("ix_volumes_verdict", "verdict", "updated_at", "id"),
        Index("ix_volumes_held", "held", "updated_at", "id"),
        Index("ix_volumes_managed", "managed", "updated_at", "id"),
        Index("ix_volumes_labels_of", "labels_of"),
        Index("ix_volumes_image", "image"),
        Index("ix_volumes_min_voxel_nm", "min_voxel_nm"),
        Index("ix_volumes_max_voxel_nm", "max_voxel_nm"),
        Index("ix_volumes_bytes", "bytes"),
        Index("ix_volumes_shape", "shape_z", "shape_y", "shape_x"),
        Index("ix_volumes_derivation", "derivation"),
    )


def _findings(name: str, *columns: str, also: Sequence[str] = ()) -> Index:
    """An index of the results that are no `pass`, which are nearly all: those are found quickly without.

    On PostgreSQL it holds the columns `also` too, so that no rows are read for them.
    """
    return Index(name, *columns, postgresql_where=text(FOUND), sqlite_where=text(FOUND), postgresql_include=also)


class QualityResult(Base):
    """What one quality gate found in one revision, as its record says it; gates that passed have rows too."""

    __tablename__ = "quality_results"

    volume: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    gate: Mapped[str] = mapped_column(primary_key=True)
    verdict: Mapped[str]
    at: Mapped[datetime]
    """When the record was made that says so."""
    measured: Mapped[float | None]
    threshold: Mapped[float | None]
    slices: Mapped[list[int]] = mapped_column(json_type())
    """Indices z of level 0 the finding is about, the first hundred, ascending."""
    evidence: Mapped[str]
    """Empty where the gate passed: the record says it."""

    __table_args__ = (
        _findings("ix_quality_results_gate", "gate", "verdict", "at", also=("volume",)),
        _findings("ix_quality_results_verdict", "verdict", "at"),
        _findings("ix_quality_results_volume", "volume", "revision", "gate"),
        Index("ix_quality_results_at", "at"),
    )


class LineageEdge(Base):
    """What one revision of a volume came from, other than the files its run read: those edges are the rows of `raw_objects`."""

    __tablename__ = "lineage_edges"

    volume: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    """`made` by a run, `corrected_as` from a revision of the same volume, `labelled_by` from an image."""
    start: Mapped[str]
    """The job of the run, or the volume."""
    start_revision: Mapped[int | None] = mapped_column(Integer)
    """Of that job or volume; NULL where whichever revision is shown is meant."""

    __table_args__ = (Index("ix_lineage_edges_start", "start", "kind"),)


class Event(Base):
    """Something that was said about a job or one of its volumes; listed once, however often it was delivered."""

    __tablename__ = "events"

    id: Mapped[str] = mapped_column(primary_key=True)
    type: Mapped[str]
    job: Mapped[str]
    volume: Mapped[str | None]
    """None where it is about all volumes of the job."""
    revision: Mapped[int] = mapped_column(Integer)
    generation: Mapped[int] = mapped_column(Integer)
    version: Mapped[int | None] = mapped_column(Integer)
    at: Mapped[datetime]
    data: Mapped[dict[str, Any]] = mapped_column(json_type())

    __table_args__ = (Index("ix_events_job", "job", "at", "id"),)


class Annotation(Base):
    """What users note about a volume, whatever its revision."""

    __tablename__ = "annotations"

    volume: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]
    updated_at: Mapped[datetime]

    __table_args__ = (Index("ix_annotations_key", "key", "value"),)


class RawObject(Base):
    """A file as an archive served it, in the run that fetched it; `n` is its place in the manifest."""

    __tablename__ = "raw_objects"

    job: Mapped[str] = mapped_column(primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    n: Mapped[int] = mapped_column(Integer, primary_key=True)
    path: Mapped[str]
    url: Mapped[str]
    url_key: Mapped[str]
    """SHA-256 of the URL: an address may be longer than an index entry."""
    sha256: Mapped[str]
    bytes: Mapped[int] = mapped_column(BigInteger)
    version: Mapped[str]

    __table_args__ = (Index("ix_raw_objects_sha256", "sha256"), Index("ix_raw_objects_url_key", "url_key"))


class Webhook(Base):
    """Somebody who wants to be told of events."""

    __tablename__ = "webhooks"

    id: Mapped[str] = mapped_column(primary_key=True)
    url: Mapped[str]
    secret: Mapped[str]
    types: Mapped[list[str]] = mapped_column(json_type())
    """CloudEvents types; empty means all."""
    filter: Mapped[dict[str, str]] = mapped_column(json_type())
    active: Mapped[bool] = mapped_column(Boolean)
    created_at: Mapped[datetime]


class Delivery(Base):
    """One event on its way to one webhook: `pending`, then `delivered` or, after all tries, `dead`."""

    __tablename__ = "deliveries"

    webhook: Mapped[str] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]] = mapped_column(json_type())
    """A CloudEvent in structured mode."""
    state: Mapped[str]
    tries: Mapped[int] = mapped_column(Integer)
    next_try: Mapped[datetime]
    error: Mapped[str]
    """Why the last try failed; empty where none did."""
    created_at: Mapped[datetime]

    __table_args__ = (Index("ix_deliveries_due", "state", "next_try"),)


class PolicyText(Base):
    """A policy that was in force; `digest` is the SHA-256 of its document."""

    __tablename__ = "policies"

    digest: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    document: Mapped[dict[str, Any]] = mapped_column(json_type())
    known_at: Mapped[datetime]


class Decision(Base):
    """What one rule said of one request or volume: `warn`, `hold` or `deny`. Rules that said nothing leave no row."""

    __tablename__ = "decisions"

    event: Mapped[str] = mapped_column(primary_key=True)
    rule: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    point: Mapped[str]
    """`request` or `publication`; what was decided at access is in the block-server's log, which knows no bus."""
    outcome: Mapped[str]
    message: Mapped[str]
    error: Mapped[str]
    """Why the rule could not be evaluated; empty where it could."""
    job: Mapped[str]
    revision: Mapped[int | None] = mapped_column(Integer)
    """None for a request that was refused before it claimed one."""
    volume: Mapped[str | None]
    source: Mapped[str]
    source_id: Mapped[str]
    purpose: Mapped[str]
    policy: Mapped[str]
    """Digest of the policy."""

    __table_args__ = (
        Index("ix_decisions_at", "at", "event", "rule"),
        Index("ix_decisions_job", "job", "at"),
        Index("ix_decisions_rule", "rule", "at"),
    )
