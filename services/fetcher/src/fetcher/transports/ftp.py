"""Bytes over FTP (RFC 959, 2428, 3659), anonymous and passive: one connection for each file or piece of one.

aioftp speaks the protocol; names are resolved and addresses checked here, and data connections go to the address of the control
connection, whatever an answer to PASV says.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import unquote, urlsplit

import aioftp
import httpcore

from emporter_runtime.addresses import Resolve
from emporter_runtime.errors import RateLimitedError
from fetcher.errors import (
    ArchiveMisbehavesError,
    ArchiveRefusedError,
    ArchiveUnreachableError,
    ForbiddenError,
    NotInArchiveError,
    RangesIgnoredError,
    UnknownHostError,
    UrlRefusedError,
)
from fetcher.transports.addresses import GuardedBackend, HostPolicy, Target
from fetcher.transports.http import FRESH_START_BYTES, HttpLimits, Probe
from fetcher.transports.listing import MAX_ENTRIES, Entry, is_plain_name
from fetcher.transports.replies import Pinned
from fetcher.transports.trying import tries

PIECE_BYTES = 256 * 1024
"""Of one read of a data connection."""
PORT = 21
MAX_LISTING_BYTES = 32 * 2**20
"""Of one folder: a hundred thousand names with their facts."""

_CROWDED = re.compile(r"too many|maximum|limit", re.IGNORECASE)
_DENIED = re.compile(r"denied|permission|not allowed", re.IGNORECASE)
_MDTM = re.compile(r"(\d{14})")


@dataclass(frozen=True, slots=True)
class _Data:
    """A data connection, which may send nothing for `stall` seconds at most."""

    reader: asyncio.StreamReader
    stall: float

    async def read(self, size: int) -> bytes:
        """Some bytes, at most `size`; none at the end."""
        async with asyncio.timeout(self.stall):
            return await self.reader.read(size)


@dataclass(frozen=True, slots=True)
class _Place:
    """A file or folder of one server."""

    url: str
    host: str
    port: int
    path: str


class FtpClient:
    """One archive's FTP connections. Its coroutines belong to the event loop it is used in."""

    def __init__(self, hosts: HostPolicy, limits: HttpLimits | None = None, resolve: Resolve | None = None) -> None:
        self._hosts = replace(hosts, schemes=("ftp",))
        self._limits = limits or HttpLimits()
        self._addresses = GuardedBackend(allow_private=hosts.allow_private, resolve=resolve)
        self._slots: dict[str, asyncio.Semaphore] = {}

    async def probe(self, url: str) -> Probe:
        """Size and time of a file. FTP has no etags: a version is told by these two."""
        place = self._place(url)
        try:
            async for attempt in tries():
                with attempt:
                    async with self._session(place) as session:
                        pinned = await _pinned(session, place)
                        return Probe(pinned, place.path.rsplit("/", 1)[-1] or "object", ranges=True)
        except UnknownHostError as error:
            raise UrlRefusedError(error.message, hint="check the name, and that this machine can resolve it") from error
        raise AssertionError("stamina ends by returning or raising")

    async def read(self, pinned: Pinned, start: int, stop: int) -> bytes:
        """Exactly these bytes."""
        held = bytearray()
        async with aclosing(self.pieces(pinned, start, stop)) as pieces:
            async for piece in pieces:
                held += piece
        return bytes(held)

    async def pieces(self, pinned: Pinned, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` to `stop` in order, as they come; goes on by REST where a connection broke.

        Raises SourceChangedError, RangesIgnoredError (no REST), ArchiveUnreachableError or RateLimitedError after a few tries
        without progress.
        """
        position = start
        while position < stop:
            begun = position
            async for attempt in tries():
                with attempt:
                    try:
                        async with aclosing(self._once(pinned, position, stop)) as pieces:
                            async for piece in pieces:
                                position += len(piece)
                                yield piece
                    except ArchiveUnreachableError:
                        if position - begun < FRESH_START_BYTES:
                            raise

    async def entries(self, url: str) -> list[Entry]:
        """What lies in a folder, by MLSD, or by LIST where the server has no MLSD."""
        place = self._place(url)
        async for attempt in tries():
            with attempt:
                async with self._session(place) as session:
                    return await self._entries(session, place)
        raise AssertionError("stamina ends by returning or raising")

    async def close(self) -> None:
        """Every connection ends with its use."""

    async def _once(self, pinned: Pinned, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """One connection's worth of `pieces`; raises ArchiveUnreachableError where it ends early."""
        place = self._place(pinned.url)
        async with self._session(place) as session:
            now = await _pinned(session, place)
            if now.size != pinned.size:
                pinned.changed(f"{now.size} bytes instead of {pinned.size}")
            if pinned.modified and now.modified != pinned.modified:
                pinned.changed(f"of {now.modified} instead of {pinned.modified}")
            async with self._data(session, place, f"RETR {place.path}", start) as stream:
                position = start
                while position < stop and (piece := await stream.read(min(PIECE_BYTES, stop - position))):
                    position += len(piece)
                    yield piece
                if position < stop:
                    raise ArchiveUnreachableError(f"{place.url} ended at byte {position} of {stop}")
                if stop < pinned.size:
                    return
                if await stream.read(1):
                    raise ArchiveMisbehavesError(f"{place.url}: more bytes than the {pinned.size} it announced")
                # Only this says that the file did not merely stop where its size was announced to end.
                await self._told(session, "2xx")

    async def _entries(self, session: aioftp.Client, place: _Place) -> list[Entry]:
        try:
            lines = await self._lines(session, place, "MLSD")
            found = [_of_mlsd(session, line) for line in lines]
        except aioftp.StatusCodeError as error:
            if not any(code.matches("50x") for code in error.received_codes):
                raise
            found = [_of_list(session, line) for line in await self._lines(session, place, "LIST")]
        return [entry for entry in found if entry is not None and is_plain_name(entry.name)]

    async def _lines(self, session: aioftp.Client, place: _Place, verb: str) -> list[bytes]:
        held = bytearray()
        async with self._data(session, place, f"{verb} {place.path}", 0) as stream:
            while piece := await stream.read(PIECE_BYTES):
                held += piece
                if len(held) > MAX_LISTING_BYTES:
                    raise ArchiveMisbehavesError(f"{place.url}: a listing of more than {MAX_LISTING_BYTES} bytes")
            await self._told(session, "2xx")
        lines = [line for line in bytes(held).splitlines() if line.strip()]
        if len(lines) > MAX_ENTRIES:
            raise ArchiveMisbehavesError(f"{place.url}: more than {MAX_ENTRIES} names in a folder")
        return lines

    @asynccontextmanager
    async def _data(self, session: aioftp.Client, place: _Place, command: str, start: int) -> AsyncIterator[_Data]:
        async with asyncio.timeout(self._limits.connect + self._limits.stall):
            reader, writer = await session.get_passive_connection("I")
        # Closed here whatever happens: aioftp's own streams forget a connection whose command is refused.
        try:
            async with asyncio.timeout(self._limits.stall):
                await self._begin(session, place, start)
                await session.command(command, "1xx")
            yield _Data(reader, self._limits.stall)
        finally:
            writer.close()

    async def _begin(self, session: aioftp.Client, place: _Place, start: int) -> None:
        if start == 0:
            return
        try:
            await session.command(f"REST {start}", "350")
        except aioftp.StatusCodeError as error:
            if not any(code.matches("50x") for code in error.received_codes):
                raise
            message = f"{place.url}: the server can't begin in the middle of a file"
            raise RangesIgnoredError(message, hint="download it and ingest the file") from error

    async def _told(self, session: aioftp.Client, code: str) -> None:
        async with asyncio.timeout(self._limits.stall):
            await session.command(None, code, "1xx")

    @asynccontextmanager
    async def _session(self, place: _Place) -> AsyncIterator[aioftp.Client]:
        """A control connection that is logged in and in binary mode."""
        slot = self._slots.setdefault(place.host, asyncio.Semaphore(self._limits.connections_per_host))
        async with slot:
            with _faults(place.url):
                addresses = await self._addresses.permitted(place.host, place.port, self._limits.connect)
                session = await self._connected(place, addresses)
                try:
                    yield session
                finally:
                    session.close()

    async def _connected(self, place: _Place, addresses: list[str]) -> aioftp.Client:
        failure: OSError | None = None
        for address in addresses:
            session = aioftp.Client(socket_timeout=self._limits.stall, connection_timeout=self._limits.connect)
            try:
                async with asyncio.timeout(self._limits.connect + self._limits.stall):
                    await session.connect(address, place.port)
                    await session.login("anonymous", "emporter@")
                    await session.command("TYPE I", "200")
            except OSError as error:  # TimeoutError and every refusal of the network among them
                session.close()
                failure = error
            except BaseException:
                session.close()
                raise
            else:
                return session
        raise failure or ConnectionError(f"{place.host} has no address")

    def _place(self, url: str) -> _Place:
        target: Target = self._hosts.checked(url)
        parts = urlsplit(target.url)
        path = unquote(parts.path)
        if any(ord(c) < 32 or ord(c) == 127 for c in path) or ".." in path.split("/"):
            raise UrlRefusedError(f"{url[:200]!r} is no path of a file", hint="write it as a browser shows it")
        return _Place(target.url, target.host, parts.port or PORT, path)


async def _pinned(session: aioftp.Client, place: _Place) -> Pinned:
    """The version there is now. Its time is written as HTTP writes it, so that both can be compared."""
    _, said = await session.command(f"SIZE {place.path}", "213")
    size = said[-1].strip()
    if not size.isdigit():
        raise ArchiveRefusedError(
            f"{place.url}: the archive does not say how large it is", hint="download it and ingest the file"
        )
    try:
        _, told = await session.command(f"MDTM {place.path}", "213")
    except aioftp.StatusCodeError as error:
        if not any(code.matches("5xx") for code in error.received_codes):
            raise
        return Pinned(place.url, int(size))
    return Pinned(place.url, int(size), modified=_http_date(told[-1]))


def _http_date(text: str) -> str | None:
    match = _MDTM.search(text)
    try:
        when = datetime.strptime(match[1], "%Y%m%d%H%M%S").replace(tzinfo=UTC) if match else None
    except ValueError:
        return None
    return format_datetime(when, usegmt=True) if when else None


def _of_mlsd(session: aioftp.Client, line: bytes) -> Entry | None:
    try:
        path, facts = session.parse_mlsx_line(line)
    except (ValueError, UnicodeDecodeError):
        return None
    kind = str(facts.get("type", "")).lower()
    return Entry(str(path), folder=kind == "dir") if kind in ("file", "dir") else None


def _of_list(session: aioftp.Client, line: bytes) -> Entry | None:
    """None for what is neither file nor folder: a link leads who knows where."""
    if line[:1] not in b"-d" and not line[:1].isdigit():
        return None
    try:
        path, facts = session.parse_list_line(line)
    except (ValueError, UnicodeDecodeError):
        return None
    return Entry(str(path), folder=facts["type"] == "dir")


@contextmanager
def _faults(url: str) -> Iterator[None]:
    """What aioftp and the network raise, as ours."""
    try:
        yield
    except aioftp.StatusCodeError as error:
        raise _refusal(url, error) from error
    except aioftp.AIOFTPException as error:
        raise ArchiveMisbehavesError(f"{url}: {error}", hint="try another mirror") from error
    except (OSError, EOFError, httpcore.NetworkError, httpcore.TimeoutException) as error:
        raise ArchiveUnreachableError(f"{url}: {str(error) or type(error).__name__}") from error
    except (ValueError, IndexError, UnicodeError) as error:
        # Of aioftp's parsers, which expect a server that follows the standard.
        raise ArchiveMisbehavesError(f"{url}: an answer that is no FTP ({error})", hint="try another mirror") from error


def _refusal(url: str, error: aioftp.StatusCodeError) -> Exception:
    """What a reply code means (RFC 959, section 4.2)."""
    code, text = error.received_codes[-1], " ".join(error.info).strip(" -")
    shown = f"{url}: {code} {text}"[:400]
    if code == "421" or (code in ("530", "450") and _CROWDED.search(text)):
        return RateLimitedError(shown)
    if code.matches("4xx"):
        return ArchiveUnreachableError(shown)
    if code == "530" or (code == "550" and _DENIED.search(text)):
        return ForbiddenError(shown, hint="is it public, and not under embargo?")
    if code in ("550", "553"):
        return NotInArchiveError(shown, hint="check the name, or browse the archive")
    return ArchiveRefusedError(shown, hint="download it and ingest the file")
