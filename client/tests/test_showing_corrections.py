"""`emporter show` says what was corrected: by whom, when and why, from what to what."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from emporter.cli import setting
from emporter.cli.catalog import _describe
from emporter.cli.corrections import corrections
from emporter.cli.main import run
from emporter_contracts.ids import record_uuid
from emporter_contracts.jobs import JobState
from emporter_contracts.records import Metadata, MetadataRecord, Provenance
from emporter_contracts.revisions import Correction, Revised

AT = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def shown(*made: Correction, revision: int = 3) -> dict[str, Any]:
    """A record as the catalog gives it."""
    record = MetadataRecord(
        id=record_uuid("epfl-brain"), volume="epfl-brain", revision=revision, source="epfl", source_id="brain",
        status=JobState.COMPLETE, created_at=AT, updated_at=AT, metadata=Metadata(provenance=Provenance(corrections=made)),
    )  # fmt: skip
    return {**record.model_dump(mode="json"), "held": False, "links": {}}


FIRST = Correction(
    revises=1, arrays=1, by="ada", reason="the stage was calibrated", at=AT,
    before={"voxel_size_nm": {"nm": [50.0, 8.0, None], "said_by": ["file", "file", None]}, "offset_nm": [0.0, 0.0, 0.0]},
    after={"voxel_size_nm": {"nm": [40.0, 4.0, 4.5], "said_by": ["user"] * 3}, "offset_nm": [80.0, 0.0, 0.0]},
)  # fmt: skip
SECOND = Correction(
    revises=2, arrays=1, by="grace", at=AT,
    before={"licence": {"spdx": None, "url": None, "text": None, "known": False}, "citation": [], "description": "a\nbrain"},
    after={"licence": {"spdx": "CC-BY-4.0", "known": True}, "citation": ["Ada 2026", "Grace 2026"], "description": "x" * 500},
)  # fmt: skip


def test_each_correction_says_which_revision_it_made_by_whom_when_why_and_what_was_said_before() -> None:
    first, size, offset, second, licence, citation, description = corrections(shown(FIRST, SECOND))
    assert first == ("corrected", "r2 by ada, 2026-11-21 09:30 UTC: the stage was calibrated")
    assert size == ("", "voxel size: 50,8,? nm (said by file, nobody) → 40,4,4.5 nm (said by user)")
    assert offset == ("", "offset: 0,0,0 nm → 80,0,0 nm")
    assert second == ("corrected", "r3 by grace, 2026-11-21 09:30 UTC")
    assert licence == ("", "licence: unknown → CC-BY-4.0")
    assert citation == ("", "citation: nothing → Ada 2026; Grace 2026")
    assert description[1].startswith("description: a brain → xxx")
    assert len(description[1]) < 160


def test_show_prints_them_and_nothing_where_there_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    _describe(shown(FIRST, revision=2))
    printed = capsys.readouterr().out
    assert "r2 by ada" in printed
    assert "50,8,? nm (said by file, nobody) → 40,4,4.5 nm" in printed
    _describe(shown())
    assert "corrected" not in capsys.readouterr().out


def test_what_a_stranger_wrote_can_not_write_on_the_terminal() -> None:
    nasty = Correction(
        revises=1, arrays=1, by="a\x1b[31m", reason="b\x07\x9b", at=AT, before={"name": "\x1b]0;x"}, after={"name": "ok"}
    )
    assert all(line.isprintable() for pair in corrections(shown(nasty)) for line in pair)


def test_set_says_who_holds_what_it_made_and_how_that_is_released(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = Revised(volume="epfl-brain", revision=2, revises=1, held_by=("coarse", "lossy"))
    monkeypatch.setattr(setting, "with_client", lambda *_: made)
    assert run(["set", "epfl-brain", "--name", "x"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "epfl-brain@r2: the voxels of r1, corrected"
    assert second.startswith("held by coarse, lossy: ")
    assert "emporter release epfl-brain@r2" in second
