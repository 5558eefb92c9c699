"""Boxes, grids and voxel sizes."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emporter_contracts.errors import EmptyBoxError, InvalidValueError
from emporter_contracts.geometry import NM_PER_UNIT, Box, VoxelSize, grid_shape, level_translation, parse_triple, to_nm

small = st.integers(0, 40)
extents = st.tuples(*[st.integers(1, 12)] * 3)
boxes = st.builds(Box.at, st.tuples(small, small, small), extents)
sizes = st.one_of(st.none(), st.floats(min_value=1e-3, max_value=1e9))
voxel_sizes = st.builds(VoxelSize.said, st.sampled_from(["file", "api", "page", "user"]), st.tuples(sizes, sizes, sizes))


def voxels(box: Box) -> set[tuple[int, ...]]:
    return set(itertools.product(*(range(a, b) for a, b in zip(box.start, box.stop, strict=True))))


@given(boxes, extents)
def test_tiles_cover_every_voxel_of_a_box_exactly_once(box, shape):
    tiled = [v for tile in box.tiles(shape) for v in voxels(tile)]
    assert len(tiled) == box.size
    assert set(tiled) == voxels(box)


@given(boxes, extents)
def test_tiles_lie_on_the_grid_of_the_volume_not_of_the_box(box, shape):
    for tile in box.tiles(shape):
        for start, stop, first, last, step in zip(tile.start, tile.stop, box.start, box.stop, shape, strict=True):
            assert start % step == 0 or start == first
            assert stop % step == 0 or stop == last
            assert start // step == (stop - 1) // step


@given(boxes, extents)
def test_tiles_of_a_whole_volume_are_as_many_as_the_grid_has_cells(box, shape):
    whole = Box.whole(box.shape)
    assert len(list(whole.tiles(shape))) == math.prod(grid_shape(box.shape, shape))


@given(boxes, boxes)
def test_an_overlap_holds_just_the_voxels_of_both(a, b):
    shared = a.overlap(b)
    assert (voxels(shared) if shared else set()) == voxels(a) & voxels(b)


@given(boxes, boxes)
def test_a_box_lies_within_another_when_no_voxel_of_it_lies_outside(a, b):
    assert a.within(b) == (voxels(a) <= voxels(b))


@given(boxes, st.tuples(small, small, small))
def test_a_moved_box_keeps_its_shape_and_moves_back(box, by):
    moved = box.moved(by)
    assert moved.shape == box.shape
    assert moved.moved((-by[0], -by[1], -by[2])) == box


@given(boxes)
def test_slices_pick_as_many_voxels_as_the_box_has(box):
    assert math.prod(len(range(s.start, s.stop)) for s in box.slices()) == box.size == len(voxels(box))


@pytest.mark.parametrize("stop", [(0, 1, 1), (1, 1, 0), (-3, 1, 1)])
def test_a_box_without_voxels_is_refused(stop):
    with pytest.raises(EmptyBoxError) as refused:
        Box((0, 0, 0), stop)
    assert refused.value.hint


@pytest.mark.parametrize(
    ("value", "unit", "nm"),
    [
        (8, "nm", 8.0),
        (0.02, "\\u00B5m", 20.0),  # six literal characters, as ImageJ writes the micro sign
        (0.02, "\u00b5m", 20.0),  # micro sign
        (0.02, "\u03bcm", 20.0),  # Greek mu
        (5, "\u00c5", 0.5),
        (1, "Micron", 1000.0),
        (1, " inch ", 2.54e7),
        (1, "pixel", None),
        (0, "nm", None),
        (-4, "nm", None),
        (math.nan, "nm", None),
        (math.inf, "um", None),
    ],
)
def test_lengths_become_nanometres_or_stay_unknown(value, unit, nm):
    assert to_nm(value, unit) == (None if nm is None else pytest.approx(nm))


def test_every_unit_is_known_in_any_case():
    for name, factor in NM_PER_UNIT.items():
        assert to_nm(1, name) == to_nm(1, name.upper()) == factor


@given(voxel_sizes, voxel_sizes)
def test_a_voxel_size_is_filled_in_only_where_it_is_unknown_and_says_by_whom(a, b):
    both = a.or_else(b)
    for own, by, other, other_by, got, got_by in zip(a.nm, a.said_by, b.nm, b.said_by, both.nm, both.said_by, strict=True):
        assert (got, got_by) == ((own, by) if own is not None else (other, other_by))


@given(voxel_sizes)
def test_who_said_it_is_known_exactly_where_the_size_is(size):
    assert [v is None for v in size.nm] == [s is None for s in size.said_by]
    assert size.known == (None not in size.nm)


@pytest.mark.parametrize("wrong", [0.0, -1.0, math.nan, math.inf])
def test_a_voxel_size_that_is_no_length_is_unknown_never_a_number(wrong):
    size = VoxelSize.said("file", (wrong, 8.0, 8.0))
    assert size.nm == (None, 8.0, 8.0)
    assert size.scale() == (1.0, 8.0, 8.0)


@given(st.floats(0.1, 1e4), st.integers(0, 12), st.integers(0, 10_000))
def test_a_level_begins_at_the_mean_of_the_voxels_its_first_one_is_made_of(nm, halvings, offset):
    centres = [nm * (offset + i) for i in range(2**halvings)]
    assert level_translation(nm, halvings, offset) == pytest.approx(math.fsum(centres) / len(centres))


@given(st.tuples(*[st.integers(-(2**40), 2**40)] * 3))
def test_a_triple_is_read_as_it_is_written(triple):
    assert parse_triple(",".join(map(str, triple))) == triple


@pytest.mark.parametrize("text", ["", "1,2", "1,2,3,4", "a,b,c", "1;2;3", "1.5,2,3"])
def test_what_is_no_triple_is_refused_with_an_example(text):
    with pytest.raises(InvalidValueError) as refused:
        parse_triple(text)
    assert "0,128,128" in refused.value.hint
