"""What a server's answer means: version, range, patience, refusal. Sections are of RFC 9110."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import Message as Headers
from email.utils import parsedate_to_datetime
from urllib.parse import unquote, urlsplit

import httpcore

from emporter_runtime.errors import RateLimitedError
from fetcher.errors import (
    CHANGED_HINT,
    ArchiveMisbehavesError,
    ArchiveRefusedError,
    ArchiveUnreachableError,
    ContentEncodedError,
    ForbiddenError,
    NotInArchiveError,
    SourceChangedError,
)

REDIRECTS = frozenset({301, 302, 303, 307, 308})
LONGEST_PATIENCE = 24 * 3600.0
"""Seconds of a Retry-After that are believed: a job waits no longer than this for anything."""

_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)\Z")


@dataclass(frozen=True, slots=True)
class Pinned:
    """One version of one resource: what every later answer about it must agree with."""

    url: str
    size: int
    etag: str | None = None
    modified: str | None = None

    @property
    def version(self) -> str:
        """Its etag, else its size and time; only its size where the server says neither."""
        return self.etag or f"{self.size} {self.modified or ''}".strip()

    @property
    def told_apart(self) -> bool:
        """Whether the server says anything by which another version of the same size would be noticed."""
        return self.etag is not None or self.modified is not None

    def if_range(self) -> dict[str, str]:
        """Section 13.1.5: a weak etag can't be asked for."""
        validator = self.etag if self.etag and not self.etag.startswith("W/") else self.modified
        return {"If-Range": validator} if validator else {}

    def check(self, reply: Reply) -> None:
        """Raises SourceChangedError where `reply` is about another version."""
        total = reply.total
        if total is not None and total != self.size:
            self.changed(f"{total} bytes instead of {self.size}")
        if self.etag is not None and reply.etag is not None and reply.etag != self.etag:
            self.changed(f"etag {reply.etag} instead of {self.etag}")
        if self.etag is None and self.modified and reply.modified and reply.modified != self.modified:
            self.changed(f"of {reply.modified} instead of {self.modified}")
        said = reply.etag if self.etag is not None else reply.modified
        if self.told_apart and said is None and not (reply.partial and self.if_range()):
            # A 206 to If-Range is the server's own word that nothing changed; any other answer without its version is nobody's.
            self.changed(f"no longer said to be version {self.version}")

    def changed(self, how: str) -> None:
        raise SourceChangedError(f"{self.url} changed since it was planned: it is {how}", hint=CHANGED_HINT)


@dataclass(frozen=True, slots=True)
class Reply:
    """Status and the headers that matter."""

    url: str
    status: int
    headers: Headers

    @classmethod
    def of(cls, url: str, response: httpcore.Response) -> Reply:
        headers = Headers()
        for name, value in response.headers:
            headers[name.decode("latin-1")] = value.decode("latin-1")
        return cls(url, response.status, headers)

    @property
    def partial(self) -> bool:
        return self.status == 206

    @property
    def etag(self) -> str | None:
        return self.headers["ETag"] or None

    @property
    def modified(self) -> str | None:
        return self.headers["Last-Modified"] or None

    @property
    def length(self) -> int | None:
        """Bytes of the body, None where the server does not say before it ends."""
        text = self.headers["Content-Length"]
        return int(text) if text is not None and text.isdigit() else None

    @property
    def total(self) -> int | None:
        """Bytes of the whole resource, None where this answer does not say."""
        if self.partial or self.status == 416:
            return self.content_range()[2]
        return self.length

    def content_range(self) -> tuple[int, int, int | None]:
        """(first, past the last, total) of section 14.4; (0, 0, total) where nothing was satisfiable."""
        match = _CONTENT_RANGE.match(self.headers["Content-Range"] or "")
        if match is None:
            if self.status == 416:
                return (0, 0, None)
            raise ArchiveMisbehavesError(
                f"{self.url}: a partial answer that does not say which part", hint="download it and ingest the file"
            )
        first, last, total = match.groups()
        return (int(first or 0), int(last) + 1 if last else 0, None if total == "*" else int(total))

    def redirect(self) -> str | None:
        """Where the answer sends us, None where it is an answer."""
        location = self.headers["Location"]
        return location if self.status in REDIRECTS and location else None

    def file_name(self) -> str:
        """The name the file has in the archive: the header's where the URL's has no suffix."""
        name = unquote(urlsplit(self.url).path.rsplit("/", 1)[-1])
        offered = self.headers.get_filename()
        chosen = offered if offered and "." not in name else name
        return re.sub(r"[\x00-\x1f\x7f/\\]", "_", chosen or "").strip(". ") or "object"

    def check(self) -> None:
        """Raises where the answer is no data: the one place where a status becomes an error."""
        if self.status in (200, 206):
            self._check_encoding()
            return
        if self.status == 416:
            return
        if self.status in (404, 410):
            raise NotInArchiveError(f"{self.url} does not exist ({self.status})", hint="check the name, or browse the archive")
        if self.status in (401, 403, 407):
            raise ForbiddenError(f"{self.url} may not be read ({self.status})", hint="is it public, and not under embargo?")
        patience = self.retry_after()
        if self.status == 429 or (self.status == 503 and patience is not None):
            raise RateLimitedError(f"{self.url}: the archive asks for patience ({self.status})", retry_after=patience)
        if self.status >= 500 or self.status in (408, 421, 425):
            raise ArchiveUnreachableError(f"{self.url}: the archive answers {self.status}")
        raise ArchiveRefusedError(f"{self.url}: the archive answers {self.status}", hint="open the URL in a browser")

    def _check_encoding(self) -> None:
        encodings = {e.strip().lower() for e in (self.headers["Content-Encoding"] or "").split(",")} - {"", "identity"}
        if encodings:
            raise ContentEncodedError(
                f"{self.url} arrives as {', '.join(sorted(encodings))} although it was asked for as it is",
                hint="download it and ingest the file",
            )

    def retry_after(self) -> float | None:
        """Seconds, from either form of section 10.2.3."""
        text = (self.headers["Retry-After"] or "").strip()
        if text.isdigit():
            return min(float(text), LONGEST_PATIENCE)
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return None
        return min(max(seconds, 0.0), LONGEST_PATIENCE)


def header_list(headers: dict[str, str]) -> Sequence[tuple[bytes, bytes]]:
    """As httpcore wants them."""
    return [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
