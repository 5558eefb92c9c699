"""Runs as OpenLineage run events (https://openlineage.io/spec): what a run reads, what it makes, how it ended.

A run is one generation of one revision of a job; its id is derived, so that an event sent twice is one event. The client
library is imported when it is first needed: it takes most of a second.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy.ext.asyncio import AsyncSession

from cataloger.database import Database
from cataloger.lineage import objects_of
from cataloger.models import Delivery, Job, RawObject, Revision
from cataloger.repository import revisions_made_by
from emporter_contracts.ids import VOLUME_NAMESPACE
from emporter_contracts.jobs import JobState, JobStatus
from emporter_runtime.errors import TransientError

if TYPE_CHECKING:
    from openlineage.client.event_v2 import InputDataset, OutputDataset, RunEvent

PRODUCER = "https://emporter.invalid/cataloger"
"""A name, not an address."""
NAMESPACE = "emporter"
EVENTS: dict[JobState, str] = {
    JobState.PROCESSING: "START",
    JobState.SAVING: "RUNNING",
    JobState.COMPLETE: "COMPLETE",
    JobState.FAILED: "FAIL",
    JobState.CANCELLED: "ABORT",
}
"""The event a state is; `pending` is none, nothing runs yet."""


class LineageBackendError(TransientError):
    """The OpenLineage backend did not take an event."""

    code = "lineage_unavailable"


async def run_event(session: AsyncSession, status: JobStatus) -> RunEvent | None:
    """The event of a state; None where it is none."""
    from openlineage.client import facet_v2
    from openlineage.client.event_v2 import Job as LineageJob
    from openlineage.client.event_v2 import Run, RunEvent, RunState

    if status.state not in EVENTS:
        return None
    inputs = [_input(raw) for raw in await objects_of(session, status.job, status.revision)]
    made = await revisions_made_by(session, status.job, status.revision)
    outputs = [_output(r) for r in made]
    facets = _engine(made)
    if status.error is not None:
        said = f"{status.error.code}: {status.error.message}"
        facets["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(message=said, programmingLanguage="python")
    return RunEvent(
        eventTime=status.updated_at.isoformat().replace("+00:00", "Z"),
        eventType=RunState[EVENTS[status.state]],
        run=Run(runId=run_id(status), facets=facets),
        job=LineageJob(namespace=NAMESPACE, name=status.job),
        producer=PRODUCER,
        inputs=inputs,
        outputs=outputs,
    )


def run_id(status: JobStatus) -> str:
    """The UUID of one run: the same for each of its events."""
    return str(uuid.uuid5(VOLUME_NAMESPACE, f"{status.job}.{status.revision}.{status.generation}"))


async def events_of(session: AsyncSession, job: str) -> list[dict[str, Any]]:
    """The events of a job as JSON: its last state, and the start of that run."""
    from openlineage.client.serde import Serde

    row = await session.get(Job, job)
    if row is None:
        return []
    last = JobStatus.model_validate(row.status)
    began = last.model_copy(update={"state": JobState.PROCESSING, "updated_at": last.created_at, "error": None})
    states = [began, last] if last.state not in (JobState.PENDING, JobState.PROCESSING) else [last]
    made = [event for state in states if (event := await run_event(session, state)) is not None]
    return [Serde.to_dict(event) for event in made]


class Backend:
    """Where events are sent: an OpenLineage server, or a file of one JSON object a line."""

    def __init__(self, url: str, file: Path | None) -> None:
        self._url = url
        self._file = file
        self._turn = asyncio.Lock()

    @property
    def wanted(self) -> bool:
        """Whether there is anywhere to send events to."""
        return bool(self._url) or self._file is not None

    async def send(self, event: RunEvent) -> None:
        """Raises LineageBackendError; it may be sent again."""
        try:
            async with self._turn:
                await asyncio.to_thread(self._send, event)
        except Exception as error:
            # The library raises whatever its transports raise; for us they are all the same.
            raise LineageBackendError(
                f"OpenLineage did not take an event: {error}", hint="check EMPORTER_OPENLINEAGE_URL or EMPORTER_OPENLINEAGE_FILE"
            ) from error

    def _send(self, event: RunEvent) -> None:
        from openlineage.client.transport.file import FileConfig, FileTransport
        from openlineage.client.transport.http import HttpConfig, HttpTransport

        if self._file is not None:
            FileTransport(FileConfig(log_file_path=str(self._file), append=True)).emit(event)
        if self._url:
            transport = HttpTransport(HttpConfig(url=self._url, retry={"total": 0}))
            try:
                transport.emit(event)
            finally:
                transport.close()


class LineageSender:
    """Sends the event of a state that is to be told."""

    def __init__(self, database: Database, backend: Backend) -> None:
        self._database = database
        self._backend = backend

    async def __call__(self, delivery: Delivery) -> None:
        """Raises LineageBackendError."""
        said = delivery.body["data"]
        async with self._database.reading() as session:
            job = await session.get(Job, said["job"])
            if job is None:
                return
            moved = {"revision": said["revision"], "generation": said["generation"], "state": JobState(said["state"])}
            moved |= {"updated_at": datetime.fromisoformat(delivery.body["time"]), "error": said.get("error")}
            status = JobStatus.model_validate({**job.status, **moved})
            event = await run_event(session, status)
        if event is not None:
            await self._backend.send(event)


def _engine(made: Sequence[Revision]) -> dict[str, Any]:
    """What made these volumes, as their records say it: `emporter-converter 0.1.0, …`; nothing where none says it."""
    from openlineage.client import facet_v2

    said = (r.record.get("metadata", {}).get("provenance", {}).get("software") for r in made)
    name, _, numbers = next((software for software in said if software), "").partition(" ")
    if not name:
        return {}
    return {"processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet(version=numbers or "unknown", name=name)}


def _input(raw: RawObject) -> InputDataset:
    from openlineage.client import facet_v2
    from openlineage.client.event_v2 import InputDataset

    parts = urlsplit(raw.url)
    version = facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=f"sha256:{raw.sha256}")
    statistics = facet_v2.input_statistics_input_dataset.InputStatisticsInputDatasetFacet(size=raw.bytes, fileCount=1)
    return InputDataset(
        namespace=f"{parts.scheme}://{parts.netloc}" if parts.scheme else NAMESPACE,
        name=parts.path.lstrip("/") or raw.path,
        facets={"version": version},
        inputFacets={"inputStatistics": statistics},
    )


def _output(revision: Revision) -> OutputDataset:
    from openlineage.client import facet_v2
    from openlineage.client.event_v2 import OutputDataset

    metadata = revision.record.get("metadata", {})
    fields = facet_v2.documentation_dataset.DocumentationDatasetFacet(description=metadata.get("core", {}).get("description", ""))
    sha256 = metadata.get("technical", {}).get("sha256")
    said = f"sha256:{sha256}" if sha256 else f"r{revision.revision}"
    version = facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=said)
    name = f"{revision.volume}@r{revision.revision}"
    return OutputDataset(namespace=NAMESPACE, name=name, facets={"version": version, "documentation": fields})
