"""Conversion that begins while the archive is still sending, against conversion that begins when all is fetched.

One volume of noise behind a line of a given rate, ingested again and again by one stack: as it is, and with the converter
stopped (SIGSTOP) until the manifest is written. Rounds are interleaved; each ends when the volume is committed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal, cast

from emporter.testing import RunningStack, running_stack
from emporter_archives.server import PIECE, Blocks, FileServer
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest

COLUMNS = ("archive", "rounds", "fetched after (s)", "one after the other (s)", "overlapping (s)", "ratio (range)")
CONNECTIONS = 4
"""To one archive: what a fetcher opens."""
PLANE, DEPTH = 1024, 16
MB = 1e6


def served(archive: FileServer, megabytes: int, rate: float) -> str:
    """A Zarr array of about so many megabytes in chunks of 17 MB, behind a line of `rate` MB/s; its URL."""
    chunks = round(megabytes * MB / (DEPTH * PLANE * PLANE))
    document = {
        "zarr_format": 2, "shape": [chunks * DEPTH, PLANE, PLANE], "chunks": [DEPTH, PLANE, PLANE], "dtype": "|u1",
        "compressor": None, "filters": None, "fill_value": 0, "order": "C", "dimension_separator": "/",
    }  # fmt: skip
    archive.put("/noise.zarr/.zarray", json.dumps(document).encode())
    for z in range(chunks):
        archive.put(f"/noise.zarr/{z}/0/0", Blocks(DEPTH * PLANE * PLANE, seed=z % 8), etag=f'"{z}"')
    archive.pace = lambda path: 0.0 if path.endswith(".zarray") else CONNECTIONS * PIECE / MB / rate
    return archive.url("/noise.zarr/")


def ingested(stack: RunningStack, url: str, force: str, *, overlapping: bool) -> tuple[float, float]:
    """Seconds until the manifest was written, and until the volume was committed."""
    client, began = stack.client(), time.monotonic()
    converter = None if overlapping else stack.freeze("converter")
    kind = cast("Literal['no', 'fetch']", force)
    accepted = client.ingest(IngestRequest(source="url", source_id=url, force=kind))
    manifest, objects = storage.manifest(accepted.job, accepted.revision), stack.objects()
    stack.until(lambda: asyncio.run(objects.exists(storage.RAW, manifest)), "all is fetched", 900)
    fetched = time.monotonic() - began
    if converter is not None:
        converter.resume()
    status = client.wait(accepted.job)
    whole = time.monotonic() - began
    assert status.state == "complete", status.error
    stack.close_clients()
    return fetched, whole


def measure(megabytes: int, rate: float, rounds: int, store: Literal["s3", "file"]) -> None:
    """One line of the table."""
    with FileServer() as archive, tempfile.TemporaryDirectory(prefix="emporter-bench-") as place:
        url = served(archive, megabytes, rate)
        with running_stack(Path(place) / "stack", store=store) as stack:
            stack.until_ready()
            took: dict[bool, list[tuple[float, float]]] = {True: [], False: []}
            for n in range(rounds):
                for overlapping in (False, True) if n % 2 else (True, False):
                    force = "fetch" if any(took.values()) else "no"
                    # Raw objects are shared by all revisions: without them the archive has to be asked again.
                    forget(stack)
                    took[overlapping].append(ingested(stack, url, force, overlapping=overlapping))
    fetched, apart, together = (
        statistics.median(t[k] for t in took[overlapping]) for overlapping, k in ((False, 0), (False, 1), (True, 1))
    )
    ratios = [b[1] / a[1] for a, b in zip(took[False], took[True], strict=True)]
    cells = (
        f"{megabytes:,} MB at {rate:g} MB/s, store {store}",
        str(rounds),
        f"{fetched:.1f}",
        f"{apart:.1f}",
        f"{together:.1f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    )
    print("|", " | ".join(cells), "|", flush=True)


def forget(stack: RunningStack) -> None:
    """Take all raw bytes out of the store."""

    async def gone() -> None:
        objects = stack.objects()
        keys = [info.key async for info in objects.listing(storage.RAW, "objects/")]
        await objects.delete(storage.RAW, keys)

    asyncio.run(gone())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rate", type=float, action="append", help="MB/s of the archive's line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=["file", "s3"], default="file")
    chosen = parser.parse_args()
    print("|", " | ".join(COLUMNS), "|")
    print("|" + "---|" * len(COLUMNS))
    for rate in chosen.rate or [20.0, 60.0]:
        measure(chosen.megabytes, rate, chosen.rounds, chosen.store)
    return 0


if __name__ == "__main__":
    os.environ.setdefault("NO_PROXY", "127.0.0.1")
    sys.exit(main())
