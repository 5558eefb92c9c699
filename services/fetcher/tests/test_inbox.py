from __future__ import annotations

import hashlib
import json
import random

import pytest

from emporter_contracts import ids, storage
from emporter_contracts.plans import FetchPlan, InboxKey, Unit
from emporter_readers.errors import CorruptObjectError
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import ChecksumMismatchError, InboxRefusedError
from fetcher.gate import Gate
from fetcher.sources.inbox import INDEX, InboxSource
from fetcher.sources.protocol import Context, Listing
from fetcher.stored import PIECE_BYTES
from fetcher.testing import a_plan, a_request

FILES = {f"run/slice_{n}.tif": random.Random(n).randbytes(1000 + n) for n in (10, 9, 1)}
CONTEXT = Context("inbox-x", 1)


@pytest.fixture
def objects() -> Objects:
    return Objects.in_memory()


@pytest.fixture
def source(objects: Objects) -> InboxSource:
    return InboxSource(objects, Gate(2**28), connections=4)


async def uploaded(objects: Objects, files: dict[str, bytes], **index: object) -> str:
    """Upload as a client does, the index last; `index` replaces fields of it. The upload's id."""
    entries = [{"path": p, "bytes": len(d), "sha256": hashlib.sha256(d).hexdigest()} for p, d in files.items()]
    upload = ids.upload_id((str(e["path"]), int(str(e["bytes"])), str(e["sha256"])) for e in entries)
    for path, data in files.items():
        await objects.put(storage.INBOX, f"{upload}/{path}", data)
    body = {"name": "run", "files": entries} | index
    await objects.put(storage.INBOX, f"{upload}/{INDEX}", json.dumps(body).encode())
    return upload


async def listed(source: InboxSource, upload: str, name: str = "run") -> Listing:
    return await source.resolve(a_request("inbox", f"{name}-{upload}"), CONTEXT)


def plan_of(listing: Listing) -> FetchPlan:
    return a_plan(*listing.objects, source="inbox")


async def test_an_upload_is_listed_in_natural_order_and_read_in_place(objects: Objects, source: InboxSource) -> None:
    upload = await uploaded(objects, FILES)
    listing = await listed(source, upload)
    assert [o.path for o in listing.objects] == ["run/slice_1.tif", "run/slice_9.tif", "run/slice_10.tif"]
    assert listing.objects[0].location == InboxKey(key=f"{upload}/run/slice_1.tif")
    unit = await store_unit(plan_of(listing), Unit(2, 0), source, objects)
    assert unit.sha256 == hashlib.sha256(FILES["run/slice_10.tif"]).hexdigest()
    assert [o async for o in objects.listing(storage.RAW)] == []


async def test_a_name_may_hold_dashes_and_be_another_than_the_uploaders(objects: Objects, source: InboxSource) -> None:
    upload = await uploaded(objects, {"a b [1] #%20.tif": b"x"})
    assert (await listed(source, upload, "my-other-name")).description == "my-other-name"


async def test_headers_are_read_without_reading_the_file(objects: Objects, source: InboxSource) -> None:
    data = random.Random(0).randbytes(3 * PIECE_BYTES)
    planned = (await listed(source, await uploaded(objects, {"v.tif": data}))).objects[0]
    opened = source.open(planned)
    assert opened.read(PIECE_BYTES - 5, PIECE_BYTES + 5) == data[PIECE_BYTES - 5 : PIECE_BYTES + 5]
    assert opened.read(len(data) - 3, len(data)) == data[-3:]
    with pytest.raises(CorruptObjectError):
        opened.read(len(data) - 3, len(data) + 1)


async def test_pieces_are_the_file_in_order(objects: Objects, source: InboxSource) -> None:
    data = random.Random(0).randbytes(2 * PIECE_BYTES + 7)
    planned = (await listed(source, await uploaded(objects, {"v.tif": data}))).objects[0]
    assert b"".join([piece async for piece in source.fetch(planned, 5, len(data))]) == data[5:]


