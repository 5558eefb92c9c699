"""GraphQL: the same answers as REST, and no document that asks for more than a catalog should give."""

import pytest
from sqlalchemy import event

from cataloger.api import graphql
from cataloger.api.graphql import answer, schema
from cataloger.api.graphql_limits import MAX_COST, check
from cataloger.errors import InvalidQueryError
from cataloger.testing_builders import JOB, a_status, at, fact_of
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery


class GraphqlSuite:
    async def ask(self, world: World, query: str, **variables) -> dict:
        return await answer(world.catalog, {"query": query, "variables": variables})

    async def test_a_volume_is_told_with_its_job_record_labels_and_events(self, world):
        await world.hear(a_status(), await world.finished())
        await world.hear(await world.finished("epfl-labels", job="epfl-labels", labels_of=JOB))
        query = """query ($id: ID!) { volume(id: $id) { id shape voxel_size_nm bytes record job { state status }
            labels { id image { id } } events { type } lineage } }"""
        volume = (await self.ask(world, query, id=JOB))["data"]["volume"]
        row = await world.row()
        assert (volume["id"], volume["shape"], volume["bytes"]) == (JOB, row["shape"], str(row["bytes"]))
        assert volume["record"]["metadata"]["technical"]["sha256"] == "ab" * 32
        assert (volume["job"]["state"], len(volume["events"])) == ("pending", 2)
        assert volume["labels"] == [{"id": "epfl-labels", "image": {"id": JOB}}]

    async def test_labels_of_one_revision_of_an_image_are_labels_of_that_image_and_of_no_other(self, world):
        await world.hear(await world.finished())
        await world.hear(await world.finished("epfl-labels", job="epfl-labels", labels_of=f"{JOB}@r1"))
        await world.hear(await world.finished("epfl-longer", job="epfl-longer", labels_of=f"{JOB}-b@r1"))
        query = "query ($id: ID!) { volume(id: $id) { labels { id image { id } } } }"
        found = (await self.ask(world, query, id=JOB))["data"]["volume"]["labels"]
        assert found == [{"id": "epfl-labels", "image": {"id": JOB}}]

    async def test_a_list_is_filtered_and_paged_as_everywhere(self, world):
        for n in range(5):
            await world.hear(await world.finished(f"epfl-{n}", job=f"epfl-{n}", voxel_size_nm=(n + 1.0, 4.0, 4.0)))
        query = """query ($after: String) { volumes(filter: {q: "hippocampus", ranges: [{name: "voxel_nm_z", within: "2.."}],
            where: ["metadata.core.axes=zyx"]}, sort: "id", first: 3, after: $after) { items { id } cursor } }"""
        first = (await self.ask(world, query))["data"]["volumes"]
        second = (await self.ask(world, query, after=first["cursor"]))["data"]["volumes"]
        assert [v["id"] for v in first["items"] + second["items"]] == [f"epfl-{n}" for n in range(1, 5)]
        assert second["cursor"] is None

    async def test_jobs_and_facets(self, world):
        await world.hear(a_status("failed"))
        found = (await self.ask(world, '{ jobs(state: "failed") { items { id } } job(id: "no") { id } facets }'))["data"]
        assert (found["jobs"]["items"], found["job"]) == ([{"id": JOB}], None)
        assert found["facets"] == await world.catalog.facets(CatalogQuery())

    @pytest.mark.parametrize(
        ("fields", "statements"),
        [("record job { state } labels { id }", 4), ("events { type }", 2), ("labels { events { type } }", 3)],
    )
    async def test_a_page_of_volumes_costs_one_statement_for_each_kind_of_thing_that_hangs_on_them(
        self, world, fields, statements
    ):
        for n in range(6):
            await world.hear(await world.finished(f"epfl-{n}", job=f"epfl-{n}", labels_of=f"epfl-{n - 1}" if n else None))
        sent = []
        engine = world.database._engine.sync_engine
        event.listen(engine, "before_cursor_execute", lambda *a: sent.append(a[2]))
        found = await self.ask(world, "{ volumes(first: 6) { items { id " + fields + " } } }")
        assert len(found["data"]["volumes"]["items"]) == 6
        assert len([s for s in sent if s.lstrip().startswith("SELECT")]) == statements

    async def test_events_in_a_list_are_those_each_volume_has_alone(self, world):
        await world.hear(*(a_status(version=n, updated_at=at(n)) for n in range(1, 5)))
        await world.hear(await world.planned(f"{JOB}--a", f"{JOB}--b"))
        for n, part in enumerate("ab"):
            await world.intake.listed(fact_of(await world.finished(f"{JOB}--{part}", job=JOB), seconds=n))
        page = (await self.ask(world, '{ volumes(sort: "id") { items { id some: events(first: 2) { id } events { id } } } }'))[
            "data"
        ]
        assert [v["id"] for v in page["volumes"]["items"]] == [f"{JOB}--a", f"{JOB}--b"]
        for volume in page["volumes"]["items"]:
            alone = [e["id"] for e in await world.history(volume["id"])]
            assert len(alone) > 4
            assert [e["id"] for e in volume["events"]] == alone
            assert [e["id"] for e in volume["some"]] == alone[:2]

    async def test_an_image_with_many_labels_takes_none_from_another(self, world, monkeypatch):
        monkeypatch.setattr("cataloger.batches.LABELS", 2)
        for image in "ab":
            await world.hear(await world.finished(f"epfl-{image}", job=f"epfl-{image}"))
        for n in range(5):
            await world.hear(await world.finished(f"epfl-l{n}", job=f"epfl-l{n}", labels_of="epfl-a" if n < 4 else "epfl-b"))
        query = '{ a: volume(id: "epfl-a") { labels { id } } b: volume(id: "epfl-b") { labels { id } } }'
        found = (await self.ask(world, query))["data"]
        assert [len(found[image]["labels"]) for image in "ab"] == [2, 1]

    @pytest.mark.parametrize(
        "query",
        [
            '{ volumes(sort: "colour") { items { id } } }', "{ volumes(first: 0) { items { id } } }", '{ volume(id: "NO") { id } }',
            "{ raw }", "{ nothing }", '{ volumes(after: "x") { items { id } } }', '{ volumes(filter: {source: "\\u0000"}) { items { id } } }',
        ],
    )  # fmt: skip
    async def test_what_makes_no_sense_is_an_error_with_code_and_hint(self, world, query):
        errors = (await self.ask(world, query))["errors"]
        assert errors[0]["extensions"]["code"] == "invalid_request"
        assert errors[0]["extensions"]["hint"]

    async def test_a_fault_of_ours_is_not_told_in_detail(self, world, monkeypatch):
        async def broken(*_):
            raise RuntimeError("secret")

        monkeypatch.setattr(world.catalog, "facets", broken)
        found = await self.ask(world, "{ facets }")
        assert "secret" not in str(found)
        assert found["errors"][0]["extensions"]["code"] == "internal"

    async def test_introspection_is_answered(self, world):
        from graphql import get_introspection_query

        assert (await self.ask(world, get_introspection_query()))["data"]["__schema"]["queryType"]["name"] == "Query"


