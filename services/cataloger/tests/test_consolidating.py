"""Metadata files of the tools before this project."""

import json
from datetime import UTC, datetime

import pytest

from cataloger.__main__ import main
from cataloger.citations import doi_in, items, written
from cataloger.consolidating import consolidate, write
from cataloger.curation import Curation
from cataloger.testing_builders import a_record
from cataloger.testing_world import World

V2 = {
    "id": "f3f4e4c2-0000-4000-8000-000000000000", "source": "idr", "source_id": "9846137", "status": "complete",
    "created_at": "2024-02-01T10:00:00", "updated_at": "2024-02-01T11:00:00Z",
    "metadata": {"core": {"description": "liver", "volume_shape": [10, 20, 30], "data_type": "uint8", "voxel_size_nm": [50, 8, 8]},
                 "technical": {"sha256": "ab" * 32, "file_size_bytes": 6000}, "provenance": {"download_url": "https://idr.example/1"}},
    "files": {"volume": "idr/1.npy", "raw": "idr/1.tif"}, "additional_metadata": {"pi": "X"},
}  # fmt: skip
OLD = {
    "source": "empiar", "source_id": "EMPIAR-11759", "description": "gastrula", "volume_shape": [184, 5500, 5500], "data_type": "int8",
    "voxel_size_nm": {"x": 8.0, "y": 8.0, "z": 50.0}, "local_paths": {"volume": "empiar/a.npy", "raw": None}, "timestamp": "20240301_120000",
    "status": "error: disk full", "sha256": "cd" * 32,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "idr").mkdir()
    (tmp_path / "idr" / "metadata_9846137.json").write_text(json.dumps(V2))
    (tmp_path / "metadata_old.json").write_text(json.dumps(OLD))
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "bad.json").write_text(json.dumps({**V2, "source_id": "bad", "metadata": {"core": {"volume_shape": "large"}}}))
    (tmp_path / "notes.json").write_text("[1, 2]")
    return tmp_path


def test_files_of_version_2_become_records(folder):
    found = consolidate(folder, legacy=False)
    [record] = found.records
    assert (record["volume"], record["status"], record["created_at"]) == ("idr-9846137", "complete", "2024-02-01T10:00:00Z")
    assert record["metadata"]["core"]["voxel_size_nm"] == [50.0, 8.0, 8.0]
    assert record["files"] == ["idr/1.npy", "idr/1.tif"]
    assert record["additional_metadata"] == {"pi": "X", "former_id": V2["id"]}
    assert {i["file"] for i in found.invalid} == {"broken.json", "bad.json"}
    assert {s["file"]: "legacy" in s["reason"] for s in found.skipped} == {"metadata_old.json": True, "notes.json": False}


def test_older_files_are_read_when_asked_for_and_keep_all_they_said(folder):
    record = next(r for r in consolidate(folder, legacy=True).records if r["source"] == "empiar")
    assert (record["volume"], record["status"]) == ("empiar-empiar-11759", "failed")
    assert record["metadata"]["core"]["voxel_size_nm"] == [50.0, 8.0, 8.0]
    assert (record["created_at"], record["files"]) == ("2024-03-01T12:00:00Z", ["empiar/a.npy"])
    assert record["additional_metadata"]["error"] == "disk full"
    assert record["additional_metadata"]["empiar_metadata"] == OLD


def test_an_old_voxel_size_without_axis_names_is_unknown(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**OLD, "voxel_size_nm": [8, 8, 50]}))
    [record] = consolidate(tmp_path, legacy=True).records
    assert record["metadata"]["core"]["voxel_size_nm"] == [None, None, None]


def test_of_a_volume_in_two_files_the_newest_counts(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({**V2, "updated_at": "2025-01-01T00:00:00Z", "citation": ["new"]}))
    (tmp_path / "b.json").write_text(json.dumps(V2))
    [record] = consolidate(tmp_path, legacy=False).records
    assert record["citation"] == ["new"]


def test_the_log_says_of_every_file_what_became_of_it(folder):
    log = consolidate(folder, legacy=False).log
    for name in ("broken.json", "bad.json", "metadata_old.json", "notes.json"):
        assert [line for line in log if f" {name}: " in line], name
    assert any("broken.json: invalid: can't be read" in line for line in log)
    assert any("metadata_old.json: skipped: older than 2.0" in line for line in log)


def test_catalog_report_and_log_are_written_and_not_read_again(folder):
    paths = write(consolidate(folder, legacy=True), folder, datetime(2024, 5, 1, 12, 0, tzinfo=UTC))
    assert [p.name for p in paths] == [
        "metadata_catalog_20240501_120000.json", "validation_report_20240501_120000.json", "consolidation_20240501_120000.log",
    ]  # fmt: skip
    assert json.loads(paths[0].read_text())["count"] == 2
    report = json.loads(paths[1].read_text())
    assert (report["checked"], report["valid"], len(report["invalid"])) == (4, 2, 2)
    assert "empiar-empiar-11759" in paths[2].read_text()
    assert len(consolidate(folder, legacy=True).records) == 2


async def test_what_was_consolidated_is_imported_once_and_found(sqlite, folder):
    world = World(sqlite)
    curation = Curation(world.database, world.objects)
    records = consolidate(folder, legacy=True).records
    assert [await curation.take(r) for r in records] == [True, True]
    assert [await curation.take(r) for r in records] == [True, True]
    assert [r["volume"] for r in await world.rows(q="gastrula")] == ["empiar-empiar-11759"]
    await world.hear(await world.finished("idr-9846137", job="idr-9846137"))
    assert await curation.take(next(r for r in records if r["source"] == "idr")) is False


def test_the_command_writes_where_it_is_told(folder, tmp_path, capsys):
    assert main(["consolidate", str(folder), "--legacy", "--output", str(tmp_path / "out")]) == 1
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert "2 of 4" in capsys.readouterr().out
    assert main(["consolidate", str(tmp_path / "nothing")]) == 2


def test_a_citation_is_the_dataset_and_each_publication_once():
    record = json.loads(a_record(description="50 % of {all} & more").model_dump_json())
    record["citation"] = [
        "Lucchi et al. 2013, doi:10.1109/TMI.2013.2241448.",
        "Lucchi et al. 2013,  doi:10.1109/TMI.2013.2241448.",
    ]
    entries = items([record])
    assert [e["type"] for e in entries] == ["dataset", "article-journal"]
    assert (entries[1]["DOI"], entries[1]["issued"]) == ("10.1109/TMI.2013.2241448", {"date-parts": [[2013]]})
    text = written(entries, "bibtex")
    assert r"50 \% of \{all\} \& more" in text
    assert "doi = {10.1109/TMI.2013.2241448}" in text
    assert json.loads(written(entries, "csl")) == entries
    assert doi_in("none here") is None
