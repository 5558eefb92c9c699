"""A catalog of a million volumes on PostgreSQL: how long typical questions take, and which indexes answer them.

`python tests/bench/catalog.py [--volumes N] [--rounds N] [--json FILE] [--server URL] [--archives DIR]`. The server is one of its
own in a temporary folder, with a third of the machine's memory for its buffers (PostgreSQL's manual: 25 to 40 %), or one that
runs; there the filled database stays, and the next run asks it at once. Records are made and derived as the catalog does it, for
TEMPLATES volumes; those are copied with other ids, times and sizes. Every question is asked through `queries.Catalog`, so the time
is that of the whole answer but HTTP.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import uvloop
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from cataloger.database import Database
from cataloger.errors import TooSlowError
from cataloger.queries import Catalog
from cataloger.repository import Writer
from cataloger.testing import postgres_binaries, postgres_server
from cataloger.testing_builders import a_record, a_status
from cataloger.testing_plans import plans_of
from cataloger.testing_replies import LOOKED_FOR, records
from emporter_contracts.commands import CatalogQuery
from emporter_contracts.plans import Caveat, Licence
from emporter_contracts.records import Gate, GateResult, Quality, Statistics, Verdict

TEMPLATES = 2000
LIMIT_MS = 50
"""What the 95th percentile of a question may take; of one that no index answers, what `queries.PATIENCE` lets it."""
UNINDEXED_ROUNDS = 3
TEXT = """neuron synapse cortex hippocampus mitochondria membrane vesicle axon dendrite myelin glia astrocyte retina cerebellum
spinal cord liver kidney heart muscle epithelium endothelium nucleus chromatin golgi reticulum lysosome peroxisome cilium flagellum
bacterium virus capsid ribosome cytoskeleton actin tubulin centrosome spindle embryo larva adult wildtype mutant knockout control treated
infected section block face serial array tomography focused beam milling scanning transmission resin epon osmium uranyl lead stained
fixed frozen pressure substituted volume reconstruction segmentation dataset connectome tracing annotation ground truth isotropic
anisotropic aligned registered denoised raw overview region interest subset"""
WORDS = TEXT.split()
ORGANISMS = (
    "Mus musculus",
    "Homo sapiens",
    "Drosophila melanogaster",
    "Rattus norvegicus",
    "Danio rerio",
    "Caenorhabditis elegans",
    None,
)
MODALITIES = ("FIB-SEM", "SBF-SEM", "ssTEM", "ssSEM", "TEM", "unknown")
SOURCES = ("idr", "empiar", "openorganelle", "epfl", "url", "inbox", "hemibrain")
DTYPES = ("uint8", "uint16", "float32", "int16", "uint64")
LICENCES = ("CC-BY-4.0", "CC0-1.0", "CC-BY-NC-4.0", None)
VERDICTS: tuple[Verdict | None, ...] = ("pass", "warn", "fail", None)
GATES: tuple[Gate, ...] = get_args(Gate)
CAVEATS = ("lossy", "resampled", "unaligned", "axes_assumed", "voxel_size_unknown")
FORTNIGHTS = [f"2024-{month:02}-03..2024-{month:02}-16" for month in range(6, 13)]
COPY_VOLUMES = """
    INSERT INTO volumes (id, job, search, title, updated_at, created_at, bytes, {rest})
    SELECT t.source || '-' || k.n, t.source || '-' || k.n, replace(t.search, t.id, t.source || '-' || k.n),
           replace(t.title, t.id, t.source || '-' || k.n), t.updated_at + k.n * interval '31 seconds',
           t.created_at + k.n * interval '29 seconds', t.bytes * (1 + k.n % 997), {values}
    FROM (SELECT *, row_number() OVER (ORDER BY id) AS place FROM volumes) t
    JOIN generate_series(1, {volumes}) AS k(n) ON t.place = {place} ORDER BY k.n"""
COPY_REVISIONS = """
    INSERT INTO revisions (volume, job, record, {rest})
    SELECT t.record->>'source' || '-' || k.n, t.record->>'source' || '-' || k.n,
           jsonb_set(t.record, '{{volume}}', to_jsonb(t.record->>'source' || '-' || k.n)), {values}
    FROM (SELECT *, row_number() OVER (ORDER BY volume) AS place FROM revisions) t
    JOIN generate_series(1, {volumes}) AS k(n) ON t.place = {place} ORDER BY k.n"""
COPY_RESULTS = """
    INSERT INTO quality_results (volume, at, {rest})
    SELECT r.record->>'source' || '-' || k.n, t.at + k.n * interval '31 seconds', {values}
    FROM (SELECT *, row_number() OVER (ORDER BY volume) AS place FROM revisions) r JOIN quality_results t USING (volume, revision)
    JOIN generate_series(1, {volumes}) AS k(n) ON r.place = {place} ORDER BY k.n"""
COPY_EDGES = """
    INSERT INTO lineage_edges (volume, start, {rest})
    SELECT r.record->>'source' || '-' || k.n, r.record->>'source' || '-' || k.n, {values}
    FROM (SELECT *, row_number() OVER (ORDER BY volume) AS place FROM revisions) r JOIN lineage_edges t USING (volume, revision)
    JOIN generate_series(1, {volumes}) AS k(n) ON r.place = {place} ORDER BY k.n"""
PLACE = f"1 + k.n::bigint * 7919 % {TEMPLATES}"
"""Of which template a copy is: neighbours in time are of any two, and what one in so many has is spread evenly."""
# Revisions last: the others are copied by the places of theirs.
COPIES = {"quality_results": COPY_RESULTS, "lineage_edges": COPY_EDGES, "volumes": COPY_VOLUMES, "revisions": COPY_REVISIONS}


@dataclass(frozen=True, slots=True)
class Question:
    """A kind of query, made anew each round."""

    name: str
    make: Callable[[random.Random], CatalogQuery]
    unindexed: bool = False
    """Whether no index leads to the few rows that fit: every record is looked at, until the catalog ends it."""


def _page(name: str, *, unindexed: bool = False, **fields: Any) -> Question:
    return Question(name, lambda _: CatalogQuery(limit=50, **fields), unindexed)


def _doses(lowest: int, count: int) -> tuple[str, str]:
    """One volume in TEMPLATES has each dose."""
    return f"additional_metadata.idr_metadata.dose>={lowest}", f"additional_metadata.idr_metadata.dose<{lowest + count}"


QUESTIONS = (
    _page("newest"),
    _page("one source", source="epfl"),
    _page("filters", organism="Mus musculus", modality="FIB-SEM", dtype="uint8", status="complete"),
    Question("word, common", lambda r: CatalogQuery(limit=50, q=r.choice(WORDS))),
    Question("words, three", lambda r: CatalogQuery(limit=50, q=" ".join(r.sample(WORDS, 3)))),
    Question("word, rare", lambda r: CatalogQuery(limit=50, q=f"rareword{r.randrange(TEMPLATES)}x")),
    Question("part of a word", lambda r: CatalogQuery(limit=50, q=f"eword{r.randrange(TEMPLATES)}x")),
    Question("an id", lambda r: CatalogQuery(limit=50, q=f"idr-{r.randrange(100_000, 999_999)}")),
    _page("nothing", q="thereisnosuchword"),
    Question("relevance, rare", lambda r: CatalogQuery(limit=50, sort="relevance", q=f"rareword{r.randrange(TEMPLATES)}x cortex")),
    Question("relevance, common", lambda r: CatalogQuery(limit=50, sort="relevance", q=r.choice(WORDS))),
    Question("voxel size", lambda r: CatalogQuery(limit=50, ranges={"voxel_nm": f"4..{r.randrange(5, 12)}"})),
    _page("shape and bytes", ranges={"shape_z": "100..", "bytes": "1e9..2e11"}),
    Question("a fortnight", lambda r: CatalogQuery(limit=50, ranges={"created_at": r.choice(FORTNIGHTS)})),
    _page("caveat", caveat="resampled"),
    Question("JSON path", lambda r: CatalogQuery(limit=50, where=(f"additional_metadata.idr_metadata.dose={r.randrange(TEMPLATES)}",))),
    Question("JSON path, >=", lambda r: CatalogQuery(limit=50, where=(f"additional_metadata.idr_metadata.dose>={r.randrange(TEMPLATES)}",))),
    Question("JSON path, ~", lambda r: CatalogQuery(limit=50, where=(f"additional_metadata.idr_metadata.study~{r.choice(WORDS)}",))),
    _page("JSON path, is there", where=("additional_metadata.idr_metadata.channels.n",)),
    Question("JSON path, rare >=", lambda r: CatalogQuery(limit=50, where=(f"additional_metadata.idr_metadata.dose>={TEMPLATES - r.randrange(1, 30)}",))),
    Question("JSON path, rare <", lambda r: CatalogQuery(limit=50, where=(f"additional_metadata.idr_metadata.dose<{r.randrange(1, 30)}",))),
    Question("JSON path, between", lambda r: CatalogQuery(limit=50, where=_doses(r.randrange(TEMPLATES), 3))),
    Question("JSON path, one in 400", lambda r: CatalogQuery(limit=50, where=_doses(r.randrange(TEMPLATES), TEMPLATES // 400))),
    Question("JSON path, one in 100", lambda r: CatalogQuery(limit=50, where=_doses(r.randrange(TEMPLATES), TEMPLATES // 100))),
    Question("JSON path, one in 25", lambda r: CatalogQuery(limit=50, where=_doses(r.randrange(TEMPLATES), TEMPLATES // 25))),
    Question("JSON path, rare ~", lambda r: CatalogQuery(limit=50, where=(f"metadata.core.description~WORD{r.randrange(100, TEMPLATES)}x",))),
    _page("JSON path, nothing ~", where=("additional_metadata.idr_metadata.study~thereisnosuchword",)),
    _page("JSON path, ~ elsewhere", where=("metadata.core.description~emporter",)),
    _page("JSON path, not there", where=("additional_metadata.idr_metadata.nothere",)),
    _page("JSON path, is elsewhere", where=("additional_metadata.idr_metadata.mean",)),
    _page("JSON path, nothing !=", where=("metadata.core.axes!=zyx",), unindexed=True),
    Question("JSON paths, two", lambda r: CatalogQuery(limit=50, where=(f"metadata.core.description~{r.choice(WORDS)}", f"additional_metadata.idr_metadata.dose>={TEMPLATES - 2}"))),
    Question("JSON path and a word", lambda r: CatalogQuery(limit=50, q=r.choice(WORDS), where=(f"additional_metadata.idr_metadata.dose>={TEMPLATES - 2}",))),
    _page("failed gates", verdict="fail"),
    Question("a gate", lambda r: CatalogQuery(limit=50, gate=r.choice(GATES))),
    Question("a gate fails", lambda r: CatalogQuery(limit=50, gate=f"{r.choice(GATES)}:fail")),
    Question("a gate passes", lambda r: CatalogQuery(limit=50, gate=f"{r.choice(GATES)}:pass")),
    Question("what a gate found", lambda r: CatalogQuery(kind="quality", limit=50, gate=r.choice(GATES), verdict="fail")),
    _page("what gates found", kind="quality"),
    _page("held", held=True),
    _page("largest first", sort="-bytes"),
    _page("finest first", sort="max_voxel_nm", source="idr"),
    _page("JSON path, in another order", where=("additional_metadata.idr_metadata.dose>=1998",), sort="source"),
    _page("read where they lie", managed=False),
    _page("facets of a JSON path", kind="facets", where=("additional_metadata.idr_metadata.dose>=1998",)),
    Question("facets of a word", lambda r: CatalogQuery(kind="facets", q=f"rareword{r.randrange(TEMPLATES)}x")),
    _page("facets of a common word", kind="facets", q="cortex"),
)  # fmt: skip


def template(n: int, chance: random.Random) -> Any:
    """A record with a word nothing else has."""
    words = chance.choices(WORDS, k=chance.randrange(12, 40))
    size = chance.choice([4.0, 5.0, 8.0, 10.0, 25.0])
    record = a_record(
        f"{chance.choices(SOURCES, weights=(40, 30, 10, 1, 8, 10, 1))[0]}-template{n}",
        description=" ".join([*words, f"rareword{n}x"]),
        modality=chance.choice(MODALITIES),
        data_type=chance.choices(DTYPES, weights=(60, 25, 5, 5, 5))[0],
        voxel_size_nm=(chance.choice([size, 30.0, None]), size, size),
        volume_shape=(chance.randrange(1, 4000), chance.randrange(64, 9000), chance.randrange(64, 9000)),
    )
    said = {
        "organism": chance.choice(ORGANISMS),
        "dose": n,
        "study": " ".join(chance.choices(WORDS, k=6)),
        "channels": [{"n": n % 7}],
    }
    spdx = chance.choice(LICENCES)
    measured = Statistics(
        mean=chance.random() * 255,
        std=chance.random() * 60,
        saturated_share=chance.random() ** 4,
        edges=tuple(range(257)),
        histogram=tuple(chance.randrange(10**9) for _ in range(256)),
    )
    technical = record.metadata.technical.model_copy(update={"statistics": measured})
    verdict = chance.choices(VERDICTS, weights=(80, 15, 4, 1))[0]
    quality = Quality(verdict=verdict, gates=() if verdict is None else tuple(_gates(verdict, chance)))
    return record.model_copy(
        update={
            "metadata": record.metadata.model_copy(update={"technical": technical, "quality": quality}),
            "licence": Licence(spdx=spdx, known=spdx is not None),
            "caveats": tuple(Caveat(code=c, evidence="made up") for c in chance.sample(CAVEATS, chance.choice([0, 0, 1, 2]))),
            "additional_metadata": {"idr_metadata": said},
        }
    )


def _gates(worst: Verdict, chance: random.Random) -> Iterator[GateResult]:
    """What every gate said, one of them the worst."""
    found = chance.choice(GATES)
    for gate in GATES:
        verdict = worst if gate == found else "pass"
        slices = tuple(sorted(chance.sample(range(1000), 3))) if verdict != "pass" else ()
        evidence = f"{len(slices)} of 1000 slices are unlike the two beside them" if slices else "nothing out of the ordinary"
        yield GateResult(gate=gate, verdict=verdict, measured=chance.random(), threshold=0.4, slices=slices, evidence=evidence)


async def fill(database: Database, volumes: int) -> None:
    """TEMPLATES volumes as the catalog makes them, then copies; indexes are made at the end."""
    chance = random.Random(1)
    for n in range(TEMPLATES):
        record = template(n, chance)
        async with database.writing() as session:
            writer = Writer(session)
            await writer.open(a_status(job=record.volume))
            await writer.put(record.volume, record.volume, 1, record.model_dump(mode="json"), committed=True)
            await writer.mark_held(record.volume, 1, held=n % 200 == 0)
            await writer.refresh(record.volume)
    async with database._engine.begin() as connection:
        await connection.execute(text("SET maintenance_work_mem = '1GB'"))
        indexes = (
            await connection.execute(
                text(
                    "SELECT indexname, indexdef FROM pg_indexes"
                    " WHERE tablename IN ('volumes', 'revisions', 'quality_results', 'lineage_edges') AND indexname NOT LIKE '%pkey'"
                )
            )
        ).all()
        for name, _ in indexes:
            await connection.execute(text(f"DROP INDEX {name}"))
        for table, copy in COPIES.items():
            named = {c for c in copy.split("(", 1)[1].split(")", 1)[0].replace(" ", "").split(",") if c != "{rest}"}
            columns = await connection.execute(
                text("SELECT column_name FROM information_schema.columns WHERE table_name = :t AND is_generated = 'NEVER'"),
                {"t": table},
            )
            rest = [c for c in columns.scalars() if c not in named]
            values = ", ".join(f"t.{c}" for c in rest)
            statement = copy.format(rest=", ".join(rest), values=values, volumes=volumes - TEMPLATES, place=PLACE)
            await connection.exec_driver_sql(statement)
        for name, definition in indexes:
            began = time.monotonic()
            await connection.exec_driver_sql(definition)
            print(f"  {name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    async with database._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("VACUUM ANALYZE")


async def warm(database: Database) -> None:
    """Every page of the rows of volumes and of all indexes is read, as they are where somebody asks all day; records are not.

    Before each kind of question: a virtual machine may be lent its memory, and what nobody read for a minute is taken back.
    """
    async with database._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS pageinspect")
        await connection.exec_driver_sql(
            "WITH ours AS (SELECT * FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname !~ 'lineage|quality_results(_pkey|_at)?$'),"
            " read AS (SELECT oid FROM ours WHERE relkind IN ('r', 'i')"
            " UNION SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT reltoastrelid FROM ours))"
            " SELECT sum(length(get_raw_page(oid::regclass::text, n)))"
            " FROM read, generate_series(0, pg_relation_size(oid) / current_setting('block_size')::int - 1) n"
        )


async def measure(database: Database, rounds: int) -> list[dict[str, Any]]:
    """Milliseconds of every question, over `rounds` different ones of its kind."""
    catalog = Catalog(database)
    rows = []
    for question in QUESTIONS:
        chance = random.Random(7)
        took = []
        kinds: dict[str, Callable[[CatalogQuery], Awaitable[Any]]] = {"facets": catalog.facets, "quality": catalog.quality}
        ask = kinds.get(question.make(chance).kind, catalog.volumes)
        await warm(database)
        ended = await _ended(ask(question.make(chance)))
        for _ in range(UNINDEXED_ROUNDS if question.unindexed else rounds):
            query = question.make(chance)
            began = time.perf_counter()
            ended |= await _ended(ask(query))
            took.append((time.perf_counter() - began) * 1000)
        plans = await plans_of(database, _ended(ask(question.make(chance))))
        row = {
            "question": question.name,
            "unindexed": question.unindexed,
            "ended": ended,
            "p50_ms": round(statistics.median(took), 1),
            "p95_ms": round(statistics.quantiles(took, n=20)[-1], 1),
            "indexes": sorted({i for p in plans for i in p.indexes} - {"jobs_pkey"}),
            "scanned": sorted({s for p in plans for s in p.scanned} - {"jobs"}),
        }
        rows.append(row)
        print(
            f"{row['question']:26}{row['p50_ms']:>9}{row['p95_ms']:>9}  {' '.join(row['indexes'])} {row['scanned'] or ''}{' ended' if ended else ''}",
            flush=True,
        )
    return rows


async def _ended(asked: Awaitable[Any]) -> bool:
    """Whether the catalog ended a question because it took too long."""
    try:
        await asked
    except TooSlowError:
        return True
    return False


async def look(database: Database, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """What somebody would type for the real replies in `folder`, among all the others: what comes first, and how long it takes."""
    for record in records(folder):
        async with database.writing() as session:
            writer = Writer(session)
            await writer.open(a_status(job=record.volume))
            await writer.put(record.volume, record.volume, 1, record.model_dump(mode="json"), committed=True)
            await writer.refresh(record.volume)
    catalog, rows = Catalog(database), []
    print(f"\n{'words, by relevance':32}{'first':>30}{'p50 ms':>9}{'p95 ms':>9}", flush=True)
    for words, wanted in LOOKED_FOR:
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            page = await catalog.volumes(CatalogQuery(q=words, sort="relevance", limit=50))
            took.append((time.perf_counter() - began) * 1000)
        first = page.items[0]["volume"] if page.items else "nothing"
        said = first if first == wanted else f"{first}, not {wanted}"
        p50, p95 = statistics.median(took), statistics.quantiles(took, n=20)[-1]
        rows.append({"words": words, "first": first, "wanted": wanted, "p50_ms": round(p50, 1), "p95_ms": round(p95, 1)})
        print(f"{words:32}{said:>30}{p50:>9.1f}{p95:>9.1f}", flush=True)
    return rows


async def create(url: str, name: str) -> bool:
    """Make an empty database; False where it is there."""
    engine = create_async_engine(f"{url}/postgres", isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        there = (await connection.execute(text("SELECT 1 FROM pg_database WHERE datname = :n"), {"n": name})).scalar()
        if not there:
            await connection.exec_driver_sql(f"CREATE DATABASE {name}")
    await engine.dispose()
    return not there


async def run(url: str, volumes: int, rounds: int, archives: Path | None) -> dict[str, Any]:
    """Fill, measure, and say how large it all became."""
    name = f"bench{volumes}"
    database = Database.open(f"{url}/{name}")
    if await create(url, name):
        await database.migrate()
        await fill(database, volumes)
    async with database.reading() as session:
        size = (await session.execute(text("SELECT pg_database_size(current_database())"))).scalar_one()
    print(f"{volumes} volumes, {size / 2**30:.1f} GiB\n{'question':26}{'p50 ms':>9}{'p95 ms':>9}  indexes", flush=True)
    rows = await measure(database, rounds)
    looked_for = await look(database, archives, rounds) if archives else []
    await database.close()
    return {"volumes": volumes, "bytes": size, "questions": rows, "looked_for": looked_for}


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def main() -> int:
    """Exit 1 where a question is slower than LIMIT_MS."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--volumes", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--server", help="URL of a server that runs, as postgresql+asyncpg://user@host:port")
    parser.add_argument("--archives", type=Path, help="folder of real replies of archives, looked for among all the others")
    chosen = parser.parse_args()
    if chosen.server is None and postgres_binaries() is None:
        print("no PostgreSQL server here (Debian: apt-get install postgresql)", file=sys.stderr)
        return 2
    with nullcontext(chosen.server) if chosen.server else postgres_server(shared_buffers=f"{_memory_mb() // 3}MB") as url:
        # As services run (`emporter_runtime.service`).
        gc.freeze()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(run(url, chosen.volumes, chosen.rounds, chosen.archives))
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")
    return int(any(row["p95_ms"] > LIMIT_MS and not row["unindexed"] for row in found["questions"]))


if __name__ == "__main__":
    sys.exit(main())
