"""Databases for the suites: a SQLite file each, and one PostgreSQL server for all. Migrated once, and copied for each test."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from cataloger.database import Database
from cataloger.testing import postgres_binaries, postgres_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog's file without a row."""
    path = tmp_path_factory.mktemp("migrated") / "catalog.db"
    asyncio.run(_migrate(f"sqlite+aiosqlite:///{path}"))
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> str:
    """The name of a database that is a catalog without a row."""
    asyncio.run(_say(postgres_url, "CREATE DATABASE migrated"))
    asyncio.run(_migrate(f"{postgres_url}/migrated"))
    return "migrated"


@pytest.fixture
async def postgres_database_url(postgres_url: str) -> AsyncIterator[str]:
    """An empty database of its own."""
    async with _database(postgres_url, "template1") as url:
        yield url


@pytest.fixture
def sqlite_database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/catalog/catalog.db"


@pytest.fixture
async def sqlite(sqlite_database_url: str, migrated_sqlite: Path, tmp_path: Path) -> AsyncIterator[Database]:
    (tmp_path / "catalog").mkdir()
    shutil.copy(migrated_sqlite, tmp_path / "catalog" / "catalog.db")
    database = Database.open(sqlite_database_url)
    yield database
    await database.close()


@pytest.fixture
async def postgres(postgres_url: str, migrated_postgres: str) -> AsyncIterator[Database]:
    async with _database(postgres_url, migrated_postgres) as url:
        database = Database.open(url)
        yield database
        await database.close()


@asynccontextmanager
async def _database(postgres_url: str, template: str) -> AsyncIterator[str]:
    """The URL of a copy of `template`, gone afterwards: hundreds of them take minutes to remove at the end."""
    name = f"test_{uuid4().hex}"
    await _say(postgres_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield f"{postgres_url}/{name}"
    await _say(postgres_url, f"DROP DATABASE {name} WITH (FORCE)")


async def _say(postgres_url: str, statement: str) -> None:
    connection = await asyncpg.connect(f"{postgres_url}/postgres".replace("+asyncpg", ""))
    await connection.execute(statement)
    await connection.close()


async def _migrate(url: str) -> None:
    database = Database.open(url)
    await database.migrate()
    await database.close()
