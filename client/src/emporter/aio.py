"""The Python client, asynchronous. `emporter.client` is the same for code without an event loop, and for notebooks.

async with aio.connect() as emporter:
    accepted = await emporter.ingest(IngestRequest(source="url", source_id="https://…"))
    async for state in emporter.watch(accepted.job): …
    volume = await emporter.volume(accepted.job)
    voxels = await volume[0:128, 0:128, 0:128]
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

from emporter import paths
from emporter.connection import Connection, connection_to
from emporter.described import Outside
from emporter.volume import AsyncVolume
from emporter_contracts.commands import Accepted, Control, IngestRequest
from emporter_contracts.geometry import Index3, Shape3
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobStatus
from emporter_contracts.revisions import Revised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emporter.bus import BusClient
    from emporter.uploading import Told, Upload
    from emporter.web import Document, WebClient
    from emporter_contracts.events import Progress
    from emporter_contracts.previews import PlanSummary

__all__ = ["AsyncClient", "AsyncVolume", "Outside", "connect"]


def connect(stack: Path | str | None = None, token: str | None = None, purpose: str | None = None) -> AsyncClient:
    """A client of the stack in the folder `stack`, else of the one EMPORTER_… points at, else of the one in `./.emporter`.

    `token`: where the block-server demands one; else EMPORTER_TOKEN. `purpose`: what the data is wanted for, where the operator's
    rules ask that; else EMPORTER_PURPOSE. Connects when first needed. Raises NoStackError.
    """
    return AsyncClient(stack, token, purpose)


class AsyncClient:
    """Everything one can ask of a stack. Belongs to one event loop; close it, or use it in `async with`.

    `stack`: its folder, or the URL of a block-server (then there are volumes to read, and nothing else), which may be that of a
    signed link; else as for `connect`. `token` and `purpose` as there.
    """

    def __init__(
        self, stack: Connection | Path | str | None = None, token: str | None = None, purpose: str | None = None
    ) -> None:
        self.connection = connection_to(stack, token, purpose)
        self._bus_client: BusClient | None = None
        self._web_client: WebClient | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of connections."""
        if self._bus_client is not None:
            await self._bus_client.close()
        if self._web_client is not None:
            await self._web_client.close()

    async def plan(self, request: IngestRequest) -> PlanSummary:
        """What an ingest would do: objects, bytes, volumes, room. Nothing is stored. Raises RefusedByServiceError."""
        return await self._bus.plan(request)

    async def ingest(self, request: IngestRequest) -> Accepted:
        """Bring an archive entry in; returns when the request is taken, long before the volume is there.

        Raises RefusedByServiceError with the code, UnreachableError where nobody takes it.
        """
        return await self._bus.ingest(request)

    async def upload(self, paths: Sequence[Path | str], name: str | None = None, told: Told = lambda _: None) -> Upload:
        """Send files, or folders of slices, to the inbox: one upload is one dataset. `upload.request()` asks for its ingest.

        Interrupted and called again with the same files it sends what is missing. Raises MistakeError.
        """
        from emporter import uploading
        from emporter_runtime.objects import Objects

        given = [Path(path) for path in paths]
        files = uploading.collect(given)
        return await uploading.upload(Objects.open(self.connection.inbox()), files, name or uploading.default_name(given), told)

    async def status(self, job: str) -> JobStatus:
        """Where a job stands, from the bus. Raises MistakeError where there is none."""
        return await self._bus.status(job)

    def watch(self, job: str) -> AsyncIterator[JobStatus | Progress]:
        """Each newer state of a job, the present one first, until it has ended; in between its workers' Progress."""
        return self._bus.watch(job)

    async def wait(self, job: str) -> JobStatus:
        """The state in which a job ended: complete, failed or cancelled. Its blocks are there at once, the catalog follows."""
        last: JobStatus | None = None
        async for state in self.watch(job):
            last = state if isinstance(state, JobStatus) else last
        assert last is not None
        return last

    async def cancel(self, job: str) -> Accepted:
        """Stop a job. Raises RefusedByServiceError where it has ended, or is being committed."""
        return await self._bus.control(job, Control(action="cancel"))

    async def retry(self, job: str) -> Accepted:
        """Go on with a failed or cancelled job where it stopped. Raises RefusedByServiceError."""
        return await self._bus.control(job, Control(action="retry"))

    async def pause(self, job: str) -> Accepted:
        """Let a job rest; nothing that is done is lost. Raises RefusedByServiceError where it has ended."""
        return await self._bus.control(job, Control(action="pause"))

    async def resume(self, job: str) -> Accepted:
        """Let a paused job go on. Raises RefusedByServiceError where it is not paused."""
        return await self._bus.control(job, Control(action="resume"))

    async def annotate(self, volume: str, key: str, value: str) -> None:
        """Set an annotation. Raises RefusedByServiceError."""
        await self._web.write("PUT", _annotation(volume, key), {"value": value})

    async def correct(self, volume: str, *, by: str = "unknown", reason: str = "", **changes: Any) -> Revised:
        """Say something anew of a volume whose voxels stay: voxel_size_nm, offset_nm (nm, z y x), name, description, modality,
        licence, citation. Makes a revision in seconds; `existing` where the volume says all of it already.

        Raises RefusedByServiceError; its code is `conflict` where somebody else was faster.
        """
        body = {**changes, "by": by, "reason": reason}
        return Revised.model_validate(await self._web.write("POST", f"/v1/volumes/{quote(volume, safe='')}/revisions", body))

    async def unannotate(self, volume: str, key: str) -> None:
        """Take an annotation away. Raises RefusedByServiceError."""
        await self._web.write("DELETE", _annotation(volume, key))

    async def webhooks(self) -> list[Document]:
        """Every subscription, without its secret. Raises RefusedByServiceError."""
        return list((await self._web.write("GET", "/v1/webhooks"))["items"])

    async def subscribe(self, url: str, types: Sequence[str] = (), where: Mapping[str, str] | None = None) -> Document:
        """Have events told to `url`; the answer holds their signatures' secret, this once. Raises RefusedByServiceError."""
        return await self._web.write("POST", "/v1/webhooks", {"url": url, "types": list(types), "filter": dict(where or {})})

    async def unsubscribe(self, webhook: str) -> None:
        """End a subscription. Raises RefusedByServiceError."""
        await self._web.write("DELETE", f"/v1/webhooks/{quote(webhook, safe='')}")

    async def deliveries(self, webhook: str, state: Literal["pending", "delivered", "dead"] | None = None) -> list[Document]:
        """What was told, is to be told, or (`dead`) no try could deliver; the newest 1000. Raises RefusedByServiceError."""
        asked = f"?limit=1000&state={state}" if state else "?limit=1000"
        return list((await self._web.write("GET", f"/v1/webhooks/{quote(webhook, safe='')}/deliveries{asked}"))["items"])

    async def redeliver(self, webhook: str) -> int:
        """Send everything dead once more; how much that is. Raises RefusedByServiceError."""
        return int((await self._web.write("POST", f"/v1/webhooks/{quote(webhook, safe='')}/retry"))["again"])

    async def citation(self, volumes: Sequence[str], form: Literal["bibtex", "csl"] = "bibtex") -> str:
        """How to cite volumes, each dataset and publication once."""
        return await self._web.text("/v1/citations", {"volume": list(volumes), "format": form})

    async def citation_of(self, q: str | None = None, form: Literal["bibtex", "csl"] = "bibtex", **filters: Any) -> str:
        """How to cite all volumes that `volumes` lists by these filters. Raises RefusedByServiceError for more than 10,000."""
        asked = {name: value for name, value in {"q": q, **filters}.items() if value is not None}
        return await self._web.text("/v1/citations", {**asked, "format": form})

    async def policy(self) -> Document:
        """The operator's rules that are in force."""
        found: Document = json.loads(await self._web.text("/v1/policy", {}))
        return found

    async def check_policy(self, volume: str, purpose: str | None = None) -> Document:
        """What the rules would say of a volume now: `allowed`, and `results` by point and rule; `purpose`, else the client's."""
        said = self.connection.purpose if purpose is None else purpose
        found: Document = json.loads(await self._web.text(f"/v1/volumes/{VolumeRef.parse(volume)}/policy", {"purpose": said}))
        return found

    async def policy_decisions(self, **filters: str | None) -> list[Document]:
        """What rules decided at request and publication, the newest first. Filters: job, volume, rule, point, outcome."""
        return [row async for row in self._web.items("/v1/policy/decisions", **filters)]

    async def jobs(self, *, state: str | None = None, source: str | None = None) -> list[JobStatus]:
        """Every job the catalog knows, the newest first."""
        found = self._web.items("/v1/jobs", state=state, source=source)
        return [JobStatus.model_validate(item) async for item in found]

    async def volumes(self, q: str | None = None, **filters: Any) -> list[Document]:
        """The catalog's rows; `q` are words to be found in them.

        Filters: source, status, modality, verdict, gate, held, max_voxel_nm, sort, and any other of `GET /v1/volumes`.
        """
        return [row async for row in self._web.items("/v1/volumes", q=q, **filters)]

    async def record(self, volume: str) -> Document:
        """The metadata record of `<volume>` or `<volume>@r<N>`. Raises RefusedByServiceError where there is none."""
        return await self._web.record(VolumeRef.parse(volume))

    def table(self, kind: Literal["csv", "json"]) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The whole catalog in pieces: CSV, or JSON with a validation report."""
        return self._web.table(kind)

    async def volume(self, volume: str) -> AsyncVolume:
        """A volume to read from, pinned to the revision it has now. Raises RefusedByServiceError where there is none."""
        return AsyncVolume(self._web, await self._web.document(paths.volume(VolumeRef.parse(volume))))

    async def link(self, volumes: Sequence[str], expires_seconds: int, budget: Mapping[str, int] | None = None) -> Document:
        """A signed link to volumes as they are now, and their labels: {"base", "volumes", "expires_at"}.

        Who has `base` reads them below it as below the block-server's own address, without a token, until it expires.
        Raises RefusedByServiceError.
        """
        body = {"volumes": list(volumes), "expires_seconds": expires_seconds, "budget": budget}
        return await self._web.document("/v1/links", body)

    async def block(self, volume: str, origin: Index3, shape: Shape3, level: int = 0, outside: Outside = "error") -> NDArray[Any]:
        """One box of voxels (z, y, x) of a level. For many boxes of one revision use `volume`."""
        ref = VolumeRef.parse(volume)
        if ref.revision is not None:
            return await self._web.voxels(*paths.block(ref, origin, shape, level, outside))
        return await (await self.volume(volume)).block(origin, shape, level, outside)

    async def volumes_of(self, job: str) -> list[str]:
        """The volumes a job has committed, pinned to its revision."""
        status = await self.status(job)
        return [f"{v.volume}@r{status.revision}" for v in status.volumes if v.committed]

    @property
    def _bus(self) -> BusClient:
        if self._bus_client is None:
            from emporter.bus import BusClient

            self._bus_client = BusClient(self.connection)
        return self._bus_client

    @property
    def _web(self) -> WebClient:
        if self._web_client is None:
            from emporter.web import WebClient

            self._web_client = WebClient(self.connection)
        return self._web_client


def _annotation(volume: str, key: str) -> str:
    return f"/v1/volumes/{quote(volume, safe='')}/annotations/{quote(key, safe='')}"
