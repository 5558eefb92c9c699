"""The client's side of the catalog and the block-server, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from emporter.connection import Connection
from emporter.errors import MistakeError, RefusedByServiceError, UnreachableError
from emporter_contracts.geometry import Index3, Shape3
from emporter_contracts.ids import VolumeRef

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
BUSY_TRIES = 8
"""How often a block is asked for again where the server is busy (503), waiting as long as it says."""
LONGEST_WAIT = 10.0

Document = dict[str, Any]


class WebClient:
    """Catalog and block-server, as far as their addresses are known."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        local = {(urlsplit(url).hostname or "") for url in (connection.catalog, connection.blocks)}
        # A proxy in the environment is for elsewhere, never for this machine.
        self._http = httpx.AsyncClient(timeout=TIMEOUT, trust_env=not local <= {"127.0.0.1", "localhost", "::1", ""})

    async def close(self) -> None:
        await self._http.aclose()

    async def items(self, path: str, **filters: Any) -> AsyncIterator[Document]:
        """Every item of one of the catalog's lists, page by page."""
        asked = {name: value for name, value in filters.items() if value is not None}
        cursor: str | None = None
        while True:
            page = (await self._get(self._catalog(path), {**asked, **({"cursor": cursor} if cursor else {})})).json()
            for item in page["items"]:
                yield item
            cursor = page["cursor"]
            if cursor is None:
                return

    async def record(self, ref: VolumeRef) -> Document:
        """The metadata record of a volume, with where its job stands and links."""
        found: Document = (await self._get(self._catalog(f"/v1/volumes/{ref}"), {})).json()
        return found

    @asynccontextmanager
    async def table(self, kind: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The whole catalog as `csv` or `json`, in pieces."""
        url = self._catalog(f"/v1/catalog.{kind}")
        try:
            async with self._http.stream("GET", url) as answer:
                if answer.status_code != 200:
                    await answer.aread()
                    raise _refusal(answer)
                yield answer.aiter_bytes()
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error

    async def volume(self, ref: VolumeRef) -> Document:
        """Shape, dtype, levels and the rest of what a reader must know; `ref` in it is pinned to a revision."""
        found: Document = (await self._get(self._blocks(f"/v1/volumes/{ref}"), {})).json()
        return found

    async def block(self, pinned: VolumeRef, origin: Index3, shape: Shape3, level: int, outside: str) -> NDArray[Any]:
        """Voxels of one box, C order z, y, x, of the volume's dtype in this machine's byte order."""
        asked = {"level": level, "origin": _joined(origin), "shape": _joined(shape), "format": "raw", "outside": outside}
        url = self._blocks(f"/v1/volumes/{pinned}/block")
        for _ in range(BUSY_TRIES):
            answer = await self._answer(url, asked)
            if answer.status_code != 503:
                break
            await asyncio.sleep(_wait(answer))
        if answer.status_code != 200:
            raise _refusal(answer)
        return _voxels(answer)

    async def _get(self, url: str, params: Document) -> httpx.Response:
        answer = await self._answer(url, params)
        if answer.status_code != 200:
            raise _refusal(answer)
        return answer

    async def _answer(self, url: str, params: Document) -> httpx.Response:
        try:
            return await self._http.get(url, params=params)
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error

    def _catalog(self, path: str) -> str:
        return self._known(self._connection.catalog, "the catalog", "EMPORTER_CATALOG_URL") + path

    def _blocks(self, path: str) -> str:
        return self._known(self._connection.blocks, "the block-server", "EMPORTER_BLOCKS_URL") + path

    @staticmethod
    def _known(base: str, what: str, variable: str) -> str:
        if not base:
            raise MistakeError(f"nobody says where {what} is", hint=f"set {variable}, or name a stack with --stack DIR")
        return base


def _voxels(answer: httpx.Response) -> NDArray[Any]:
    import numpy as np

    dtype = np.dtype(answer.headers["x-emporter-dtype"]).newbyteorder("<")
    shape = tuple(int(n) for n in answer.headers["x-emporter-shape"].split(","))
    data: np.ndarray[Any, Any] = np.frombuffer(bytearray(answer.content), dtype).reshape(shape)
    return data.astype(dtype.newbyteorder("="), copy=False)


def _joined(triple: Index3) -> str:
    return ",".join(map(str, triple))


def _wait(answer: httpx.Response) -> float:
    said = answer.headers.get("retry-after", "1")
    return min(LONGEST_WAIT, float(said)) if said.replace(".", "", 1).isdigit() else 1.0


def _unreachable(url: str, error: httpx.HTTPError) -> UnreachableError:
    parts = urlsplit(url)
    reason = str(error) or type(error).__name__
    return UnreachableError(
        f"{parts.scheme}://{parts.netloc} does not answer ({reason})", hint="emporter doctor says what is not well"
    )


def _refusal(answer: httpx.Response) -> RefusedByServiceError:
    """A problem document (RFC 9457) as our error."""
    try:
        told = answer.json()
        return RefusedByServiceError(told["title"], code=told["code"], hint=told.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        said = f"{answer.request.url} answered {answer.status_code}"
        return RefusedByServiceError(said, code="http_error", hint="see the logs of that service")
