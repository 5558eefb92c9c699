"""Make a phantom with labels, bring it in, and draw a training set from it: `python examples/phantom_set.py set.json`.

Needs a stack that is up (`emporter up --detach`). The phantom is made by a formula: folded membranes in so much noise that no
threshold finds them.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

import emporter
from emporter_contracts.jobs import JobState

SHAPE = (96, 128, 160)
VOXEL_SIZE_NM = (8.0, 8.0, 8.0)


def phantom(shape: tuple[int, int, int] = SHAPE, seed: int = 11) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Grey values and labels (1 = membrane), z, y, x."""
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    gyroid = np.sin(z / 7) * np.cos(y / 9) + np.sin(y / 9) * np.cos(x / 8) + np.sin(x / 8) * np.cos(z / 7)
    membrane = np.abs(gyroid) < 0.28
    noise = np.random.default_rng(seed).normal(0, 60, shape)
    return np.clip(np.where(membrane, 100, 160) + noise, 1, 255).astype(np.uint8), membrane.astype(np.uint32)


def bring_in(client: emporter.Client, folder: Path, name: str, voxels: NDArray[Any], **wanted: Any) -> str:
    """Upload, ingest, wait; the volume, pinned to its revision."""
    path = folder / f"{name}.tif"
    tifffile.imwrite(path, voxels, photometric="minisblack")
    request = client.upload([path]).request().model_copy(update={"voxel_size_nm": VOXEL_SIZE_NM, **wanted})
    job = client.ingest(request).job
    ended = client.wait(job)
    if ended.state != JobState.COMPLETE:
        raise SystemExit(f"{job}: {ended.error.message if ended.error else ended.state}")
    return client.volumes_of(job)[0]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--stack", help="its folder; else as for every emporter command")
    chosen = parser.parse_args()
    image, labels = phantom()
    with emporter.Client(chosen.stack) as client, tempfile.TemporaryDirectory() as folder:
        named = bring_in(client, Path(folder), "phantom", image)
        truth = bring_in(client, Path(folder), "phantom-membranes", labels, role="labels", labels_of=named.partition("@")[0])
    where = f" --stack {chosen.stack}" if chosen.stack else ""
    print(f"emporter sample {named} --labels {truth} -n 200 --shape 24,24,24 --min-foreground 0.1 \\")
    print(f"  --validation 0.2 --validation-n 16 --margin 8,8,8 --seed 1 --manifest {chosen.manifest}{where}")


if __name__ == "__main__":
    main()
