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
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from emporter.answers import BUSY, BUSY_TRIES, layout_of, refusal_of, wait_seconds
from emporter.errors import UnreachableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TIMEOUT = 60.0
"""Seconds without a byte from the server after which it counts as dead."""
FRESH_TRIES = 2
"""A kept connection may have been closed by the server meanwhile: one more try on a new one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Headers (lower-case names) and the whole body: `voxels` where it began with an array, then what came after."""

    headers: Mapping[str, str]
    body: bytes
    voxels: NDArray[Any] | None = None


class _Kept:
    """A connection and the process it belongs to; closed when its thread ends, or nobody has the wire any more."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self.process = os.getpid()

    def __del__(self) -> None:
        # In a fork this closes our copy only; the parent's goes on.
        self.connection.close()


class Wire:
    """Requests to one base URL, over one connection per thread and process."""

    def __init__(self, base: str, headers: Mapping[str, str] | None = None) -> None:
        self.base = base.rstrip("/")
        self._headers = dict(headers or {})
        self._parts = urlsplit(self.base)
        self._local = threading.local()

    def __reduce__(self) -> tuple[type[Wire], tuple[str, dict[str, str]]]:
        return type(self), (self.base, self._headers)

    def document(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The JSON answer to a GET, or to a POST of `body`. Raises RefusedByServiceError, UnreachableError."""
        found: dict[str, Any] = json.loads(self._asked(path, body, voxels=False).body)
        return found

    def voxels(self, path: str, params: Mapping[str, Any]) -> NDArray[Any]:
        """The array a GET answers with."""
        answer = self._asked(f"{path}?{urlencode(params)}", None, voxels=True)
        assert answer.voxels is not None
        return answer.voxels

    def posted(self, path: str, body: Mapping[str, Any]) -> Answer:
        """The array a POST answers with, and the bytes after it."""
        return self._asked(path, body, voxels=True)

    def _asked(self, path: str, body: Mapping[str, Any] | None, *, voxels: bool) -> Answer:
        for _ in range(BUSY_TRIES):
            status, answer = self._once(path, body, voxels=voxels)
            if status != BUSY:
                break
            time.sleep(wait_seconds(answer.headers))
        if status != http.client.OK:
            raise refusal_of(self.base + path, status, answer.body)
        return answer

    def _once(self, path: str, body: Mapping[str, Any] | None, *, voxels: bool) -> tuple[int, Answer]:
        data = None if body is None else json.dumps(body).encode()
        headers = self._headers | ({} if data is None else {"Content-Type": "application/json"})
        for remaining in reversed(range(FRESH_TRIES)):
            connection, kept = self._connection()
            try:
                connection.request("GET" if data is None else "POST", self._parts.path + path, data, headers)
                response = connection.getresponse()
                return response.status, _read(response, voxels=voxels and response.status == http.client.OK)
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


def _read(response: http.client.HTTPResponse, *, voxels: bool) -> Answer:
    headers = {name.lower(): value for name, value in response.getheaders()}
    if not voxels:
        return Answer(headers, response.read())
    import numpy as np

    layout = layout_of(headers)
    body = np.empty(layout.bytes, np.uint8)
    view, at = body.data, 0
    while at < len(view):
        got = response.readinto(view[at:])
        if not got:
            raise http.client.IncompleteRead(b"", len(view) - at)
        at += got
    return Answer(headers, response.read(), layout.array(body))
