from __future__ import annotations

import hashlib
import random

import pytest

from emporter_contracts import storage
from emporter_contracts.events import RawObjectStored
from emporter_contracts.plans import SEGMENT_BYTES, Checksum, FetchPlan, Segments
from emporter_runtime.errors import TransientError
from emporter_runtime.objects import Objects
from fetcher.downloading import store_unit
from fetcher.errors import ChecksumMismatchError, SourceChangedError
from fetcher.testing import MemoryArchive, a_plan, an_object
from fetcher.verifying import finish

SMALL = random.Random(1).randbytes(1000)
LARGE = random.Random(2).randbytes(SEGMENT_BYTES + 1000)
Entries = dict[str, RawObjectStored]


async def fetched(plan: FetchPlan, source: MemoryArchive, objects: Objects) -> Entries:
    stored = [await store_unit(plan, unit, source, objects) for unit in plan.units()]
    return {
        s.unit: RawObjectStored(job="job", revision=1, generation=1, unit=s.unit, bytes=s.bytes, sha256=s.sha256) for s in stored
    }


def key(plan: FetchPlan, n: int, k: int) -> str:
    location = plan.objects[n].location
    assert isinstance(location, Segments)
    return storage.segment(location.origin, k)


@pytest.fixture
def objects() -> Objects:
    return Objects.in_memory()


@pytest.fixture
def source() -> MemoryArchive:
    return MemoryArchive({"small": SMALL, "large": LARGE, "empty": b""})


async def test_the_manifest_names_every_object_with_its_own_hash(objects: Objects, source: MemoryArchive) -> None:
    md5 = Checksum(algorithm="md5", hex=hashlib.md5(LARGE).hexdigest())
    plan = a_plan(an_object("small", 1000), an_object("large", len(LARGE), checksum=md5), an_object("empty", 0))
    manifest = await finish(plan, await fetched(plan, source, objects), objects, source)
    assert [o.sha256 for o in manifest.objects] == [hashlib.sha256(d).hexdigest() for d in (SMALL, LARGE, b"")]
    assert [(o.path, o.bytes, o.version, o.etag, o.location, o.checksum) for o in manifest.objects] == [
        (o.path, o.bytes, o.version, o.etag, o.location, o.checksum) for o in plan.objects
    ]


@pytest.mark.parametrize("name", ["small", "large"])
@pytest.mark.parametrize("algorithm", ["md5", "sha1", "sha256"])
async def test_a_checksum_that_does_not_match_names_its_object(
    objects: Objects, source: MemoryArchive, name: str, algorithm: str
) -> None:
    right = hashlib.new(algorithm, source.files[name]).hexdigest()
    wrong = Checksum(algorithm=algorithm, hex=right[:-1] + ("0" if right[-1] != "0" else "1"))  # type: ignore[arg-type]
    plan = a_plan(an_object(name, len(source.files[name])))
    entries = await fetched(plan, source, objects)
    plan = a_plan(an_object(name, len(source.files[name]), checksum=wrong))
    with pytest.raises(ChecksumMismatchError) as mismatch:
        await finish(plan, entries, objects, source)
    assert name in mismatch.value.message


async def test_a_segment_that_is_gone_is_fetched_again_and_nothing_else(objects: Objects, source: MemoryArchive) -> None:
    plan = a_plan(an_object("large", len(LARGE)))
    entries = await fetched(plan, source, objects)
    await objects.delete(storage.RAW, [key(plan, 0, 1)])
    manifest = await finish(plan, entries, objects, source)
    assert manifest.objects[0].sha256 == hashlib.sha256(LARGE).hexdigest()
    assert source.fetched["large"] == len(LARGE) + 1000


@pytest.mark.parametrize("name", ["small", "large"])
async def test_a_segment_that_is_gone_and_comes_back_with_other_bytes_makes_no_manifest(
    objects: Objects, source: MemoryArchive, name: str
) -> None:
    plan = a_plan(an_object(name, len(source.files[name])))
    entries = await fetched(plan, source, objects)
    await objects.delete(storage.RAW, [key(plan, 0, 0)])
    source.files[name] = bytes(len(source.files[name]))
    with pytest.raises(SourceChangedError) as changed:
        await finish(plan, entries, objects, source)
    assert name in changed.value.message
    assert changed.value.hint


async def test_a_segment_that_rotted_in_the_store_is_noticed(objects: Objects, source: MemoryArchive) -> None:
    plan = a_plan(an_object("large", len(LARGE)))
    entries = await fetched(plan, source, objects)
    await objects.put(storage.RAW, key(plan, 0, 1), bytes(1000))
    with pytest.raises(ChecksumMismatchError) as mismatch:
        await finish(plan, entries, objects, source)
    assert "segment 1" in mismatch.value.message
    await objects.put(storage.RAW, key(plan, 0, 1), bytes(999))
    with pytest.raises(ChecksumMismatchError):
        await finish(plan, entries, objects, source)


async def test_a_unit_the_ledger_does_not_show_is_waited_for(objects: Objects, source: MemoryArchive) -> None:
    plan = a_plan(an_object("small", 1000), an_object("empty", 0))
    entries = await fetched(plan, source, objects)
    del entries["1-0"]
    with pytest.raises(TransientError):
        await finish(plan, entries, objects, source)
