"""A database server that goes away."""

import pytest
from httpx import AsyncClient

from cataloger.api.rest import build
from cataloger.database import Database, DatabaseUnavailableError, migrated
from cataloger.feed import Feed
from cataloger.intake import Intake
from cataloger.queries import Catalog
from cataloger.removal import Removals
from cataloger.testing import postgres_binaries, postgres_server
from cataloger.testing_builders import a_status, fact_of
from emporter_runtime.health import serving
from emporter_runtime.objects import Objects


@pytest.mark.skipif(postgres_binaries() is None, reason="no PostgreSQL server here (Debian: apt-get install postgresql)")
async def test_without_its_database_the_catalog_is_not_ready_answers_503_and_acknowledges_nothing():
    with postgres_server() as url:
        database = Database.open(f"{url}/postgres")
        await migrated(database)
        objects = Objects.in_memory()
        feed = Feed()
        intake = Intake(database, objects, feed)
        app = build(Catalog(database), Removals(database, objects, intake), feed, {"database": database.ready}, 15)
        await intake.state_changed(a_status(), fact_of(a_status()))
        server = serving(app, "127.0.0.1", 0)
        port = await server.__aenter__()
    async with AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        response = await client.get("/v1/volumes")
        assert (response.status_code, response.json()["code"]) == (503, "catalog_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.get("/healthz")).status_code == 200
    with pytest.raises(DatabaseUnavailableError):
        await intake.state_changed(a_status("processing", version=2), fact_of(a_status("processing", version=2)))
    await server.__aexit__(None, None, None)
    await database.close()
