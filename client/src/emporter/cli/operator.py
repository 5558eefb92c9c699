"""`emporter rm | release | reconcile`: for operators, with the services' own credentials."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli.options import Json, Stack, Yes, operator_environment, operator_settings

if TYPE_CHECKING:
    from emporter_runtime.settings import Settings


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("rm")(remove)
    app.command()(reconcile)
    app.command()(release)


def remove(
    volume: Annotated[str, typer.Argument(metavar="VOLUME[@rN]", help="All its revisions, or one.", show_default=False)],
    yes: Yes = False,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Remove a volume, or one revision of it. It can't be undone; what it was made of stays in the store."""
    import asyncio

    from emporter.cli import showing
    from emporter_contracts.ids import VolumeRef
    from emporter_runtime.objects import Objects
    from emporter_runtime.removal import remove as remove_volume

    ref = VolumeRef.parse(volume)
    settings = _settings(stack)
    if not yes:
        typer.confirm(f"Remove {'all of ' if ref.revision is None else ''}{ref}?", abort=True)
    removed = asyncio.run(remove_volume(Objects.open(settings), ref))
    if json:
        showing.print_json(asdict(removed))
    else:
        which = ", ".join(f"r{n}" for n in removed.revisions)
        print(f"{removed.volume} {which} removed: {removed.objects} objects, {showing.size(removed.bytes)}")


def release(
    volume: Annotated[str, typer.Argument(metavar="VOLUME@rN", help="A revision a gate or a rule holds.", show_default=False)],
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Let a revision that a quality gate or a rule of the policy holds become current, if it is the newest."""
    import asyncio

    from emporter.cli import showing
    from emporter.errors import MistakeError
    from emporter_contracts.ids import VolumeRef
    from emporter_runtime.commits import release as let_go
    from emporter_runtime.objects import Objects

    ref = VolumeRef.parse(volume)
    if ref.revision is None:
        raise MistakeError(f"{volume} names no revision", hint=f"emporter show {volume} says which is held: {volume}@r<N>")
    if not asyncio.run(let_go(Objects.open(_settings(stack)), ref.volume, ref.revision)):
        raise MistakeError(f"{ref} is not held", hint=f"emporter show {ref.volume}")
    if json:
        showing.print_json({"volume": ref.volume, "revision": ref.revision, "released": True})
    else:
        print(f"{ref} released")


def reconcile(json: Json = False, stack: Stack = None) -> None:
    """Make bus and catalog again from the store: after they lost data, or when in doubt. Nothing stored is fetched again."""
    import asyncio

    from emporter.bus import require_bus
    from emporter.cli import showing
    from emporter_runtime.reconcile import reconcile as make_again

    settings = _settings(stack)
    asyncio.run(require_bus(settings.nats_url))
    found = asyncio.run(make_again(settings))
    catalog = _rebuild_catalog(stack)
    if json:
        showing.print_json({**asdict(found), "catalog": catalog})
        return
    print(f"{found.jobs} jobs in the store: {len(found.resumed)} resumed, {len(found.restored)} ended ones told again")
    print(f"told again: {found.units} fetched pieces, {found.tasks} converted tasks, {found.volumes} volumes")
    if catalog is None:
        print("catalog: run `python -m cataloger rebuild` where EMPORTER_DATABASE_URL is set")
    else:
        print(f"catalog: {catalog['revisions']} revisions, {catalog['removed']} removed, {catalog['unreadable']} unreadable")


def _rebuild_catalog(stack: str | None) -> dict[str, Any] | None:
    """What the catalog was made again from; None where its database is not known here. Raises StackError."""
    import json
    import os
    import subprocess
    import sys

    from emporter.errors import StackError

    environment = {**os.environ, **operator_environment(stack), "EMPORTER_LOG_FORMAT": "json"}
    if "EMPORTER_DATABASE_URL" not in environment:
        return None
    command = [sys.executable, "-P", "-m", "cataloger", "rebuild"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603  # our own module
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    told = next((line for line in lines if line.get("event") == "rebuilt"), None)
    if done.returncode or told is None:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise StackError(f"the catalog could not be made again: {last[:300]}", hint="python -m cataloger rebuild says more")
    return {name: told[name] for name in ("jobs", "revisions", "removed", "unreadable", "heard")}


def _settings(stack: str | None) -> Settings:
    from emporter_runtime.logging import configure_logging

    configure_logging("operator", "warning", "console")
    return operator_settings(stack)
