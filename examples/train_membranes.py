"""Learn to see membranes from a training set: `python examples/train_membranes.py set.json -o membranes.png`.

`set.json` is what `emporter sample … --labels … --manifest set.json` wrote; phantom_set.py makes volumes to draw one from. The
model is two small convolutions written out in numpy, so that nothing but emporter is needed; a minute on two cores. With PyTorch:
train_membranes_torch.py.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from emporter.loading import OpenSet, epoch_order
from emporter.pictures import png

REACH = 2
"""Voxels on each side that the model looks at: 5 by 5 by 5."""
FILTERS = 16
RATE = 0.01
DECAY = (0.9, 0.999)
"""Adam's (Kingma and Ba, 2015)."""

Floats = NDArray[np.float32]


def normal(images: NDArray[Any]) -> Floats:
    """Grey values around 0: the phantom's, or any 8-bit EM's."""
    return np.asarray((images - np.float32(128)) / np.float32(64), np.float32)


def patches(images: Floats) -> Floats:
    """The surroundings of every voxel that has them, one row each."""
    side = 2 * REACH + 1
    windows = sliding_window_view(images, (side, side, side), axis=(1, 2, 3))
    return np.ascontiguousarray(windows).reshape(-1, side**3)


def inner(voxels: NDArray[Any]) -> NDArray[Any]:
    """The voxels that `patches` has rows for."""
    return voxels[:, REACH:-REACH, REACH:-REACH, REACH:-REACH]


@dataclass
class Model:
    """A convolution of FILTERS, a rectifier, a sum of them, a sigmoid. `parameters` are weights and biases of both layers."""

    parameters: list[Floats]
    moments: list[tuple[Floats, Floats]] = field(default_factory=list)
    steps: int = 0

    @classmethod
    def fresh(cls, seed: int) -> Model:
        drawn, size = np.random.default_rng(seed), (2 * REACH + 1) ** 3
        first = drawn.normal(0, size**-0.5, (size, FILTERS)).astype(np.float32)
        second = drawn.normal(0, FILTERS**-0.5, (FILTERS, 1)).astype(np.float32)
        made = [first, np.zeros(FILTERS, np.float32), second, np.zeros(1, np.float32)]
        return cls(made, [(np.zeros_like(p), np.zeros_like(p)) for p in made])

    def predict(self, images: NDArray[Any]) -> Floats:
        """How likely each inner voxel is membrane, (N, z, y, x)."""
        rows = patches(normal(images))
        a, b, c, d = self.parameters
        likely: Floats = 1 / (1 + np.exp(-(np.maximum(rows @ a + b, 0) @ c + d)))
        return likely.reshape(inner(images).shape)

    def learn(self, images: NDArray[Any], membrane: NDArray[np.bool_]) -> float:
        """One step down the cross-entropy; returns it."""
        rows, truth = patches(normal(images)), inner(membrane).reshape(-1, 1)
        a, b, c, d = self.parameters
        hidden = np.maximum(rows @ a + b, 0)
        likely = 1 / (1 + np.exp(-(hidden @ c + d)))
        wrong = (likely - truth) / len(rows)
        back = (wrong @ c.T) * (hidden > 0)
        self._step([rows.T @ back, back.sum(0), hidden.T @ wrong, wrong.sum(0)])
        return float(-np.mean(np.log(np.where(truth, likely, 1 - likely) + 1e-7)))

    def _step(self, slopes: list[Floats]) -> None:
        self.steps += 1
        slow, slower = DECAY
        for n, slope in enumerate(slopes):
            mean, square = self.moments[n]
            self.moments[n] = (slow * mean + (1 - slow) * slope, slower * square + (1 - slower) * slope**2)
            along, size = self.moments[n][0] / (1 - slow**self.steps), self.moments[n][1] / (1 - slower**self.steps)
            self.parameters[n] = self.parameters[n] - RATE * along / (np.sqrt(size) + 1e-8)


def overlap(said: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union."""
    return int(np.count_nonzero(said & truth)) / max(1, int(np.count_nonzero(said | truth)))


def best_threshold(images: NDArray[Any], truth: NDArray[np.bool_]) -> float:
    """The best that can be had without looking at a voxel's surroundings."""
    return max(overlap(images <= grey, truth) for grey in range(40, 220, 10))


def train(path: Path, stack: str | None, steps: int, batch: int, picture: Path | None) -> dict[str, float]:
    """Learn from the train boxes, measure on the validation boxes, draw one of those."""
    boxes, held_out = OpenSet.from_manifest(path, stack), OpenSet.from_manifest(path, stack, "validation")
    judged = held_out.fetch(range(len(held_out)))
    if judged.labels is None:
        raise SystemExit(f"{path} has no labels: draw it with --labels")
    truth = inner(judged.labels > 0)
    model = Model.fresh(seed=0)
    scores = {
        "before": overlap(model.predict(judged.images) > 0.5, truth),
        "threshold": best_threshold(inner(judged.images), truth),
    }
    print(f"overlap with the truth: untrained {scores['before']:.2f}, best threshold {scores['threshold']:.2f}")
    done, epoch = 0, 0
    while done < steps:
        order = epoch_order(len(boxes), seed=0, epoch=epoch)
        for first in range(0, len(order) - batch + 1, batch):
            found = boxes.fetch(order[first : first + batch])
            assert found.labels is not None
            loss = model.learn(found.images, found.labels > 0)
            done += 1
            if done % 50 == 0:
                print(f"step {done}: cross-entropy {loss:.3f}")
            if done == steps:
                break
        epoch += 1
    said = model.predict(judged.images)
    scores["after"] = overlap(said > 0.5, truth)
    print(f"overlap with the truth: trained {scores['after']:.2f}")
    if picture is not None:
        rows = [drawn(inner(judged.images)[n], truth[n], said[n]) for n in range(min(4, len(truth)))]
        picture.write_bytes(png(np.vstack(rows)))
        print(f"{picture}: validation slices, the truth, what the model says")
    return scores


def drawn(image: NDArray[Any], truth: NDArray[np.bool_], said: Floats) -> NDArray[np.uint8]:
    """The middle slices side by side, eight times as large."""
    z = image.shape[0] // 2
    row = [image[z].astype(np.uint8), truth[z] * np.uint8(255), (said[z] * 255).astype(np.uint8)]
    return np.kron(np.hstack(row), np.ones((8, 8), np.uint8)).astype(np.uint8)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Learn to see membranes from a training set.")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE.png")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--stack", help="its folder, or the URL of a block-server; else as for every emporter command")
    chosen = parser.parse_args()
    train(chosen.manifest, chosen.stack, chosen.steps, chosen.batch, chosen.output)


if __name__ == "__main__":
    main()
