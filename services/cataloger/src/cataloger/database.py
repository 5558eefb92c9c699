"""The database under the catalog: PostgreSQL by asyncpg, or one SQLite file. What differs between the two stays in here."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar

import aiosqlite
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as NoConnectionFreeError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from cataloger.errors import InvalidQueryError, TooSlowError
from cataloger.jsonpaths import match_document
from emporter_contracts.errors import EmporterError
from emporter_runtime.errors import TransientError
from emporter_runtime.logging import get_logger

BUSY_SECONDS = 30
"""How long a SQLite transaction waits for another process's. Ours take milliseconds; only a copy or a migration takes longer."""
POOL_SIZE = 10
"""Connections of one process; more queries wait for each other. PostgreSQL's default limit of 100 lets ten processes in."""
MIGRATION_LOCK = 0x656D706F72746572
"""Key of the PostgreSQL advisory lock under which migrations run: "emporter" in ASCII."""
STEPS = 100
"""Of SQLite's virtual machine between two looks at the clock: microseconds, or a few records looked into."""
CANCELED = "57014"
"""What PostgreSQL says of a statement that met its timeout."""
MIGRATIONS = Path(__file__).parent / "migrations"
RETRY_SECONDS = (0.5, 10.0)
"""First and longest wait for a database that does not answer at start."""

T = TypeVar("T")

log = get_logger(__name__)


class DatabaseUnavailableError(TransientError):
    """The catalog's database does not answer."""

    code = "catalog_unavailable"


class Database:
    """One engine, with sessions that read and sessions that write."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(emporter_writes=True)
        # One writer at a time in a SQLite file anyway: waiting here costs nothing, waiting there is a busy loop.
        self._turn: Any = asyncio.Lock() if self.is_sqlite else nullcontext()

    @classmethod
    def open(cls, url: str) -> Self:
        """Connects lazily. A SQLite file and its folder are made when they are not there."""
        if make_url(url).get_backend_name() == "sqlite":
            return cls(_sqlite(url))
        # A plan made for any words suits none: rare ones want the index of words, common ones that of times.
        # And a disk without moving parts reads any page as fast as the next: the rows of a rare word cost less than the index
        # entries of a common one beside it.
        # Compiling a plan takes longer than the plan, and so does starting others to share in it.
        settings = {
            "plan_cache_mode": "force_custom_plan",
            "random_page_cost": "1.1",
            "jit": "off",
            "max_parallel_workers_per_gather": "0",
        }
        connect = {"server_settings": settings}
        return cls(create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0, pool_pre_ping=True, connect_args=connect))

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that sees one state of the catalog."""
        with _faults():
            async with AsyncSession(self._engine, expire_on_commit=False) as session, session.begin():
                yield session

    @asynccontextmanager
    async def asking(self, seconds: float) -> AsyncIterator[AsyncSession]:
        """As `reading`, for what somebody asks in words of their own: no statement may take longer. Raises TooSlowError."""
        async with self.reading() as session:
            if not self.is_sqlite:
                await session.execute(text(f"SET LOCAL statement_timeout = {max(1, round(seconds * 1000))}"))
                with _patience(seconds, "; or list it by sort=-updated_at, which goes on page by page"):
                    yield session
                return
            connection = (await (await session.connection()).get_raw_connection()).driver_connection
            assert connection is not None
            end = time.monotonic() + seconds
            await connection.set_progress_handler(lambda: time.monotonic() > end, STEPS)
            try:
                with _patience(seconds):
                    yield session
            finally:
                await connection.set_progress_handler(None, STEPS)

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A transaction: all of it, or nothing. Raises DatabaseUnavailableError."""
        async with self._turn:
            with _faults():
                async with AsyncSession(self._writer, expire_on_commit=False) as session, session.begin():
                    yield session

    async def migrate(self) -> None:
        """Bring the tables to the newest version. Of several processes at once one does it and the others wait."""
        with _faults():
            if self.is_sqlite:
                await _write_ahead(str(self._engine.url.database))
            async with self._writer.begin() as connection:
                if not self.is_sqlite:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
                await connection.run_sync(upgrade)

    async def run_sync(self, work: Callable[[Connection], T]) -> T:
        """Work that wants SQLAlchemy's blocking connection, in one writing transaction."""
        with _faults():
            async with self._writer.begin() as connection:
                return await connection.run_sync(work)

    async def ready(self) -> bool:
        """Whether the database answers and has our tables."""
        async with self.reading() as session:
            await session.execute(text("SELECT 1 FROM volumes LIMIT 1"))
        return True

    async def close(self) -> None:
        await self._engine.dispose()


