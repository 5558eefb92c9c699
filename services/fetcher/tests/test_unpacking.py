from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import random
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emporter_archives.epfl import multipage, volume
from emporter_archives.server import FileServer
from emporter_contracts import ids, storage
from emporter_contracts.events import RawObjectStored
from emporter_contracts.plans import SEGMENT_BYTES, Unit
from emporter_readers.array import MemorySource
from emporter_readers.errors import CorruptObjectError, ReaderError
from emporter_runtime.objects import Objects
from fetcher import unpacking
from fetcher.downloading import store_unit
from fetcher.errors import ArchiveRefusedError, FetcherError, RangesIgnoredError
from fetcher.gate import Gate
from fetcher.planning import make_plan
from fetcher.settings import FetcherSettings
from fetcher.sources.file_root import FileRootSource
from fetcher.sources.inbox import INDEX, InboxSource
from fetcher.sources.packed import PackedSource, elsewhere, in_file_root, in_inbox
from fetcher.sources.protocol import Context
from fetcher.sources.url import UrlSource
from fetcher.streams import Streams
from fetcher.testing import a_plan, a_request
from fetcher.unpacking import Member, MemberSource, kind_of, members, pieces
from fetcher.verifying import finish

FILES = {f"run/slice_{n}.tif": random.Random(n).randbytes(3000 + n) for n in (10, 9, 1)} | {"zeros.tif": bytes(50_000)}
MOST = 2**40


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    return file.getvalue()


def tarred(files: dict[str, bytes], form: int = tarfile.PAX_FORMAT, **fields: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for path, data in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            for name, value in fields.items():
                setattr(info, name, value)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


PACKED_TARS = [("a.tar.gz", gzip.compress), ("a.tgz", gzip.compress), ("a.tar.bz2", bz2.compress)]


def opened(name: str, data: bytes) -> tuple[MemorySource, list[Member]]:
    source = MemorySource(name, data)
    kind = kind_of(source)
    assert kind is not None
    return source, members(source, kind, MOST)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.zip", zipped(FILES)),
        ("a.zip", zipped(FILES, zipfile.ZIP_STORED)),
        ("a.zip", zipped(FILES, zipfile.ZIP_BZIP2)),
        ("a.tar", tarred(FILES)),
        ("a.tar", tarred(FILES, tarfile.GNU_FORMAT)),
        ("a.tar", tarred(FILES, tarfile.USTAR_FORMAT)),
    ],
)
def test_members_are_their_files_in_natural_order(name: str, data: bytes) -> None:
    source, found = opened(name, data)
    assert [m.path for m in found] == ["run/slice_1.tif", "run/slice_9.tif", "run/slice_10.tif", "zeros.tif"]
    for member in found:
        assert b"".join(pieces(source, member, 0, member.bytes)) == FILES[member.path]


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:])]
)
def test_a_file_packed_alone_is_its_content(pack: object) -> None:
    data = random.Random(1).randbytes(3_000_000)
    packed = pack(data)  # type: ignore[operator]
    source, (member,) = opened("deep/volume.tif.gz" if packed[:2] == b"\x1f\x8b" else "deep/volume.tif.bz2", packed)
    assert (member.path, member.bytes) == ("volume.tif", len(data))
    assert b"".join(pieces(source, member, 0, member.bytes)) == data


def test_what_is_stored_as_it_is_is_read_by_ranges_and_what_is_compressed_as_a_whole() -> None:
    for data in (zipped(FILES, zipfile.ZIP_STORED), tarred(FILES)):
        source, found = opened("a.zip" if data[:2] == b"PK" else "a.tar", data)
        assert b"".join(pieces(source, found[2], 100, 2000)) == FILES["run/slice_10.tif"][100:2000]
    source, found = opened("a.zip", zipped(FILES))
    with pytest.raises(RangesIgnoredError):
        list(pieces(source, found[2], 100, 2000))


