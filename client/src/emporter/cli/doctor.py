"""`emporter doctor`: what is there, what answers, and what to do about the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from emporter.cli.options import Json, Stack

if TYPE_CHECKING:
    from emporter.checking import Finding


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(doctor)


def doctor(json: Json = False, stack: Stack = None) -> int:
    """Check this machine and the stack. Exit status 1 where something is not well."""
    import asyncio
    from dataclasses import asdict

    from emporter.checking import check_machine, check_stack
    from emporter.cli import showing
    from emporter.cli.options import connection
    from emporter.errors import NoStackError

    findings = check_machine()
    try:
        findings += asyncio.run(check_stack(connection(stack)))
    except NoStackError as error:
        findings.append(_absent(error))
    if json:
        showing.print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(
                f"{'ok  ' if finding.well else 'NOT '} {finding.what}: {finding.found}"
                + (f"; {finding.advice}" if finding.advice else "")
            )
    return 0 if all(finding.well for finding in findings) else 1


def _absent(error: Exception) -> Finding:
    from emporter.checking import Finding
    from emporter.errors import NoStackError

    assert isinstance(error, NoStackError)
    return Finding("stack", well=False, found=error.message, advice=error.hint)
