"""The exported schemas are the models', and hold for what we write."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from emporter_contracts import commands, events, export, plans, records
from emporter_contracts.ids import record_uuid
from emporter_contracts.plans import Caveat, Licence, ManifestObject, Segments

COMMITTED = Path(__file__).parents[1] / "schemas"


def a_record() -> records.MetadataRecord:
    """With every part filled, and every way to say that something is not known."""
    raw = ManifestObject(
        path="a.tif", url="https://archive.example/a.tif", location=Segments(origin="o"), bytes=10, sha256="ab" * 32, version="1"
    )
    level = records.LevelRecord(
        shape=(2, 3, 4), chunk=(2, 3, 4), shard=(2, 3, 4), scale=(1.0, 8.0, 8.0), translation=(0.0, 0.0, 0.0)
    )
    statistics = records.Statistics(
        minimum=0, maximum=str(2**63), mean=1.5, std=None, edges=(0.0, 1.0), histogram=(24,), window=(0, None)
    )
    return records.MetadataRecord(
        id=record_uuid("epfl-a"),
        volume="epfl-a",
        revision=1,
        source="epfl",
        source_id="a",
        status="complete",
        created_at=datetime(2024, 5, 1, tzinfo=UTC),
        updated_at=datetime(2024, 5, 1, 0, 0, 0, 5, tzinfo=UTC),
        metadata=records.Metadata(
            core=records.Core(volume_shape=(2, 3, 4), voxel_size_nm=(None, 8.0, 8.0), data_type="uint64"),
            technical=records.Technical(sha256="ab" * 32, file_size_bytes=str(2**60), levels=(level,), statistics=statistics),
            provenance=records.Provenance(objects=(raw,)),
        ),
        licence=Licence(spdx="CC0-1.0", known=True),
        caveats=(Caveat(code="voxel_size_unknown", evidence="no spacing in the header"),),
        additional_metadata={"epfl_metadata": {"organism": "mouse", "pages": [1, None, 2.5]}},
    )


def violations(body: dict) -> list[str]:
    schema = json.loads((COMMITTED / "metadata-record-2.0.json").read_text())
    Draft202012Validator.check_schema(schema)
    return [
        e.json_path for e in Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).iter_errors(body)
    ]


def test_the_committed_schemas_are_those_of_the_models():
    assert export.differing(COMMITTED) == [], "run `python -m emporter_contracts.export`"


def test_a_record_as_we_write_it_is_valid_formats_included():
    assert violations(json.loads(a_record().model_dump_json())) == []


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        ("id", "not-a-uuid"),
        ("created_at", "yesterday"),
        ("created_at", "2024-05-01 12:00:00"),
        ("status", "done"),
        ("revision", "one"),
    ],
)
def test_a_record_that_says_nonsense_is_not_valid(place, wrong):
    body = json.loads(a_record().model_dump_json()) | {place: wrong}
    assert violations(body) == [f"$.{place}"]


def test_a_shape_of_two_axes_is_not_valid():
    body = json.loads(a_record().model_dump_json())
    body["metadata"]["core"]["volume_shape"] = [3, 4]
    assert violations(body) == ["$.metadata.core.volume_shape"]


@pytest.mark.parametrize("model", [*export.READ, *export.WRITTEN], ids=export.schema_name)
def test_every_schema_is_one_and_knows_its_name(model):
    schema = json.loads((COMMITTED / export.schema_name(model)).read_text())
    Draft202012Validator.check_schema(schema)
    assert schema["$id"].endswith("/" + export.schema_name(model))


@pytest.mark.parametrize("base", [commands.JobCommand, events.RunEvent])
def test_every_command_and_event_about_a_run_is_exported(base):
    assert set(base.__subclasses__()) <= {*export.READ, *export.WRITTEN}


def test_everything_a_run_stores_is_exported():
    stored = {plans.FetchPlan, plans.Manifest, plans.ConversionPlan, plans.StoredRequest, plans.Commit, plans.Tombstone}
    assert stored <= set(export.WRITTEN)


def test_check_names_what_differs_is_missing_or_belongs_to_no_model(tmp_path):
    export.write(tmp_path)
    (tmp_path / "refusal.json").write_text("{}")
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "stray.json").write_text("{}")
    done = subprocess.run(
        [sys.executable, "-m", "emporter_contracts.export", "--check", "--to", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stderr.splitlines()] == ["manifest.json", "refusal.json", "stray.json"]


def test_export_mends_what_check_names(tmp_path):
    export.write(tmp_path)
    (tmp_path / "stray.json").write_text("{}")
    assert export.main(["--to", str(tmp_path)]) == 0
    assert export.main(["--check", "--to", str(tmp_path)]) == 0


def test_what_an_archive_said_becomes_json_every_reader_takes():
    said = {
        1: float("nan"),
        "big": 2**60,
        "deep": [(1, float("inf")), {"b": b"x"}],
        "bad\ud800": "\udc80",
        "ok": True,
        "none": None,
    }
    safe = records.json_safe(said)
    assert safe == {
        "1": None,
        "big": str(2**60),
        "deep": [[1, None], {"b": "b'x'"}],
        "bad\ufffd": "\ufffd",
        "ok": True,
        "none": None,
    }
    plans.FetchPlan.model_validate_json(
        plans.FetchPlan(
            job="j", revision=1, source="s", source_id="i", objects=(), volumes=(), archive=safe, planned_at=datetime.now(UTC)
        ).model_dump_json()
    )