def test_headers_of_a_compressed_member_are_read_forward_and_back() -> None:
    data = random.Random(1).randbytes(5_000_000)
    source, (member,) = opened("a.zip", zipped({"v.tif": data}))
    headers = MemberSource(source, member)
    for start, stop in ((0, 8), (100, 200), (4_999_000, 5_000_000), (50, 60), (50, 60), (1_048_570, 1_048_590), (3, 3)):
        assert headers.read(start, stop) == data[start:stop]


@pytest.mark.parametrize(
    "path", ["../x.tif", "/etc/passwd", "a/../../x", "C:/x.tif", "a\\..\\x", "a//b", "a\nb", "./../x", "x" * 2000]
)
def test_a_name_that_leads_out_of_the_archive_is_refused(path: str) -> None:
    for name, data in (("a.zip", zipped({path: b"x"})), ("a.tar", tarred({path: b"x"}))):
        with pytest.raises(ArchiveRefusedError, match="leads out"):
            opened(name, data)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused_by_name(kind: bytes) -> None:
    with pytest.raises(ArchiveRefusedError, match="innocent.tif"):
        opened("a.tar", tarred({"innocent.tif": b""}, type=kind, linkname="/etc/passwd"))


def test_a_link_in_a_zip_is_refused_by_name() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        info = zipfile.ZipInfo("innocent.tif")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(ArchiveRefusedError, match="innocent.tif"):
        opened("a.zip", file.getvalue())


def test_bombs_are_refused_before_they_go_off() -> None:
    zeros = bytes(unpacking.ALWAYS_TAKEN + 1)
    for name, data in (
        ("a.zip", zipped({"v.tif": zeros})),
        ("a.zip", zipped({"v.tif": zeros}, zipfile.ZIP_BZIP2)),
        ("v.tif.gz", gzip.compress(zeros)),
        ("v.tif.bz2", bz2.compress(zeros)),
    ):
        with pytest.raises(ArchiveRefusedError, match="bomb"):
            opened(name, data)


def test_members_that_lie_upon_each_other_are_refused() -> None:
    data = zipped({"v.tif": random.Random(0).randbytes(5000)}, zipfile.ZIP_STORED)
    start = data.index(b"PK\1\2")
    end = data.index(b"PK\5\6")
    entry = data[start:end]
    entries = b"".join(entry.replace(b"v.tif", f"{n}.tif".encode()) for n in range(5))
    count = (5).to_bytes(2, "little")
    tail = data[end : end + 8] + count * 2 + len(entries).to_bytes(4, "little") + data[end + 16 :]
    with pytest.raises(ArchiveRefusedError, match="upon each other"):
        opened("a.zip", data[:start] + entries + tail)


def test_more_than_an_operator_takes_is_refused() -> None:
    source = MemorySource("a.tar", tarred(FILES))
    with pytest.raises(ArchiveRefusedError, match="more than 1000"):
        members(source, "tar", 1000)


@pytest.mark.parametrize(("name", "pack"), PACKED_TARS)
def test_a_compressed_tar_is_its_files_and_may_be_had_in_any_order(name: str, pack: Callable[[bytes], bytes]) -> None:
    source, found = opened(name, pack(tarred(FILES)))
    assert {member.path for member in found} == FILES.keys()
    streams = Streams()
    for member in (found[2], found[0], found[3], found[1]):
        assert b"".join(pieces(source, member, 0, member.bytes, streams, "v1")) == FILES[member.path]
        with pytest.raises(RangesIgnoredError):
            list(pieces(source, member, 1, member.bytes, streams, "v1"))


def test_members_of_a_compressed_tar_are_had_in_one_pass() -> None:
    class Counted(MemorySource):
        taken = 0

        def read(self, start: int, stop: int) -> bytes:
            type(self).taken += stop - start
            return super().read(start, stop)

    files = {f"s{n:02}.tif": random.Random(n).randbytes(300_000) for n in range(30)}
    source = Counted("a.tgz", gzip.compress(tarred(files), 1))
    found = members(source, "tgz", MOST)
    Counted.taken, streams = 0, Streams()
    for member in found:
        header = MemberSource(source, member, streams, "v1")
        assert header.read(0, 100) == files[member.path][:100]
    assert Counted.taken < 2 * source.size
    for member in found:
        assert b"".join(pieces(source, member, 0, member.bytes, streams, "v1")) == files[member.path]
    assert Counted.taken < 4 * source.size


