"""What lies in .zip, .tar, .tar.gz, .gz and .bz2: members by name, their bytes as a stream; nothing is written anywhere.

Names that lead out of the archive, links and devices are refused by name. Sizes are known before the first byte is taken: those a
directory announces are held against it while reading, and what unpacks to more than a real image would is refused as it is seen.
"""

from __future__ import annotations

import bz2
import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, Any, Literal

from emporter_readers.errors import CorruptObjectError
from emporter_readers.ordering import natural_order
from emporter_readers.protocol import ByteSource
from fetcher.errors import ArchiveRefusedError, RangesIgnoredError
from fetcher.streams import Streams

Kind = Literal["zip", "tar", "tgz", "tbz2", "gz", "bz2"]
How = Literal["stored", "zip-stored", "zip-deflated", "zip-bz2", "tgz", "tbz2", "gz", "bz2"]
"""How a member's bytes lie in the archive: as they are; behind a local header of a zip; compressed, alone or with all others."""

SUFFIXES: tuple[tuple[str, Kind], ...] = (
    (".zip", "zip"), (".tar", "tar"), (".tar.gz", "tgz"), (".tgz", "tgz"), (".tar.bz2", "tbz2"), (".tbz2", "tbz2"),
    (".tbz", "tbz2"), (".gz", "gz"), (".bz2", "bz2"),
)  # fmt: skip
"""The first that fits."""
MAGIC: dict[Kind, tuple[int, bytes]] = {
    "zip": (0, b"PK"), "tar": (257, b"ustar"), "tgz": (0, b"\x1f\x8b"), "tbz2": (0, b"BZh"), "gz": (0, b"\x1f\x8b"),
    "bz2": (0, b"BZh"),
}  # fmt: skip
"""Where a mark lies, and what it is. Tar files of before 1988 have none and are not known here."""
PIECE_BYTES = 2**20
"""Of one read of an archive and of one piece that is given."""
MAX_READ = 64 * 2**20
"""Bytes a directory may make us hold at once: half a million members; headers that claim more are no archive's."""
MAX_MEMBERS = 100_000
MAX_RATIO = 300
"""Bytes out for each byte in. Images stay below 3, label volumes below 200; a bomb starts at 1000."""
ALWAYS_TAKEN = 64 * 2**20
"""Bytes that may be unpacked from however little: one segment, held in memory once."""

