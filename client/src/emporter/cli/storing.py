"""`emporter du | gc | logs | consolidate`: the store and its housekeeping, for operators."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli.options import Json, Stack, Yes, connection, operator_environment, operator_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emporter_runtime.settings import Settings

LAST_LINES = 200
"""Log lines shown where nobody says how many."""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(du)
    app.command()(gc)
    app.command()(logs)
    app.command()(consolidate)


def du(json: Json = False, stack: Stack = None) -> None:
    """Say what the store holds: objects and bytes of uploads, of raw objects, of jobs' documents and of each volume."""
    import asyncio

    from emporter.cli import showing

    found = asyncio.run(_held(_settings(stack)))
    if json:
        showing.print_json(found)
        return
    whole = {"what": "total", "objects": sum(row["objects"] for row in found), "bytes": sum(row["bytes"] for row in found)}
    rows = [(row["what"], row["objects"], showing.size(row["bytes"])) for row in (*found, whole)]
    showing.print_table(("what", "objects", "bytes"), rows, "the store is empty")


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Keep the newest N revisions of a volume; else EMPORTER_KEEP_REVISIONS."),
    ] = None,
    yes: Yes = False,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Take away what nobody needs: what failed long ago, what no volume was made of, what retention rules let go."""
    import asyncio

    from emporter.bus import require_bus
    from emporter.cli import showing
    from emporter_runtime.garbage import GarbageSettings, collect

    settings = GarbageSettings.model_validate(_settings(stack).model_dump())
    if keep is not None:
        settings = settings.model_copy(update={"keep_revisions": keep})
    if not (dry_run or yes):
        typer.confirm("Take away what nobody needs? (--dry-run says what that is)", abort=True)
    asyncio.run(require_bus(settings.nats_url))
    found = asyncio.run(collect(settings, dry=dry_run))
    if json:
        showing.print_json({"dry_run": dry_run, **asdict(found)})
        return
    for name in (*found.runs, *found.revisions, *found.retention):
        print(name)
    print(f"{'would go' if dry_run else 'gone'}: {found.objects} objects, {showing.size(found.bytes)}")


def logs(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", show_default=False)] = None,
    lines: Annotated[int, typer.Option("-n", min=1, help="The last so many.")] = LAST_LINES,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Show what the services of this machine's stack logged, in order of time; of one job, where JOB is given."""
    from emporter.cli import showing
    from emporter.errors import MistakeError

    where = connection(stack)
    if where.stack is None:
        raise MistakeError(
            "only a stack of this machine keeps its logs in files", hint="elsewhere: docker compose logs, kubectl logs"
        )
    events = sorted(_events(where.stack.root / "logs", job), key=lambda event: str(event.get("timestamp", "")))[-lines:]
    if not events:
        showing.console(stderr=True).print(f"nothing was written about {job}" if job else "nothing was written yet")
    for event in events:
        if json:
            showing.print_json_line(event)
        else:
            print(_line(event))


def consolidate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Metadata JSON files of earlier tools.", show_default=False)],
    legacy: Annotated[bool, typer.Option("--legacy", help="Read files older than version 2.0 too.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="Where catalog, report and log go; default: DIR.")
    ] = None,
    into_catalog: Annotated[bool, typer.Option("--import", help="Enter the valid records into the catalog.")] = False,
    json: Json = False,
    stack: Stack = None,
) -> int:
    """Make one catalog of many metadata files, with a validation report. Exit status 1 where a file is not valid."""
    import os
    import subprocess
    import sys

    from emporter.cli import showing
    from emporter.errors import MistakeError

    if not folder.is_dir():
        raise MistakeError(f"{folder} is no folder", hint="name the folder the metadata files lie in")
    command = [sys.executable, "-P", "-m", "cataloger", "consolidate", str(folder.resolve())]
    command += ["--legacy"] * legacy + ["--import"] * into_catalog + (["--output", str(output.resolve())] if output else [])
    environment = {**os.environ, **(operator_environment(stack) if into_catalog else {})}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603  # our own module
    *files, summary = done.stdout.splitlines() or [""]
    if json:
        showing.print_json({"files": files, "summary": summary, "valid": done.returncode == 0})
    else:
        print(done.stdout, end="")
    return done.returncode


async def _held(settings: Settings) -> list[dict[str, Any]]:
    """One row for uploads, one for each folder of raw data, one a volume; the largest volume first."""
    from collections import defaultdict

    from emporter_contracts import storage
    from emporter_runtime.objects import Objects

    objects = Objects.open(settings)
    names = {storage.INBOX: _upload, storage.RAW: _raw, storage.VOLUMES: _volume}
    rows: list[dict[str, Any]] = []
    for bucket, name in names.items():
        groups: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        async for info in objects.listing(bucket):
            group = groups[name(info.key)]
            group[0] += 1
            group[1] += info.size
        rows += [
            {"what": what, "objects": n, "bytes": size} for what, (n, size) in sorted(groups.items(), key=lambda g: -g[1][1])
        ]
    return rows


def _upload(key: str) -> str:
    del key
    return "uploads"


def _volume(key: str) -> str:
    return key.split("/", 1)[0]


def _raw(key: str) -> str:
    return {"objects": "raw objects", "jobs": "jobs' documents"}.get(key.split("/", 1)[0], "the catalog's notes")


def _events(folder: Path, job: str | None) -> Iterator[dict[str, Any]]:
    """Lines of every service's file; what is no JSON (a server's own line) has its text as `event`."""
    import json

    for path in sorted(folder.glob("*.log")):
        with path.open(errors="replace") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = {"event": line.rstrip()}
                if not isinstance(event, dict):
                    continue
                if job is None or event.get("job") == job:
                    yield {"service": path.stem, "timestamp": "", **event}


def _line(event: dict[str, Any]) -> str:
    head = (str(event.get("timestamp", ""))[:23], str(event.get("level", "")), str(event["service"]), str(event.get("event", "")))
    rest = {k: v for k, v in event.items() if k not in ("timestamp", "level", "service", "event", "exception")}
    return "  ".join((f"{head[0]:<23}", f"{head[1]:<8}", f"{head[2]:<12}", head[3], *(f"{k}={v}" for k, v in rest.items())))


def _settings(stack: str | None) -> Settings:
    from emporter_runtime.logging import configure_logging

    configure_logging("operator", "warning", "console")
    return operator_settings(stack)
