"""A training set opened on a block-server: its boxes as arrays. No framework, no thread; outlives forks and pickles."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from emporter import training
from emporter.connection import connection_to
from emporter.errors import MistakeError
from emporter.volume import Volume
from emporter.wire import Wire
from emporter_contracts.training import Pairing, Part, TrainingSet

if TYPE_CHECKING:
    from numpy.typing import NDArray

EPOCH_VERSION = 1
"""Raised whenever the same seed would give another order."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """`images` and, where the set has them, `labels`: (N, z, y, x) in C order, one's own to write to; `positions` in the part."""

    positions: tuple[int, ...]
    images: NDArray[Any]
    labels: NDArray[Any] | None


class OpenSet:
    """The boxes of one part of a training set, in the set's order; every volume was compared with what the set says of it."""

    def __init__(self, drawn: TrainingSet, wire: Wire, part: Part = "train") -> None:
        self.drawn = drawn
        self.part: Part = part
        self._boxes = drawn.part(part)
        if not self._boxes:
            raise MistakeError(f"the set has no {part} boxes", hint="draw it with --validation, or take the other part")
        infos = [dict(info) for info in training.found_on(wire, drawn)]
        self._images = [Volume(wire, infos[pair.image], pair.level) for pair in drawn.pairs]
        self._labels = [_labels(wire, infos, pair) for pair in drawn.pairs]
        self._alike()

    @classmethod
    def from_manifest(
        cls, path: Path | str, stack: Path | str | None = None, part: Part = "train", token: str | None = None
    ) -> Self:
        """The set in a file, on the stack in the folder `stack`, a block-server's URL, or the one `emporter.connect` finds.

        `token`: where the block-server demands one; else EMPORTER_TOKEN.

        Raises MistakeError, ChangedVolumeError naming a volume that is not what the set was drawn from.
        """
        return cls(training.load(path), Wire.to(connection_to(stack, token)), part)

    def __len__(self) -> int:
        return len(self._boxes)

    def fetch(self, positions: Sequence[int]) -> Boxes:
        """Those boxes, in that order: one request for each volume they are of."""
        import numpy as np

        chosen = [self._boxes[n] for n in positions]
        shape = (len(chosen), *self.drawn.shape)
        images = np.empty(shape, self._images[0].dtype)
        labels = None if self._labels[0] is None else np.empty(shape, self._labels[0].dtype)
        for number, pair in enumerate(self.drawn.pairs):
            rows = [row for row, box in enumerate(chosen) if box.pair == number]
            if not rows:
                continue
            origins = np.array([chosen[row].origin for row in rows], np.int64)
            named = self._labels[number]
            its_images = self._images[number].blocks(origins, self.drawn.shape)
            its_labels = None if named is None else named.blocks(origins + pair.labels_offset, self.drawn.shape)
            if len(rows) == len(chosen):  # all of one volume: as they came
                return Boxes(tuple(positions), its_images, its_labels)
            images[rows] = its_images
            if labels is not None:
                labels[rows] = its_labels
        return Boxes(tuple(positions), images, labels)

    def _alike(self) -> None:
        """One array can hold only what is alike."""
        used = sorted({box.pair for box in self._boxes})
        dtypes = {self._images[n].dtype.name for n in used}
        named = [self._labels[n] for n in used]
        if len(dtypes) > 1 or len({None if v is None else v.dtype.name for v in named}) > 1:
            raise MistakeError(
                f"the set mixes dtypes ({', '.join(sorted(dtypes))}), or volumes with and without labels",
                hint="draw one set for each kind",
            )


def _labels(wire: Wire, infos: Sequence[dict[str, Any]], pair: Pairing) -> Volume | None:
    return None if pair.labels is None else Volume(wire, infos[pair.labels], pair.labels_level)


def epoch_order(n: int, seed: int, epoch: int, together: int = 1) -> list[int]:
    """0 to n - 1 in an order drawn from `seed` and `epoch`, the same on every machine.

    Runs of `together` that follow each other stay together, though shuffled within: in a set drawn by shard they lie near each
    other, so that a server's cache serves them from few shards. Drawn as `emporter sample` draws (Philox 4x64-10, a hash as key).
    """
    import numpy as np

    key = hashlib.sha256(f"emporter-epoch/{EPOCH_VERSION}/{seed}/{epoch}".encode()).digest()[:16]
    source = np.random.Philox(key=int.from_bytes(key, "little"))
    runs = np.argsort(source.random_raw(-(-n // together)), kind="stable")
    within = source.random_raw(n)
    place = np.empty(len(runs), np.int64)
    place[runs] = np.arange(len(runs))
    order: list[int] = np.lexsort((within, place[np.arange(n) // together])).tolist()
    return order
