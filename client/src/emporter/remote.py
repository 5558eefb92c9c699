"""Bytes behind URLs by ranges, for a person at a terminal: http, https, ftp, and s3 as what it is, HTTP.

A user's own command opens what its user names: no host is refused here, unlike in a service, which strangers may ask.
"""

from __future__ import annotations

import ftplib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self
from urllib.parse import quote, unquote, urlsplit

import httpx

from emporter.errors import ClientError, MistakeError, UnreachableError
from emporter_readers.cached import CachedSource

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
FTP_SECONDS = 30.0
LONGEST_BEGINNING = 64 * 2**20
"""Bytes read of a file whose server has no ranges, for its headers."""
LONGEST_DOCUMENT = 16 * 2**20
NOT_THERE = frozenset({403, 404, 410})
"""A bucket that may not be listed answers 403 for what is not there."""
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)\Z")


class NotThereError(ClientError):
    """The server has no such thing, or keeps it to itself."""

    code = "not_found"


@dataclass(slots=True)
class Read:
    """Bytes that came over the network."""

    bytes: int = 0


class Web:
    """HTTP(S) and public S3. Use it as a context manager; `read` counts what came."""

    def __init__(self, s3_endpoint: str = "", s3_region: str = "us-east-1") -> None:
        self.read = Read()
        self._endpoint = s3_endpoint.rstrip("/")
        self._region = s3_region
        self._http = httpx.Client(timeout=TIMEOUT, follow_redirects=True, headers={"Accept-Encoding": "identity"})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of connections."""
        self._http.close()

    def address(self, url: str) -> str:
        """`s3://bucket/key` as the URL it is served under: at the endpoint in path style, else at AWS."""
        scheme, _, rest = url.partition("://")
        if scheme not in ("s3", "gs"):
            return url
        bucket, _, key = rest.partition("/")
        path = quote(key, "/()!$'*,;:@&=+~-_.")
        if scheme == "gs":
            return f"https://storage.googleapis.com/{bucket}/{path}"
        if self._endpoint:
            return f"{self._endpoint}/{bucket}/{path}"
        return f"https://{bucket}.s3.{self._region}.amazonaws.com/{path}"

    def document(self, url: str) -> bytes | None:
        """All of something small, None where it is not there."""
        with self._answer(self.address(url), {}) as answer:
            if answer.status_code in NOT_THERE:
                return None
            self._check(answer)
            held = b"".join(self._pieces(answer, LONGEST_DOCUMENT + 1))
        return held if len(held) <= LONGEST_DOCUMENT else None

    def file(self, url: str) -> CachedSource:
        """A file by ranges, named as the URL ends. Raises NotThereError, UnreachableError."""
        there = self.address(url)
        with self._answer(there, {"Range": "bytes=0-0"}) as answer:
            self._check(answer)
            ranged = answer.status_code == 206
            size, etag = _total(answer), answer.headers.get("ETag")
            self.read.bytes += sum(len(piece) for piece in answer.iter_raw()) if ranged else 0
        name = unquote(urlsplit(there).path.rsplit("/", 1)[-1]) or "object"
        ranges = _Ranges(self, there, size, etag)
        return CachedSource(name, size, ranges.read if ranged else _Beginning(self, there, size).read)

    def ranged(self, url: str, start: int, stop: int) -> httpx.Response:
        """One range, read whole."""
        with self._answer(url, {"Range": f"bytes={start}-{stop - 1}"}) as answer:
            self._check(answer)
            if answer.status_code == 206:
                answer.read()
                self.read.bytes += len(answer.content)
            return answer

    def beginning(self, url: str, size: int) -> bytes:
        """The first bytes of a file whose server sends whole files only."""
        with self._answer(url, {}) as answer:
            self._check(answer)
            return b"".join(self._pieces(answer, size))[:size]

    def _pieces(self, answer: httpx.Response, most: int) -> list[bytes]:
        found: list[bytes] = []
        for piece in answer.iter_bytes():
            found.append(piece)
            self.read.bytes += len(piece)
            most -= len(piece)
            if most <= 0:
                break
        return found

    def _answer(self, url: str, headers: dict[str, str]) -> _Answer:
        return _Answer(self._http, url, headers)

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in NOT_THERE:
            raise NotThereError(f"{answer.url} is not there ({answer.status_code})", hint="check the name; is it public?")
        if answer.status_code not in (200, 206):
            raise UnreachableError(f"{answer.url} answers {answer.status_code}", hint="open it in a browser")


class _Answer:
    """A streamed GET whose faults are ours."""

    def __init__(self, http: httpx.Client, url: str, headers: dict[str, str]) -> None:
        self._url = url
        self._stream = http.stream("GET", url, headers=headers)

    def __enter__(self) -> httpx.Response:
        try:
            return self._stream.__enter__()
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise MistakeError(f"{self._url[:120]} is no URL", hint="write it as a browser shows it") from error
        except httpx.HTTPError as error:
            raise _unreachable(self._url, error) from error

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        self._stream.__exit__(kind, error, trace)  # type: ignore[arg-type]
        if isinstance(error, httpx.HTTPError):
            raise _unreachable(self._url, error) from error


def _unreachable(url: str, error: Exception) -> UnreachableError:
    parts = urlsplit(url)
    where, reason = f"{parts.scheme}://{parts.netloc}", str(error) or type(error).__name__
    return UnreachableError(f"{where} does not answer ({reason})", hint="is the address right, and the network there?")


def _total(answer: httpx.Response) -> int:
    said = _RANGE.match(answer.headers.get("Content-Range", ""))
    length = said[3] if said is not None else answer.headers.get("Content-Length") if answer.status_code == 200 else None
    if length is None or not length.isdigit():
        raise UnreachableError(f"{answer.url}: the server does not say how large it is", hint="download it and inspect the file")
    return int(length)


@dataclass(frozen=True, slots=True)
class _Ranges:
    """Ranges of one version of one file."""

    web: Web
    url: str
    size: int
    etag: str | None

    def read(self, start: int, stop: int) -> bytes:
        answer = self.web.ranged(self.url, start, stop)
        said = _RANGE.match(answer.headers.get("Content-Range", ""))
        same = answer.headers.get("ETag") in (None, self.etag) or self.etag is None
        if said is None or int(said[1]) != start or int(said[3]) != self.size or len(answer.content) != stop - start or not same:
            raise UnreachableError(f"{self.url} answers with other bytes than asked for", hint="it may have changed: try again")
        return answer.content


@dataclass(slots=True)
class _Beginning:
    """The first bytes of a file, kept."""

    web: Web
    url: str
    size: int
    held: bytes = b""

    def read(self, start: int, stop: int) -> bytes:
        if stop > LONGEST_BEGINNING:
            raise UnreachableError(
                f"{self.url}: its server sends whole files only, and its headers reach to byte {stop}",
                hint="download it and inspect the file",
            )
        if stop > len(self.held):
            self.held = self.web.beginning(self.url, min(self.size, max(stop, 2 * len(self.held), 2**20)))
        return self.held[start:stop]


def ftp_file(url: str, read: Read) -> CachedSource:
    """A file over FTP, by REST; a connection for each range, as servers like it least badly. Raises NotThereError."""
    parts = urlsplit(url)
    path = unquote(parts.path)

    def connected(do: Callable[[ftplib.FTP], bytes | int]) -> bytes | int:
        try:
            with ftplib.FTP(timeout=FTP_SECONDS) as ftp:  # noqa: S321  # public archives speak nothing else
                ftp.connect(parts.hostname or "", parts.port or 21)
                ftp.login()
                ftp.voidcmd("TYPE I")
                return do(ftp)
        except ftplib.error_perm as error:
            raise NotThereError(f"{url} is not there ({error})", hint="check the name") from error
        except (OSError, EOFError, ftplib.Error) as error:
            raise _unreachable(url, error) from error

    def ranged(start: int, stop: int) -> bytes:
        def receive(ftp: ftplib.FTP) -> bytes:
            held = bytearray()
            with ftp.transfercmd(f"RETR {path}", rest=start or None) as connection:
                while len(held) < stop - start and (piece := connection.recv(min(65_536, stop - start - len(held)))):
                    held += piece
                    read.bytes += len(piece)
            # The server had more to send: it says so now, or never.
            with suppress(OSError, EOFError, ftplib.Error):
                ftp.close()
            return bytes(held)

        data = connected(receive)
        assert isinstance(data, bytes)
        if len(data) != stop - start:
            raise UnreachableError(f"{url} ended at byte {start + len(data)}, needed up to {stop}", hint="try again")
        return data

    size = connected(lambda ftp: ftp.size(path) or 0)
    assert isinstance(size, int)
    return CachedSource(path.rsplit("/", 1)[-1] or "object", size, ranged)
