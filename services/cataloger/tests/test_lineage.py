"""What came from what: one suite, on both databases."""

import json

import pytest
from sqlalchemy import select

from cataloger.errors import InvalidQueryError, NotInCatalogError
from cataloger.models import LineageEdge
from cataloger.rebuild import rebuild
from cataloger.testing_builders import JOB, a_record, a_status, at, store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts import storage
from emporter_contracts.commands import CatalogQuery, Refusal
from emporter_contracts.events import RawManifestComplete, VolumeComplete
from emporter_contracts.ids import VolumeRef
from emporter_contracts.plans import Manifest, ManifestObject, Segments
from emporter_contracts.records import Provenance
from emporter_runtime.objects import json_bytes

URL = "https://archive.example/training.tif"


def an_object(n: int = 0, url: str = URL) -> ManifestObject:
    return ManifestObject(path=f"{n}.tif", url=url, location=Segments(origin="o"), bytes=10 + n, sha256=f"{n:064x}", version="v1")


class LineageSuite:
    async def fetched(self, world: World, job: str = JOB, revision: int = 1, *objects: ManifestObject) -> RawManifestComplete:
        manifest = Manifest(job=job, revision=revision, objects=objects or (an_object(),), completed_at=at(9))
        await world.objects.put(storage.RAW, storage.manifest(job, revision), json_bytes(manifest))
        return RawManifestComplete(job=job, revision=revision, generation=1, objects=len(manifest.objects), bytes=1)

    def edges(self, graph: dict) -> set[tuple[str, str, str]]:
        return {(e["from"], e["to"], e["kind"]) for e in graph["edges"]}

    async def test_a_volume_hangs_on_its_run_and_the_run_on_its_raw_objects(self, world):
        await world.hear(a_status(), await world.planned(), await self.fetched(world), await world.finished())
        graph = await world.catalog.lineage(VolumeRef(JOB))
        raw, run, volume = f"raw:{0:064x}", f"run:{JOB}@r1", f"volume:{JOB}@r1"
        assert self.edges(graph) == {(raw, run, "read_by"), (run, volume, "made")}
        nodes = {n["id"]: n for n in graph["nodes"]}
        assert (nodes[raw]["url"], nodes[raw]["bytes"], nodes[raw]["sha256"]) == (URL, 10, f"{0:064x}")
        assert (nodes[volume]["sha256"], nodes[volume]["software"]) == ("ab" * 32, "emporter 0.1.0")

    async def test_a_volume_converted_again_hangs_on_the_same_raw_object(self, world):
        await world.hear(await self.fetched(world), await world.finished())
        await world.hear(await self.fetched(world, JOB, 2), await world.finished(run=(2, 1)))
        graph = await world.catalog.lineage(VolumeRef(JOB))
        assert [n["id"] for n in graph["nodes"] if n["kind"] == "raw"] == [f"raw:{0:064x}"]
        assert {(f"raw:{0:064x}", f"run:{JOB}@r{n}", "read_by") for n in (1, 2)} <= self.edges(graph)

    @pytest.mark.parametrize("image", ["epfl-image", "epfl-image@r1"])
    async def test_labels_hang_on_their_image_seen_from_either(self, world, image):
        await world.hear(await world.finished("epfl-image", job="epfl-image"))
        await world.hear(await world.finished("epfl-labels", job="epfl-labels", role="labels", labels_of=image))
        edge = ("volume:epfl-image@r1", "volume:epfl-labels@r1", "labelled_by")
        for seen_from in ("epfl-image", "epfl-labels"):
            assert edge in self.edges(await world.catalog.lineage(VolumeRef(seen_from)))

    async def test_labels_that_are_not_the_ones_shown_hang_on_their_image_too(self, world):
        await world.hear(await world.finished("epfl-image", job="epfl-image"))
        for run, image in (((1, 1), "epfl-image"), ((2, 1), "epfl-another")):
            labels = await world.finished("epfl-labels", job="epfl-labels", run=run, role="labels", labels_of=image)
            await world.hear(labels)
        graph = await world.catalog.lineage(VolumeRef("epfl-image"))
        assert ("volume:epfl-image@r1", "volume:epfl-labels@r1", "labelled_by") in self.edges(graph)
        assert "volume:epfl-labels@r2" in {n["id"] for n in graph["nodes"]}

    async def test_a_draft_that_is_dropped_takes_its_edges_along(self, world):
        await world.hear(await world.finished("epfl-image", job="epfl-image"))
        await world.hear(a_status(), await world.planned())
        assert await self.ends(world) == [f"{JOB}@r1 made", "epfl-image@r1 made"]
        await world.hear(a_status("pending", run=(2, 1)))
        assert await self.ends(world) == ["epfl-image@r1 made"]
        await world.hear(await world.planned(f"{JOB}--a", f"{JOB}--b", run=(2, 1)))
        await world.hear(await world.planned(f"{JOB}--b", run=(2, 2)))
        assert await self.ends(world) == [f"{JOB}--b@r2 made", "epfl-image@r1 made"]

    async def ends(self, world: World) -> list[str]:
        async with world.database.reading() as session:
            return sorted(f"{e.volume}@r{e.revision} {e.kind}" for e in await session.scalars(select(LineageEdge)))

    async def test_what_names_no_volume_is_nothing_to_hang_on(self, world):
        await world.hear(await world.finished(labels_of="see the paper, " + "p" * 3000))
        assert len(self.edges(await world.catalog.lineage(VolumeRef(JOB)))) == 1

    async def test_volumes_that_label_each_other_end(self, world):
        await world.hear(await world.finished("epfl-a", job="epfl-a", labels_of="epfl-b"))
        await world.hear(await world.finished("epfl-b", job="epfl-b", labels_of="epfl-a"))
        assert len(self.edges(await world.catalog.lineage(VolumeRef("epfl-a")))) == 4

    async def test_a_file_says_what_came_of_it_by_content_and_by_address(self, world):
        a, b = f"{JOB}--s0", f"{JOB}--s1"
        await world.hear(a_status(), await world.planned(a, b), await self.fetched(world, JOB, 1, an_object(0), an_object(1)))
        for n, volume in enumerate((a, b)):
            record = a_record(volume)
            provenance = Provenance(objects=(an_object(n),), software="emporter 0.1.0")
            metadata = record.metadata.model_copy(update={"provenance": provenance})
            await store_commit(world.objects, record.model_copy(update={"metadata": metadata}))
            await world.hear(VolumeComplete(job=JOB, revision=1, generation=1, volume=volume, digest="d"))
        [found] = await world.catalog.came_of(f"{1:064X}", None)
        assert [v["volume"] for v in found["volumes"]] == [b]
        assert found["run"] == {"job": JOB, "revision": 1, "state": "pending"}
        assert [f["sha256"] for f in await world.catalog.came_of(None, URL)] == [f"{0:064x}", f"{1:064x}"]
        assert await world.catalog.came_of("f" * 64, None) == []

    async def test_a_file_must_be_named_one_way(self, world):
        for asked in [(None, None), ("a" * 64, URL)]:
            with pytest.raises(InvalidQueryError):
                await world.catalog.came_of(*asked)

    async def test_a_stack_of_more_slices_than_are_shown_says_so(self, world, monkeypatch):
        monkeypatch.setattr("cataloger.lineage.MAX_OBJECTS", 3)
        objects = [an_object(n, f"https://archive.example/{n}") for n in range(2500)]
        await world.hear(await self.fetched(world, JOB, 1, *objects), await world.finished())
        graph = await world.catalog.lineage(VolumeRef(JOB))
        assert (graph["truncated"], graph["raw_objects"]) == (True, 2500)
        assert len([n for n in graph["nodes"] if n["kind"] == "raw"]) == 3
        assert len(await world.catalog.came_of(None, "https://archive.example/2499")) == 1

    async def test_lineage_is_rebuilt_from_the_store(self, world):
        await self.fetched(world)
        await world.finished()
        await rebuild(world.objects, world.database)
        assert len(self.edges(await world.catalog.lineage(VolumeRef(JOB)))) == 2

    async def test_a_run_is_told_as_openlineage_events(self, world):
        await world.hear(a_status(), await self.fetched(world), await world.finished())
        await world.hear(a_status("complete", version=9, volumes=(JOB,), committed=(JOB,)))
        began, ended = await world.catalog.run_events(VolumeRef(JOB))
        assert (began["eventType"], ended["eventType"]) == ("START", "COMPLETE")
        assert began["run"]["runId"] == ended["run"]["runId"]
        assert [(i["namespace"], i["name"]) for i in ended["inputs"]] == [("https://archive.example", "training.tif")]
        assert [(o["namespace"], o["name"]) for o in ended["outputs"]] == [("emporter", f"{JOB}@r1")]
        assert ended["outputs"][0]["facets"]["version"]["datasetVersion"] == "sha256:" + "ab" * 32
        engine = ended["run"]["facets"]["processing_engine"]
        assert (engine["name"], engine["version"]) == ("emporter", "0.1.0")
        assert ended["inputs"][0]["facets"]["version"]["datasetVersion"] == f"sha256:{0:064x}"
        json.dumps(ended)

    async def test_a_run_that_planned_nothing_names_no_software(self, world):
        await world.hear(a_status("failed", version=3, error=Refusal(code="not_found", message="no such image")))
        assert "processing_engine" not in (await world.catalog.run_events(VolumeRef(JOB)))[-1]["run"]["facets"]

    async def test_a_failed_run_says_why(self, world):
        await world.hear(a_status("failed", version=3, error=Refusal(code="corrupt_object", message="cut off")))
        assert (await world.catalog.run_events(VolumeRef(JOB)))[-1]["run"]["facets"]["errorMessage"][
            "message"
        ] == "corrupt_object: cut off"

    async def test_the_lineage_of_nothing_is_not_there(self, world):
        with pytest.raises(NotInCatalogError):
            await world.catalog.lineage(VolumeRef("epfl-none"))

    async def test_the_bus_is_told_lineage_too(self, world):
        await world.hear(await world.finished())
        [graph] = (await world.catalog.answer(CatalogQuery(kind="lineage", id=JOB)))["items"]
        assert graph["volume"] == JOB


class TestLineageOnSqlite(OnSqlite, LineageSuite):
    pass


class TestLineageOnPostgres(OnPostgres, LineageSuite):
    pass
