"""`emporter verify VOLUME`: is what is stored still what was committed, and what the archive served? For operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from emporter.cli.options import Json, Stack, operator_environment


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(verify)


def verify(
    volume: Annotated[str, typer.Argument(metavar="VOLUME[@rN]", show_default=False)],
    json: Json = False,
    stack: Stack = None,
) -> int:
    """Read all of a volume and compare it with its commit and, where they still exist, with the raw objects. Exit status 1
    where anything differs.
    """
    from emporter.cli import showing
    from emporter_contracts.ids import VolumeRef

    ref = VolumeRef.parse(volume)
    findings = []
    for said in _audit(operator_environment(stack), str(ref)):
        if "what" not in said:
            if not json:
                print(f"{said['volume']}@r{said['revision']}")
            continue
        findings.append(said)
        if not json:
            print(f"{'ok  ' if said['well'] else 'NOT '} {said['what']}: {said['found']}", flush=True)
    if json:
        showing.print_json(findings)
    return 0 if all(finding["well"] for finding in findings) else 1


def _audit(environment: dict[str, str], ref: str) -> Iterator[dict[str, Any]]:
    """What the converter's own audit says, line by line: it knows every format the raw objects may have. Raises AuditError."""
    import json
    import os
    import subprocess
    import sys

    from emporter.errors import AuditError

    command = [sys.executable, "-P", "-m", "converter.auditing", ref]
    given = {**os.environ, **environment}
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # our own module
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "error" in said:
                raise AuditError(said["error"], hint=said["hint"])
            yield said
    if process.returncode not in (0, 1):
        raise AuditError(f"the audit ended with status {process.returncode}", hint="what it printed above says why")
