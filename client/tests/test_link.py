from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorstore as ts

from block_server.testing import House, Made, house_on
from emporter.cli.main import run
from emporter_runtime.testing import file_store


@pytest.fixture
def house(tmp_path, monkeypatch: pytest.MonkeyPatch):
    with house_on(file_store(tmp_path)) as house:
        monkeypatch.setenv("EMPORTER_BLOCKS_URL", house.url)
        yield house


def test_every_tool_gets_a_line_and_tensorstore_reads_by_its_own(house: House, capsys: pytest.CaptureFixture[str]):
    made = house.commit(Made(np.random.default_rng(0).integers(0, 255, (9, 10, 11), dtype="u1"), name="linked"))
    assert run(["link", "linked", "--at", "1,2,3", "--json"]) == 0
    said = capsys.readouterr().out
    lines = json.loads(said[said.index("{") :])
    assert set(lines) == {"page", "neuroglancer", "napari", "fiji", "webknossos", "tensorstore"}
    assert lines["page"] == f"{house.url}/view/linked@r1#z=1&y=2&x=3"
    spec = json.loads(re.search(r"open\((.*)\)\.result", lines["tensorstore"])[1])
    assert np.array_equal(ts.open(spec).result().read().result(), made.voxels)
    assert run(["link", "linked"]) == 0
    assert f"zarr3://{house.url}/zarr/linked@r1.ome.zarr/" in capsys.readouterr().out


def test_a_place_outside_the_volume_is_a_mistake(house: House, capsys: pytest.CaptureFixture[str]):
    house.commit(Made(np.ones((9, 10, 11), "u1"), name="linked"))
    assert run(["link", "linked", "--at", "9,0,0"]) == 2
    assert "9,10,11" in capsys.readouterr().err
