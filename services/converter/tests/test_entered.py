"""The ledger's shards as a table: the same as a dictionary of them, in a small part of its memory."""

from __future__ import annotations

import hashlib
import json
import math
import tracemalloc

import pytest

from converter.digesting import volume_digest
from converter.entered import Entered
from converter.errors import CorruptVolumeError
from converter.planning import plan_conversion
from converter.testing import MEMORY, Run, a_run, a_volume, run_of, tissue
from converter.testing_scale import NullReader
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_contracts.events import ShardWritten
from emporter_contracts.geometry import Shape3, grid_shape
from emporter_contracts.plans import VolumePlan
from emporter_runtime.objects import Objects


def planned(shape: Shape3, output: Output) -> VolumePlan:
    run = run_of(NullReader(shape, tissue((1, 1, 1)).dtype), a_volume(shape), output)
    return plan_conversion(run.fetch, {run.volume: run.reader}, run.request, MEMORY).volumes[0]


SMALL = planned((300, 300, 300), Output(chunk=(8, 16, 16), shard=(8, 16, 16)))


def some(plan: VolumePlan) -> dict[str, ShardWritten]:
    keys = list(Entered(plan).keys())
    return {key: ShardWritten(key=key, bytes=n * 7919, crc32c=f"{n * 2654435761 % 2**32:08x}") for n, key in enumerate(keys)}


def test_what_is_entered_in_any_order_comes_back_sorted_as_text() -> None:
    shards = some(SMALL)
    assert any(a > b for a, b in zip([len(k) for k in shards], [len(k) for k in shards][1:], strict=False))
    entered = Entered.of(SMALL, reversed(list(shards.values())))
    assert list(entered) == [shards[key] for key in sorted(shards)]
    assert list(entered.keys()) == sorted(shards)
    assert list(entered.keys(first_level=1)) == [key for key in sorted(shards) if not key.startswith("0/")]
    assert (len(entered), entered.stored_bytes) == (len(shards), sum(s.bytes for s in shards.values()))
    entered.require_all()


def test_a_shard_nobody_entered_is_none_and_is_named() -> None:
    shards = some(SMALL)
    lost = shards.pop("1/c/2/3/4")
    entered = Entered.of(SMALL, shards.values())
    assert entered.get(lost.key) is None
    assert len(entered) == len(shards)
    with pytest.raises(CorruptVolumeError, match="1/c/2/3/4"):
        entered.require_all()


@pytest.mark.parametrize(
    "key",
    ["0/c/99/0/0", "9/c/0/0/0", "0/c/-1/0/0", "0/c/0/0", "0/c/00/0/0", "0/x/0/0/0", "zarr.json", "", "0/c/0/0/0/0", "0/c/٣/0/0"],
)
def test_a_shard_nobody_planned_is_refused_by_name(key: str) -> None:
    with pytest.raises(CorruptVolumeError) as refused:
        Entered.of(SMALL, [ShardWritten(key=key, bytes=1, crc32c="00000000")])
    assert f"differ in {key}" in refused.value.message
    assert Entered(SMALL).get(key) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"0/c/1/1/1": None}, "0/c/1/1/1 has None bytes"),
        ({"0/c/1/1/1": 5}, "0/c/1/1/1 has 5 bytes"),
        ({"0/c/99/0/0": 5}, "0/c/99/0/0 has 5 bytes"),
        ({"stray": 5}, "stray has 5 bytes"),
    ],
)
def test_a_store_that_differs_is_told_by_key_and_size(change: dict[str, int | None], said: str) -> None:
    shards = some(SMALL)
    entered = Entered.of(SMALL, shards.values())
    sizes: dict[str, int | None] = {key: shard.bytes for key, shard in shards.items()}
    entered.require_stored((key, size) for key, size in sizes.items() if size is not None)
    with pytest.raises(CorruptVolumeError) as refused:
        entered.require_stored((key, size) for key, size in (sizes | change).items() if size is not None)
    assert said in refused.value.message


def test_a_shard_that_was_entered_as_empty_is_not_taken_for_one_that_was_not() -> None:
    plan = planned((8, 16, 16), Output(chunk=(8, 16, 16), shard=(8, 16, 16)))
    empty = ShardWritten(key="0/c/0/0/0", bytes=0, crc32c="00000000")
    entered = Entered.of(plan, [empty])
    entered.require_all()
    assert list(entered) == [empty]


def test_a_million_shards_take_a_few_bytes_each() -> None:
    plan = planned((1600, 1600, 1600), Output(chunk=(16, 16, 16), shard=(16, 16, 16)))
    shards = sum(math.prod(grid_shape(level.shape, level.shard)) for level in plan.levels)
    assert shards > 10**6
    tracemalloc.start()
    try:
        entered = Entered(plan)
        entered.enter(
            ShardWritten(key=key, bytes=1, crc32c="00000001") for _, key in zip(range(1000), entered.keys(), strict=False)
        )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * shards


def digests(run: Run, objects: Objects) -> bytes:
    return objects.get_sync(storage.VOLUMES, storage.digests(run.volume, 1))


def test_the_digest_of_a_volume_is_that_of_its_sorted_lines() -> None:
    objects, run = Objects.in_memory(), a_run(tissue((50, 70, 90)), output=Output(chunk=(4, 8, 8), shard=(4, 8, 8)))
    run.convert(objects)
    said = json.loads(digests(run, objects))
    assert len(said["shards"]) > 1000
    lines = [f"{key} {s['crc32c']} {s['bytes']}\n" for key, s in sorted(said["shards"].items())]
    for part in ("arrays", "occupancy"):
        lines += [f"{key} {s['sha256']} {s['bytes']}\n" for key, s in sorted(said[part].items())]
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == said["digest"]
    assert volume_digest([], {}, {}) == hashlib.sha256().hexdigest()
