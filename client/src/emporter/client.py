"""The Python client for scripts and notebooks: the verbs of `emporter.aio`, each returning when it is done.

    with client.connect() as emporter:
        upload = emporter.upload(["stack.tif"])
        job = emporter.ingest(upload.request()).job
        emporter.wait(job)
        voxels = emporter.volume(job)[0:128, 0:128, 0:128]

It works inside a running event loop as well (a notebook's): its own loop runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from emporter import paths
from emporter.aio import AsyncClient
from emporter.connection import Connection
from emporter.described import Outside
from emporter.volume import Volume
from emporter.wire import Wire
from emporter_contracts.commands import Accepted, IngestRequest
from emporter_contracts.geometry import Index3, Shape3
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emporter.uploading import Told, Upload
    from emporter.web import Document
    from emporter_contracts.events import Progress
    from emporter_contracts.previews import PlanSummary
    from emporter_contracts.revisions import Revised

__all__ = ["Client", "Volume", "connect"]

T = TypeVar("T")


def connect(stack: Path | str | None = None, token: str | None = None, purpose: str | None = None) -> Client:
    """A client of the stack in the folder `stack`, else of the one EMPORTER_… points at, else of the one in `./.emporter`.

    `token`: where the block-server demands one; else EMPORTER_TOKEN. `purpose`: what the data is wanted for, where the operator's
    rules ask that; else EMPORTER_PURPOSE. Connects when first needed. Raises NoStackError.
    """
    return Client(stack, token, purpose)


class _LoopThread:
    """An event loop that runs in a thread until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="emporter-client", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """The result of `coroutine`. Interrupted (Ctrl-C), it is cancelled."""
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Client:
    """Everything one can ask of a stack. May be used from several threads. Close it, or use it in `with`.

    `stack`: its folder, or the URL of a block-server (then there are volumes to read, and nothing else), which may be that of a
    signed link; else as for `connect`. `token` and `purpose` as there.
    """

    def __init__(
        self, stack: Connection | Path | str | None = None, token: str | None = None, purpose: str | None = None
    ) -> None:
        self._async = AsyncClient(stack, token, purpose)
        self._making = threading.Lock()
        self._started: _LoopThread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections, and end the thread. Volumes that were opened can still be read."""
        if self._started is not None:
            self._started.run(self._async.close())
            self._started.close()

    @property
    def _thread(self) -> _LoopThread:
        """Made when first needed: who only reads volumes needs none."""
        with self._making:
            if self._started is None:
                self._started = _LoopThread()
            return self._started

    def plan(self, request: IngestRequest) -> PlanSummary:
        """What an ingest would do: objects, bytes, volumes, room. Nothing is stored. Raises RefusedByServiceError."""
        return self._thread.run(self._async.plan(request))

    def ingest(self, request: IngestRequest) -> Accepted:
        """Bring an archive entry in; returns when the request is taken, long before the volume is there."""
        return self._thread.run(self._async.ingest(request))

    def upload(self, paths: Sequence[Path | str], name: str | None = None, told: Told = lambda _: None) -> Upload:
        """Send files, or folders of slices, to the inbox; `upload.request()` asks for their ingest. Raises MistakeError."""
        return self._thread.run(self._async.upload(paths, name, told))

    def status(self, job: str) -> JobStatus:
        """Where a job stands. Raises MistakeError where there is none."""
        return self._thread.run(self._async.status(job))

    def watch(self, job: str) -> Iterator[JobStatus | Progress]:
        """Each newer state of a job, the present one first, until it has ended; in between its workers' Progress."""
        states = self._async.watch(job)
        while (state := self._thread.run(_next(states))) is not None:
            yield state

    def wait(self, job: str) -> JobStatus:
        """The state in which a job ended: complete, failed or cancelled. Its blocks are there at once, the catalog follows."""
        return self._thread.run(self._async.wait(job))

    def cancel(self, job: str) -> Accepted:
        """Stop a job. Raises RefusedByServiceError where it has ended, or is being committed."""
        return self._thread.run(self._async.cancel(job))

    def retry(self, job: str) -> Accepted:
        """Go on with a failed or cancelled job where it stopped. Raises RefusedByServiceError."""
        return self._thread.run(self._async.retry(job))

    def pause(self, job: str) -> Accepted:
        """Let a job rest; nothing that is done is lost. Raises RefusedByServiceError where it has ended."""
        return self._thread.run(self._async.pause(job))

    def resume(self, job: str) -> Accepted:
        """Let a paused job go on. Raises RefusedByServiceError where it is not paused."""
        return self._thread.run(self._async.resume(job))

    def annotate(self, volume: str, key: str, value: str) -> None:
        """Set an annotation. Raises RefusedByServiceError."""
        self._thread.run(self._async.annotate(volume, key, value))

    def correct(self, volume: str, *, by: str = "unknown", reason: str = "", **changes: Any) -> Revised:
        """Say something anew of a volume whose voxels stay: voxel_size_nm, offset_nm (nm, z y x), name, description, modality,
        licence, citation. Makes a revision in seconds; `existing` where the volume says all of it already.

        Raises RefusedByServiceError; its code is `conflict` where somebody else was faster.
        """
        return self._thread.run(self._async.correct(volume, by=by, reason=reason, **changes))

    def unannotate(self, volume: str, key: str) -> None:
        """Take an annotation away. Raises RefusedByServiceError."""
        self._thread.run(self._async.unannotate(volume, key))

    def citation(self, volumes: Sequence[str], form: Literal["bibtex", "csl"] = "bibtex") -> str:
        """How to cite volumes, each dataset and publication once."""
        return self._thread.run(self._async.citation(volumes, form))

    def citation_of(self, q: str | None = None, form: Literal["bibtex", "csl"] = "bibtex", **filters: Any) -> str:
        """How to cite all volumes that `volumes` lists by these filters. Raises RefusedByServiceError for more than 10,000."""
        return self._thread.run(self._async.citation_of(q, form, **filters))

    def policy(self) -> Document:
        """The operator's rules that are in force."""
        return self._thread.run(self._async.policy())

    def check_policy(self, volume: str, purpose: str | None = None) -> Document:
        """What the rules would say of a volume now: `allowed`, and `results` by point and rule."""
        return self._thread.run(self._async.check_policy(volume, purpose))

    def jobs(self, *, state: str | None = None, source: str | None = None) -> list[JobStatus]:
        """Every job the catalog knows, the newest first."""
        return self._thread.run(self._async.jobs(state=state, source=source))

    def volumes(self, q: str | None = None, **filters: Any) -> list[Document]:
        """The catalog's rows; `q` are words to be found in them.

        Filters: source, status, modality, verdict, gate, held, max_voxel_nm, sort, and any other of `GET /v1/volumes`.
        """
        return self._thread.run(self._async.volumes(q, **filters))

    def record(self, volume: str) -> Document:
        """The metadata record of `<volume>` or `<volume>@r<N>`."""
        return self._thread.run(self._async.record(volume))

    def volume(self, volume: str) -> Volume:
        """A volume to read from, pinned to the revision it has now. Raises RefusedByServiceError where there is none."""
        wire = Wire.to(self._async.connection)
        return Volume(wire, wire.document(paths.volume(VolumeRef.parse(volume))))

    def link(self, volumes: Sequence[str], expires_seconds: int, budget: Mapping[str, int] | None = None) -> Document:
        """A signed link to volumes as they are now: {"base", "volumes", "expires_at"}. Raises RefusedByServiceError."""
        return self._thread.run(self._async.link(volumes, expires_seconds, budget))

    def block(self, volume: str, origin: Index3, shape: Shape3, level: int = 0, outside: Outside = "error") -> NDArray[Any]:
        """One box of voxels (z, y, x) of a level. For many boxes of one revision use `volume`."""
        return self._thread.run(self._async.block(volume, origin, shape, level, outside))

    def volumes_of(self, job: str) -> list[str]:
        """The volumes a job has committed, pinned to its revision."""
        return self._thread.run(self._async.volumes_of(job))


async def _next(states: AsyncIterator[T]) -> T | None:
    return await anext(states, None)