_ZIP_HOW: dict[int, How] = {
    zipfile.ZIP_STORED: "zip-stored", zipfile.ZIP_DEFLATED: "zip-deflated", zipfile.ZIP_BZIP2: "zip-bz2",
}  # fmt: skip
_LOCAL_HEADER = struct.Struct("<4s22xHH")
"""APPNOTE.TXT 4.3.7: the mark, and the lengths of name and extra field behind these 30 bytes."""
_UNPACK = "unpack it yourself and ingest the files"


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive, by its path there, and where its bytes lie."""

    path: str
    bytes: int
    how: How
    start: int = 0
    """In the archive: of its bytes, or of its local header in a zip; in a compressed tar, of its bytes once unpacked."""
    packed: int = 0
    """Bytes it takes up there."""
    crc: int = 0
    """CRC-32 of its bytes, where it is of a zip."""


def kind_of(source: ByteSource) -> Kind | None:
    """What kind of archive an object is, by suffix and mark; None where it is none."""
    for suffix, kind in SUFFIXES:
        start, mark = MAGIC[kind]
        if source.name.lower().endswith(suffix) and source.size >= start + len(mark):
            return kind if source.read(start, start + len(mark)) == mark else None
    return None


def members(source: ByteSource, kind: Kind, most: int) -> list[Member]:
    """Every file, in natural order. `most` bounds their bytes in all. Reads directories only, but all of what is compressed as a
    whole, which does not say how large its content is.

    Raises ArchiveRefusedError naming the member, CorruptObjectError.
    """
    with _faults(source):
        found = _found(source, kind, most)
    total = sum(member.bytes for member in found)
    if total > most:
        raise ArchiveRefusedError(f"{source.name} holds {total} bytes, more than {most}", hint=_UNPACK)
    by_path = {member.path: member for member in found}
    if len(by_path) != len(found):
        raise ArchiveRefusedError(f"{source.name} holds two files of one name", hint=_UNPACK)
    return [by_path[path] for path in natural_order(list(by_path))]


def _found(source: ByteSource, kind: Kind, most: int) -> list[Member]:
    if kind == "zip":
        return _in_zip(source)
    if kind == "tar":
        return _in_tar(source)
    if kind in ("tgz", "tbz2"):
        return _in_compressed_tar(source, "tgz" if kind == "tgz" else "tbz2", most)
    return [_alone(source, "gz" if kind == "gz" else "bz2", most)]


def pieces(
    source: ByteSource, member: Member, start: int, stop: int, streams: Streams | None = None, archive: str = ""
) -> Iterator[bytes]:
    """Bytes `start` to `stop` (exclusive) of a member; exactly these. Raises RangesIgnoredError for a part of what is compressed:
    it can only be had from its beginning, so whoever wants it takes all of it in one pass.

    `streams` lets members of a compressed tar, `archive`, be had one after the other without unpacking it anew for each.
    """
    with _faults(source):
        if member.how in ("stored", "zip-stored"):
            first = member.start if member.how == "stored" else _behind_header(source, member)
            yield from _ranges(source, first + start, first + stop)
            return
        if (start, stop) != (0, member.bytes):
            raise RangesIgnoredError(f"{source.name}: {member.path} is compressed, and had as a whole only", hint=_UNPACK)
        if member.how in ("tgz", "tbz2"):
            yield from _from_stream(source, member, streams or Streams(), archive)
            return
        yield from _whole(source, member)


class MemberSource:
    """A member read here and there, for its headers: in one pass forward, from its beginning again where a reader goes back.

    One read at a time.
    """

    def __init__(self, source: ByteSource, member: Member, streams: Streams | None = None, archive: str = "") -> None:
        self.name = member.path
        self.size = member.bytes
        self._source = source
        self._member = member
        self._streams = streams
        self._archive = archive
        self._position = 0
        self._rest = b""
        self._pieces: Iterator[bytes] | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Exactly these bytes."""
        if self._member.how in ("stored", "zip-stored"):
            return b"".join(pieces(self._source, self._member, start, stop))
        if self._pieces is None or start < self._position:
            self._position, self._rest = 0, b""
            self._pieces = pieces(self._source, self._member, 0, self._member.bytes, self._streams, self._archive)
        held = bytearray()
        while self._position < stop:
            self._rest = self._rest or next(self._pieces)
            skipped = min(max(0, start - self._position), len(self._rest))
            taken = self._rest[skipped : skipped + stop - max(start, self._position)]
            held += taken
            self._position += skipped + len(taken)
            self._rest = self._rest[skipped + len(taken) :]
        return bytes(held)


def _in_zip(source: ByteSource) -> list[Member]:
    with zipfile.ZipFile(_File(source)) as archive:
        infos = archive.infolist()
    if len(infos) > MAX_MEMBERS:
        raise ArchiveRefusedError(f"{source.name} holds {len(infos)} files, more than {MAX_MEMBERS}", hint=_UNPACK)
    if sum(info.compress_size for info in infos) > source.size:
        raise ArchiveRefusedError(f"{source.name}: its members lie upon each other: a bomb", hint=_UNPACK)
    return [_zipped(source, info) for info in infos if not (_inside(source, info.orig_filename) and info.is_dir())]


