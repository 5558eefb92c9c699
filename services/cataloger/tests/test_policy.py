"""What rules decided, kept by the catalog: one suite on both databases, over HTTP, and as it comes from the bus."""

import asyncio
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from sqlalchemy import text

from cataloger.api import policy as routes
from cataloger.api.rest import build
from cataloger.facts import fact_of_decisions
from cataloger.handlers import read_event, register, take_event
from cataloger.policy import Policies, Wanted
from cataloger.rebuild import hear_again
from cataloger.testing_builders import JOB, a_record, store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from emporter_contracts.events import VolumeComplete, cloud_event
from emporter_contracts.ids import VolumeRef
from emporter_contracts.policy import PolicyDecided, RuleDecision
from emporter_runtime.bus import Bus, Delivery
from emporter_runtime.health import serving
from emporter_runtime.objects import Objects
from emporter_runtime.policy.documents import parse_document
from emporter_runtime.policy.facts import Asker
from emporter_runtime.policy.judging import Judgement, Policy
from emporter_runtime.policy.saying import say
from emporter_runtime.testing_bus import provisioned

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LAB = Policy(
    parse_document(
        """
name: lab
rules:
  - {name: purpose, at: [access, request], when: 'request.purpose == ""', then: deny, status: 451, message: say what for}
  - {name: embargo, at: [publication, access], when: 'embargo_until != null && now < embargo_until', then: deny}
retention:
  - {name: raw-90, what: raw, days: 90}
"""
    )
)


def decided(job=JOB, point="request", rule="purpose", seconds=0, revision=None, volume=None, **fields):
    known = {"source": "epfl", "source_id": "1", "policy": LAB.digest, "at": NOW + timedelta(seconds=seconds), **fields}
    said = (RuleDecision(rule=rule, outcome="deny", message="no"), RuleDecision(rule="other", outcome="warn", error="x"))
    return PolicyDecided(job=job, point=point, revision=revision, volume=volume, decisions=said, **known)


def delivered(event, identity):
    headers = cloud_event(event, event_id=identity, source="fetcher", subject=event.job)
    return Delivery(f"policy.decided.{event.job}", headers, event.model_dump_json().encode(), "EVENTS", 1)


