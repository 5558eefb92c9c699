"""The routes, over a real connection."""

import csv
import io
import json
from contextlib import asynccontextmanager

import httpx
import pytest

from cataloger.api.rest import build
from cataloger.api.tables import COLUMNS
from cataloger.database import Database
from cataloger.feed import Feed
from cataloger.intake import Intake
from cataloger.queries import Catalog
from cataloger.removal import Removals
from cataloger.testing_builders import JOB, a_record, a_status, at, fact_of, store_commit, store_tombstone
from emporter_contracts import storage
from emporter_contracts.events import VolumeComplete
from emporter_runtime.errors import StoreUnavailableError
from emporter_runtime.health import serving
from emporter_runtime.objects import Objects


class Served:
    """A catalog behind its routes."""

    def __init__(self, database: Database) -> None:
        self.objects = Objects.in_memory()
        self.feed = Feed()
        self.intake = Intake(database, self.objects, self.feed)
        self.catalog = Catalog(database, "http://catalog", "http://blocks")
        removals = Removals(database, self.objects, self.intake)
        checks = {"database": database.ready, "store": self.objects.ready}
        self.app = build(self.catalog, removals, self.feed, checks, keep_alive=0.05)

    async def finished(self, volume: str = JOB, job: str | None = None, **core) -> None:
        await store_commit(self.objects, a_record(volume, **core), job or volume)
        event = VolumeComplete(job=job or volume, revision=1, generation=1, volume=volume, digest="d")
        await self.intake.volume_complete(event, fact_of(event))

    async def stub(self, job: str, seconds: float = 0) -> None:
        status = a_status(job=job, created_at=at(seconds))
        await self.intake.state_changed(status, fact_of(status))

    @asynccontextmanager
    async def client(self):
        async with serving(self.app, "127.0.0.1", 0) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            yield client


@pytest.fixture
async def served(sqlite):
    return Served(sqlite)


@pytest.fixture
async def client(served):
    async with served.client() as client:
        yield client


def is_problem(response: httpx.Response, status: int, code: str) -> bool:
    body = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert body["hint"], body
    return (response.status_code, body["status"], body["code"]) == (status, status, code)


async def test_volumes_are_listed_in_pages(served, client):
    for n in range(5):
        await served.stub(f"epfl-v{n}")
    first = (await client.get("/v1/volumes", params={"limit": 3, "sort": "id"})).json()
    second = (await client.get("/v1/volumes", params={"limit": 3, "sort": "id", "cursor": first["cursor"]})).json()
    assert [v["volume"] for v in first["items"] + second["items"]] == [f"epfl-v{n}" for n in range(5)]
    assert second["cursor"] is None


async def test_a_list_is_narrowed_by_every_filter(served, client):
    await served.finished("epfl-fine", voxel_size_nm=(4.0, 4.0, 4.0))
    await served.finished("idr-coarse", voxel_size_nm=(50.0, 8.0, 8.0), modality="SBF-SEM")
    await served.stub("idr-pending")
    for query, expected in {
        "q=coarse": ["idr-coarse"],
        "source=idr&status=complete": ["idr-coarse"],
        "modality=SBF-SEM": ["idr-coarse"],
        "max_voxel_nm=4": ["epfl-fine"],
        "status=pending": ["idr-pending"],
    }.items():
        items = (await client.get(f"/v1/volumes?{query}")).json()["items"]
        assert [v["volume"] for v in items] == expected, query


async def test_a_volume_is_its_record_with_links_to_this_very_revision(served, client):
    await served.finished()
    response = await client.get(f"/v1/volumes/{JOB}")
    body = response.json()
    stored = json.loads(await served.objects.get(storage.VOLUMES, storage.record(JOB, 1)))
    assert {name: body[name] for name in stored} == stored
    assert response.headers["X-Emporter-Revision"] == "1"
    assert body["links"]["blocks"] == f"http://blocks/v1/volumes/{JOB}@r1"
    assert (await client.get(f"/v1/volumes/{JOB}@r1")).json() == body


@pytest.mark.parametrize(
    "path", ["/v1/volumes/epfl-none", "/v1/volumes/epfl-none/events", "/v1/jobs/none", "/v1/jobs/none/stream", "/v2"]
)
async def test_what_is_not_there_is_a_problem_with_a_hint(client, path):
    assert is_problem(await client.get(path), 404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/volumes?limit=0", "/v1/volumes?limit=1001", "/v1/volumes?limit=many", "/v1/volumes?max_voxel_nm=-1",
        "/v1/volumes?max_voxel_nm=nan", "/v1/volumes?sort=colour", "/v1/volumes?status=done", "/v1/volumes?cursor=%00",
        "/v1/volumes?cursor=e30", "/v1/jobs?state=removed", "/v1/volumes/NO%20VOLUME", "/v1/volumes/a@r0",
    ],
)  # fmt: skip
async def test_what_makes_no_sense_is_a_problem_with_a_hint(client, path):
    assert is_problem(await client.get(path), 400, "invalid_request")