def _zipped(source: ByteSource, info: zipfile.ZipInfo) -> Member:
    path = _inside(source, info.filename)
    if info.external_attr >> 28 not in (0, 8):  # the file type of a Unix mode: not said, a regular file
        raise ArchiveRefusedError(f"{source.name}: {path} is no file but a link or device", hint=_UNPACK)
    if info.flag_bits & 1:
        raise ArchiveRefusedError(f"{source.name}: {path} is encrypted", hint=_UNPACK)
    how = _ZIP_HOW.get(info.compress_type)
    if how is None or (how == "zip-stored" and info.compress_size != info.file_size):
        raise ArchiveRefusedError(f"{source.name}: {path} is compressed in an unusual way", hint=_UNPACK)
    if info.file_size > max(ALWAYS_TAKEN, MAX_RATIO * info.compress_size):
        what = f"{path} unpacks {info.compress_size} bytes to {info.file_size}"
        raise ArchiveRefusedError(f"{source.name}: {what}: a bomb", hint=_UNPACK)
    return Member(path, info.file_size, how, info.header_offset, info.compress_size, info.CRC)


def _in_tar(source: ByteSource) -> list[Member]:
    with tarfile.open(fileobj=_File(source), mode="r:") as archive:
        found = list(_tarred(source, archive, "stored"))
    for member in found:
        if member.start + member.bytes > source.size:
            raise CorruptObjectError(f"{source.name}: ends before {member.path} does", hint="it is truncated; make it again")
    return found


def _in_compressed_tar(source: ByteSource, how: Literal["tgz", "tbz2"], most: int) -> list[Member]:
    """All of it is unpacked once, and nothing kept: only so it says what it holds, and that it is whole."""
    with _stream(source, how) as stream:
        bounded = _Bounded(source, stream, most)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:  # type: ignore[call-overload]  # it is only read
            found = list(_tarred(source, archive, how))
        while bounded.read(PIECE_BYTES):
            pass
    return found


def _tarred(source: ByteSource, archive: tarfile.TarFile, how: How) -> Iterator[Member]:
    count = 0
    while (info := archive.next()) is not None:
        path = _inside(source, info.name)
        archive.members = []  # type: ignore[attr-defined]  # else every header ever read is kept
        if info.isdir():
            continue
        if not info.isreg() or info.issparse():
            raise ArchiveRefusedError(f"{source.name}: {path} is no file but a link or device", hint=_UNPACK)
        count += 1
        if count > MAX_MEMBERS:
            raise ArchiveRefusedError(f"{source.name} holds more than {MAX_MEMBERS} files", hint=_UNPACK)
        yield Member(path, info.size, how, info.offset_data, info.size)


def _alone(source: ByteSource, how: Literal["gz", "bz2"], most: int) -> Member:
    """The content of a .gz or .bz2, read once to learn its size."""
    size = 0
    with _stream(source, how) as stream:
        bounded = _Bounded(source, stream, most)
        while piece := bounded.read(PIECE_BYTES):
            size += len(piece)
    stem = PurePosixPath(source.name).name.rsplit(".", 1)[0]
    return Member(_inside(source, stem), size, how, 0, source.size)


class _Bounded:
    """What a compressed file unpacks to, no further than a real image would."""

    def __init__(self, source: ByteSource, stream: IO[bytes], most: int) -> None:
        self._source = source
        self._stream = stream
        self._limit = min(most, max(ALWAYS_TAKEN, MAX_RATIO * source.size))
        self._read = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._read += len(data)
        if self._read > self._limit:
            what = f"{self._source.size} bytes unpack to more than {self._limit}"
            raise ArchiveRefusedError(f"{self._source.name}: {what}: a bomb, or more than is taken here", hint=_UNPACK)
        return data


def _from_stream(source: ByteSource, member: Member, streams: Streams, archive: str) -> Iterator[bytes]:
    """A member of a compressed tar."""
    left = member.bytes
    with streams.at(archive or source.name, member.start, lambda: _stream(source, member.how)) as stream:
        while left:
            piece = stream.read(min(left, PIECE_BYTES))
            if not piece:
                raise CorruptObjectError(f"{source.name}: ends before {member.path} does", hint="it is truncated; make it again")
            left -= len(piece)
            yield piece


