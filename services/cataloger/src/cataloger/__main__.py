"""`python -m cataloger [serve | migrate | rebuild]`: settings from the environment, then the work."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict

from cataloger.app import serve
from cataloger.database import Database, migrated
from cataloger.rebuild import rebuild
from cataloger.repository import rederive
from cataloger.settings import CatalogerSettings
from emporter_runtime.logging import get_logger
from emporter_runtime.objects import Objects
from emporter_runtime.service import run_service

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
    """Take in what the store knows, and end."""
    database = Database.open(settings.database_url)
    try:
        await migrated(database)
        found = await rebuild(Objects.open(settings), database)
    finally:
        await database.close()
    log.info("rebuilt", **asdict(found))


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes as `run_service` gives them."""
    parser = argparse.ArgumentParser(prog="python -m cataloger", description="The catalog of Emporter.")
    works = {"serve": serve, "migrate": migrate, "rebuild": rebuild_from_store}
    parser.add_argument("work", nargs="?", choices=works, default="serve", help="default: serve")
    return run_service("cataloger", CatalogerSettings, works[parser.parse_args(arguments).work])


if __name__ == "__main__":
    sys.exit(main())
