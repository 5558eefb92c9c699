"""Slicing a volume is slicing a numpy array: the same voxels, the same shape, the same refusals."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

from emporter import indexing
from emporter.indexing import select

SHAPE = (7, 150, 11)
ARRAY = np.arange(np.prod(SHAPE), dtype=np.int32).reshape(SHAPE)


def fetched(key: Any, chunk: tuple[int, int, int] = (4, 16, 8)) -> tuple[Any, int]:
    """What a client that only fetches boxes gives for `key`, and the largest box it fetched, in bytes."""
    selection = select(key, SHAPE)
    out = np.empty(selection.shape, ARRAY.dtype)
    filled = np.zeros(selection.shape, int)
    largest = 0
    for piece in selection.pieces(ARRAY.itemsize, chunk):
        box = ARRAY[piece.box.slices()]
        largest = max(largest, box.nbytes)
        out[piece.out] = box[piece.inner]
        filled[piece.out] += 1
    assert (filled == 1).all()
    return out[selection.squeezed()], largest


@given(basic_indices(SHAPE, allow_ellipsis=True, allow_newaxis=False), st.integers(8, 20_000))
def test_any_basic_index_gives_what_numpy_gives_in_boxes_of_bounded_size(key: Any, limit: int) -> None:
    with patch.object(indexing, "PIECE_BYTES", limit):
        got, largest = fetched(key)
    assert largest <= limit
    assert np.array_equal(got, ARRAY[key])
    assert np.shape(got) == np.shape(ARRAY[key])


@pytest.mark.parametrize("key", [np.int64(3), (slice(None), np.uint8(2)), slice(-3, None, -2), (Ellipsis, -1), ()])
def test_what_numpy_users_write_is_understood(key: Any) -> None:
    assert np.array_equal(fetched(key)[0], ARRAY[key])


def test_a_step_over_chunks_fetches_only_the_planes_it_names() -> None:
    pieces = list(select((slice(None), slice(None, None, 70)), SHAPE).pieces(4, (4, 16, 8)))
    assert [piece.box.shape for piece in pieces] == [(7, 1, 11)] * 3


def test_a_large_read_is_cut_where_chunks_begin() -> None:
    with patch.object(indexing, "PIECE_BYTES", 4 * 7 * 50 * 11):
        pieces = list(select((slice(None), slice(5, 150)), SHAPE).pieces(4, (7, 16, 11)))
    assert [piece.box.start[1] % 16 for piece in pieces[1:]] == [0] * (len(pieces) - 1)


@pytest.mark.parametrize(
    ("key", "error"),
    [(7, IndexError), (-8, IndexError), ((0, 0, 0, 0), IndexError), ((Ellipsis, Ellipsis), IndexError), (True, TypeError),
     (1.5, TypeError), ("z", TypeError), ([0, 1], TypeError), (None, TypeError)],
)  # fmt: skip
def test_what_is_no_basic_index_is_refused_as_numpy_users_expect(key: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        select(key, SHAPE)
