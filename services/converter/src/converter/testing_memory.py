"""What a conversion's tasks really hold, in a process of their own: `python -m converter.testing_memory JSON`. For tests.

Prints what the planner said its largest task would hold, and by how much the process's resident memory grew at most.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter import planning
from converter.allocator import keep_buffers
from converter.passes import Pass, plan_pass
from converter.testing import a_volume, run_of
from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store


class Noise:
    """A Reader whose voxels are made as they are read: it holds nothing, and each cell is as large as it says."""

    def __init__(self, shape: Shape3, dtype: str, cell: Shape3) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.native = ChunkGrid(cell)
        self.voxel_size = VoxelSize()
        self._random = np.random.default_rng(0)

    def read(self, box: Box) -> NDArray[Any]:
        """Noise."""
        flat = self._random.bytes(box.size * self.dtype.itemsize)
        return np.frombuffer(flat, self.dtype).reshape(box.shape)


def convert(shape: Shape3, dtype: str, cell: Shape3, memory: int) -> list[Pass]:
    """Every task of a volume, into a folder; what was planned."""
    planned: list[Pass] = []

    def noted(*arguments: Any) -> Pass:
        planned.append(plan_pass(*arguments))
        return planned[-1]

    vars(planning)["plan_pass"] = noted
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(Noise(shape, dtype, cell), a_volume(shape, dtype), memory=memory)
        run.write(Objects.open(file_store(Path(folder))), run.plan().volumes[0])
    return planned


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def main(wanted: str) -> None:
    """A small volume first, so that libraries and their threads are there before it is measured."""
    asked = json.loads(wanted)
    shape, cell = tuple(asked["shape"]), tuple(asked["cell"])
    keep_buffers()
    convert((8, 128, 128), asked["dtype"], (1, 128, 128), asked["memory"])
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew (proc(5))
    before = _status("VmRSS")
    planned = convert(shape, asked["dtype"], cell, asked["memory"])
    held = max(one.memory for one in planned)
    sys.stdout.write(json.dumps({"planned": held, "grew": _status("VmHWM") - before, "before": before}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