class TestGraphqlOnSqlite(OnSqlite, GraphqlSuite):
    pass


class TestGraphqlOnPostgres(OnPostgres, GraphqlSuite):
    pass


def deep(levels: int) -> str:
    return '{ volume(id: "a") { ' + "labels(first: 1) { " * levels + "id" + " }" * levels + " } }"


DOUBLING = (
    "{ ...f0 } "
    + " ".join(f"fragment f{n} on Query {{ ...f{n + 1} ...f{n + 1} }}" for n in range(40))
    + " fragment f40 on Query { facets }"
)


@pytest.mark.parametrize(
    "query",
    [
        deep(10),
        deep(5000),
        "{ volumes(first: 1000) { items { labels(first: 100) { id } } } }",
        "{ volumes { items { labels { labels { labels { id } } } } } }",
        "{" + " ".join(f"a{n}: facets" for n in range(50)) + "}",
        DOUBLING,
        "{ ...a } fragment a on Query { ...b } fragment b on Query { ...a }",
        "{ ...a } fragment a on Query { ...a }",
        "query ($n: Int!) { volumes(first: $n) { items { id labels { id } } } }",
        "{ " + "volumes { items { id } } " * 2000 + "}",
        "{",
        "",
        "{ volumes(first: 99999999999999999999) { items { id } } }",
        "{ volumes(first: 1) { items { lineage } } }",
        '{ volume(id: "a") { labels { ...f } } } fragment f on Volume { image { lineage } }',
        "query ($k: Int = 1000) { volumes(first: $k) { items { id labels(first: $k) { id } } } }",
        "[" * 100_000,
    ],
)
def test_a_document_that_asks_for_too_much_is_refused_before_anything_is_read(query):
    with pytest.raises(InvalidQueryError) as refused:
        check(query, {"n": 100_000})
    assert refused.value.hint


def test_a_full_page_with_all_its_fields_is_allowed():
    check("{ volumes(first: 1000) { items { id shape dtype modality links bytes job { state } } cursor } }", {})
    assert MAX_COST == 20_000


def test_the_schema_in_the_checkout_is_the_codes_own():
    assert graphql.main(["--check"]) == 0


def test_a_schema_that_differs_is_told(tmp_path, capsys):
    stale = tmp_path / "catalog.graphql"
    stale.write_text("type Query { nothing: Int }")
    assert graphql.main(["--check", "--to", str(stale)]) == 1
    assert "catalog.graphql" in capsys.readouterr().err
    assert graphql.main(["--to", str(stale)]) == 0
    assert stale.read_text() == schema.as_str() + "\n"
