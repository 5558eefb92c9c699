from __future__ import annotations

from pathlib import Path

import pytest

from emporter_contracts.records import Core
from emporter_contracts.topology import SOURCES
from fetcher import fields

DOCUMENT = Path(__file__).parents[3] / "docs" / "METADATA_SUMMARY.md"


def test_the_document_is_the_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert fields.main(["--check", str(DOCUMENT)]) == 0
    other = tmp_path / "other.md"
    other.write_text(DOCUMENT.read_text().replace("angstrom", "micrometres"))
    assert fields.main(["--check", str(other)]) == 1
    assert "python -m fetcher.fields" in capsys.readouterr().err


def test_every_source_has_a_column_and_every_core_field_a_row() -> None:
    assert {source for column in fields.COLUMNS.values() for source in column} == set(SOURCES)
    assert set(fields.UNIQUE) == set(fields.WRONG) == set(fields.COLUMNS)
    rows = {name.strip().removeprefix("core.") for field in fields.COMMON for name in field.name.split(",")}
    assert set(Core.model_fields) <= rows
