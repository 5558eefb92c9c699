"""What the tests say to a catalog: states, plans, records and deliveries with sensible values, each changed by name."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cataloger.facts import Fact, fact_of_event, fact_of_status
from emporter_contracts import storage
from emporter_contracts.events import RunEvent, cloud_event
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.ids import record_uuid
from emporter_contracts.jobs import JobState, JobStatus, VolumeProgress
from emporter_contracts.plans import Commit, FetchPlan, Licence, PlannedObject, PlannedVolume, Segments, Tombstone
from emporter_contracts.records import Core, GateResult, LevelRecord, Metadata, MetadataRecord, Provenance, Quality, Technical
from emporter_runtime.bus import Delivery
from emporter_runtime.objects import Objects, json_bytes

JOB = "epfl-hippocampus"
EPOCH = datetime(2024, 5, 1, 12, 0, tzinfo=UTC)
Sizes = tuple[float | None, float | None, float | None]
CC_BY = Licence(spdx="CC-BY-4.0", known=True)


def at(seconds: float) -> datetime:
    """A moment of the story every test tells."""
    return EPOCH + timedelta(seconds=seconds)


def a_status(
    state: str = "pending",
    *,
    job: str = JOB,
    run: tuple[int, int] = (1, 1),
    version: int = 1,
    volumes: tuple[str, ...] = (),
    committed: tuple[str, ...] = (),
    **fields: Any,
) -> JobStatus:
    """A state of a job; its time is that of its place in the story."""
    revision, generation = run
    values: dict[str, Any] = {
        "source": job.split("-", maxsplit=1)[0],
        "source_id": job.partition("-")[2],
        "created_at": EPOCH,
        "updated_at": at(revision * 10_000 + generation * 1000 + version),
        **fields,
    }
    return JobStatus(
        job=job,
        revision=revision,
        generation=generation,
        version=version,
        state=JobState(state),
        volumes=tuple(VolumeProgress(volume=v, committed=v in committed) for v in volumes),
        **values,
    )


def a_plan(*volumes: str, job: str = JOB, revision: int = 1, voxel_size_nm: Sizes = (5.0, 5.0, 5.0), **fields: Any) -> FetchPlan:
    """A plan of volumes of 165 x 768 x 1024 voxels, uint8, 5 nm."""
    name = "training.tif"
    location = Segments(origin=storage.origin("https://archive.example/training.tif", "v1"))
    url = "https://archive.example/training.tif"
    values: dict[str, Any] = {
        "description": "Mouse hippocampus, FIB-SEM",
        "modality": "FIB-SEM",
        "licence": CC_BY,
        "citation": ("Lucchi et al. 2013",),
        "archive": {"organism": "Mus musculus", "sample": "CA1"},
        "planned_at": at(5),
        **fields,
    }
    return FetchPlan(
        job=job,
        revision=revision,
        source=job.split("-", maxsplit=1)[0],
        source_id=job.partition("-")[2],
        objects=(PlannedObject(path=name, url=url, location=location, bytes=129_000_000, version="v1"),),
        volumes=tuple(a_planned_volume(v, voxel_size_nm) for v in volumes or (job,)),
        **values,
    )


def a_planned_volume(volume: str, voxel_size_nm: Sizes) -> PlannedVolume:
    return PlannedVolume(
        volume=volume,
        name=volume,
        format="tiff",
        objects=(0,),
        shape=(165, 768, 1024),
        dtype="uint8",
        voxel_size=VoxelSize.said("page", voxel_size_nm),
        role="image",
        source_shape=(165, 768, 1024),
    )


def a_record(volume: str = JOB, revision: int = 1, **core: Any) -> MetadataRecord:
    """A final record, as the converter writes it."""
    source, _, rest = volume.partition("-")
    values: dict[str, Any] = {
        "description": "Mouse hippocampus, FIB-SEM",
        "volume_shape": (165, 768, 1024),
        "voxel_size_nm": (5.0, 5.0, 5.0),
        "data_type": "uint8",
        "modality": "FIB-SEM",
        **core,
    }
    level = LevelRecord(
        shape=(165, 768, 1024), chunk=(64, 64, 64), shard=(192, 512, 512), scale=(5.0, 5.0, 5.0), translation=(0.0, 0.0, 0.0)
    )
    return MetadataRecord(
        id=record_uuid(volume),
        volume=volume,
        revision=revision,
        source=source,
        source_id=rest.split("--", maxsplit=1)[0],
        status=JobState.COMPLETE,
        created_at=EPOCH,
        updated_at=at(revision * 10_000 + 9000),
        metadata=Metadata(
            core=Core(**values),
            technical=Technical(
                sha256="ab" * 32, file_size_bytes=165 * 768 * 1024, stored_bytes=100_000_000, compression="zstd", levels=(level,)
            ),
            provenance=Provenance(download_url="https://archive.example/", software="emporter 0.1.0"),
        ),
        licence=CC_BY,
        citation=("Lucchi et al. 2013",),
        additional_metadata={"epfl_metadata": {"organism": "Mus musculus", "sample": "CA1"}},
    )


def judged(record: MetadataRecord, *gates: GateResult, held: bool = False) -> MetadataRecord:
    """The record after these gates were asked."""
    worst = max((g.verdict for g in gates), key=("pass", "warn", "fail").index)
    quality = Quality(verdict=worst, gates=gates, policy="test", held=held)
    return record.model_copy(update={"metadata": record.metadata.model_copy(update={"quality": quality})})


async def store_plan(objects: Objects, plan: FetchPlan) -> FetchPlan:
    """As the fetcher does."""
    await objects.put(storage.RAW, storage.plan(plan.job, plan.revision), json_bytes(plan))
    return plan


async def store_commit(objects: Objects, record: MetadataRecord, job: str = JOB) -> MetadataRecord:
    """Record first, commit last, as the converter does."""
    await objects.put(storage.VOLUMES, storage.record(record.volume, record.revision), json_bytes(record))
    commit = Commit(volume=record.volume, revision=record.revision, digest="d" * 64, job=job, committed_at=record.updated_at)
    await objects.put(storage.VOLUMES, storage.commit(record.volume, record.revision), json_bytes(commit))
    return record


async def store_tombstone(objects: Objects, volume: str, revision: int = 1, *, keeps_record: bool = False) -> None:
    """As `emporter rm` does: the tombstone first, then everything below the revision."""
    tombstone = Tombstone(volume=volume, revision=revision, removed_at=at(99_000))
    await objects.put(storage.VOLUMES, storage.tombstone(volume, revision), json_bytes(tombstone))
    if not keeps_record:
        await objects.delete(storage.VOLUMES, [storage.record(volume, revision)])


def a_delivery(headers: dict[str, str], sequence: int = 1, body: bytes = b"{}") -> Delivery:
    """A message as it comes from a stream."""
    return Delivery("subject", headers, body, "STREAM", sequence, EPOCH)


def fact_of(said: JobStatus | RunEvent, seconds: float = 0) -> Fact:
    """The fact in a state or event, with the id its sender would give it."""
    if isinstance(said, JobStatus):
        identity = f"{said.job}.{said.revision}.{said.generation}.{said.version}"
        return fact_of_status(said, a_delivery(cloud_event(said, event_id=identity, source="test", subject=said.job)))
    what = [type(said).__name__, getattr(said, "volume", ""), getattr(said, "level", "")]
    identity = ".".join(map(str, [said.job, said.revision, said.generation, *what]))
    headers = cloud_event(said, event_id=identity, source="test", subject=said.job)
    return fact_of_event(said, a_delivery(headers | {"ce-time": at(seconds).isoformat()}))
