"""A training set in a loop: every box once an epoch, the same on every machine, in forked workers without threads, resumable."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import emporter
from block_server.testing import House, Made, house_on
from emporter.errors import MistakeError
from emporter.loading import OpenSet, epoch_order
from emporter.sampling import sample_request
from emporter.training import ChangedVolumeError, draw, save
from emporter_contracts.geometry import Box
from emporter_contracts.training import TrainingSet
from emporter_runtime.testing import file_store

SHAPE = (40, 60, 80)
IMAGE = np.random.default_rng(0).integers(0, 255, SHAPE, dtype=np.uint16)
LABELS = np.random.default_rng(1).integers(0, 2**40, SHAPE, dtype=np.uint64)
FORKS = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the test's own server runs in a thread


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_on(file_store(tmp_path_factory.mktemp("store"))) as house:
        house.commit(Made(IMAGE, name="image"))
        house.commit(Made(LABELS[2:, 3:, 4:], name="labels", role="labels", labels_of="image", source_origin=(2, 3, 4)))
        house.commit(Made(IMAGE[::-1].copy(), name="other"))
        house.commit(Made(IMAGE.astype(np.float32), name="real"))
        yield house


async def drawn_from(house: House, images: list[str], labels: list[str | None]) -> TrainingSet:
    split = {"part": "train", "validation": 0.4}
    wanted = sample_request(13, (6, 7, 8), 0, {"seed": 1, "split": split})
    async with emporter.AsyncClient(house.url) as client:
        return await draw(client, images, wanted, labels, 5)


@pytest.fixture
async def manifest(house: House, tmp_path: Path) -> Path:
    save(tmp_path / "set.json", await drawn_from(house, ["image"], ["labels"]))
    return tmp_path / "set.json"


def assert_true(boxes: OpenSet, images: Any, labels: Any, positions: list[int]) -> None:
    """The voxels are those the set names, labels at the same place as their image."""
    for k, position in enumerate(positions):
        box = Box.at(boxes.drawn.part(boxes.part)[position].origin, boxes.drawn.shape)
        assert np.array_equal(images[k], IMAGE[box.slices()])
        assert np.array_equal(labels[k], LABELS[box.slices()])


def test_boxes_and_labels_are_those_of_one_place(house: House, manifest: Path) -> None:
    for part, n in (("train", 13), ("validation", 5)):
        boxes = OpenSet.from_manifest(manifest, house.url, part)  # type: ignore[arg-type]
        found = boxes.fetch(range(n))
        assert len(boxes) == n
        assert (found.images.dtype, found.labels.dtype if found.labels is not None else None) == (np.uint16, np.uint64)
        assert_true(boxes, found.images, found.labels, list(range(n)))


async def test_a_sample_brings_its_labels_along(house: House) -> None:
    found = emporter.Client(house.url).volume("image").sample(6, (6, 7, 8), labels="labels", seed=2)
    async with emporter.AsyncClient(house.url) as client:
        twin = await (await client.volume("image")).sample(6, (6, 7, 8), labels="labels", seed=2)
    for one in (found, twin):
        assert one.labels is not None
        for origin, image, labels in zip(one.origins.tolist(), one.voxels, one.labels, strict=True):
            box = Box.at(tuple(origin), (6, 7, 8))
            assert np.array_equal(image, IMAGE[box.slices()])
            assert np.array_equal(labels, LABELS[box.slices()])


async def test_a_set_of_several_volumes_is_one_set(house: House) -> None:
    from emporter.wire import Wire

    boxes = OpenSet(await drawn_from(house, ["image", "other"], [None, None]), Wire(house.url))
    found = boxes.fetch([0, 20, 5, 25])
    assert found.labels is None
    for k, position in enumerate(found.positions):
        box = boxes.drawn.part("train")[position]
        source = IMAGE if box.pair == 0 else IMAGE[::-1]
        assert np.array_equal(found.images[k], source[Box.at(box.origin, (6, 7, 8)).slices()])
    with pytest.raises(MistakeError, match="mixes dtypes"):
        OpenSet(await drawn_from(house, ["image", "real"], [None, None]), Wire(house.url))
    with pytest.raises(MistakeError, match="with and without labels"):
        OpenSet(await drawn_from(house, ["image", "other"], ["labels", None]), Wire(house.url))


def test_a_changed_volume_stops_a_loop_before_it_begins(house: House, manifest: Path) -> None:
    text = manifest.read_text()
    manifest.write_text(text.replace("0" * 64, "9" * 64, 1))
    with pytest.raises(ChangedVolumeError, match="image@r1"):
        OpenSet.from_manifest(manifest, house.url)


@given(st.integers(1, 200), st.integers(0, 5), st.integers(0, 5), st.integers(1, 20))
def test_an_epoch_holds_every_box_once_and_keeps_runs_together(n: int, seed: int, epoch: int, together: int) -> None:
    order = epoch_order(n, seed, epoch, together)
    assert sorted(order) == list(range(n))
    runs = [position // together for position in order]
    assert sum(a != b for a, b in pairwise(runs)) == -(-n // together) - 1
    assert order == epoch_order(n, seed, epoch, together)


def test_epochs_differ_and_are_the_same_everywhere() -> None:
    assert epoch_order(6, 0, 0) == [3, 2, 4, 0, 5, 1]
    assert epoch_order(50, 0, 0) != epoch_order(50, 0, 1) != epoch_order(50, 1, 1)


@FORKS
def test_a_forked_worker_reads_with_one_socket_and_no_thread(house: House, manifest: Path) -> None:
    boxes = pickle.loads(pickle.dumps(OpenSet.from_manifest(manifest, house.url)))
    expected = boxes.fetch([3, 1]).images.tobytes()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            found = boxes.fetch([3, 1]).images.tobytes()
            told = f"{found == expected} {len(list(Path('/proc/self/task').iterdir()))}"
        except BaseException as error:
            told = repr(error)
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "True 1"
    os.waitpid(child, 0)
    assert boxes.fetch([3, 1]).images.tobytes() == expected


def test_without_torch_one_is_told_what_to_install() -> None:
    program = "import sys; sys.modules['torch'] = None\ntry:\n import emporter.torch\nexcept ImportError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "pip install 'emporter[torch]'" in done.stdout


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_data_loader_gives_every_box_in_batches(torch: Any, house: House, manifest: Path, workers: int) -> None:
    from emporter.torch import BlockDataset

    dataset = BlockDataset.from_manifest(manifest, house.url)
    loader = torch.utils.data.DataLoader(dataset, batch_size=4, shuffle=True, num_workers=workers)
    seen: list[int] = []
    for batch in loader:
        positions = batch["index"].tolist()
        assert_true(dataset.boxes, batch["image"].numpy(), batch["labels"].numpy(), positions)
        seen += positions
    assert sorted(seen) == list(range(13))
    assert_true(dataset.boxes, dataset[-1]["image"].numpy()[None], dataset[-1]["labels"].numpy()[None], [12])
    with pytest.raises(IndexError):
        dataset[13]
    assert BlockDataset.from_manifest(manifest, house.url, transform=lambda item: item["image"].float().mean())[0].ndim == 0


def taken(stream: Any, workers: int, batches: int | None = None) -> list[list[int]]:
    found = []
    for batch in stream.loader(num_workers=workers):
        found.append(batch["index"].tolist())
        if len(found) == batches:
            break
    return found


@FORKS
def test_a_stream_is_the_same_with_any_number_of_workers_and_another_each_epoch(torch: Any, house: House, manifest: Path) -> None:
    from emporter.torch import BlockDataset

    streams = [BlockDataset.from_manifest(manifest, house.url).stream(batch_size=3, seed=5) for _ in range(3)]
    first, second = zip(*[(taken(s, w), taken(s, w)) for s, w in zip(streams, (0, 1, 2), strict=True)], strict=True)
    assert first[0] == first[1] == first[2]
    assert second[0] == second[1] == second[2] != first[0]
    assert sorted(chain(*first[0])) == list(range(13))
    assert len(streams[0]) == len(first[0]) == 5


@FORKS
@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0), (2, 1)])
def test_a_stream_goes_on_where_it_was_with_other_workers(
    torch: Any, house: House, manifest: Path, before: int, after: int
) -> None:
    from emporter.torch import BlockDataset

    dataset = BlockDataset.from_manifest(manifest, house.url)
    whole = dataset.stream(batch_size=2, seed=3)
    expected = taken(whole, 0) + taken(whole, 0)
    stopped = dataset.stream(batch_size=2, seed=3)
    begun = taken(stopped, before, 3)
    state = pickle.loads(pickle.dumps(stopped.state_dict()))
    resumed = dataset.stream(batch_size=2, seed=3)
    resumed.load_state_dict(state)
    assert begun + taken(resumed, after) + taken(resumed, after) == expected
    with pytest.raises(MistakeError, match="seed 3"):
        dataset.stream(batch_size=2, seed=4).load_state_dict(state)


def test_ranks_share_an_epoch_evenly(torch: Any, house: House, manifest: Path) -> None:
    from emporter.torch import BlockDataset

    dataset = BlockDataset.from_manifest(manifest, house.url)
    shares = [taken(dataset.stream(batch_size=2, seed=1, rank=rank, world=2), 0) for rank in range(2)]
    assert [len(share) for share in shares] == [3, 3]
    assert len(set(chain(*shares[0], *shares[1]))) == 12
