"""Corrections in the catalog: on both databases what is shown is what a rebuild shows; over HTTP each refusal has its status."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from cataloger.api import corrections
from cataloger.api.guard import WriteGuard
from cataloger.api.rest import build
from cataloger.feed import Feed
from cataloger.rebuild import rebuild
from cataloger.revising import Corrections
from cataloger.testing_builders import JOB, a_record, a_status, at, store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.events import VolumeComplete
from emporter_contracts.ids import VolumeRef
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import StoredRequest
from emporter_contracts.revisions import Changes, Correction, Revised, ReviseVolume, Revising
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.runs import RunNote

RIGHT = (40.0, 4.0, 4.0)
REQUEST = IngestRequest(source="epfl", source_id="hippocampus")


async def a_correction(objects: Objects, revision: int = 2) -> VolumeComplete:
    """As the converter leaves it: the claim, the record, the commit; and what it says."""
    change = Revising(volume=JOB, revises=revision - 1, arrays=1, changes=Changes(voxel_size_nm=RIGHT), by="ada", at=at(20_000))
    claim = StoredRequest(request=REQUEST, event_id="x", received_at=at(20_000), revising=change)
    await objects.put(storage.RAW, storage.request(JOB, revision), json_bytes(claim))
    record = a_record(revision=revision, voxel_size_nm=RIGHT)
    correction = Correction(revises=revision - 1, arrays=1, by="ada", at=at(20_000), before={"voxel_size_nm": [5.0, 5.0, 5.0]})
    provenance = record.metadata.provenance.model_copy(update={"corrections": (correction,)})
    metadata = record.metadata.model_copy(update={"provenance": provenance})
    await store_commit(objects, record.model_copy(update={"metadata": metadata}))
    return VolumeComplete(job=JOB, revision=revision, generation=1, volume=JOB, digest="d" * 64)


async def a_run(world: World) -> list[Any]:
    """r1 in the store, complete; what was said of it."""
    claim = StoredRequest(request=REQUEST, event_id="1", received_at=at(0))
    await world.objects.put(storage.RAW, storage.request(JOB, 1), json_bytes(claim))
    for key, state in ((storage.generation, JobState.PENDING), (storage.generation_ended, JobState.COMPLETE)):
        note = RunNote(job=JOB, revision=1, generation=1, at=at(9), state=state)
        await world.objects.put(storage.RAW, key(JOB, 1, 1), json_bytes(note))
    return [a_status("processing"), await world.finished(), a_status("complete", version=9)]


async def shown(world: World) -> dict[str, Any]:
    job = await world.catalog.job(JOB)
    edges = (await world.catalog.lineage(VolumeRef(JOB, None)))["edges"]
    record = await world.record()
    return {
        "row": {k: v for k, v in (await world.row()).items() if k != "latest_run"},
        "voxel": record["metadata"]["core"]["voxel_size_nm"],
        "old": (await world.record(f"{JOB}@r1"))["metadata"]["core"]["voxel_size_nm"],
        "job": (job.revision, job.state),
        "edges": sorted((e["from"], e["to"], e["kind"]) for e in edges),
    }


class CorrectionSuite:
    async def test_the_row_shows_the_correction_and_the_job_stands_where_it_stood(self, world: World) -> None:
        await world.hear(*await a_run(world), await a_correction(world.objects))
        found = await shown(world)
        assert (found["voxel"], found["old"], found["job"]) == (list(RIGHT), [5.0, 5.0, 5.0], (1, "complete"))
        assert (found["row"]["revision"], found["row"]["status"]) == (2, "complete")
        assert (f"volume:{JOB}@r1", f"volume:{JOB}@r2", "corrected_as") in found["edges"]
        assert [r["volume"] for r in await world.rows(max_voxel_nm=40)] == [JOB]
        assert await world.rows(max_voxel_nm=10) == []

    async def test_heard_in_any_order_it_shows_the_same(self, world: World) -> None:
        running, finished, complete = await a_run(world)
        corrected = await a_correction(world.objects)
        await world.hear(corrected, complete, corrected, finished, running)
        assert (await shown(world))["job"] == (1, "complete")
        assert (await world.row())["revision"] == 2

    async def test_a_catalog_made_again_from_the_store_shows_the_same(self, world: World, other: World) -> None:
        await world.hear(*await a_run(world), await a_correction(world.objects), await a_correction(world.objects, 3))
        found = await rebuild(world.objects, other.database)
        assert (found.revisions, found.unreadable) == (3, 0)
        assert await shown(other) == await shown(world)


class TestCorrectionsOnSqlite(OnSqlite, CorrectionSuite):
    pass


class TestCorrectionsOnPostgres(OnPostgres, CorrectionSuite):
    pass


# -- over HTTP --


def served(world: World, answer: dict[str, Any], token: str = "") -> tuple[httpx.AsyncClient, list[ReviseVolume]]:
    asked: list[ReviseVolume] = []

    async def ask(command: ReviseVolume) -> bytes:
        asked.append(command)
        return json.dumps(answer).encode()

    routes = corrections.routes(Corrections(ask, world.objects, world.intake), WriteGuard(token, "127.0.0.1"))
    app: FastAPI = build(world.catalog, world.removals, Feed(), {}, 15.0, routes)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://catalog"), asked


async def test_whoever_is_told_of_a_revision_finds_it_in_the_catalog(sqlite) -> None:
    world = World(sqlite)
    await world.hear(*await a_run(world))
    await a_correction(world.objects)
    web, asked = served(world, Revised(volume=JOB, revision=2, revises=1).model_dump())
    answer = await web.post(f"/v1/volumes/{JOB}/revisions", json={"voxel_size_nm": RIGHT, "by": "ada"})
    assert (answer.status_code, answer.headers["location"]) == (201, f"/v1/volumes/{JOB}@r2")
    assert (asked[0].volume, asked[0].changes.voxel_size_nm, asked[0].by) == (JOB, RIGHT, "ada")
    assert (await world.row())["revision"] == 2


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("unknown_volume", 404), ("conflict", 409), ("running", 409), ("held", 409), ("removed", 409), ("read_in_place", 409),
        ("invalid_request", 400), ("internal", 503), ("transient", 503),
    ],
)  # fmt: skip
async def test_each_refusal_has_its_status_and_keeps_its_words(sqlite, code: str, status: int) -> None:
    web, _ = served(World(sqlite), {"code": code, "message": "no, because", "hint": "do that"})
    answer = await web.post(f"/v1/volumes/{JOB}/revisions", json={"name": "x"})
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert "no, because" in answer.text


@pytest.mark.parametrize(
    "body",
    [{}, {"by": "ada"}, {"voxel_size": [1, 1, 1]}, {"name": "x", "voxel_size": [1, 1, 1]}, {"voxel_size_nm": [0, 1, 1]}, {"voxel_size_nm": [1e9, 1, 1]}, {"citation": []},
     {"name": "a\nb"}, {"name": "\x00"}, {"licence": " "}, {"offset_nm": [1, 2]}, {"changes": {"name": "x"}}],
)  # fmt: skip
async def test_a_body_that_says_nothing_or_nonsense_asks_nobody(sqlite, body: dict[str, Any]) -> None:
    web, asked = served(World(sqlite), {})
    answer = await web.post(f"/v1/volumes/{JOB}/revisions", json=body)
    assert answer.status_code in {400, 422}
    assert answer.headers["content-type"] == "application/problem+json"
    assert asked == []


async def test_only_who_may_write_may_correct(sqlite) -> None:
    web, asked = served(World(sqlite), {}, token="s3cret")
    assert (await web.post(f"/v1/volumes/{JOB}/revisions", json={"name": "x"})).status_code == 401
    assert asked == []
