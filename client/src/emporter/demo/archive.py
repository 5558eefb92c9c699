"""A small archive on the loopback: one folder over HTTP, with ranges, lengths and entity tags as real ones have them."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE_BYTES = 2**20

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")


@contextmanager
def archive(folder: Path) -> Iterator[str]:
    """Serve the files directly in `folder` while inside; yields the base URL, without a slash."""
    server = _Server(folder)
    thread = threading.Thread(target=server.serve_forever, name="demo-archive", daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers for the files of one folder, which the server knows."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        found = self._answer()
        if found is not None:
            self._send(*found)

    def log_message(self, *_: Any) -> None:
        return

    def _answer(self) -> tuple[Path, int, int] | None:
        """Send status and headers; what the body must be, None where there is none."""
        path = self.server.folder / Path(unquote(urlsplit(self.path).path)).name
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        size, tag = path.stat().st_size, _tag(path)
        asked = self.headers.get("Range", "") if self.headers.get("If-Range", tag) == tag else ""
        wanted = _wanted(asked, size)
        if wanted is None:
            self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, {"Content-Range": f"bytes */{size}"})
            return None
        start, stop = wanted
        always = {"Content-Type": "image/tiff", "Accept-Ranges": "bytes", "ETag": tag}
        if asked:
            self._head(HTTPStatus.PARTIAL_CONTENT, stop - start, {**always, "Content-Range": f"bytes {start}-{stop - 1}/{size}"})
        else:
            self._head(HTTPStatus.OK, size, always)
        return path, start, stop

    def _head(self, status: HTTPStatus, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, path: Path, start: int, stop: int) -> None:
        with path.open("rb") as file, suppress(ConnectionError):
            file.seek(start)
            while start < stop:
                piece = file.read(min(PIECE_BYTES, stop - start))
                self.wfile.write(piece)
                start += len(piece)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        super().__init__(("127.0.0.1", 0), _Handler)


def _wanted(header: str, size: int) -> tuple[int, int] | None:
    """(start, stop) of a Range header, all of the file without one, None for one outside it."""
    if not header:
        return (0, size)
    match = _RANGE.match(header)
    if match is None:
        return None
    start = int(match[1])
    stop = min(size, int(match[2]) + 1) if match[2] else size
    return (start, stop) if start < stop else None


@cache
def _tag(path: Path) -> str:
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'
