"""How PostgreSQL carries out what the catalog asks: the statements as they were sent, explained."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import event

from cataloger.database import Database


@dataclass(frozen=True, slots=True)
class Plan:
    """One statement's plan: the indexes it enters, the tables it reads from end to end."""

    statement: str
    indexes: frozenset[str]
    scanned: frozenset[str]


async def plans_of(database: Database, call: Awaitable[Any], *, settings: tuple[str, ...] = ()) -> list[Plan]:
    """The plan of every SELECT that `call` sends. `settings` are set for the explaining only."""
    with _statements(database) as sent:
        await call
    plans = []
    for statement, parameters in sent:
        if not statement.lstrip().upper().startswith(("SELECT", "WITH")):
            continue
        async with database._engine.connect() as connection:
            for setting in settings:
                await connection.exec_driver_sql(f"SET LOCAL {setting}")
            answer = (await connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters)).scalar_one()
        plans.append(_plan(statement, json.loads(answer) if isinstance(answer, str) else answer))
    return plans


@contextmanager
def _statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    sent: list[tuple[str, Any]] = []

    def note(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        sent.append((statement, parameters))

    engine = database._engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def _plan(statement: str, explained: Any) -> Plan:
    nodes = list(_nodes(explained[0]["Plan"]))
    indexes = frozenset(node["Index Name"] for node in nodes if "Index Name" in node)
    return Plan(statement, indexes, frozenset(n["Relation Name"] for n in nodes if n["Node Type"] == "Seq Scan"))


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _nodes(child)
