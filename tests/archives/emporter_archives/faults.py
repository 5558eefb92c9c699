"""How an answer can go wrong. A server takes one fault for one request, in the order they were given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection is reset after `after` bytes of the body."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Hangup:
    """The connection is closed in good order, but `after` bytes into the body: a truncated transfer."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing more comes after `after` bytes of the body; the connection stays open."""

    after: int = 0


@dataclass(frozen=True, slots=True)
class Silence:
    """The request is read and never answered."""


@dataclass(frozen=True, slots=True)
class Status:
    """Another status than 200 or 206."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LyingLength:
    """Content-Length says `more` bytes than the body has (or fewer, where negative)."""

    more: int


@dataclass(frozen=True, slots=True)
class ShortRange:
    """Content-Range promises the range, Content-Length and body are `by` bytes shorter."""

    by: int


@dataclass(frozen=True, slots=True)
class SmallerRange:
    """Only the first `size` bytes of the range asked for, and it says so: what RFC 9110 allows."""

    size: int


@dataclass(frozen=True, slots=True)
class OtherRange:
    """The range is moved by `by` bytes, and Content-Range says so."""

    by: int


@dataclass(frozen=True, slots=True)
class Whole:
    """Range is ignored: the whole file with 200."""


@dataclass(frozen=True, slots=True)
class Gzip:
    """The body is compressed, whatever Accept-Encoding says."""


@dataclass(frozen=True, slots=True)
class Unsized:
    """The whole file, chunked: nobody says how large it is."""


@dataclass(frozen=True, slots=True)
class Bare:
    """No ETag, no Last-Modified."""


@dataclass(frozen=True, slots=True)
class Swap:
    """The file is another one from this answer on."""

    data: bytes
    same_etag: bool = False


Fault = (
    Drop | Hangup | Stall | Silence | Status | LyingLength | ShortRange | SmallerRange | OtherRange | Whole | Gzip | Unsized
    | Bare | Swap
)  # fmt: skip


def redirect(to: str, code: int = 302) -> Status:
    """An answer that sends the client elsewhere."""
    return Status(code, {"Location": to})
