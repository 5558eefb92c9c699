"""Which boxes a sample takes, against brute force: every place that is allowed, and no other, each as likely as the rest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import count, islice, pairwise, product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from block_server import sampling, sampling_foreground
from block_server.sampling import Ground, Rules, below, in_order, needed, numbers, rules
from block_server.sampling_errors import UnsatisfiableSampleError
from block_server.sampling_foreground import Foreground, Occupancy
from emporter_contracts.commands import Region
from emporter_contracts.geometry import Box
from emporter_contracts.training import SAMPLER_VERSION, SampleRequest, Split

SHAPE = (9, 14, 11)
WHOLE = Box.whole(SHAPE)
ONE = (1, 1, 1)


def triples(low: int, high: int) -> st.SearchStrategy[tuple[int, int, int]]:
    return st.tuples(*[st.integers(low, high)] * 3)


boxes = st.builds(Box.at, triples(-3, 12), triples(1, 8))
regions = st.builds(lambda o, s: Region(origin=o, shape=s), triples(0, 10), triples(1, 8))


def all_places(ground: Ground | None) -> list[tuple[int, ...]]:
    return [] if ground is None else [tuple(place) for place in ground.places(range(ground.total)).tolist()]


def origins_of(shape: tuple[int, int, int]) -> list[tuple[int, ...]]:
    return list(product(*(range(n - s + 1) for n, s in zip(SHAPE, shape, strict=True))))


def gap(a: Box, b: Box) -> int:
    """Voxels between two boxes along the axis where they are farthest apart; negative where they overlap along all."""
    return max(max(c - b, a - d) for a, b, c, d in zip(a.start, a.stop, b.start, b.stop, strict=True))


@given(
    triples(1, 6),
    boxes,
    st.none() | st.lists(boxes, max_size=3).map(tuple),
    st.lists(boxes, max_size=3).map(tuple),
    st.none() | triples(1, 5),
)
def test_exactly_the_allowed_places_are_numbered(shape: Any, within: Box, inside: Any, outside: Any, chunk: Any) -> None:
    room = within.overlap(WHOLE)
    if room is None:
        return
    found = all_places(Rules(room, inside, outside).ground(shape, chunk))
    allowed = [
        at
        for at in origins_of(shape)
        if (box := Box.at(at, shape)).within(room)
        and (inside is None or any(box.within(one) for one in inside))
        and not any(box.overlap(one) for one in outside)
    ]
    assert len(found) == len(set(found))
    assert sorted(found) == allowed


@given(
    triples(1, 4),
    st.floats(0.05, 0.9) | st.lists(regions, min_size=1, max_size=3).map(tuple),
    triples(0, 3),
    st.sampled_from([None, *"zyx"]),
)
def test_no_train_box_comes_within_the_margin_of_a_validation_box(shape: Any, validation: Any, margin: Any, axis: Any) -> None:
    def places(part: Any) -> list[Box]:
        split = Split(part=part, validation=validation, margin=margin, axis=axis)
        found = rules(SampleRequest(n=1, shape=shape, split=split), SHAPE, SHAPE, ONE, WHOLE).ground(shape)
        return [Box.at(at, shape) for at in all_places(found)]  # type: ignore[arg-type]

    train, held = places("train"), places("validation")
    for one in train[:: max(1, len(train) // 40)]:
        for other in held[:: max(1, len(held) // 40)]:
            assert any(
                c - b >= m or a - d >= m
                for a, b, c, d, m in zip(one.start, one.stop, other.start, other.stop, margin, strict=True)
            )
            assert one.overlap(other) is None


def test_a_share_is_the_end_of_the_longest_axis_and_the_same_voxels_at_every_level() -> None:
    split = Split(part="validation", validation=0.3)
    ((fine,), (fine_guarded,)) = sampling._held_out(split, (10, 101, 20), (10, 101, 20), ONE)
    assert (fine, fine_guarded) == (Box((0, 70, 0), (10, 101, 20)),) * 2
    ((inner,), (outer,)) = sampling._held_out(split, (5, 26, 10), (10, 101, 20), (2, 4, 2))
    # 70 is no multiple of 4: the voxel that holds 68 to 71 belongs to neither part.
    assert (inner.start[1], outer.start[1]) == (18, 17)


@pytest.mark.parametrize(("axis", "shape"), [("z", (1, 9, 9)), (None, (1, 1, 1))])
def test_an_axis_of_one_voxel_is_not_split(axis: Any, shape: Any) -> None:
    request = SampleRequest(n=1, shape=ONE, split=Split(part="train", axis=axis))
    with pytest.raises(UnsatisfiableSampleError, match="can't be split"):
        rules(request, shape, shape, ONE, Box.whole(shape))


def philox(seed: int) -> Iterator[int]:
    """Philox 4x64-10, as its paper (Salmon et al., SC 2011) writes it, with the documented key and the counter from 1 as numpy has it."""
    mask = 2**64 - 1
    digest = hashlib.sha256(f"emporter-sampler/{SAMPLER_VERSION}/{seed}".encode()).digest()
    first, second = (int.from_bytes(digest[n : n + 8], "little") for n in (0, 8))
    for counter in count(1):
        (a, b, c, d), k0, k1 = (counter, 0, 0, 0), first, second
        for _ in range(10):
            high, low = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
            a, b, c, d = (low >> 64) ^ b ^ k0, low & mask, (high >> 64) ^ d ^ k1, high & mask
            k0, k1 = (k0 + 0x9E3779B97F4A7C15) & mask, (k1 + 0xBB67AE8584CAA73B) & mask
        yield from (a, b, c, d)


def test_the_random_numbers_are_the_same_everywhere_and_for_ever() -> None:
    for seed in (0, 7, 2**63 - 1):
        assert list(islice(numbers(seed), 2500)) == list(islice(philox(seed), 2500))
    assert next(numbers(7)) == 6130557254810896113
    assert list(islice(below(10**12, 7), 3)) == [n % 10**12 for n in islice(numbers(7), 3)]


@given(st.integers(1, 3000), st.integers(0, 99))
def test_few_places_are_all_drawn_each_once(limit: int, seed: int) -> None:
    assert sorted(below(limit, seed)) == list(range(limit))


@given(st.integers(2**15 + 1, 2**62), st.integers(0, 99))
def test_many_places_are_drawn_without_repetition_and_within_bounds(limit: int, seed: int) -> None:
    drawn = list(islice(below(limit, seed), 500))
    assert len(set(drawn)) == 500
    assert 0 <= min(drawn) <= max(drawn) < limit


def test_every_place_is_as_likely() -> None:
    drawn = [next(below(12, seed)) for seed in range(6000)]
    counts = np.bincount(drawn, minlength=12)
    assert abs(counts - 500).max() < 5 * np.sqrt(500)


def counted(voxels: np.ndarray, cell: tuple[int, int, int]) -> Occupancy:
    counts = np.zeros([-(-n // c) for n, c in zip(voxels.shape, cell, strict=True)], np.uint32)
    for tile in Box.whole(voxels.shape).tiles(cell):
        counts[tuple(a // c for a, c in zip(tile.start, cell, strict=True))] = np.count_nonzero(voxels[tile.slices()])
    return Occupancy.of(counts, cell, voxels.shape)


@settings(deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.floats(0, 1), triples(1, 6), triples(1, 6), st.sampled_from([ONE, (1, 2, 2), (2, 2, 2), (4, 2, 1)]),
    st.booleans(), triples(0, 2), st.booleans(),
)  # fmt: skip
def test_the_bounds_hold_for_every_box_and_no_box_with_enough_is_left_out(
    seed: int, density: float, shape: Any, cell: Any, factor: Any, modal: bool, offset: Any, summed: bool
) -> None:
    rng = np.random.default_rng(seed)
    finest = rng.random(SHAPE) < density * rng.random((1, 1, SHAPE[2]))
    coarse = finest
    for axis, f in enumerate(factor):
        starts = np.arange(0, SHAPE[axis], f)
        # The extremes of what a coarser voxel may be: foreground where any, or where all of its voxels are.
        coarse = (np.logical_and if modal else np.logical_or).reduceat(coarse, starts, axis=axis)
    if any(s + o > n for s, o, n in zip(shape, offset, coarse.shape, strict=True)):
        return
    room = Box.whole(coarse.shape).moved(tuple(-o for o in offset)).overlap(WHOLE)  # type: ignore[arg-type]
    assert room is not None
    voxels = int(np.prod(shape))
    wanted = needed(rng.random(), voxels)
    found = Foreground(counted(finest, cell), shape, factor, offset, wanted)
    ground = Rules(room, None, ()).ground(shape)
    origins = np.array(all_places(ground))
    true = np.array([np.count_nonzero(coarse[Box.at(tuple(at), shape).moved(offset).slices()]) for at in origins.tolist()])
    with patch.object(sampling_foreground, "MANY", 0 if summed else 2**12):
        low, high = found.bounds(origins)
    assert (low <= true).all()
    assert (true <= high).all()
    kept = set(all_places(found.narrowed(Rules(room, None, ()))))
    assert kept <= set(map(tuple, origins.tolist()))
    assert {tuple(at) for at, count in zip(origins.tolist(), true, strict=True) if count >= wanted} <= kept


def test_a_huge_ground_is_cut_into_a_bounded_number_of_cells() -> None:
    with patch.object(sampling, "MAX_CELLS", 1000):
        ground = Rules(Box.whole((10_000, 20_000, 30_000)), None, (Box.at((5, 5, 5), (9, 9, 9)),)).ground(
            (64, 64, 64), (64, 64, 64)
        )
    assert ground is not None
    assert len(ground.ends) <= 1000
    assert ground.total == 9937 * 19937 * 29937 - 14**3


@given(st.floats(0, 1), st.integers(1, 10**7))
def test_the_share_is_what_a_division_says(share: float, voxels: int) -> None:
    count = needed(share, voxels)
    assert count / voxels >= share
    assert count == 0 or (count - 1) / voxels < share


@given(st.integers(1, 60), st.integers(0, 9))
def test_boxes_of_one_shard_follow_each_other(n: int, seed: int) -> None:
    origins = np.random.default_rng(seed).integers(0, 64, (n, 3))
    order = in_order(origins, (32, 32, 32), (8, 8, 8))
    assert sorted(order.tolist()) == list(range(n))
    for size in ((32, 32, 32), (8, 8, 8)):
        visited = [tuple(at) for at in (origins[order] // size).tolist()]
        changes = sum(a != b for a, b in pairwise(visited))
        assert changes == len(set(visited)) - 1
