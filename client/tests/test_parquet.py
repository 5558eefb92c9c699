"""The catalog as a Parquet file."""

import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from emporter.errors import MistakeError

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from emporter.parquet import write_table

VOLUME = {
    "volume": "epfl-a", "revision": 2, "status": "complete", "source": "epfl", "source_id": "a", "description": "line\nand [brackets]",
    "role": "image", "modality": "FIB-SEM", "organism": None, "dtype": "uint8", "shape": [165, 768, 1024], "voxel_size_nm": [5.0, None, 5.0],
    "levels": 3, "bytes": "9007199254740993", "stored_bytes": 12, "sha256": "ab", "licence": "CC-BY-4.0", "citation": ["one", "two"],
    "caveats": [], "annotations": {"reviewed": "yes"}, "created_at": "2024-05-01T12:00:00Z", "updated_at": "2024-05-02T12:00:00.5Z", "valid": True,
    "verdict": "fail", "held": True,
}  # fmt: skip
STUB = {
    **VOLUME,
    "volume": "epfl-b",
    "shape": None,
    "voxel_size_nm": [None] * 3,
    "bytes": None,
    "stored_bytes": None,
    "annotations": {},
}


def table(*volumes: dict) -> str:
    """As the catalog writes it."""
    items = "".join((",\n" if n else "\n") + json.dumps(v) for n, v in enumerate(volumes))
    return f'{{"generated_at": "now", "volumes": [{items}], "count": {len(volumes)}, "validation": {{"invalid": []}}}}\n'


async def pieces(text: str, size: int = 7):
    body = text.encode()
    for start in range(0, len(body), size):
        yield body[start : start + size]


async def test_every_volume_is_a_row_with_typed_columns_and_null_for_what_is_not_known(tmp_path):
    assert await write_table(pieces(table(VOLUME, STUB)), tmp_path / "c.parquet") == 2
    first, second = pq.read_table(tmp_path / "c.parquet").to_pylist()
    assert (first["shape_z"], first["voxel_nm_y"], first["bytes"]) == (165, None, 9007199254740993)
    assert first["updated_at"] == datetime(2024, 5, 2, 12, 0, 0, 500_000, UTC)
    assert (first["citation"], first["annotations"], first["valid"]) == (["one", "two"], [("reviewed", "yes")], True)
    assert (first["verdict"], first["held"]) == ("fail", True)
    assert first["description"] == "line\nand [brackets]"
    assert (second["volume"], second["shape_z"], second["bytes"], second["annotations"]) == ("epfl-b", None, None, [])


async def test_an_empty_catalog_is_a_file_without_rows(tmp_path):
    assert await write_table(pieces(table()), tmp_path / "c.parquet") == 0
    assert pq.read_table(tmp_path / "c.parquet").num_rows == 0


async def test_a_table_that_was_cut_off_is_no_file(tmp_path):
    whole = table(VOLUME, STUB)
    for cut in (10, len(whole) // 2, whole.index("]", len(whole) - 80)):
        with pytest.raises(MistakeError):
            await write_table(pieces(whole[:cut]), tmp_path / "c.parquet")
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_a_user_is_told_what_to_install():
    words = ["catalog", "export", "--format", "parquet", "-o", "catalog.parquet"]
    code = f"import sys; sys.modules['pyarrow'] = None; from emporter.cli.main import run; sys.exit(run({words}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "emporter: a Parquet file needs pyarrow; pip install 'emporter[parquet]', or --format csv\n"


def test_parquet_wants_a_file():
    code = "import sys; from emporter.cli.main import run; sys.exit(run(['catalog', 'export', '--format', 'parquet']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "-o catalog.parquet" in done.stderr
