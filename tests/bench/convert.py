"""Many formats to sharded OME-Zarr with its pyramid, beside others: `python tests/bench/convert.py [--minutes 8] [--size 64]`.

Every contender converts every input once per round, in turn, so only what stands in one table compares: machines drift, and the
ratio is the median over rounds of (its time / emporter core's), with the least and the most. Every contender of an input is a
process of its own, which imports before the clock runs; the page cache is warm, nothing is synced. Level 0 of what is written is
compared with the input voxel for voxel in the first round, the levels above by shape and mean. Service rows are a request on the
bus until `complete` on a stack of its own: planning, hashing, conversion, verification, commit.

What was measured is kept in --state (by default in the folder for temporary files), input by input: a run that was cut off goes
on with the next. Others' programs run in this Python, or in the one that EMPORTER_BENCH_PYTHON names (`pip install ngff-zarr[dask-image]
acquire-zarr ome-zarr tensorstore tifffile imagecodecs`); one that isn't there is named in the table as not run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import memory
import numpy as np
import tensorstore as ts
from convert_inputs import INPUTS, Input, made, phantom, shape_of
from convert_loop import CHUNK, SHARD
from convert_service import Service

HERE = Path(__file__).parent
OURS = ("emporter core", "emporter core, own layout")
SERVICES = {"emporter service, files": "file", "emporter service, S3": "s3"}
PEERS = {
    "tensorstore copy": "tensorstore", "zarr-python": "zarr", "ome-zarr-py": "ome_zarr", "ngff-zarr": "ngff_zarr",
    "acquire-zarr": "acquire_zarr",
}  # fmt: skip
FIRST = OURS[0]
RIVALS = ("ome-zarr-py", "ngff-zarr")
"""Who makes the same of the same: OME-Zarr with its pyramid and metadata."""
ROUNDS = 5
Result = dict[str, Any]


class Child:
    """A contender's process: told a conversion, it answers when it is done."""

    def __init__(self, name: str) -> None:
        ours = name in OURS
        python = sys.executable if ours else os.environ.get("EMPORTER_BENCH_PYTHON", sys.executable)
        script = HERE / ("convert_ours.py" if ours else "convert_peers.py")
        self._process = subprocess.Popen(
            [python, str(script), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self._answer()

    def convert(self, wanted: Input, source: Path, out: Path, levels: int) -> Result:
        out.mkdir(parents=True)
        assert self._process.stdin is not None
        told = {"kind": wanted.kind, "source": str(source), "out": str(out), "levels": levels}
        print(json.dumps(told), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Result:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return dict(json.loads(line)) if line else {"error": "its process ended"}

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


def installed(name: str) -> bool:
    python = os.environ.get("EMPORTER_BENCH_PYTHON", sys.executable)
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({PEERS[name]!r}) is None)"
    return subprocess.run([python, "-c", code], check=False).returncode == 0


OWN_LEVELS = {"acquire-zarr"}
"""Choose the levels themselves: those that halve as the others' do are compared."""


def compared(name: str, out: Path, voxels: Any, levels: int) -> str:
    """What is wrong with an output, or nothing."""
    stored = voxels
    for level in range(levels):
        array = level_folder(out, level)
        found = None
        if array is not None:
            found = ts.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{array}/"}}).result().read().result()
        if level == 0:
            if found is None or not np.array_equal(found, voxels):
                return "level 0 is not the input"
        elif found is None or found.shape != tuple(-(-n // 2) for n in stored.shape):
            return "" if name in OWN_LEVELS else f"level {level} is not half of the one below"
        elif abs(float(found.mean(dtype=np.float64)) - float(voxels.mean(dtype=np.float64))) > 0.02 * float(voxels.mean()):
            return f"level {level} has another mean"
        stored = found
    return ""


def level_folder(out: Path, level: int) -> Path | None:
    """Where the array of a level lies, whatever its writer calls it: the only number of its path is the level."""
    for document in sorted(out.rglob("zarr.json")):
        array = document.parent
        numbers = re.findall(r"\d+", array.relative_to(out).as_posix())
        if numbers[:1] == [str(level)] and json.loads(document.read_text())["node_type"] == "array":
            return array
    return None


@contextmanager
def contenders(names: list[str]) -> Iterator[dict[str, Child]]:
    with ExitStack() as stack:
        children = {}
        for name in names:
            children[name] = Child(name)
            stack.callback(children[name].close)
        yield children


def warm_up(children: dict[str, Child], wanted: Input, folder: Path, out: Path) -> None:
    """A small conversion first: thread pools, compiled loops, files of libraries."""
    small = made(wanted, folder, 1)
    for child in children.values():
        child.convert(wanted, small, out, 1)
        shutil.rmtree(out, ignore_errors=True)


def measure(
    wanted: Input, source: Path, size: int, names: list[str], services: dict[str, Service], until: float
) -> dict[str, list[Result]]:
    """Rounds over one input, until the time is over."""
    shape = shape_of(wanted, size)
    levels = 1 + max(int(n // CHUNK).bit_length() - 1 for n in shape)
    voxels = phantom(shape, wanted.dtype)
    results: dict[str, list[Result]] = {}
    broken: set[str] = set()
    with tempfile.TemporaryDirectory(dir=source.parent, prefix="out-") as folder, contenders(names) as children:
        out = Path(folder) / "out"
        warm_up(children, wanted, Path(folder), out)
        for n in range(ROUNDS):
            if n > 0 and time.monotonic() > until:
                break
            for name in [*names, *services]:
                if name in broken:
                    continue
                if name in services:
                    result = services[name].convert(source, f"{wanted.file.split('.')[0]}{n}", voxels if n == 0 else None)
                else:
                    result = children[name].convert(wanted, source, out, levels)
                    if "error" not in result:
                        result["objects"] = sum(1 for path in out.rglob("*") if path.is_file())
                        result["stored"] = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
                        wrong = compared(name, out, voxels, levels) if n == 0 else ""
                        result |= {"error": wrong} if wrong else {}
                shutil.rmtree(out, ignore_errors=True)
                results.setdefault(name, []).append(result)
                if "error" in result:
                    broken.add(name)
                print(f"{wanted.name} {name} {n}: {result.get('error') or round(result['seconds'], 2)}", file=sys.stderr)
    return results


def table(state: dict[str, Any], missing: list[str]) -> None:
    size = state["size"]
    print(
        "| input | contender | rounds | MB/s | time / emporter core (least to most) | CPU, s | peak RSS, MB | read, MB | objects | stored / input |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for wanted in INPUTS:
        results = state["inputs"].get(wanted.name)
        if results is None:
            print(f"| {wanted.name} | not run | | | | | | | | |")
            continue
        megabytes = np.prod(shape_of(wanted, size)) * np.dtype(wanted.dtype).itemsize / 1e6
        ours = [r["seconds"] for r in results.get(FIRST, []) if "error" not in r]
        for name, rounds in results.items():
            print(row(wanted.name, name, rounds, megabytes, ours))
        for name in missing:
            print(f"| {wanted.name} | {name} | not installed | | | | | | | |")


def aims(state: dict[str, Any]) -> None:
    """What DESIGN section 7 aims at: the better of two peers over us (3), in our layout and in theirs, and our core over the whole path (0.7)."""
    print(f"\n| input | {' or '.join(RIVALS)}, the better: over own layout | over core, same layout | own layout over service |")
    print("|---|---|---|---|")
    for which, results in state["inputs"].items():
        seconds = {name: [r["seconds"] for r in rounds if "error" not in r] for name, rounds in results.items()}
        rivals, own = [seconds[name] for name in RIVALS if seconds.get(name)], seconds.get(OURS[1])
        if not rivals or not own:
            continue
        better = [min(statistics.median(paired(rival, ours)) for rival in rivals) for ours in (own, seconds[FIRST])]
        services = [(name.rpartition(" ")[2], seconds[name]) for name in SERVICES if seconds.get(name)]
        share = ", ".join(f"{statistics.median(paired(own, took)):.2f} {where}" for where, took in services)
        print(f"| {which} | {better[0]:.2f} | {better[1]:.2f} | {share} |")


def paired(over: list[float], under: list[float]) -> list[float]:
    """Ratios within a round."""
    return [a / b for a, b in zip(over, under, strict=False)]


def row(which: str, name: str, rounds: list[Result], megabytes: float, ours: list[float]) -> str:
    error = next((r["error"] for r in rounds if "error" in r), None)
    if error:
        return f"| {which} | {name} | {error.replace('|', '/')} | | | | | | | |"
    seconds = [r["seconds"] for r in rounds]
    ratios = [a / b for a, b in zip(seconds, ours, strict=False)] or [0.0]
    speed = megabytes / statistics.median(seconds)
    spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    cpu = statistics.median(r["cpu"] for r in rounds)
    # The first round's: later ones begin at what an allocator kept.
    first = rounds[0]
    return (
        f"| {which} | {name} | {len(rounds)} | {speed:.0f} | {spread} | {cpu:.2f} | {first['rss'] / 1e6:.0f} "
        f"| {first['read'] / 1e6:.0f} | {first['objects']} | {first['stored'] / 1e6 / megabytes:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="of measuring, over all inputs")
    parser.add_argument("--size", type=int, default=64, help="MiB of voxels of each input")
    parser.add_argument("--inputs", nargs="*", default=[i.name for i in INPUTS])
    parser.add_argument("--only", nargs="*", default=[], help="contenders beside emporter core")
    parser.add_argument("--state", type=Path, default=Path(tempfile.gettempdir()) / "emporter-bench-convert.json")
    parser.add_argument("--again", action="store_true", help="forget what an earlier run measured")
    parser.add_argument("--rss", action="store_true", help="only: peak memory of the whole path at 1, 4 and 16 GB")
    arguments = parser.parse_args()
    if arguments.rss:
        memory.main(["--rss"])
        return
    state: dict[str, Any] = {"size": arguments.size, "inputs": {}}
    if arguments.state.exists() and not arguments.again:
        kept = json.loads(arguments.state.read_text())
        state = kept if kept["size"] == arguments.size else state
    missing = [name for name in PEERS if not installed(name)]
    chosen = [n for n in (*OURS, *PEERS) if n not in missing and (n == FIRST or not arguments.only or n in arguments.only)]
    wanted_services = {n: s for n, s in SERVICES.items() if not arguments.only or n in arguments.only}
    todo = [i for i in INPUTS if i.name in arguments.inputs and i.name not in state["inputs"]]
    with tempfile.TemporaryDirectory(prefix="emporter-bench-") as folder, ExitStack() as stack:
        root = Path(folder)
        (root / "inputs").mkdir()
        services = (
            {name: stack.enter_context(Service.running(root, kind)) for name, kind in wanted_services.items()} if todo else {}
        )
        end = time.monotonic() + 60 * arguments.minutes
        for n, wanted in enumerate(todo):
            source = made(wanted, root / "inputs", arguments.size)
            until = time.monotonic() + max(0.0, end - time.monotonic()) / (len(todo) - n)
            state["inputs"][wanted.name] = measure(wanted, source, arguments.size, chosen, services, until)
            arguments.state.write_text(json.dumps(state))
            (shutil.rmtree if source.is_dir() else Path.unlink)(source)  # type: ignore[operator]
    table(state, missing)
    aims(state)
    print(f"\nChunks of {CHUNK}³, shards of {SHARD}³, zstd 1 (ngff-zarr: its own choice; own layout and service: as planned).")


if __name__ == "__main__":
    main()
