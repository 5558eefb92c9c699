"""Saying what data is for, and asking what the rules say of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import nats
import numpy as np
import pytest

import emporter
from block_server.testing import House, Made, house_on
from emporter.cli.catalog import _describe
from emporter.cli.main import run
from emporter.connection import connection_to
from emporter.errors import MistakeError, RefusedByServiceError
from emporter_contracts import subjects
from emporter_contracts.commands import Accepted, IngestRequest
from emporter_contracts.ids import record_uuid
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Licence
from emporter_contracts.policy import RuleDecision
from emporter_contracts.records import MetadataRecord
from emporter_runtime.testing import file_store
from emporter_runtime.testing_bus import provisioned

RULES = """
rules:
  - {name: research-only, at: [access], when: 'request.purpose != "research"', then: deny, status: 451}
  - {name: known-licence, at: [request, access], when: '!volume.licence_known', then: warn}
"""


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(RULES)
    return path


@pytest.fixture
def house(tmp_path: Path, policy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.delenv("EMPORTER_PURPOSE", raising=False)
    with house_on(file_store(tmp_path / "store"), policy=policy) as house:
        house.commit(Made(np.arange(512, dtype=np.uint8).reshape(8, 8, 8) % 251, "brain"))
        yield house


def test_a_client_that_says_a_purpose_reads_what_the_rules_open_for_it(house: House) -> None:
    with pytest.raises(RefusedByServiceError, match="research-only"):
        emporter.Client(house.url).volume("brain")
    volume = emporter.Client(house.url, purpose="research").volume("brain")
    assert volume[0:4, 0:4, 0:4].shape == (4, 4, 4)


async def test_the_asynchronous_client_says_it_too(house: House) -> None:
    async with emporter.AsyncClient(house.url, purpose="research") as client:
        assert (await client.block("brain", (0, 0, 0), (2, 2, 2))).shape == (2, 2, 2)


def test_the_environment_says_it_for_every_client(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPORTER_PURPOSE", "research")
    assert emporter.Client(house.url).volume("brain")[0, 0, 0] == 0
    with pytest.raises(RefusedByServiceError, match="research-only"):
        emporter.Client(house.url, purpose="sale").volume("brain")


@pytest.mark.parametrize("purpose", ["x" * 101, "zwei\nzeilen", "für später"])
def test_a_purpose_that_no_header_carries_is_a_mistake(purpose: str) -> None:
    with pytest.raises(MistakeError, match="purpose"):
        connection_to("http://127.0.0.1:1", purpose=purpose)


async def test_an_ingest_says_what_it_is_for_on_the_bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPORTER_PURPOSE", "training")
    async with provisioned(tmp_path) as (settings, _):
        monkeypatch.setenv("EMPORTER_NATS_URL", settings.nats_url)
        bus = await nats.connect(settings.nats_url)
        async with emporter.AsyncClient() as client:
            heard = await bus.subscribe(subjects.INGEST_REQUEST)
            await bus.flush()
            asking = asyncio.create_task(client.ingest(IngestRequest(source="url", source_id="http://x/y.tif")))
            sent = await heard.next_msg(timeout=30)
            assert sent.headers is not None
            assert sent.headers["Emporter-Purpose"] == "training"
            accepted = Accepted(job="j", revision=1, state="pending")
            await bus.publish(subjects.reply(sent.headers["Emporter-Reply-To"]), accepted.model_dump_json().encode())
            assert (await asking).job == "j"
        await bus.close()


def test_a_sound_file_is_said_to_be_sound(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["policy", "test", str(policy)]) == 0
    assert "2 rules" in capsys.readouterr().out


def test_a_faulty_file_is_one_line_with_line_and_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faulty = tmp_path / "faulty.yaml"
    faulty.write_text("rules:\n  - name: typo\n    at: [access]\n    when: requests.purpose == ''\n    then: deny\n")
    assert run(["policy", "test", str(faulty)]) == 2
    said = capsys.readouterr().err
    assert "faulty.yaml:4: rule typo: when: there is no variable requests" in said
    assert said.count("\n") == 1


def a_record(*decisions: RuleDecision) -> MetadataRecord:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return MetadataRecord(
        id=record_uuid("brain"), volume="brain", revision=1, source="url", source_id="x", status=JobState.COMPLETE, created_at=now,
        updated_at=now, licence=Licence(), decisions=decisions, embargo_until=now if decisions else None,
    )  # fmt: skip


def test_show_says_which_rule_holds_a_revision(capsys: pytest.CaptureFixture[str]) -> None:
    record = a_record(RuleDecision(rule="embargo", outcome="hold", message="until the paper is out"))
    _describe({**record.model_dump(mode="json"), "held": True, "annotations": {}, "links": {}})
    said = capsys.readouterr().out
    assert "held by rule embargo (emporter release brain@r1)" in said
    assert "hold by rule embargo: until the paper is out" in said
    assert "until 2026-01-01" in said


def test_a_file_is_asked_about_a_record(tmp_path: Path, policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "record.json"
    path.write_text(a_record().model_dump_json())
    assert run(["policy", "test", str(policy), "--record", str(path), "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert {(r["point"], r["rule"], r["outcome"]) for r in said["results"]} == {
        ("request", "known-licence", "warn"),
        ("access", "research-only", "deny"),
        ("access", "known-licence", "warn"),
    }
    assert run(["policy", "test", str(policy), "--record", str(path), "--purpose", "research", "--at", "2027-01-31"]) == 0
    assert run(["policy", "test", str(policy), "--record", str(path), "--at", "soon"]) == 2
