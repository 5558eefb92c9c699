"""The examples learn something: from a training set, in a short form of what a user runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import emporter
from block_server.testing import Made, house_on
from emporter.sampling import sample_request
from emporter.training import draw, save
from emporter_runtime.testing import file_store

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name
    import sys

    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with the phantom of the examples, and its labels."""
    image, labels = example("phantom_set").phantom((48, 64, 96))
    with house_on(file_store(tmp_path_factory.mktemp("store"))) as house:
        house.commit(Made(image, name="phantom", voxel_size_nm=(8.0, 8.0, 8.0), chunk=(32, 32, 32), shard=(64, 64, 64)))
        truth = Made(labels, name="membranes", role="labels", labels_of="phantom", voxel_size_nm=(8.0, 8.0, 8.0), digest="1" * 64)
        house.commit(truth)
        yield house.url


@pytest.fixture
async def manifest(server: str, tmp_path: Path) -> Path:
    split = {"part": "train", "validation": 0.3, "margin": (4, 4, 4)}
    wanted = sample_request(48, (20, 20, 20), 0, {"seed": 1, "min_foreground": 0.1, "split": split})
    async with emporter.AsyncClient(server) as client:
        save(tmp_path / "set.json", await draw(client, ["phantom"], wanted, ["auto"], 4))
    return tmp_path / "set.json"


def test_membranes_are_learned_far_better_than_any_threshold_finds_them(server: str, manifest: Path, tmp_path: Path) -> None:
    scores = example("train_membranes").train(manifest, server, 120, 4, tmp_path / "membranes.png")
    assert scores["after"] > scores["threshold"] + 0.1
    assert scores["after"] > scores["before"] + 0.2
    assert (tmp_path / "membranes.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_the_same_is_learned_with_torch_in_two_sittings(server: str, manifest: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    train = example("train_membranes_torch").train
    first = train(manifest, server, 20, 2, tmp_path / "kept.pt")
    scores = train(manifest, server, 60, 0, tmp_path / "kept.pt")
    assert scores["before"] == pytest.approx(first["after"])
    assert scores["after"] > 0.4 > first["before"]
