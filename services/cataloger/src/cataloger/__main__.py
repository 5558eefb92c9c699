"""`python -m cataloger [serve | migrate | rebuild | consolidate DIR]`: settings from the environment, then the work."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats.errors

from cataloger.app import serve
from cataloger.consolidating import consolidate, write
from cataloger.curation import Curation
from cataloger.database import Database, migrated
from cataloger.rebuild import hear_again, rebuild
from cataloger.repository import rederive
from cataloger.settings import CatalogerSettings
from emporter_runtime.bus import Bus
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.service import run_service

BUS_SECONDS = 10.0
"""How long a rebuild looks for the bus before it does without."""

log = get_logger("cataloger")


async def migrate(settings: CatalogerSettings) -> None:
    """Bring the tables to the newest version, and end."""
    database = Database.open(settings.database_url)
    try:
        await migrated(database)
        await rederive(database)
    finally:
        await database.close()
    log.info("migrated")


async def rebuild_from_store(settings: CatalogerSettings) -> None:
    """Take in what the streams still hold and what the store knows, and end. Without a bus: what the store knows."""
    database = Database.open(settings.database_url)
    bus = Bus(settings, service="cataloger-rebuild")
    try:
        await migrated(database)
        objects = Objects.open(settings)
        if await _connected(bus):
            found = await hear_again(bus, objects, database)
        else:
            log.warning("streams_left_out", bus=settings.nats_url, hint="the history lacks what they hold: rebuild again with it")
            found = await rebuild(objects, database)
    finally:
        await bus.broker.stop()
        await database.close()
    log.info("rebuilt", **asdict(found))


async def _connected(bus: Bus) -> bool:
    try:
        async with asyncio.timeout(BUS_SECONDS):
            await bus.broker.connect()
    except (OSError, TimeoutError, nats.errors.Error) as error:
        log.info("no_bus", error=repr(error))
        return False
    return True


def consolidation(arguments: argparse.Namespace) -> int:
    """Exit 0 when every file read is valid, 1 when one is not, 2 where there is no such folder."""
    folder = arguments.folder
    if not folder.is_dir():
        sys.stderr.write(f"{folder} is no folder\n")
        return 2
    found = consolidate(folder, legacy=arguments.legacy)
    for path in write(found, arguments.output or folder, datetime.now(UTC)):
        sys.stdout.write(f"{path}\n")
    checked = len(found.records) + len(found.invalid)
    sys.stdout.write(f"{len(found.records)} of {checked} valid, {len(found.skipped)} files left out\n")
    if arguments.into_catalog:
        code = run_service("cataloger", CatalogerSettings, lambda settings: import_records(settings, found.records))
        if code:
            return code
    return 1 if found.invalid else 0


async def import_records(settings: CatalogerSettings, records: list[dict[str, Any]]) -> None:
    """Enter consolidated records into the catalog; volumes our own jobs made are left as they are."""
    database = Database.open(settings.database_url)
    try:
        await migrated(database)
        curation = Curation(database, Objects.open(settings))
        taken = [await curation.take(record) for record in records]
    finally:
        await database.close()
    log.info("imported", taken=sum(taken), left=len(taken) - sum(taken))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes as `run_service` and `consolidation` give them."""
    parser = argparse.ArgumentParser(prog="python -m cataloger", description="The catalog of Emporter.")
    works = {"serve": serve, "migrate": migrate, "rebuild": rebuild_from_store}
    commands = parser.add_subparsers(dest="work", metavar="serve | migrate | rebuild | consolidate")
    for name, work in works.items():
        commands.add_parser(name, help=(work.__doc__ or "").split("\n", 1)[0])
    files = commands.add_parser("consolidate", help="one catalog of metadata files written by earlier tools")
    files.add_argument("folder", type=Path, metavar="DIR")
    files.add_argument("--legacy", action="store_true", help="read files older than version 2.0 too")
    files.add_argument("--output", type=Path, metavar="DIR", help="where catalog, report and log go; default: the same folder")
    files.add_argument("--import", dest="into_catalog", action="store_true", help="enter the valid records into the catalog")
    chosen = parser.parse_args(arguments)
    if chosen.work == "consolidate":
        return consolidation(chosen)
    return run_service("cataloger", CatalogerSettings, works[chosen.work or "serve"])


if __name__ == "__main__":
    sys.exit(main())
