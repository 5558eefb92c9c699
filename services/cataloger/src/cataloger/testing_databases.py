"""On which database a suite runs: `class TestSearchOnSqlite(OnSqlite, SearchSuite)`."""

from __future__ import annotations

import pytest

from cataloger.database import Database
from cataloger.testing_world import World


class OnSqlite:
    """`world` is a catalog on SQLite, `other` one on PostgreSQL, where two are compared."""

    @pytest.fixture
    async def world(self, sqlite: Database) -> World:
        return World(sqlite)

    @pytest.fixture
    async def other(self, postgres: Database) -> World:
        return World(postgres)


class OnPostgres:
    """`world` is a catalog on PostgreSQL, `other` one on SQLite, where two are compared."""

    @pytest.fixture
    async def world(self, postgres: Database) -> World:
        return World(postgres)

    @pytest.fixture
    async def other(self, sqlite: Database) -> World:
        return World(sqlite)
