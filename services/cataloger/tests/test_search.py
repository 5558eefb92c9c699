"""What is found by words, filters, ranges and JSON paths: one suite, on both databases."""

import json
from itertools import product

import pytest

from cataloger.errors import InvalidQueryError
from cataloger.facets import FACET_ROWS
from cataloger.jsonpaths import match_document, parse
from cataloger.testing_builders import JOB, a_record, a_status, at, store_commit
from cataloger.testing_databases import OnPostgres, OnSqlite
from cataloger.testing_world import World
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.events import VolumeComplete
from emporter_contracts.plans import Caveat, Licence
from emporter_contracts.records import Quality, Statistics


class SearchSuite:
    async def add(
        self, world: World, volume: str, *, core: dict | None = None, statistics: Statistics | None = None, **fields
    ) -> None:
        record = a_record(volume, **(core or {}))
        technical = record.metadata.technical.model_copy(update={"statistics": statistics})
        metadata = record.metadata.model_copy(update={"technical": technical, "quality": fields.pop("quality", Quality())})
        await store_commit(world.objects, record.model_copy(update={"metadata": metadata, **fields}), volume)
        await world.hear(VolumeComplete(job=volume, revision=1, generation=1, volume=volume, digest="d" * 64))

    async def names(self, world: World, **query) -> list[str]:
        return [row["volume"] for row in await world.rows(sort=query.pop("sort", "id"), **query)]

    # -- words --

    @pytest.mark.parametrize(
        ("q", "found"),
        [
            ("neuron", True), ("neurons", True), ("NEURITE", False), ("uron", True), ("cortex rat", True),
            ("cortex mouse", False), ("3d", True), ("3", False), ("x-ray", True), ("ray", True), ("µct", True), ("the", True),
        ],
    )  # fmt: skip
    async def test_a_word_is_found_in_another_form_and_inside_another_word(self, world, q, found):
        await self.add(world, "idr-1", core={"description": "Neurons of the rat cortex in 3D, X-ray µCT beside it"})
        assert await self.names(world, q=q) == (["idr-1"] if found else [])

    async def test_a_changed_text_is_found_by_its_new_words_only(self, world):
        await world.hear(await world.finished(description="synapse"), await world.finished(run=(2, 1), description="vesicle"))
        assert await self.names(world, q="vesicle") == [JOB]
        assert await self.names(world, q="synapse") == []

    async def test_a_volume_that_is_gone_is_not_found(self, world):
        await world.hear(a_status(), await world.planned(f"{JOB}--s0"))
        assert await self.names(world, q="epfl-hippocampus") == [f"{JOB}--s0"]

    async def test_by_relevance_a_word_in_the_title_comes_first(self, world):
        said = {"idr_metadata": {"remark": "beside a synapse, something else; " + "lorem ipsum " * 40}}
        await self.add(world, "idr-aside", core={"description": "liver"}, additional_metadata=said)
        await self.add(world, "idr-zenith", core={"description": "Synapses"})
        assert await self.names(world, q="synapse", sort="relevance") == ["idr-zenith", "idr-aside"]

    async def test_a_list_by_relevance_pages_through_equal_ranks(self, world):
        for n in range(7):
            await self.add(world, f"idr-{n}", core={"description": "synapse"})
        seen, cursor = [], None
        while True:
            page = await world.catalog.volumes(CatalogQuery(q="synapse", sort="relevance", limit=3, cursor=cursor))
            seen += [row["volume"] for row in page.items]
            cursor = page.cursor
            if cursor is None:
                break
        assert sorted(seen) == [f"idr-{n}" for n in range(7)]

    async def test_relevance_without_words_is_refused(self, world):
        with pytest.raises(InvalidQueryError, match="words"):
            await world.rows(sort="relevance")

    @pytest.mark.parametrize(
        "q", ['"', "*", "a*", 'a" OR "b', "NEAR(", "title:x", "-x", "& | !", "'", "(((", "\\", "%_", "x\x00y", "ﷺ" * 200]
    )
    async def test_a_search_is_never_taken_for_a_query_language(self, world, q):
        await self.add(world, "idr-1", core={"description": "liver"})
        assert await self.names(world, q=q) == []
        assert await self.names(world, q=q, sort="relevance") == []

    # -- filters --

    async def test_each_filter_narrows_the_list(self, world):
        said = {"idr_metadata": {"map": [["Organism", "Mus musculus"], ["Strain", "C57"]]}}
        await self.add(
            world, "idr-mouse", core={"data_type": "uint16", "role": "labels", "labels_of": "idr-rat"}, additional_metadata=said,
            caveats=(Caveat(code="lossy", evidence="jpeg"),), licence=Licence(spdx="CC0-1.0", known=True),
            quality=Quality(verified="full"),
        )  # fmt: skip
        rat = {"empiar_metadata": {"sample": {"organism": {"ncbi_name": "Rattus norvegicus"}}}}
        await self.add(world, "idr-rat", additional_metadata=rat)
        for query in (
            {"organism": "Mus musculus"}, {"dtype": "uint16"}, {"role": "labels"}, {"caveat": "lossy"}, {"licence": "CC0-1.0"},
            {"verified": "full"}, {"labels_of": "idr-rat"},
        ):  # fmt: skip
            assert await self.names(world, **query) == ["idr-mouse"], query
        assert await self.names(world, organism="Rattus norvegicus") == ["idr-rat"]
        assert await self.names(world, caveat="loss") == []

    @pytest.mark.parametrize(
        ("ranges", "expected"),
        [
            ({"voxel_nm": "4..8"}, ["idr-fine"]),
            ({"voxel_nm": "4..50"}, ["idr-coarse", "idr-fine"]),
            ({"voxel_nm_z": "50"}, ["idr-coarse"]),
            ({"voxel_nm_x": "..4"}, ["idr-fine", "idr-unknown"]),
            ({"shape_z": "100..", "shape_y": "..600"}, ["idr-coarse"]),
            ({"mean": "100..200"}, ["idr-fine"]),
            ({"saturated_share": "0.5.."}, ["idr-fine"]),
            ({"bytes": "..1e3"}, []),
            ({"bytes": "1e6.."}, ["idr-coarse", "idr-fine", "idr-unknown"]),
            ({"created_at": "2024-05-01"}, ["idr-coarse", "idr-fine", "idr-unknown"]),
            ({"created_at": "2024-05-02.."}, []),
            ({"created_at": "2024-05-01T12:00:00Z..2024-05-01T14:00:00+02:00"}, ["idr-coarse", "idr-fine", "idr-unknown"]),
        ],
    )
    async def test_a_range_holds_both_ends_and_never_what_is_unknown(self, world, ranges, expected):
        statistics = Statistics(mean=128.5, std=3.0, saturated_share=0.6)
        await self.add(world, "idr-fine", core={"voxel_size_nm": (8.0, 4.0, 4.0)}, statistics=statistics)
        await self.add(world, "idr-coarse", core={"voxel_size_nm": (50.0, 8.0, 8.0), "volume_shape": (165, 600, 600)})
        await self.add(world, "idr-unknown", core={"voxel_size_nm": (None, 4.0, 4.0), "volume_shape": (1, 768, 1024)})
        assert await self.names(world, ranges=ranges) == expected

    @pytest.mark.parametrize(
        "query",
        [
            {"ranges": {"colour": "1"}}, {"ranges": {"bytes": "many"}}, {"ranges": {"bytes": ".."}}, {"ranges": {"bytes": "nan"}},
            {"ranges": {"bytes": "1e400"}}, {"ranges": {"bytes": "9" * 30}}, {"ranges": {"created_at": "yesterday"}},
            {"ranges": {"voxel_nm": "1..inf"}}, {"where": ("a b=1",)}, {"where": ("=1",)}, {"where": ("a.=1",)}, {"where": ("a=\x00",)},
            {"where": ("a",) * 9}, {"where": (".".join("a" * 17),)}, {"where": ("x" * 501,)}, {"where": ('"a\\u0000"=1',)},
            {"source": "a\x00"}, {"annotation": "\x00"}, {"caveat": "\x00"},
        ],
    )  # fmt: skip
    async def test_what_makes_no_sense_is_refused_with_a_hint(self, world, query):
        with pytest.raises(InvalidQueryError) as refused:
            await world.rows(**query)
        assert refused.value.hint

    # -- JSON paths --

    @pytest.mark.parametrize(
        ("where", "found"),
        [
            ("metadata.core.axes=zyx", True),
            ("metadata.core.axes!=zyx", False),
            ("metadata.core.volume_shape=768", True),
            ("metadata.core.volume_shape>5000", False),
            ("metadata.technical.levels.chunk=64", True),
            ("metadata.core.labels_of=null", True),
            ("metadata.core.labels_of!=null", False),
            ("additional_metadata.epfl_metadata.dose>=12", True),
            ("additional_metadata.epfl_metadata.dose>=12.6", False),
            ("additional_metadata.epfl_metadata.code=007", True),
            ("additional_metadata.epfl_metadata.code=7", False),
            ("additional_metadata.epfl_metadata.year=2020", True),
            ('additional_metadata.epfl_metadata."a key, \\"so\\"".b~c.d', True),
            ('additional_metadata.epfl_metadata."a key, \\"so\\"".b~cxd', False),
            ("additional_metadata.epfl_metadata.list.name~ALPHA", True),
            ("additional_metadata.epfl_metadata.list.name=alpha", True),
            ("additional_metadata.epfl_metadata.list.n>1", True),
            ("additional_metadata.epfl_metadata.list.n>2", False),
            ("additional_metadata.epfl_metadata.dose", True),
            ("additional_metadata.epfl_metadata.nothing", False),
            ("additional_metadata.epfl_metadata.good=true", True),
            ("additional_metadata.epfl_metadata.good=1", False),
            ("additional_metadata.epfl_metadata.name<M", True),
            ("citation~' OR 1=1 --", False),
            ('citation=") || (1 == 1', False),
        ],
    )
    async def test_a_condition_on_a_json_path(self, world, where, found):
        said = {
            "dose": 12.5, "code": "007", "year": "2020", 'a key, "so"': {"b": "abc.def"}, "good": True, "name": "Lucchi",
            "list": [{"name": "alpha", "n": 1}, {"name": "beta", "n": 2}],
        }  # fmt: skip
        await self.add(world, "epfl-1", additional_metadata={"epfl_metadata": said})
        assert await self.names(world, where=(where,)) == (["epfl-1"] if found else [])

    async def test_a_condition_is_about_the_revision_that_is_shown(self, world):
        await world.hear(await world.finished(description="first"), await world.finished(run=(2, 1), description="second"))
        assert await self.names(world, where=("metadata.core.description=first",)) == []
        assert await self.names(world, where=("metadata.core.description=second",)) == [JOB]

    # -- facets --

    async def test_facets_count_what_a_query_finds(self, world):
        await self.add(world, "idr-1", caveats=(Caveat(code="lossy", evidence="x"), Caveat(code="unaligned", evidence="y")))
        await self.add(world, "idr-2", core={"modality": "SBF-SEM"}, caveats=(Caveat(code="lossy", evidence="x"),))
        await world.hear(a_status("failed", job="epfl-9"))
        whole = await world.catalog.facets(CatalogQuery())
        assert whole["facets"]["source"] == [{"value": "idr", "count": 2}, {"value": "epfl", "count": 1}]
        assert {f["value"]: f["count"] for f in whole["facets"]["dtype"]} == {"uint8": 2, None: 1}
        assert whole["facets"]["caveat"] == [{"value": "lossy", "count": 2}, {"value": "unaligned", "count": 1}]
        assert (whole["counted"], whole["complete"]) == (3, True)
        some = await world.catalog.facets(CatalogQuery(q="sbf-sem", source="idr"))
        assert some["facets"]["modality"] == [{"value": "SBF-SEM", "count": 1}]
        assert (some["counted"], some["complete"]) == (1, True)

    async def test_facets_of_a_large_list_say_that_they_are_of_its_newest_only(self, world, monkeypatch):
        monkeypatch.setattr("cataloger.facets.FACET_ROWS", 2)
        for n in range(4):
            await world.hear(a_status(job=f"epfl-{n}", created_at=at(n)))
        some = await world.catalog.facets(CatalogQuery(source="epfl"))
        assert (some["counted"], some["complete"]) == (2, False)
        assert FACET_ROWS == 2_000

    async def test_the_bus_is_told_facets_too(self, world):
        await self.add(world, "idr-1")
        [answer] = (await world.catalog.answer(CatalogQuery(kind="facets", source="idr")))["items"]
        assert answer["facets"]["source"] == [{"value": "idr", "count": 1}]


