"""What is told of a conversion before anything is fetched is what is then planned."""

from __future__ import annotations

import re

import pytest

from converter.planning import lay_out
from converter.previewing import preview
from converter.testing import a_volume
from emporter_contracts.commands import Output
from emporter_contracts.geometry import ChunkGrid, Shape3
from emporter_contracts.plans import PlannedVolume

MIB = 2**20


def a_source(shape: Shape3, native: Shape3) -> PlannedVolume:
    return a_volume(shape).model_copy(update={"native": native})


@pytest.mark.parametrize(
    ("shape", "native"), [((200, 3000, 3000), (1, 3000, 3000)), ((1, 500, 700), (1, 8, 700)), ((4000, 4000, 4000), (64, 64, 64))]
)
def test_levels_tasks_over_read_and_memory_are_those_of_the_plan(shape: Shape3, native: Shape3) -> None:
    volume = a_source(shape, native)
    told = preview(volume, Output(), 1024 * MIB)
    plan = lay_out(volume, ChunkGrid(native), Output(), 1024 * MIB)
    assert told.refused is None
    assert (told.levels, told.over_read, told.memory_bytes) == (len(plan.levels), plan.over_read, plan.memory_bytes)
    assert told.tasks == sum(level.tasks for level in plan.levels if not level.fused)
    assert 0 < told.memory_bytes <= told.budget_bytes == 1024 * MIB


def test_a_source_whose_pages_are_decoded_again_says_how_often() -> None:
    assert preview(a_source((256, 8192, 8192), (1, 8192, 8192)), Output(), 512 * MIB).over_read > 1.5


def test_what_does_not_fit_is_refused_with_the_smallest_budget_that_does() -> None:
    volume = a_source((256, 1024, 1024), (1, 1024, 1024))
    output = Output(chunk=(256, 256, 256), shard=(256, 1024, 1024))
    told = preview(volume, output, 512 * MIB)
    assert told.refused is not None
    assert told.refused.code == "too_little_memory"
    named = re.search(r"EMPORTER_CONVERTER_MEMORY_BYTES=(\d+)", told.refused.hint)
    assert named is not None
    assert preview(volume, output, int(named[1])).refused is None
    assert preview(volume, output, int(named[1]) - 64 * MIB).refused is not None
