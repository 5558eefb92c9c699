"""Databases for the suites: a SQLite file each, and one PostgreSQL server for all."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from cataloger.database import Database
from cataloger.testing import postgres_binaries, postgres_server


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if postgres_binaries() is None:
        pytest.skip("no PostgreSQL server here (Debian: apt-get install postgresql)")
    with postgres_server() as url:
        yield url


@pytest.fixture
async def postgres_database_url(postgres_url: str) -> str:
    """An empty database of its own."""
    name = f"test_{uuid4().hex}"
    engine = create_async_engine(f"{postgres_url}/postgres", isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await engine.dispose()
    return f"{postgres_url}/{name}"


@pytest.fixture
def sqlite_database_url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/catalog/catalog.db"


@pytest.fixture
async def sqlite(sqlite_database_url: str) -> AsyncIterator[Database]:
    database = Database.open(sqlite_database_url)
    await database.migrate()
    yield database
    await database.close()


@pytest.fixture
async def postgres(postgres_database_url: str) -> AsyncIterator[Database]:
    database = Database.open(postgres_database_url)
    await database.migrate()
    yield database
    await database.close()
