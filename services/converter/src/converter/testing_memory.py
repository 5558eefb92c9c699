"""What a converter's process really holds, in one of its own: `python -m converter.testing_memory JSON`. For tests.

Prints what the plan of a volume says of memory (`VolumePlan.memory_bytes`) and the most that was resident while it was converted.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.allocator import keep_buffers
from converter.testing import a_volume, run_of
from emporter_contracts.geometry import Box, ChunkGrid, Shape3, VoxelSize, grid_shape
from emporter_contracts.plans import VolumePlan
from emporter_readers.array import RegionReader
from emporter_readers.protocol import Reader
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store


class Noise:
    """A Reader whose voxels are made as they are read, whole cells one after another: in memory as it came, and decoded, as that
    of a file is. Noise is what an encoder needs most room for.
    """

    def __init__(self, shape: Shape3, dtype: str, cell: Shape3) -> None:
        self.shape = shape
        self.dtype = np.dtype(dtype)
        self.native = ChunkGrid(cell)
        self.voxel_size = VoxelSize()
        self._random = np.random.default_rng(0)

    def read(self, box: Box) -> NDArray[Any]:
        """Noise."""
        voxels = np.empty(box.shape, self.dtype)
        z, y, x = (-a for a in box.start)
        for cell in self._cells(box):
            part = cell.overlap(box)
            assert part is not None
            inside = part.moved((-cell.start[0], -cell.start[1], -cell.start[2]))
            voxels[part.moved((z, y, x)).slices()] = self._decoded(cell)[inside.slices()]
        return voxels

    def _cells(self, box: Box) -> list[Box]:
        """Those that hold voxels of `box`."""
        first = [a // c for a, c in zip(box.start, self.native.cell, strict=True)]
        last = grid_shape(box.stop, self.native.cell)
        whole = Box.whole(self.shape)
        cells = []
        for index in product(*(range(a, b) for a, b in zip(first, last, strict=True))):
            z, y, x = (i * c for i, c in zip(index, self.native.cell, strict=True))
            cell = Box.at((z, y, x), self.native.cell).overlap(whole)
            assert cell is not None
            cells.append(cell)
        return cells

    def _decoded(self, cell: Box) -> NDArray[Any]:
        as_it_came = self._random.bytes(cell.size * self.dtype.itemsize)
        return np.frombuffer(bytearray(as_it_came), self.dtype).reshape(cell.shape)


def convert(reader: Reader, role: str, memory: int) -> VolumePlan:
    """Every task of a volume, into a folder; the plan it was done by."""
    volume = a_volume(reader.shape, reader.dtype.name, role="labels" if role == "labels" else "image")
    if isinstance(reader, RegionReader):
        placed = {"source_origin": reader.region.start, "source_shape": reader.whole.shape}
        volume = volume.model_copy(update=placed)
    with tempfile.TemporaryDirectory() as folder:
        run = run_of(reader, volume, memory=memory)
        plan = run.plan().volumes[0]
        run.write(Objects.open(file_store(Path(folder))), plan)
    return plan


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) * 1024


def main(wanted: str) -> None:
    """A small volume first, so that libraries and their threads are there before it is measured."""
    asked = json.loads(wanted)
    z, y, x = asked["shape"]
    az, ay, ax = asked["origin"]
    keep_buffers()
    importlib.import_module("converter.app")  # all that a service has in memory
    convert(Noise((8, 128, 128), asked["dtype"], (1, 128, 128)), asked["role"], asked["memory"])
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark begins anew (proc(5))
    whole = Noise((az + z, ay + y, ax + x), asked["dtype"], tuple(asked["cell"]))
    region = RegionReader(whole, Box.at((az, ay, ax), (z, y, x)), whole.voxel_size)
    plan = convert(region if any(asked["origin"]) else whole, asked["role"], asked["memory"])
    sys.stdout.write(json.dumps({"planned": plan.memory_bytes, "peak": _status("VmHWM")}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