class PolicySuite:
    @pytest.fixture
    def policies(self, world):
        return Policies(world.database, world.catalog, LAB, lambda: NOW)

    async def hear(self, world, event, identity):
        delivery = delivered(event, identity)
        await take_event(world.intake, read_event(delivery.body, delivery), delivery)

    async def test_decisions_are_kept_once_each_with_its_rule(self, world, policies):
        for _ in range(3):
            await self.hear(world, decided(purpose="sale"), "a")
        page = await policies.decisions(Wanted(), None, 100)
        assert [(d["rule"], d["outcome"], d["error"], d["purpose"]) for d in page.items] == [
            ("purpose", "deny", "", "sale"),
            ("other", "warn", "x", "sale"),
        ]
        assert page.cursor is None

    async def test_decisions_of_a_volume_are_its_own_and_those_of_its_job(self, world, policies):
        await self.hear(world, decided(), "request")
        await self.hear(world, decided(point="publication", revision=1, volume=f"{JOB}--a", seconds=1), "a")
        await self.hear(world, decided(point="publication", revision=1, volume=f"{JOB}--b", seconds=2), "b")
        await self.hear(world, decided(job="idr-1"), "c")
        page = await policies.decisions(Wanted(volume=f"{JOB}--a", rule="purpose"), None, 100)
        assert [(d["point"], d["volume"]) for d in page.items] == [("publication", f"{JOB}--a"), ("request", None)]
        assert len((await policies.decisions(Wanted(job="idr-1", outcome="deny"), None, 100)).items) == 1
        assert len((await policies.decisions(Wanted(point="publication"), None, 100)).items) == 4

    async def test_pages_go_through_all_decisions_once(self, world, policies):
        for n in range(7):
            await self.hear(world, decided(seconds=n // 3), f"e{n}")
        seen, cursor = [], None
        while True:
            page = await policies.decisions(Wanted(), cursor, 4)
            seen += [(d["at"], d["rule"]) for d in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert len(seen) == 14
        assert [at for at, _ in seen] == sorted((at for at, _ in seen), reverse=True)

    async def test_a_decision_stands_in_the_history_and_is_told_to_webhooks(self, world):
        await world.hear(await world.finished())
        await self.hear(world, decided(point="publication", revision=1, volume=JOB), "a")
        said = [event for event in await world.history() if event["type"] == "io.emporter.policy_decided.v1"]
        assert [event["data"]["decisions"][0]["rule"] for event in said] == ["purpose"]

    async def test_check_says_what_each_rule_would_say_now(self, world, policies):
        record = a_record().model_copy(update={"embargo_until": NOW + timedelta(days=1)})
        await store_commit(world.objects, record, JOB)
        await world.hear(VolumeComplete(job=JOB, revision=1, generation=1, volume=JOB, digest="d" * 64))
        found = await policies.check(VolumeRef(JOB), purpose="training")
        assert (found["allowed"], found["status"], found["volume"]) == (False, 403, f"{JOB}@r1")
        assert {(r["point"], r["rule"]) for r in found["results"]} == {("publication", "embargo"), ("access", "embargo")}
        nothing_said = await policies.check(VolumeRef(JOB))
        assert nothing_said["status"] == 451
        assert ("request", "purpose") in {(r["point"], r["rule"]) for r in nothing_said["results"]}

    async def test_policies_that_were_in_force_are_known_by_their_digest(self, world, policies):
        await policies.remember()
        await policies.remember()
        other = Policies(world.database, world.catalog, Policy(), lambda: NOW)
        await other.remember()
        found = await other.known(LAB.digest)
        assert found is not None
        assert (found["name"], [r["name"] for r in found["rules"]]) == ("lab", ["purpose", "embargo"])
        assert await other.known("0" * 64) is None

    async def test_over_http(self, world, policies):
        await store_commit(world.objects, a_record(), JOB)
        await world.hear(VolumeComplete(job=JOB, revision=1, generation=1, volume=JOB, digest="d" * 64))
        await self.hear(world, decided(), "a")
        await policies.remember()
        app = build(world.catalog, world.removals, world.feed, {}, 15, routes.routes(policies))
        async with serving(app, "127.0.0.1", 0) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            shown = (await client.get("/v1/policy")).json()
            assert (shown["name"], shown["retention"][0]["days"]) == ("lab", 90)
            assert len((await client.get("/v1/policy/decisions", params={"volume": JOB})).json()["items"]) == 2
            assert (await client.get(f"/v1/volumes/{JOB}/policy", params={"purpose": "x"})).json()["allowed"]
            assert (await client.get(f"/v1/policies/{LAB.digest}")).status_code == 200
            assert (await client.get("/v1/policies/none")).status_code == 404
            assert (await client.get("/v1/policy/decisions", params={"cursor": "x"})).status_code == 400
            assert (await client.get("/v1/policy/decisions", params={"job": "'; drop table decisions; --"})).json()["items"] == []
            assert (await client.get("/v1/policy/decisions", params={"point": "never"})).status_code == 400
            assert (await client.get("/v1/volumes/none/policy")).status_code == 404
            assert (await client.get(f"/v1/volumes/{JOB}/policy", params={"purpose": "a\nb"})).status_code == 400

    async def test_what_is_said_on_the_bus_is_kept_and_heard_again_by_a_rebuild(self, world, policies, tmp_path):
        async with provisioned(tmp_path) as (settings, _):
            bus = Bus(settings, "cataloger")
            register(bus, world.intake, world.catalog)
            said = Judgement((RuleDecision(rule="purpose", outcome="deny"),))
            async with bus.running():
                for _ in range(2):
                    await say(bus, LAB, said, "request", Asker("sale", "", "epfl", "1"), JOB)
                async with asyncio.timeout(60):
                    while not (await policies.decisions(Wanted(), None, 10)).items:
                        await asyncio.sleep(0.05)
            [kept] = (await policies.decisions(Wanted(), None, 10)).items
            assert (kept["rule"], kept["purpose"], kept["policy"]) == ("purpose", "sale", LAB.digest)
            async with world.database.writing() as session:
                await session.execute(text("DELETE FROM decisions"))
            again = Bus(settings, "rebuild")
            await again.broker.connect()
            await hear_again(again, Objects.in_memory(), world.database)
            await again.broker.stop()
            assert (await policies.decisions(Wanted(), None, 10)).items == [kept]


class TestPolicyOnSqlite(OnSqlite, PolicySuite):
    pass


class TestPolicyOnPostgres(OnPostgres, PolicySuite):
    pass


def test_a_request_refused_before_it_has_a_revision_is_a_fact_all_the_same():
    event = decided()
    assert fact_of_decisions(event, delivered(event, "a")).revision == 0
