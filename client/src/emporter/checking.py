"""What `emporter doctor` looks at: this machine, then each part of the stack, one finding each."""

from __future__ import annotations

import asyncio
import json
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from emporter.connection import Connection
from emporter.errors import ClientError
from emporter.stack.choices import Choices
from emporter.stack.files import StackFiles, read_private
from emporter.stack.plan import HOST, SERVICES
from emporter.stack.probing import get
from emporter_contracts.errors import EmporterError

LITTLE_ROOM = 5 * 10**9
"""Bytes below which a volume of any size will hardly fit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to do where it is not well."""

    what: str
    well: bool
    found: str
    advice: str = ""


def check_machine() -> list[Finding]:
    """Interpreter and the servers that came with it."""
    version = platform.python_version()
    known = (3, 11) <= sys.version_info < (3, 14)
    findings = [
        Finding(
            "python", known, f"{version} on {platform.system()} {platform.machine()}", "" if known else "use 3.11, 3.12 or 3.13"
        )
    ]
    for name in ("nats-server", "weed"):
        path = Path(sys.executable).with_name(name)
        advice = "" if path.exists() else "install emporter again; emporter up needs it"
        findings.append(Finding(name, path.exists(), str(path) if path.exists() else "missing", advice))
    return findings


async def check_stack(connection: Connection) -> list[Finding]:
    """Everything a client would talk to, and in a stack of this machine every process and the room left."""
    checks = [
        _http("catalog", connection.catalog),
        _http("block-server", connection.blocks),
        _bus(connection),
        _inbox(connection),
    ]
    findings = list(await asyncio.gather(*checks))
    if connection.stack is not None:
        findings += await _embedded(connection.stack)
    return findings


async def _embedded(files: StackFiles) -> list[Finding]:
    info, chosen = files.info(), read_private(files.chosen, Choices)
    if info is None or chosen is None:
        return [Finding("folder", well=False, found=f"{files.root} can't be read", advice="run as who started the stack")]
    findings = []
    for name, identity in sorted(info.processes.items()):
        alive = identity.alive()
        findings.append(
            Finding(
                f"process {name}",
                alive,
                f"number {identity.pid}" if alive else "ended",
                "" if alive else f"see {files.log(name)}",
            )
        )
    behind = [name for name in SERVICES if name not in {"cataloger", "block-server"}]
    findings += await asyncio.gather(*(_http(name, f"http://{HOST}:{chosen.ports[SERVICES[name]]}") for name in behind))
    free = shutil.disk_usage(files.root).free
    advice = "" if free > LITTLE_ROOM else "free some room, or put the stack elsewhere with --data"
    findings.append(Finding("room", free > LITTLE_ROOM, f"{free / 1e9:.1f} GB free under {files.root}", advice))
    return findings


async def _http(name: str, base: str) -> Finding:
    if not base:
        return Finding(
            name, well=False, found="nobody says where it is", advice="set EMPORTER_CATALOG_URL and EMPORTER_BLOCKS_URL"
        )
    status, body = await get(f"{base}/readyz")
    if status == 200:
        return Finding(name, well=True, found=f"ready at {base}")
    if status == 0:
        return Finding(name, well=False, found=f"no answer at {base}", advice="is it running? see its log")
    return Finding(name, well=False, found=f"at {base} not ready: {_failing(body)}", advice="see its log")


def _failing(body: str) -> str:
    """The names of the checks that fail, out of the answer of /readyz."""
    try:
        return ", ".join(name for name, passes in json.loads(body)["checks"].items() if not passes)
    except (ValueError, KeyError, AttributeError):
        return body[:100]


async def _bus(connection: Connection) -> Finding:
    from emporter.bus import BusClient

    client = BusClient(connection)
    try:
        await client.find("doctor")
    except ClientError as error:
        return Finding("bus", well=False, found=error.message, advice="is nats-server running and provisioned?")
    finally:
        await client.close()
    return Finding("bus", well=True, found=f"answers at {connection.nats}")


async def _inbox(connection: Connection) -> Finding:
    from emporter_contracts.storage import INBOX
    from emporter_runtime.objects import Objects

    settings = connection.inbox()
    where = settings.s3_endpoint or settings.store_url
    try:
        await Objects.open(settings).folders(INBOX)
    except EmporterError as error:
        return Finding("inbox", well=False, found=error.message, advice=error.hint or "is the store running?")
    return Finding("inbox", well=True, found=f"answers at {where}")
