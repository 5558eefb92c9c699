"""The client's side of the catalog and the block-server, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import httpx

from emporter.answers import BUSY, BUSY_TRIES, layout_of, refusal_of, wait_seconds
from emporter.connection import Connection, known
from emporter.errors import RefusedByServiceError, UnreachableError
from emporter_contracts.ids import VolumeRef

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT = httpx.Timeout(60.0, connect=5.0)

Document = dict[str, Any]


class WebClient:
    """Catalog and block-server, as far as their addresses are known."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        local = {(urlsplit(url).hostname or "") for url in (connection.catalog, connection.blocks)}
        # A proxy in the environment is for elsewhere, never for this machine.
        outside = not local <= {"127.0.0.1", "localhost", "::1", ""}
        self._http = httpx.AsyncClient(timeout=TIMEOUT, trust_env=outside, headers=connection.headers)

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

    async def text(self, path: str, params: Document) -> str:
        """The catalog's answer to a GET, as text."""
        return (await self._get(self._catalog(path), params)).text

    async def write(self, method: Literal["GET", "PUT", "POST", "DELETE"], path: str, body: Document | None = None) -> Document:
        """Change something in the catalog, or read what only writers may, with EMPORTER_CATALOG_TOKEN where there is one; its
        answer, {} where it has none.
        """
        url, token = self._catalog(path), os.environ.get("EMPORTER_CATALOG_TOKEN")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            answer = await self._http.request(method, url, json=body, headers=headers)
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error
        if not answer.is_success:
            raise _refusal(answer)
        found: Document = answer.json() if answer.content else {}
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

    async def document(self, path: str, body: Document | None = None) -> Document:
        """The block-server's JSON answer to a GET, or to a POST of `body`."""
        found: Document = json.loads((await self._voxel_answer(path, {}, body)).content)
        return found

    async def voxels(self, path: str, params: Mapping[str, Any]) -> NDArray[Any]:
        """The array a GET of the block-server answers with, of the volume's dtype in this machine's byte order."""
        answer = await self._voxel_answer(path, params)
        return layout_of(answer.headers).array(bytearray(answer.content))

    async def posted(self, path: str, body: Document, lead: int = 0) -> tuple[bytes, NDArray[Any]]:
        """The first `lead` bytes a POST to the block-server answers with, and the array after them."""
        answer = await self._voxel_answer(path, {}, body)
        content = answer.content
        return content[:lead], layout_of(answer.headers).array(bytearray(memoryview(content)[lead:]))

    async def _voxel_answer(self, path: str, params: Mapping[str, Any], body: Document | None = None) -> httpx.Response:
        """An answer of the block-server, asked again while it is busy."""
        url = self._blocks(path)
        for _ in range(BUSY_TRIES):
            answer = await self._answer(url, params, body)
            if answer.status_code != BUSY:
                break
            await asyncio.sleep(wait_seconds(answer.headers))
        if answer.status_code != 200:
            raise _refusal(answer)
        return answer

    async def _get(self, url: str, params: Document) -> httpx.Response:
        answer = await self._answer(url, params)
        if answer.status_code != 200:
            raise _refusal(answer)
        return answer

    async def _answer(self, url: str, params: Mapping[str, Any], body: Document | None = None) -> httpx.Response:
        try:
            if body is not None:
                return await self._http.post(url, json=body)
            return await self._http.get(url, params=params)
        except httpx.HTTPError as error:
            raise _unreachable(url, error) from error

    def _catalog(self, path: str) -> str:
        return known(self._connection.catalog, "the catalog", "EMPORTER_CATALOG_URL") + path

    def _blocks(self, path: str) -> str:
        return known(self._connection.blocks, "the block-server", "EMPORTER_BLOCKS_URL") + path


def _unreachable(url: str, error: httpx.HTTPError) -> UnreachableError:
    parts = urlsplit(url)
    reason = str(error) or type(error).__name__
    return UnreachableError(
        f"{parts.scheme}://{parts.netloc} does not answer ({reason})", hint="emporter doctor says what is not well"
    )


def _refusal(answer: httpx.Response) -> RefusedByServiceError:
    """A problem document (RFC 9457) as our error."""
    return refusal_of(str(answer.request.url), answer.status_code, answer.content)