def _whole(source: ByteSource, member: Member) -> Iterator[bytes]:
    """All of a compressed member, its size and, in a zip, its checksum compared."""
    position, crc = 0, 0
    for piece in _inflated(source, member) if member.how.startswith("zip") else _streamed(source, member.how):
        position += len(piece)
        if position > member.bytes:
            raise CorruptObjectError(f"{source.name}: {member.path} is longer than the {member.bytes} bytes it should have")
        crc = zlib.crc32(piece, crc)
        yield piece
    if position != member.bytes or (member.how.startswith("zip") and crc != member.crc):
        raise CorruptObjectError(f"{source.name}: {member.path} is damaged", hint="make the archive again")


def _inflated(source: ByteSource, member: Member) -> Iterator[bytes]:
    """The bytes behind a local header, decompressed, at most PIECE_BYTES at once."""
    first = _behind_header(source, member)
    if member.how == "zip-bz2":
        bunzip = bz2.BZ2Decompressor()
        for packed in _ranges(source, first, first + member.packed):
            data = packed
            while not bunzip.eof and (data or not bunzip.needs_input):
                yield bunzip.decompress(data, PIECE_BYTES)
                data = b""
        return
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    for packed in _ranges(source, first, first + member.packed):
        data = packed
        while data and not inflate.eof:
            yield inflate.decompress(data, PIECE_BYTES)
            data = inflate.unconsumed_tail
    while not inflate.eof and (rest := inflate.decompress(inflate.unconsumed_tail, PIECE_BYTES)):
        yield rest


def _streamed(source: ByteSource, how: How) -> Iterator[bytes]:
    with _stream(source, how) as stream:
        while piece := stream.read(PIECE_BYTES):
            yield piece


def _stream(source: ByteSource, how: How) -> IO[bytes]:
    """Both read all the streams a file was joined from."""
    file = io.BufferedReader(_File(source), PIECE_BYTES)
    return gzip.GzipFile(fileobj=file, mode="rb") if how in ("gz", "tgz") else bz2.BZ2File(file)  # type: ignore[return-value]


def _behind_header(source: ByteSource, member: Member) -> int:
    """Where a zip member's bytes begin: only its local header says how long that is."""
    stop = member.start + _LOCAL_HEADER.size
    mark, name, extra = _LOCAL_HEADER.unpack(source.read(member.start, stop))
    if mark != b"PK\3\4":
        raise CorruptObjectError(f"{source.name}: {member.path} is not where the directory says", hint="make the archive again")
    return stop + int(name) + int(extra)


def _ranges(source: ByteSource, start: int, stop: int) -> Iterator[bytes]:
    for position in range(start, stop, PIECE_BYTES):
        yield source.read(position, min(stop, position + PIECE_BYTES))


def _inside(source: ByteSource, name: str) -> str:
    """A member's path below the archive. Raises ArchiveRefusedError for one that leads out of it."""
    path = name.removeprefix("./").rstrip("/")
    pure = PurePosixPath(path)
    outside = pure.is_absolute() or ".." in pure.parts or "\\" in path or path[1:2] == ":"
    if outside or not path.isprintable() or (path and str(pure) != path) or len(path) > 1024:
        raise ArchiveRefusedError(f"{source.name}: {name[:200]!r} leads out of the archive", hint=_UNPACK)
    return path


@contextmanager
def _faults(source: ByteSource) -> Iterator[None]:
    """What the standard library raises about archives, as ours."""
    try:
        yield
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, struct.error, ValueError, NotImplementedError) as error:
        raise CorruptObjectError(f"{source.name}: is no whole archive ({error})", hint="make it again") from error
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise CorruptObjectError(f"{source.name}: can't be unpacked ({error})", hint="make it again") from error


class _File(io.RawIOBase):
    """An object as a file that can be read from anywhere, but never much of it at once."""

    def __init__(self, source: ByteSource) -> None:
        self._source = source
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._source.size}[whence]
        if base + offset < 0:
            raise ValueError("before the beginning")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._source.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > MAX_READ:
            raise ArchiveRefusedError(f"{self._source.name}: its directory claims {wanted} bytes", hint=_UNPACK)
        data = self._source.read(self._position, self._position + wanted)
        self._position += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
