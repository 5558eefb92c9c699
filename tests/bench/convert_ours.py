"""The converter's core in one process, as convert.py asks for it: plan and every task, no bus, no ledger, no verification."""

from __future__ import annotations

import sys
from pathlib import Path

from convert_loop import CHUNK, SHARD, serve

from converter.allocator import keep_buffers
from converter.testing import a_volume, run_of
from emporter_contracts import storage
from emporter_contracts.commands import Output
from emporter_readers.array import FileSource
from emporter_readers.discover import discover, open_volume
from emporter_readers.protocol import Hints
from emporter_runtime.objects import Objects
from emporter_runtime.testing import file_store

AS_OTHERS = Output(chunk=(CHUNK,) * 3, shard=(SHARD,) * 3, codec="zstd")
OURS = {"emporter core": AS_OTHERS, "emporter core, own layout": Output()}


def convert(output: Output, source: Path, out: Path) -> None:
    """Levels are the folders `out/0`, `out/1`, …"""
    files = [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())
    sources = [FileSource(path.relative_to(source.parent).as_posix(), path) for path in files]
    found = discover(sources, Hints())[0]
    # As the service does it: a volume is opened over its own files only.
    reader = open_volume([s for n, s in enumerate(sources) if n in set(found.objects)], found)
    volume = a_volume(reader.shape, reader.dtype.name)
    run = run_of(reader, volume, output)
    objects = Objects.open(file_store(out / "store"))
    run.write(objects, run.plan().volumes[0])
    path = objects.local_path(storage.VOLUMES, storage.zarr_root(volume.volume, 1))
    assert path is not None
    for level in path.iterdir():
        level.rename(out / level.name)


if __name__ == "__main__":
    keep_buffers()
    serve(lambda _kind, source, out, _levels: convert(OURS[sys.argv[1]], source, out))