def test_streams_of_two_versions_are_never_mixed() -> None:
    streams = Streams()
    for version in ("v1", "v2"):
        source, (member,) = opened("a.tgz", gzip.compress(tarred({"v.tif": version.encode() * 5000})))
        assert b"".join(pieces(source, member, 0, member.bytes, streams, version)) == version.encode() * 5000


@pytest.mark.parametrize(("name", "pack"), PACKED_TARS)
def test_a_compressed_tar_that_is_a_bomb_or_leads_out_or_ends_early_is_refused(name: str, pack: Callable[[bytes], bytes]) -> None:
    with pytest.raises(ArchiveRefusedError, match="a bomb"):
        opened(name, pack(tarred({"v.tif": bytes(100 * 2**20)})))
    with pytest.raises(ArchiveRefusedError, match="leads out"):
        opened(name, pack(tarred({"../v.tif": b"x"})))
    with pytest.raises(ArchiveRefusedError, match="link or device"):
        opened(name, pack(tarred({"v.tif": b""}, type=tarfile.SYMTYPE, linkname="/etc/passwd")))
    whole = pack(tarred(FILES))
    for cut in (whole[: len(whole) // 2], whole[:-4]):
        with pytest.raises(CorruptObjectError):
            opened(name, cut)


def test_an_encrypted_member_and_two_of_one_name_are_refused() -> None:
    data = bytearray(zipped({"v.tif": b"x" * 10}, zipfile.ZIP_STORED))
    data[data.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(ArchiveRefusedError, match="encrypted"):
        opened("a.zip", bytes(data))
    twice = zipped({"v1.tif": b"1", "v2.tif": b"2"}, zipfile.ZIP_STORED).replace(b"v2.tif", b"v1.tif")
    with pytest.raises(ArchiveRefusedError, match="two files"):
        opened("a.zip", twice)


def test_damage_is_noticed_by_checksum_or_end() -> None:
    data = bytearray(zipped({"v.tif": random.Random(0).randbytes(5000)}))
    data[1000] ^= 1
    source, (member,) = opened("a.zip", bytes(data))
    with pytest.raises(CorruptObjectError):
        list(pieces(source, member, 0, member.bytes))
    for name, cut in (("v.gz", gzip.compress(bytes(9000))[:-9]), ("a.tar", tarred(FILES)[:2000]), ("a.zip", zipped(FILES)[:-30])):
        with pytest.raises(CorruptObjectError):
            opened(name, cut)


@given(st.binary(max_size=300), st.integers(0, 200), st.sampled_from(["a.zip", "a.tar", "a.gz", "a.bz2", "a.tgz", "a.tbz2"]))
def test_any_damage_ends_in_one_of_our_errors(junk: bytes, at: int, name: str) -> None:
    whole = {
        "a.zip": zipped(FILES),
        "a.tar": tarred(FILES),
        "a.gz": gzip.compress(b"x" * 999),
        "a.bz2": bz2.compress(b"x" * 999),
        "a.tgz": gzip.compress(tarred(FILES)),
        "a.tbz2": bz2.compress(tarred(FILES)),
    }[name]
    for data in (whole[:at] + junk + whole[at + len(junk) :], whole[: -at - 1] + junk):
        source = MemorySource(name, data)
        try:
            kind = kind_of(source)
            for member in members(source, kind, MOST) if kind else ():
                for _ in pieces(source, member, 0, member.bytes):
                    pass
        except (FetcherError, ReaderError):
            pass


async def test_slices_in_a_zip_of_a_file_root_are_one_volume_and_are_copied(tmp_path: Path) -> None:
    data = volume((5, 20, 30))
    packed = {f"stack/s{n}.tif": multipage(plane[None]) for n, plane in enumerate(data)} | {"stack/README.txt": b"hello"}
    (tmp_path / "run.zip").write_bytes(zipped(packed))
    source = PackedSource(FileRootSource({"scope1": tmp_path}, Gate(2**28)), in_file_root, MOST)
    plan = await make_plan(a_request("file-root", "scope1/run.zip"), "job", 1, source)
    assert plan.volumes[0].shape == (5, 20, 30)
    assert [o.path for o in plan.objects] == [f"stack/s{n}.tif" for n in range(5)]
    assert plan.archive["unpacked"] == {
        "run.zip": {"members": 5, "left_out": ["stack/README.txt"], "bytes": (tmp_path / "run.zip").stat().st_size}
    }
    stored = await store_unit(plan, Unit(3, 0), source, Objects.in_memory())
    assert stored.sha256 == hashlib.sha256(packed["stack/s3.tif"]).hexdigest()
    await source.close()


async def test_a_large_compressed_member_behind_a_url_is_stored_in_one_pass(archive: FileServer) -> None:
    data = random.Random(0).randbytes(2**20) * 65
    assert len(data) > SEGMENT_BYTES
    url = archive.put("/v.tif.gz", gzip.compress(data, 1))
    inner = UrlSource(FetcherSettings(url_allowed_hosts=("127.0.0.1",), url_allow_private=True), Gate(2**28))
    source = PackedSource(inner, elsewhere, MOST)
    (planned,) = (await source.resolve(a_request("url", url), Context("job", 1))).objects
    assert (planned.path, planned.bytes, planned.segments) == ("v.tif", len(data), 2)
    plan, objects = a_plan(planned), Objects.in_memory()
    second = await store_unit(plan, Unit(0, 1), source, objects)
    assert second.sha256 == hashlib.sha256(data[SEGMENT_BYTES:]).hexdigest()
    first = await store_unit(plan, Unit(0, 0), source, objects)
    assert (first.sha256, first.fetched) == (hashlib.sha256(data[:SEGMENT_BYTES]).hexdigest(), 0)
    await source.close()


@pytest.mark.parametrize("name", ["run.tar", "run.tar.gz"])
async def test_an_uploaded_archive_is_unpacked_its_members_are_copied_and_its_checksum_is_kept(name: str) -> None:
    data = tarred({f"s{n}.tif": multipage(plane[None]) for n, plane in enumerate(volume((4, 20, 30)))})
    data = gzip.compress(data) if name.endswith(".gz") else data
    digest = hashlib.sha256(data).hexdigest()
    upload = ids.upload_id([(name, len(data), digest)])
    objects = Objects.in_memory()
    await objects.put(storage.INBOX, f"{upload}/{name}", data)
    index = {"name": "run", "files": [{"path": name, "bytes": len(data), "sha256": digest}]}
    await objects.put(storage.INBOX, f"{upload}/{INDEX}", json.dumps(index).encode())
    source = PackedSource(InboxSource(objects, Gate(2**28), 4), in_inbox, MOST)
    plan = await make_plan(a_request("inbox", f"run-{upload}"), "job", 1, source)
    assert plan.volumes[0].shape == (4, 20, 30)
    entries = [await store_unit(plan, unit, source, objects) for unit in plan.units()]
    stored = {
        e.unit: RawObjectStored(job="job", revision=1, generation=1, unit=e.unit, bytes=e.bytes, sha256=e.sha256) for e in entries
    }
    manifest = await finish(plan, stored, objects, source)
    assert {o.packed_in.hex for o in manifest.objects if o.packed_in} == {digest}
    assert plan.archive["unpacked"][name]["sha256"] == digest  # type: ignore[index,call-overload]
    assert len([o async for o in objects.listing(storage.RAW)]) == 4
    await source.close()
