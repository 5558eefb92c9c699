"""Quality gates: each fault is found by its gate at its slice, and clean volumes of many kinds are left alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.quality_policy import QualityPolicy, QualityPolicyError, read_policy
from converter.testing import a_run, segments
from converter.testing_faults import (
    a_phantom,
    dropped,
    duplicated,
    empty_half,
    saturated_block,
    shifted,
    swapped,
)
from converter.testing_gates import NM, facts_of, found, gate, quality_of
from emporter_contracts import storage
from emporter_contracts.geometry import VoxelSize
from emporter_runtime.commits import committed, current, held, release
from emporter_runtime.objects import Objects

STRICT = QualityPolicy(name="strict", hold=frozenset({"missing", "empty"}))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("z", [5, 20, 34])
def test_a_dropped_slice_is_found_where_it_was(z: int, dtype: str, seed: int) -> None:
    assert found(quality_of(dropped(a_phantom(dtype=dtype, seed=seed), z))) == {"missing": (z,)}


@pytest.mark.parametrize("z", [1, 7, 20, 39])
def test_a_slice_that_is_there_twice_is_found(z: int) -> None:
    assert found(quality_of(duplicated(a_phantom(seed=3), z))) == {"duplicated": (z,)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("z", [4, 20, 33])
def test_exchanged_slices_are_both_named(z: int, seed: int) -> None:
    assert found(quality_of(swapped(a_phantom(seed=seed), z))) == {"swapped": (z, z + 1)}


@pytest.mark.parametrize("by", [(9, -14), (-3, 0), (0, 25)])
@pytest.mark.parametrize("z", [4, 20, 33])
def test_a_displaced_slice_is_found_with_how_far(z: int, by: tuple[int, int]) -> None:
    quality = quality_of(shifted(a_phantom(seed=1), z, by))
    assert found(quality) == {"shifted": (z,)}
    assert f"y {by[0]:g} x {by[1]:g}" in gate(quality, "shifted").evidence


def test_a_stack_displaced_from_one_slice_on_is_found_at_that_slice() -> None:
    phantom = a_phantom(seed=2)
    phantom[17:] = np.roll(phantom[17:], (6, 11), axis=(1, 2))
    assert found(quality_of(phantom)) == {"shifted": (17,)}


def test_a_saturated_block_is_found_in_its_slices() -> None:
    assert found(quality_of(saturated_block(a_phantom(), 12, 17)))["saturated"] == tuple(range(12, 17))


def test_an_empty_half_is_found_in_its_slices() -> None:
    quality = quality_of(empty_half(a_phantom()))
    assert found(quality)["empty"] == tuple(range(20, 40))
    assert quality.verdict == "fail"


def test_half_of_every_slice_empty_is_found() -> None:
    phantom = a_phantom()
    phantom[:, :, 96:] = 0
    assert found(quality_of(phantom)) == {"empty": tuple(range(40))}


@pytest.mark.parametrize(
    ("nm", "verdict"), [((30_000.0, 8000.0, 8000.0), "fail"), ((0.03, 0.008, 0.008), "fail"), ((30.0, 8.0, 80.0), "warn")]
)
def test_a_wrong_voxel_size_is_found(nm: tuple[float, float, float], verdict: str) -> None:
    quality = quality_of(a_phantom(), voxel_size=VoxelSize(nm=nm, said_by=("file", "file", "file")))
    assert list(found(quality)) == ["voxel_size"]
    assert quality.verdict == verdict


def brightened(by: Any) -> Any:
    ramp = a_phantom((60, 128, 128), seed=11).astype(np.float32)
    return np.clip(ramp + by(np.arange(60))[:, None, None], 1, 254).astype(np.uint8)


CLEAN: dict[str, Callable[[], Any]] = {
    "uint8": lambda: a_phantom(dtype="uint8", seed=10),
    "uint16": lambda: a_phantom(dtype="uint16", seed=10),
    "int16": lambda: a_phantom(dtype="int16", seed=10),
    "float32": lambda: a_phantom(dtype="float32", seed=10),
    "fine steps": lambda: a_phantom(step=0.3, seed=12),
    "coarse steps": lambda: a_phantom(step=2.5, seed=13),
    "unrelated slices": lambda: a_phantom(step=30.0, seed=14),
    "no noise": lambda: a_phantom(noise=0.0, seed=15),
    "noisy": lambda: a_phantom(noise=25.0, seed=16),
    "large grain": lambda: a_phantom(grain=24, seed=17),
    "small grain": lambda: a_phantom(grain=5, seed=18),
    "long": lambda: a_phantom((300, 64, 64), seed=19),
    "wide": lambda: a_phantom((12, 300, 520), seed=20),
    "thin": lambda: a_phantom((2, 200, 200), seed=21),
    "one slice": lambda: a_phantom((1, 200, 200), seed=22),
    "noise alone": lambda: np.random.default_rng(0).integers(0, 255, (30, 64, 64), "uint8"),
    "brightness that drifts": lambda: brightened(lambda z: z / 2),
    "charging": lambda: brightened(lambda z: 15 * np.sin(z)),
    "a dark quarter": lambda: np.where(np.indices((40, 160, 192))[2] < 48, 0, a_phantom(seed=23)).astype(np.uint8),
    "slices that drift": lambda: np.stack([np.roll(s, (z // 4, z // 3), (0, 1)) for z, s in enumerate(a_phantom(seed=24))]),
}
"""Volumes with nothing wrong, of different kinds."""


@pytest.mark.parametrize("kind", CLEAN)
def test_a_clean_volume_passes_every_gate(kind: str) -> None:
    assert found(quality_of(CLEAN[kind]())) == {}


def test_labels_are_not_judged_as_pictures() -> None:
    quality = quality_of(segments((20, 64, 64)), role="labels")
    assert found(quality) == {}
    assert "duplicated" not in {g.gate for g in quality.gates}


def test_slices_that_come_row_by_row_give_the_same_facts() -> None:
    phantom = a_phantom((12, 100, 120), seed=5)
    whole, rows = facts_of(phantom), facts_of(phantom, rows=7)
    assert whole.document() == rows.document()


def test_a_failed_gate_of_the_policy_keeps_the_revision_from_becoming_current() -> None:
    objects = Objects.in_memory()
    run = a_run(dropped(a_phantom((30, 64, 64)), 9), voxel_size=NM)
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    run.finish(objects, plan, run.shards, STRICT)

    async def look() -> None:
        assert await committed(objects, run.volume) == {1}
        assert await held(objects, run.volume) == {1}
        assert await current(objects, run.volume) is None
        assert await release(objects, run.volume, 1)
        assert await current(objects, run.volume) == 1
        assert not await release(objects, run.volume, 1)

    body = json.loads(objects.get_sync(storage.VOLUMES, storage.record(run.volume, 1)))
    assert body["metadata"]["quality"]["held"]
    assert next(g for g in body["metadata"]["quality"]["gates"] if g["gate"] == "missing")["slices"] == [9]
    facts = json.loads(objects.get_sync(storage.VOLUMES, storage.slices(run.volume, 1)))
    assert len(facts["mean"]) == len(facts["crc32c"]) == 29
    asyncio.run(look())


def test_without_a_hold_a_failed_gate_is_told_and_the_revision_is_current() -> None:
    quality = quality_of(dropped(a_phantom(), 9), policy=QualityPolicy())
    assert (quality.verdict, quality.held) == ("fail", False)


def test_the_example_policy_holds_the_built_in_thresholds() -> None:
    example = Path(__file__).parents[3] / "deploy" / "quality-policy.yaml"
    assert read_policy(example) == QualityPolicy()


@pytest.mark.parametrize("text", ["emty: {warn: 1}", "empty: {warn: high}", "hold: [everything]", "- 1", "a: [", "missing: 3"])
def test_a_policy_that_is_none_is_refused_with_what_is_wrong(text: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(QualityPolicyError) as caught:
        read_policy(path)
    assert caught.value.hint
    assert str(path) in caught.value.message
