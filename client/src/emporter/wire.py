"""One plain HTTP/1.1 connection to a block-server: no event loop and no thread of its own, so it outlives forks and pickles.

What loaders of training data need: a native library's thread pool does not survive the fork of a worker, a socket opened after
it does.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode, urlsplit

from emporter.answers import BUSY, BUSY_TRIES, layout_of, refusal_of, wait_seconds
from emporter.connection import Connection, known
from emporter.errors import UnreachableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT = 60.0
"""Seconds without a byte from the server after which it counts as dead."""
FRESH_TRIES = 2
"""A kept connection may have been closed by the server meanwhile: one more try on a new one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Headers (lower-case names) and the whole body: where an array was asked for, `body` is only what came before it."""

    headers: Mapping[str, str]
    body: bytes
    voxels: NDArray[Any] | None = None


class _Kept:
    """A connection and the process it belongs to; closed when its thread ends, or nobody has the wire any more."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self.process = os.getpid()
        # Not __del__: in a reference cycle the socket might be taken apart first. In a fork it closes our copy only.
        weakref.finalize(self, connection.close)


class Wire:
    """Requests to one base URL, over one connection per thread and process. `headers` go with every one, a token say."""

    def __init__(self, base: str, headers: Mapping[str, str] | None = None) -> None:
        self.base = base.rstrip("/")
        self._headers = dict(headers or {})
        self._parts = urlsplit(self.base)
        self._local = threading.local()

    @classmethod
    def to(cls, connection: Connection) -> Self:
        """To the block-server of a stack. Raises MistakeError where nobody says where it is."""
        return cls(known(connection.blocks, "the block-server", "EMPORTER_BLOCKS_URL"), connection.headers)

    def __reduce__(self) -> tuple[type[Wire], tuple[str, dict[str, str]]]:
        return type(self), (self.base, self._headers)

    def document(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer to a GET, or to a POST of `body`. Raises RefusedByServiceError, UnreachableError."""
        found: dict[str, Any] = json.loads(self._asked(path, body, None).body)
        return found

    def voxels(self, path: str, params: Mapping[str, Any]) -> NDArray[Any]:
        """The array a GET answers with."""
        return _array(self._asked(f"{path}?{urlencode(params)}", None, 0))

    def posted(self, path: str, body: Mapping[str, Any], lead: int = 0) -> tuple[bytes, NDArray[Any]]:
        """The first `lead` bytes a POST answers with, and the array after them."""
        answer = self._asked(path, body, lead)
        return answer.body, _array(answer)

    def _asked(self, path: str, body: Mapping[str, Any] | None, lead: int | None) -> Answer:
        """`lead`: bytes before the array that is expected; None for an answer without one."""
        for _ in range(BUSY_TRIES):
            status, answer = self._once(path, body, lead)
            if status != BUSY:
                break
            time.sleep(wait_seconds(answer.headers))
        if status != http.client.OK:
            raise refusal_of(self.base + path, status, answer.body)
        return answer

    def _once(self, path: str, body: Mapping[str, Any] | None, lead: int | None) -> tuple[int, Answer]:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({} if data is None else {"Content-Type": "application/json"})
        for remaining in reversed(range(FRESH_TRIES)):
            connection, kept = self._connection()
            try:
                connection.request("GET" if data is None else "POST", self._parts.path + path, data, headers)
                response = connection.getresponse()
                return response.status, _read(response, lead if response.status == http.client.OK else None)
            except (http.client.HTTPException, OSError) as error:
                self._local.kept = None
                if not remaining or not kept:
                    reason = str(error) or type(error).__name__
                    said = f"{self._parts.scheme}://{self._parts.netloc} does not answer ({reason})"
                    raise UnreachableError(
                        said, hint="is the block-server running? emporter doctor says what is not well"
                    ) from error
        raise AssertionError("unreachable")

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        """This thread's connection in this process, and whether it was used before."""
        kept: _Kept | None = getattr(self._local, "kept", None)
        if kept is not None and kept.process == os.getpid():
            return kept.connection, True
        kind = http.client.HTTPSConnection if self._parts.scheme == "https" else http.client.HTTPConnection
        made = kind(self._parts.hostname or "", self._parts.port, timeout=TIMEOUT)
        self._local.kept = _Kept(made)
        return made, False


def _array(answer: Answer) -> NDArray[Any]:
    assert answer.voxels is not None
    return answer.voxels


def _read(response: http.client.HTTPResponse, lead: int | None) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    if lead is None:
        return Answer(headers, response.read())
    import numpy as np

    layout, before = layout_of(headers), response.read(lead)
    body = np.empty(layout.bytes, np.uint8)
    view, at = body.data, 0
    while at < len(view):
        got = response.readinto(view[at:])
        if not got:
            raise http.client.IncompleteRead(b"", len(view) - at)
        at += got
    response.read()  # nothing; until it is read the connection is not free
    return Answer(headers, before, layout.array(body))
