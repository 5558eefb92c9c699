"""The catalog as a Parquet file (the extra `emporter[parquet]`): typed columns, some thousand volumes in memory at once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

from emporter.errors import MistakeError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:
    raise MistakeError("a Parquet file needs pyarrow", hint="pip install 'emporter[parquet]', or --format csv") from error

ROWS = 10_000
"""Of one row group."""
MAX_INT64 = 2**63 - 1
TIME = pa.timestamp("us", tz="UTC")
WORDS = pa.list_(pa.string())
TYPES = {
    pa.string(): (
        "volume",
        "status",
        "source",
        "source_id",
        "description",
        "role",
        "modality",
        "organism",
        "dtype",
        "sha256",
        "licence",
        "verdict",
    ),
    pa.int64(): ("shape_z", "shape_y", "shape_x", "bytes", "stored_bytes"),
    pa.float64(): ("voxel_nm_z", "voxel_nm_y", "voxel_nm_x"),
    pa.int32(): ("revision", "levels"),
    WORDS: ("citation", "caveats"),
    pa.map_(pa.string(), pa.string()): ("annotations",),
    TIME: ("created_at", "updated_at"),
    pa.bool_(): ("valid", "held"),
}
SCHEMA = pa.schema([(name, kind) for kind, names in TYPES.items() for name in names])
"""Shape in voxels, voxel size in nm, by axis; bytes of the level-0 voxels. What is not known is null."""
_decoder = json.JSONDecoder()


async def write_table(pieces: AsyncIterator[bytes], output: Path) -> int:
    """The catalog's JSON table, as it comes, as a Parquet file; how many volumes. `output` is there only when it is whole."""
    unfinished = output.with_name(output.name + ".part")
    rows: list[dict[str, Any]] = []
    count = 0
    try:
        with pq.ParquetWriter(unfinished, SCHEMA, compression="zstd") as writer:
            async for volume in volumes(pieces):
                rows.append(row(volume))
                count += 1
                if len(rows) == ROWS:
                    writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                    rows.clear()
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return count


async def volumes(pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """The volumes of the JSON table, which holds each in a line of its own. Raises MistakeError where it was cut off."""
    held, whole = b"", False
    async for piece in pieces:
        held += piece
        *lines, held = held.split(b"\n")
        for line in lines:
            text = line.decode()
            if text.startswith('{"generated_at"'):
                whole = '"volumes": []' in text
                continue
            found, end = _decoder.raw_decode(text)
            whole = text.startswith("]", end)
            yield found
    if not whole:
        raise MistakeError("the catalog's table was cut off", hint="try again")


def row(volume: dict[str, Any]) -> dict[str, Any]:
    """One volume of the JSON table, by column."""
    values = {name: volume.get(name) for name in SCHEMA.names}
    values |= {f"shape_{a}": n for a, n in zip("zyx", volume["shape"] or [None] * 3, strict=True)}
    values |= {f"voxel_nm_{a}": n for a, n in zip("zyx", volume["voxel_size_nm"], strict=True)}
    values |= {name: _whole(volume[name]) for name in ("bytes", "stored_bytes")}
    values |= {name: datetime.fromisoformat(volume[name]) for name in ("created_at", "updated_at")}
    return values | {"annotations": list((volume.get("annotations") or {}).items())}


def _whole(size: int | str | None) -> int | None:
    """Integers past 2^53 come as text; past 2^63 no column holds them."""
    number = None if size is None else int(size)
    return number if number is not None and number <= MAX_INT64 else None