async def migrated(database: Database) -> None:
    """Migrate, waiting for a database that is not up yet: a service may start before what it stands on."""
    await patiently(database.migrate)


async def patiently(step: Callable[[], Awaitable[object]]) -> None:
    """Take a step, from its beginning as often as the database goes away meanwhile."""
    delay, longest = RETRY_SECONDS
    while True:
        try:
            await step()
        except DatabaseUnavailableError as error:
            log.warning("database_unavailable", error=error.message, again_in=delay)
            await asyncio.sleep(delay)
            delay = min(longest, delay * 2)
        else:
            return


def upgrade(connection: Connection) -> None:
    """Run the migrations on an open connection, in its transaction."""
    command.upgrade(_config(connection), "head")


def downgrade(connection: Connection, to: str) -> None:
    """Take migrations back to a version, or to `base`, in the connection's transaction. Their columns' content is lost."""
    command.downgrade(_config(connection), to)


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


@contextmanager
def _faults() -> Iterator[None]:
    """The drivers' ways of saying "no connection" as ours."""
    try:
        yield
    except EmporterError:
        raise
    except (OSError, DBAPIError, NoConnectionFreeError) as error:
        if isinstance(error, DBAPIError) and _unwritable(error):
            # One net under everything: a path, a parameter or a body may hold a NUL, and not every one is looked at before.
            raise InvalidQueryError("what was asked holds a character no text has", hint="leave out NUL characters") from error
        if isinstance(error, DBAPIError) and not (error.connection_invalidated or _away(error)):
            raise
        reason = str(getattr(error, "orig", error)).split("\n", 1)[0]
        raise DatabaseUnavailableError(
            f"the catalog's database does not answer: {reason}", hint="check EMPORTER_DATABASE_URL and that the server runs"
        ) from error


@contextmanager
def _patience(seconds: float, or_else: str = "") -> Iterator[None]:
    """A statement that was ended because it took too long, as ours."""
    try:
        yield
    except DBAPIError as error:
        if str(getattr(error.orig, "sqlstate", None)) != CANCELED and str(error.orig) != "interrupted":
            raise
        raise TooSlowError(
            f"the answer was not found within {seconds:g} seconds",
            hint=f"narrow it by source=, status=, organism=, dates or words{or_else}",
        ) from error


def _unwritable(error: DBAPIError) -> bool:
    """Whether PostgreSQL was handed a text that is none in its encoding."""
    return str(getattr(error.orig, "sqlstate", None)) in {"22021", "22P05"}


def _away(error: DBAPIError) -> bool:
    """Whether the server is starting, stopping, full, or our file is locked by another process for too long."""
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return state.startswith(("08", "57P", "53")) or "database is locked" in str(error.orig)


async def _write_ahead(path: str) -> None:
    """Let readers of a SQLite file go on while one writes. Done once, it stays so in the file."""
    async with aiosqlite.connect(path, isolation_level=None) as connection:
        async with asyncio.timeout(BUSY_SECONDS):
            while True:
                try:
                    await connection.execute("PRAGMA journal_mode = WAL")
                except sqlite3.OperationalError as error:
                    # This one statement does not wait for other processes, whatever busy_timeout says.
                    if "locked" not in str(error):
                        raise
                    await asyncio.sleep(0.02)
                else:
                    return


def _sqlite(url: str) -> AsyncEngine:
    path = make_url(url).database
    if path and path != ":memory:":
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url, pool_size=POOL_SIZE, max_overflow=0)

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        # The driver's own transaction handling begins too late for a consistent read; we say BEGIN ourselves.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        # An event is acknowledged after its transaction; NORMAL would lose that transaction with the machine's power.
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()
        connection.create_function("emporter_json_match", 2, match_document, deterministic=True)

    @event.listens_for(engine.sync_engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("emporter_writes")
        # A reader that becomes a writer half-way fails at once if another wrote in between, whatever busy_timeout says.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine
