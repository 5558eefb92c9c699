"""What is foreground, and how the value that is none is written down."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from emporter_contracts.fills import Fill
from emporter_readers.filling import background, fill_said, foreground

INEXACT = float(np.float32(0.1))


@pytest.mark.parametrize(
    ("dtype", "value", "said"),
    [
        ("uint8", 255, 255),
        ("int16", -32768, -32768),
        ("uint64", 2**64 - 1, "18446744073709551615"),
        ("bool", True, 1),
        ("float32", 0.1, INEXACT),
        ("float64", float("nan"), "NaN"),
        ("float32", float("inf"), "Infinity"),
        ("float16", float("-inf"), "-Infinity"),
        ("float32", -0.0, 0),
    ],
)
def test_a_fill_value_comes_back_exactly_from_json_and_is_no_foreground(dtype: str, value: Any, said: Any) -> None:
    written = fill_said(np.array(value, dtype))
    assert (written, type(written)) == (said, type(said))
    fill = TypeAdapter(Fill).validate_json(json.dumps(written))
    stored = "uint8" if dtype == "bool" else dtype
    voxels = np.array([value, 1 - value if dtype == "bool" else 3, value], dtype).astype(stored)
    assert foreground(voxels, fill).tolist() == [False, True, False]


def test_what_is_not_a_number_is_foreground_unless_that_is_what_the_source_is_filled_with() -> None:
    voxels = np.array([0, np.nan, 1, -0.0], np.float32)
    assert foreground(voxels, 0).tolist() == [False, True, True, False]
    assert foreground(voxels, 1).tolist() == [True, True, False, True]
    assert foreground(voxels, "NaN").tolist() == [True, False, True, True]


def test_labels_are_where_they_are_not_0_whatever_their_source_is_filled_with() -> None:
    assert (background(255, "image"), background(255, "labels"), background("NaN", "image")) == (255, 0, "NaN")