class TestSearchOnSqlite(OnSqlite, SearchSuite):
    pass


class TestSearchOnPostgres(OnPostgres, SearchSuite):
    @pytest.mark.parametrize(
        "among",
        [range(60), range(2, 60, 3), range(14, 60, 15), range(59, 60), range(0), [*range(10), 58, 59]],
        ids=["all", "one in 3", "one in 15", "one in 60", "none", "at both ends"],
    )
    async def test_however_rare_a_word_is_its_pages_are_those_of_the_whole_list(self, world, monkeypatch, among):
        monkeypatch.setattr("cataloger.probing.PROBED", 4)
        monkeypatch.setattr("cataloger.probing.WALKED", 12)
        monkeypatch.setattr("cataloger.probing.FARTHEST", 40)
        for n in range(60):
            word = "gyrus" if n in among else "sulcus"
            source = "idr" if n % 10 == 9 else "epfl"
            await world.hear(a_status(job=f"{source}-{word}-{n:02}", created_at=at(n), updated_at=at(n * 7 % 60)))
        for sort, q in product(["-updated_at", "bytes", "-created_at"], ["gyrus", "gyrus epfl"]):
            whole = [row["volume"] for row in await world.rows(sort=sort, limit=100)]
            assert len(whole) == 60
            fitting = [volume for volume in whole if all(word in volume for word in q.split())]
            assert await self.paged(world, sort=sort, q=q) == fitting, (sort, q)

    async def test_a_long_word_is_found_as_a_whole_whatever_part_it_is_looked_up_by(self, world, monkeypatch):
        monkeypatch.setattr("cataloger.probing.PROBED", 4)
        monkeypatch.setattr("cataloger.probing.FARTHEST", 8)
        names = ["empiar-11759", "empiar-11758", "empiar-21759", "empiar-1175", "11759", "empiarx-11759", "xempiar-117590"]
        for n, name in enumerate([*names, *(f"other-{n}" for n in range(20))]):
            await world.hear(a_status(job=f"epfl-{name}", created_at=at(n), updated_at=at(n)))
        ids = {row["volume"] for row in await world.rows(limit=100)}
        word = "empiar-11759"
        for q in {word[n:m] for n in range(len(word)) for m in range(n + 6, len(word) + 1)} | {"empia_-11759", "empi%11759"}:
            assert {row["volume"] for row in await world.rows(q=q, limit=100)} == {volume for volume in ids if q in volume}, q
            counted = await world.catalog.facets(CatalogQuery(kind="facets", q=q))
            assert counted["counted"] == sum(q in volume for volume in ids), q
        await world.hear(a_status(job="epfl-neuron", created_at=at(0), updated_at=at(0)))
        assert [row["volume"] for row in await world.rows(q="neurons")] == ["epfl-neuron"], (
            "another form of a word has other parts"
        )

    async def paged(self, world: World, **query: str) -> list[str]:
        """Every volume a query finds, five a page."""
        found: list[str] = []
        cursor = None
        while True:
            answer = await world.catalog.volumes(CatalogQuery(**query, limit=5, cursor=cursor))
            found += [row["volume"] for row in answer.items]
            cursor = answer.cursor
            if cursor is None:
                return found


def test_a_json_bomb_of_a_record_is_walked_without_recursion():
    deep = json.dumps(json.loads("[" * 500 + "]" * 500))
    assert match_document(deep, parse("a.b").document()) == 0
