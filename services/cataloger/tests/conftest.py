"""Databases for the suites: a SQLite file each, and one PostgreSQL server for all. Migrated once, and copied for each test."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from cataloger.database import Database
from cataloger.testing import create_database, drop_database, postgres_binaries, postgres_server


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
    url = asyncio.run(create_database(postgres_url))
    asyncio.run(_migrate(url))
    return url.rpartition("/")[2]


@pytest.fixture
async def postgres_database_url(postgres_url: str) -> AsyncIterator[str]:
    """An empty database of its own."""
    url = await create_database(postgres_url)
    yield url
    await drop_database(url)


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
    url = await create_database(postgres_url, migrated_postgres)
    database = Database.open(url)
    yield database
    await database.close()
    await drop_database(url)


async def _migrate(url: str) -> None:
    database = Database.open(url)
    await database.migrate()
    await database.close()
