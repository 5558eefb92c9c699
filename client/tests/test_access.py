"""A client of a server that demands tokens: sends one, makes links for tools that send none, and operators keep the file."""

from __future__ import annotations

import json
import os
import pickle
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tensorstore as ts

import emporter
from block_server.testing import House, Made, house_on
from emporter.cli.main import run
from emporter.errors import RefusedByServiceError
from emporter.loading import OpenSet
from emporter.sampling import sample_request
from emporter.training import draw, save
from emporter_runtime.access_tokens import changing, new_token, read_tokens
from emporter_runtime.testing import file_store

VOXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 40), dtype="u1")


@pytest.fixture(autouse=True)
def _no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("EMPORTER_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[House, str]]:
    folder = tmp_path_factory.mktemp("closed")
    (folder / "store").mkdir()
    token, text = new_token("me", ["mine*"])
    with changing(folder / "tokens.json") as replace:
        replace([token])
    settings = {"access_file": folder / "tokens.json", "link_secret_key": "s" * 40}
    with house_on(file_store(folder / "store"), **settings) as house:
        house.commit(Made(VOXELS, name="mine"))
        house.commit(Made((VOXELS > 99).astype("u4"), name="mine-labels", role="labels", labels_of="mine"))
        house.commit(Made(VOXELS, name="theirs"))
        yield house, text


@pytest.fixture
def told(closed: tuple[House, str], monkeypatch: pytest.MonkeyPatch) -> tuple[House, str]:
    """The closed house, whose address and token the environment names."""
    house, text = closed
    monkeypatch.setenv("EMPORTER_BLOCKS_URL", house.url)
    monkeypatch.setenv("EMPORTER_TOKEN", text)
    return house, text


def test_a_client_sends_its_token_and_without_one_is_told_what_to_do(closed: tuple[House, str]):
    house, text = closed
    with emporter.Client(house.url) as client, pytest.raises(RefusedByServiceError) as refused:
        client.volume("mine")
    assert refused.value.code == "not_admitted"
    assert "EMPORTER_TOKEN" in refused.value.hint
    with emporter.Client(house.url, token=text) as client:
        volume = client.volume("mine")
        assert np.array_equal(volume[2:9, 3:, :], VOXELS[2:9, 3:, :])
        assert np.array_equal(client.block("mine", (1, 2, 3), (4, 5, 6)), VOXELS[1:5, 2:7, 3:9])
        assert np.array_equal(pickle.loads(pickle.dumps(volume))[:3], VOXELS[:3])
        assert np.array_equal(volume.dask()[3:5].compute(), VOXELS[3:5])
        with pytest.raises(RefusedByServiceError) as refused:
            client.volume("theirs")
        assert refused.value.code == "not_in_scope"
    assert text not in repr(client._async.connection)


async def test_the_token_in_the_environment_is_sent_by_the_asynchronous_client(
    closed: tuple[House, str], monkeypatch: pytest.MonkeyPatch
):
    house, text = closed
    monkeypatch.setenv("EMPORTER_TOKEN", text)
    for stack in (house.url, None):
        monkeypatch.setenv("EMPORTER_BLOCKS_URL", house.url)
        async with emporter.AsyncClient(stack) as client:
            assert np.array_equal(await (await client.volume("mine"))[5:8], VOXELS[5:8])
    async with emporter.AsyncClient(house.url, token="emt_wrong") as client:
        with pytest.raises(RefusedByServiceError):
            await client.volume("mine")


async def test_a_training_set_is_drawn_and_read_with_a_token(closed: tuple[House, str], tmp_path: Path):
    house, text = closed
    wanted = sample_request(5, (4, 5, 6), 0, {"seed": 1, "split": None})
    async with emporter.AsyncClient(house.url, token=text) as client:
        save(tmp_path / "set.json", await draw(client, ["mine"], wanted, ["mine-labels"], 0))
    with pytest.raises(RefusedByServiceError):
        OpenSet.from_manifest(tmp_path / "set.json", house.url)
    boxes = OpenSet.from_manifest(tmp_path / "set.json", house.url, token=text)
    z, y, x = boxes.drawn.boxes[0].origin
    assert np.array_equal(boxes.fetch([0]).images[0], VOXELS[z : z + 4, y : y + 5, x : x + 6])
    torch = pytest.importorskip("torch")
    from emporter.torch import BlockDataset

    item = BlockDataset.from_manifest(tmp_path / "set.json", house.url, token=text)[0]
    assert torch.equal(item["image"], torch.from_numpy(boxes.fetch([0]).images[0]))


def link_lines(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert run(["link", *arguments, "--json"]) == 0
    said = capsys.readouterr().out
    lines: dict[str, str] = json.loads(said[said.index("{") :])
    return lines


def test_signed_lines_work_in_tools_that_send_nothing(
    told: tuple[House, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    house, text = told
    lines = link_lines(capsys, "mine", "--at", "1,2,3", "--expires", "7d")
    assert set(lines) == {"page", "neuroglancer", "napari", "fiji", "webknossos", "tensorstore", "expires"}
    for name in set(lines) - {"expires"}:
        assert f"{house.url}/s/eml1." in lines[name]
        assert text not in lines[name]
    page = httpx.get(lines["page"])
    assert (page.status_code, "mine-labels@r1" in page.text) == (200, True)
    spec = json.loads(re.search(r"open\((.*)\)\.result", lines["tensorstore"])[1])
    assert np.array_equal(ts.open(spec).result().read().result(), VOXELS)
    base = lines["page"].split("/view/")[0]
    monkeypatch.delenv("EMPORTER_TOKEN")
    with emporter.Client(base) as client:
        assert np.array_equal(client.volume("mine@r1")[:4], VOXELS[:4])
        with pytest.raises(RefusedByServiceError):
            client.volume("theirs")
    assert httpx.get(lines["page"].replace("/view/mine@r1", "/view/theirs@r1")).status_code == 403


@pytest.mark.usefixtures("told")
def test_lines_that_are_not_signed_say_that_they_need_a_token(capsys: pytest.CaptureFixture[str]):
    assert run(["link", "mine"]) == 0
    said = capsys.readouterr()
    assert "/s/" not in said.out
    assert "--expires" in said.err


@pytest.mark.parametrize("wrong", [["--expires", "7"], ["--expires", "0d"], ["--expires", "x"], ["--budget", "1GB/day"]])
def test_a_time_or_budget_written_otherwise_is_a_mistake(
    closed: tuple[House, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: list[str]
):
    monkeypatch.setenv("EMPORTER_BLOCKS_URL", closed[0].url)
    assert run(["link", "mine", *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


@pytest.mark.usefixtures("told")
def test_a_link_may_be_given_a_budget(capsys: pytest.CaptureFixture[str]):
    lines = link_lines(capsys, "mine", "--expires", "1h", "--budget", "20kB/month")
    box = lines["page"].replace("/view/mine@r1", "/v1/volumes/mine@r1/block")
    assert [httpx.get(box).status_code for _ in range(2)] == [200, 429]


def test_an_open_server_signs_nothing_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with house_on(file_store(tmp_path)) as house:
        house.commit(Made(VOXELS, name="mine"))
        monkeypatch.setenv("EMPORTER_BLOCKS_URL", house.url)
        assert run(["link", "mine", "--expires", "7d"]) == 2
        assert "EMPORTER_LINK_SECRET_KEY" in capsys.readouterr().err


def test_tokens_are_made_listed_and_revoked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "tokens.json"
    monkeypatch.setenv("EMPORTER_ACCESS_FILE", str(file))
    assert (
        run(["token", "new", "--volumes", "idr-*, phantom@r3", "--name", "ada", "--expires", "30d", "--budget", "1GB/day"]) == 0
    )
    made = capsys.readouterr()
    text = made.out.strip()
    assert re.fullmatch(r"emt_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", text)
    assert text[4:12] in made.err
    assert run(["token", "new", "--metrics", "--name", "prometheus", "--json"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert text[13:] not in file.read_text()
    assert second["token"] not in file.read_text()
    assert run(["token", "list"]) == 0
    listed = capsys.readouterr().out
    for word in (text[4:12], "ada", "idr-*,phantom@r3", "1 GB/day", "prometheus", "metrics"):
        assert word in listed
    assert text[13:] not in listed
    assert run(["token", "revoke", "prometheus", "--file", str(file)]) == 0
    assert [token.name for token in read_tokens(file).tokens] == ["ada"]
    assert run(["token", "revoke", "nobody"]) == 2
    assert "emporter token list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "--volumes", "*"], "EMPORTER_ACCESS_FILE"),
        (["new", "--file", "t"], "name volumes"),
        (["new", "--file", "t", "--volumes", "A/B"], "idr-*"),
        (["new", "--file", "t", "--volumes", "*", "--budget", "1GB"], "10GiB/day"),
        (["new", "--file", "nowhere/t", "--volumes", "*"], "there is no folder"),
        (["list", "--file", "t"], "emporter token new"),
        (["revoke", "x", "--file", "t"], "emporter token new"),
    ],
)
def test_what_can_not_be_done_with_tokens_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
):
    assert run(["token", *arguments]) == 2
    assert said in capsys.readouterr().err
