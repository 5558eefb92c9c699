"""Boxes of a training set for PyTorch (the extra `emporter[torch]`): a map-style dataset, and a resumable stream of batches.

    train = BlockDataset.from_manifest("set.json")
    loader = DataLoader(train, batch_size=8, shuffle=True, num_workers=4)          # one request for each batch
    stream = train.stream(batch_size=8, seed=1)                                    # or: seeded epochs that can be resumed
    for batch in stream.loader(num_workers=4): …                                   # batch["image"], batch["labels"]

A worker opens a plain socket of its own after the fork and starts no thread; chunks are cached once for all, by the server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

try:
    import torch
    from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info
except ImportError as error:
    raise ImportError("emporter.torch needs PyTorch: pip install 'emporter[torch]'") from error

from emporter.errors import MistakeError
from emporter.loading import Boxes, OpenSet, epoch_order
from emporter_contracts.training import Part

Batch = dict[str, Any]
Transform = Callable[[Batch], Any]
"""From the tensors of one box (or of one batch of a stream) to what the model is fed."""


class BlockDataset(Dataset):  # type: ignore[misc]  # torch ships no types we follow
    """The boxes of one part of a training set. `dataset[n]` is {"image": (z, y, x), "labels": alike if any, "index": n}.

    Tensors have the stored dtype and are the caller's own; `transform` makes what the model wants of them.
    """

    def __init__(self, boxes: OpenSet, transform: Transform | None = None) -> None:
        self.boxes = boxes
        self._transform = transform

    @classmethod
    def from_manifest(
        cls,
        path: Path | str,
        stack: Path | str | None = None,
        part: Part = "train",
        transform: Transform | None = None,
        token: str | None = None,
    ) -> Self:
        """The set in a file that `emporter sample … --manifest` wrote; `stack` is its folder, or a block-server's URL.

        `token`: where the block-server demands one; else EMPORTER_TOKEN.

        Raises MistakeError, ChangedVolumeError naming a volume that is not what the set was drawn from.
        """
        return cls(OpenSet.from_manifest(path, stack, part, token), transform)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """A batch in one request: DataLoader asks so where a dataset can."""
        n = len(self)
        if any(not -n <= index < n for index in indices):
            raise IndexError(f"the set has {n} boxes")
        found = _tensors(self.boxes.fetch([index % n for index in indices]))
        items = [{name: values[k] for name, values in found.items()} for k in range(len(indices))]
        return [item if self._transform is None else self._transform(item) for item in items]

    def stream(self, batch_size: int, seed: int = 0, **options: Any) -> BlockStream:
        """The same boxes as an endless-by-epochs stream of batches; options are those of BlockStream."""
        return BlockStream(self.boxes, batch_size, seed, **options)


class BlockStream(IterableDataset):  # type: ignore[misc]
    """Batches {"image": (B, z, y, x), "labels": …, "index": (B,)}, an epoch for each iteration, every box once.

    The order depends on `seed` and the epoch alone, never on how many workers there are. `together` keeps that many boxes that
    lie near each other in one run; `rank` of `world` takes its share of the batches. `state_dict` tells where one is.
    """

    def __init__(
        self,
        boxes: OpenSet,
        batch_size: int,
        seed: int = 0,
        *,
        together: int = 1,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
        transform: Transform | None = None,
    ) -> None:
        if batch_size < 1 or together < 1 or not 0 <= rank < world:
            raise MistakeError("batch_size and together are 1 or more, rank is below world", hint="check those four numbers")
        self.boxes = boxes
        self._batch_size = batch_size
        self._seed = seed
        self._together = together
        self._drop_last = drop_last
        self._rank = rank
        self._world = world
        self._transform = transform
        self._epoch = 0
        self._position = 0

    def __len__(self) -> int:
        """Batches of an epoch, of this rank: as many for each, so that none waits for another."""
        n = len(self.boxes)
        batches = n // self._batch_size if self._drop_last else -(-n // self._batch_size)
        return batches // self._world

    def __iter__(self) -> Iterator[Any]:
        """The rest of this epoch. In a worker of a DataLoader: every so-manieth batch of it."""
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        order = epoch_order(len(self.boxes), self._seed, self._epoch, self._together)
        for number in range(self._position + worker, len(self), workers):
            batch = self._batch(order, number)
            self._position = number + workers - worker
            yield batch
        self._next_epoch()

    def loader(self, num_workers: int = 0, **options: Any) -> Iterator[Any]:
        """The rest of this epoch through a DataLoader of worker processes; the stream's own state follows what was taken."""
        given = DataLoader(self, batch_size=None, num_workers=num_workers, **options)
        if num_workers == 0:
            yield from given
            return
        for batch in given:
            self._position += 1
            yield batch
        self._next_epoch()

    def state_dict(self) -> dict[str, int]:
        """Where the stream is: after the batch that was given last."""
        return {"epoch": self._epoch, "position": self._position, "seed": self._seed, "batch_size": self._batch_size}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on where another stream of the same set, seed and batch size was. Raises MistakeError for others."""
        mine = self.state_dict()
        for name in ("seed", "batch_size"):
            if state[name] != mine[name]:
                raise MistakeError(
                    f"the state is of {name} {state[name]}, this stream has {mine[name]}", hint="make the stream as it was"
                )
        self._epoch, self._position = state["epoch"], state["position"]

    def set_epoch(self, epoch: int) -> None:
        """Begin this epoch: for who iterates by a DataLoader of one's own, whose workers are copies."""
        self._epoch, self._position = epoch, 0

    def _batch(self, order: Sequence[int], number: int) -> Any:
        first = (number * self._world + self._rank) * self._batch_size
        batch = _tensors(self.boxes.fetch(order[first : first + self._batch_size]))
        return batch if self._transform is None else self._transform(batch)

    def _next_epoch(self) -> None:
        self._epoch, self._position = self._epoch + 1, 0


def _tensors(boxes: Boxes) -> Batch:
    batch = {"image": torch.from_numpy(boxes.images), "index": torch.tensor(boxes.positions)}
    return batch if boxes.labels is None else batch | {"labels": torch.from_numpy(boxes.labels)}
