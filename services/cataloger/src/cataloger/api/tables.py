"""The consolidated table of all volumes, with what their schema has against them: as CSV and as JSON, streamed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from cataloger.queries import Catalog, Document
from cataloger.validation import schema_id

COLUMNS = (
    "volume", "revision", "status", "source", "source_id", "description", "role", "modality", "dtype",
    "shape_z", "shape_y", "shape_x", "voxel_nm_z", "voxel_nm_y", "voxel_nm_x", "levels", "bytes", "stored_bytes", "sha256",
    "licence", "citation", "caveats", "verdict", "held", "created_at", "updated_at", "valid", "problems",
)  # fmt: skip
"""Of the CSV. A field holds nothing where the value is not known."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a text for a formula; an archive's description may begin with it."""


async def csv_lines(catalog: Catalog) -> AsyncIterator[str]:
    """The table as CSV (RFC 4180), UTF-8, a header first."""
    yield _line(list(COLUMNS))
    async for row, problems in catalog.table():
        yield _line([_cell(value) for value in _flat(row, problems).values()])


async def json_parts(catalog: Catalog) -> AsyncIterator[str]:
    """The table as one JSON object: `volumes`, then `validation` with every record that is not valid."""
    yield f'{{"generated_at": "{datetime.now(UTC).isoformat(timespec="seconds")}", "volumes": ['
    count, invalid = 0, []
    async for row, problems in catalog.table():
        yield (",\n" if count else "\n") + json.dumps({**row, "valid": not problems})
        count += 1
        if problems:
            invalid.append({"volume": row["volume"], "revision": row["revision"], "problems": problems})
    report = {"schema": schema_id(), "checked": count, "valid": count - len(invalid), "invalid": invalid}
    yield f'], "count": {count}, "validation": {json.dumps(report)}}}\n'


def _flat(row: Document, problems: list[str]) -> dict[str, Any]:
    """A row in the order of COLUMNS."""
    shape = row["shape"] or [None] * 3
    spread = {f"shape_{a}": n for a, n in zip("zyx", shape, strict=True)}
    spread |= {f"voxel_nm_{a}": n for a, n in zip("zyx", row["voxel_size_nm"], strict=True)}
    lists = {"citation": " | ".join(row["citation"]), "caveats": " ".join(row["caveats"]), "problems": " | ".join(problems)}
    said = {"held": _yes(row.get("held") is True), "valid": _yes(not problems)}
    values = {**row, **spread, **lists, **said}
    return {name: values[name] for name in COLUMNS}


def _yes(said: bool) -> str:
    return "yes" if said else "no"


def _cell(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(FORMULA):
        return "'" + value
    return "" if value is None else value


def _line(cells: list[Any]) -> str:
    text = io.StringIO()
    csv.writer(text).writerow(cells)
    return text.getvalue()