async def test_a_method_no_route_has_is_refused(client):
    assert is_problem(await client.put("/v1/volumes"), 405, "method_not_allowed")


async def test_a_removed_volume_is_marked_as_soon_as_somebody_looks(served, client):
    await served.finished()
    await store_tombstone(served.objects, JOB)
    body = (await client.get(f"/v1/volumes/{JOB}")).json()
    assert body["removed"] is True
    [row] = (await client.get("/v1/volumes")).json()["items"]
    assert row["status"] == "removed"


async def test_a_record_is_served_while_the_store_is_down(served, client, monkeypatch):
    await served.finished()

    async def down(*_):
        raise StoreUnavailableError("down")

    monkeypatch.setattr(served.objects, "names", down)
    assert (await client.get(f"/v1/volumes/{JOB}")).status_code == 200


async def test_jobs_and_their_states(served, client):
    await served.stub("epfl-a", 1)
    await served.stub("idr-b", 2)
    assert [j["job"] for j in (await client.get("/v1/jobs")).json()["items"]] == ["idr-b", "epfl-a"]
    assert [j["job"] for j in (await client.get("/v1/jobs?state=pending&source=epfl")).json()["items"]] == ["epfl-a"]
    assert (await client.get("/v1/jobs/idr-b")).json()["state"] == "pending"


async def test_the_events_of_a_volume_are_told_in_pages(served, client):
    for version in range(1, 6):
        status = a_status("processing", version=version)
        await served.intake.state_changed(status, fact_of(status))
    first = (await client.get(f"/v1/volumes/{JOB}/events?limit=4")).json()
    second = (await client.get(f"/v1/volumes/{JOB}/events?limit=4&cursor={first['cursor']}")).json()
    assert [e["version"] for e in first["items"] + second["items"]] == [1, 2, 3, 4, 5]


async def test_the_csv_has_a_row_for_each_volume_and_is_safe_to_open_in_a_spreadsheet(served, client):
    await served.finished("epfl-a", description='=HYPERLINK("http://evil")\nsecond, line')
    await served.stub("epfl-b")
    response = await client.get("/v1/catalog.csv")
    rows = list(csv.DictReader(io.StringIO(response.text)))
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert tuple(rows[0]) == COLUMNS
    assert [r["volume"] for r in rows] == ["epfl-a", "epfl-b"]
    assert rows[0]["description"] == '\'=HYPERLINK("http://evil")\nsecond, line'
    assert (rows[0]["shape_z"], rows[0]["voxel_nm_x"], rows[0]["valid"]) == ("165", "5.0", "yes")
    assert (rows[1]["shape_z"], rows[1]["voxel_nm_x"], rows[1]["valid"]) == ("", "", "yes")


async def test_the_json_table_reports_which_records_their_schema_finds_fault_with(served, client):
    await served.finished("epfl-good")
    body = json.loads(a_record("epfl-bad").model_dump_json()) | {"updated_at": "2024-05-01 12:00:00"}
    await served.objects.put(storage.VOLUMES, storage.record("epfl-bad", 1), json.dumps(body).encode())
    event = VolumeComplete(job="epfl-bad", revision=1, generation=1, volume="epfl-bad", digest="d")
    await served.intake.volume_complete(event, fact_of(event))
    table = (await client.get("/v1/catalog.json")).json()
    assert {v["volume"]: v["valid"] for v in table["volumes"]} == {"epfl-good": True, "epfl-bad": False}
    assert table["count"] == 2
    report = table["validation"]
    assert (report["checked"], report["valid"]) == (2, 1)
    assert report["schema"].endswith("metadata-record-2.0.json")
    [invalid] = report["invalid"]
    assert (invalid["volume"], invalid["revision"]) == ("epfl-bad", 1)
    assert "$.updated_at" in invalid["problems"][0]


async def test_an_empty_catalog_has_an_empty_table(client):
    assert (await client.get("/v1/catalog.json")).json()["volumes"] == []
    assert len((await client.get("/v1/catalog.csv")).text.splitlines()) == 1


async def test_a_page_of_another_origin_may_read(client):
    response = await client.get("/v1/volumes", headers={"Origin": "http://viewer.example"})
    assert response.headers["access-control-allow-origin"] == "*"
    preflight = {"Origin": "http://viewer.example", "Access-Control-Request-Method": "DELETE"}
    assert (await client.options("/v1/volumes", headers=preflight)).status_code == 400


async def test_health_metrics_and_the_description_of_the_routes(client):
    assert (await client.get("/healthz")).status_code == 200
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["checks"]) == (200, {"database": True, "store": True})
    assert "process_cpu_seconds_total" in (await client.get("/metrics")).text
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert {"/v1/volumes", "/v1/volumes/{volume}", "/v1/jobs/{job}/stream", "/v1/catalog.csv"} <= set(paths)