@pytest.mark.parametrize("source_id", ["run", "run-", "run-0123", "0123456789ab", "run-0123456789AB", "../run-0123456789ab/.."])
async def test_what_names_no_upload_is_refused(source: InboxSource, source_id: str) -> None:
    with pytest.raises(InboxRefusedError):
        await source.resolve(a_request("inbox", source_id), CONTEXT)


async def test_an_upload_without_its_index_is_not_finished(objects: Objects, source: InboxSource) -> None:
    upload = await uploaded(objects, FILES)
    await objects.delete(storage.INBOX, [f"{upload}/{INDEX}"])
    with pytest.raises(InboxRefusedError) as refused:
        await listed(source, upload)
    assert "not finished" in refused.value.message


async def test_an_index_of_other_files_is_refused(objects: Objects, source: InboxSource) -> None:
    upload = await uploaded(objects, FILES)
    other = [{"path": "run/slice_1.tif", "bytes": 1001, "sha256": hashlib.sha256(FILES["run/slice_1.tif"]).hexdigest()}]
    await objects.put(storage.INBOX, f"{upload}/{INDEX}", json.dumps({"files": other}).encode())
    with pytest.raises(InboxRefusedError) as refused:
        await listed(source, upload)
    assert "other files" in refused.value.message


@pytest.mark.parametrize("path", ["../elsewhere.tif", "/etc/passwd", "a/../../b", "", ".", "a//b", "a/./b", INDEX, "a\nb"])
async def test_a_path_that_leaves_the_upload_is_refused(objects: Objects, source: InboxSource, path: str) -> None:
    digest = hashlib.sha256(b"x").hexdigest()
    upload = ids.upload_id([(path, 1, digest)])
    body = {"files": [{"path": path, "bytes": 1, "sha256": digest}]}
    await objects.put(storage.INBOX, f"{upload}/{INDEX}", json.dumps(body).encode())
    with pytest.raises(InboxRefusedError):
        await listed(source, upload)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"files": []}', b'{"files": [{"path": "a"}]}', b"\xff\xfe"])
async def test_a_broken_index_is_refused_with_what_is_wrong(objects: Objects, source: InboxSource, body: bytes) -> None:
    await objects.put(storage.INBOX, f"0123456789ab/{INDEX}", body)
    with pytest.raises(InboxRefusedError):
        await listed(source, "0123456789ab")


async def test_a_file_of_another_size_or_none_is_refused_when_planned(objects: Objects, source: InboxSource) -> None:
    upload = await uploaded(objects, FILES)
    await objects.put(storage.INBOX, f"{upload}/run/slice_9.tif", b"short")
    with pytest.raises(InboxRefusedError) as refused:
        await listed(source, upload)
    assert "slice_9.tif" in refused.value.message
    await objects.delete(storage.INBOX, [f"{upload}/run/slice_9.tif"])
    with pytest.raises(InboxRefusedError) as refused:
        await listed(source, upload)
    assert "missing" in refused.value.message


async def test_other_bytes_of_the_same_size_are_noticed_when_they_are_read(objects: Objects, source: InboxSource) -> None:
    upload = await uploaded(objects, FILES)
    await objects.put(storage.INBOX, f"{upload}/run/slice_1.tif", FILES["run/slice_1.tif"][::-1])
    listing = await listed(source, upload)
    with pytest.raises(ChecksumMismatchError) as mismatch:
        await store_unit(plan_of(listing), Unit(0, 0), source, objects)
    assert "slice_1.tif" in mismatch.value.message


async def test_a_file_that_shrank_since_it_was_planned_is_noticed(objects: Objects, source: InboxSource) -> None:
    upload = await uploaded(objects, {"v.tif": bytes(5000)})
    listing = await listed(source, upload)
    await objects.put(storage.INBOX, f"{upload}/v.tif", bytes(4000))
    with pytest.raises(CorruptObjectError):
        await store_unit(plan_of(listing), Unit(0, 0), source, objects)
