"""Holds end when the rules that look at the clock let go, on both databases; nothing but what is held is looked at."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.dialects import postgresql, sqlite

from cataloger import holds as module
from cataloger.database import Database
from cataloger.holds import Holds, held_after
from cataloger.testing_builders import JOB, a_record, store_commit, store_tombstone
from cataloger.testing_world import World
from emporter_contracts import storage
from emporter_contracts.events import VolumeComplete
from emporter_contracts.plans import Hold
from emporter_contracts.policy import RuleDecision
from emporter_runtime.commits import current, held
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.policy.judging import Policy
from emporter_runtime.testing_policy import rules

END = datetime(2027, 1, 31, tzinfo=UTC)
BEFORE, AFTER = END - timedelta(seconds=1), END
EMBARGO = "{name: embargo, at: [publication], when: 'embargo_until != null && now < embargo_until', then: hold}"
MONTH = "{name: month, at: [publication], when: 'age_days < 30.0', then: hold}"
LOSSY = "{name: lossy, at: [publication], when: '\"lossy\" in volume.caveats', then: hold}"
FOR_REVIEW = "{name: review, at: [publication], when: 'request.purpose == \"review\" && now < embargo_until', then: hold}"
BROKEN = "{name: broken, at: [publication], when: 'now < embargo_until && volume.citation[7] == \"\"', then: hold}"
AT_ACCESS = "{name: embargo, at: [access], when: 'now < embargo_until', then: deny}"


class Lab(World):
    """A catalog whose volumes rules hold."""

    async def held(
        self, *by: str, volume: str = JOB, revision: int = 1, gates: tuple[str, ...] = (), purpose: str | None = "", **said: Any
    ) -> None:
        """A committed revision as the converter leaves it, held by these rules, and its event heard."""
        decisions = tuple(RuleDecision(rule=rule, outcome="hold") for rule in by)
        record = a_record(volume, revision).model_copy(update={"decisions": decisions, "embargo_until": END, **said})
        hold = Hold(volume=volume, revision=revision, gates=gates, rules=by, held_at=record.updated_at, purpose=purpose)
        provenance = json.dumps({"request": {"source": "epfl", "source_id": "hippocampus"}}).encode()
        await self.objects.put(storage.VOLUMES, storage.hold(volume, revision), json_bytes(hold))
        await self.objects.put(storage.VOLUMES, storage.provenance(volume, revision), provenance)
        await store_commit(self.objects, record, volume)
        await self.hear(VolumeComplete(job=volume, revision=revision, generation=1, volume=volume, digest="d" * 64))

    async def swept(self, policy: Policy, at: datetime) -> list[str]:
        return [str(ref) for ref in await Holds(self.database, self.objects, self.intake, policy, lambda: at).sweep()]


class HoldsSuite:
    """What holds on every database."""

    @pytest.fixture
    def lab(self, database: Database) -> Lab:
        return Lab(database)

    async def test_an_embargo_that_is_over_lets_the_revision_become_current(self, lab: Lab) -> None:
        await lab.hear(await lab.finished())
        await lab.held("embargo", revision=2)
        assert (await lab.row())["revision"] == 1
        assert await lab.swept(rules(EMBARGO), BEFORE) == []
        assert (await held(lab.objects, JOB), (await lab.row())["revision"]) == ({2}, 1)
        assert await lab.swept(rules(EMBARGO), AFTER) == [f"{JOB}@r2"]
        assert (await current(lab.objects, JOB), (await lab.row())["revision"]) == (2, 2)
        assert (await lab.record(f"{JOB}@r2"))["held"] is False
        assert await lab.swept(rules(EMBARGO), AFTER) == []

    async def test_a_hold_for_so_many_days_ends_after_them(self, lab: Lab) -> None:
        await lab.held("month")
        made = a_record().updated_at
        assert await lab.swept(rules(MONTH), made + timedelta(days=29)) == []
        assert await lab.swept(rules(MONTH), made + timedelta(days=31)) == [f"{JOB}@r1"]

    async def test_what_else_holds_it_goes_on_holding(self, lab: Lab) -> None:
        await lab.held("embargo", "lossy", volume="epfl-lossy")
        await lab.held("embargo", volume="epfl-gate", gates=("empty",))
        await lab.held("embargo", "dropped-from-the-policy", volume="epfl-dropped")
        await lab.held("broken", volume="epfl-broken")
        assert await lab.swept(rules(EMBARGO, LOSSY, BROKEN), AFTER - timedelta(days=1)) == []
        assert await lab.swept(rules(EMBARGO, LOSSY, BROKEN), AFTER) == ["epfl-broken@r1"]

    async def test_a_rule_that_is_no_more_asked_at_publication_lets_go_of_nothing(self, lab: Lab) -> None:
        await lab.held("embargo")
        assert await lab.swept(rules(AT_ACCESS, MONTH), AFTER) == []
        assert await lab.swept(rules(), AFTER) == []

    async def test_a_rule_about_the_request_hears_the_purpose_the_hold_remembers(self, lab: Lab) -> None:
        await lab.held("review", volume="epfl-review", purpose="review")
        await lab.held("review", volume="epfl-unknown", purpose=None)
        assert await lab.swept(rules(FOR_REVIEW), BEFORE) == []
        assert await lab.swept(rules(FOR_REVIEW), AFTER) == ["epfl-review@r1"]

    async def test_what_a_person_released_and_what_was_removed_meanwhile_does_no_harm(self, lab: Lab) -> None:
        await lab.held("embargo", volume="epfl-released")
        await lab.objects.delete(storage.VOLUMES, [storage.hold("epfl-released", 1)])
        await lab.held("embargo", volume="epfl-removed")
        await store_tombstone(lab.objects, "epfl-removed")
        await lab.removals.look("epfl-removed")
        assert await lab.swept(rules(EMBARGO), AFTER) == ["epfl-released@r1"]
        assert (await lab.record("epfl-released@r1"))["held"] is False

    async def test_the_sweeps_go_round_and_ask_the_store_only_about_what_is_over(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "AT_ONCE", 2)
        later = END + timedelta(days=1)
        for n in range(5):
            await lab.held("embargo", volume=f"epfl-{n}", embargo_until=END if n == 4 else later)
        await lab.hear(await lab.finished())
        asked: list[str] = []
        find = Objects.find

        async def watched(objects: Objects, bucket: str, key: str) -> bytes | None:
            asked.append(key.partition("/")[0])
            return await find(objects, bucket, key)

        monkeypatch.setattr(Objects, "find", watched)
        holds = Holds(lab.database, lab.objects, lab.intake, rules(EMBARGO), lambda: AFTER)
        found = [[str(ref) for ref in await holds.sweep()] for _ in range(3)]
        assert found == [[], [], ["epfl-4@r1"]]
        assert set(asked) == {"epfl-4"}

    async def test_an_index_finds_what_is_held(self, lab: Lab) -> None:
        dialect = sqlite.dialect() if lab.database.is_sqlite else postgresql.dialect()
        query = held_after(("", 0), 10).compile(dialect=dialect, compile_kwargs={"literal_binds": True})
        explain = "EXPLAIN QUERY PLAN" if lab.database.is_sqlite else "EXPLAIN"
        async with lab.database.reading() as session:
            if not lab.database.is_sqlite:
                await session.execute(text("SET LOCAL enable_seqscan = off"))
            plan = str((await session.execute(text(f"{explain} {query}"))).all())
        assert "ix_revisions_held" in plan


class TestOnSqlite(HoldsSuite):
    @pytest.fixture
    def database(self, sqlite: Database) -> Database:
        return sqlite


class TestOnPostgres(HoldsSuite):
    @pytest.fixture
    def database(self, postgres: Database) -> Database:
        return postgres
