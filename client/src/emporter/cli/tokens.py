"""`emporter token new | list | revoke`: who may read from a block-server that others can reach, for operators."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emporter.cli.options import Json, duration

if TYPE_CHECKING:
    from emporter_runtime.access_tokens import Token

VARIABLE = "EMPORTER_ACCESS_FILE"

commands = typer.Typer(help="Tokens of a block-server that others can reach.", no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Option("--file", metavar="FILE", help="What the block-server reads; else EMPORTER_ACCESS_FILE.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.add_typer(commands, name="token")


@commands.command()
def new(
    volumes: Annotated[str, typer.Option(metavar="a,b-*", help="What it may read: volumes, patterns, VOLUME@rN; * is all.")] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="Whose it is, or what for.")] = "",
    expires: Annotated[str | None, typer.Option(metavar="30d", help="When it ends.", show_default="never")] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="10GiB/day", help="Bytes it may read per hour, day, week or month.", show_default="any")
    ] = None,
    metrics: Annotated[bool, typer.Option("--metrics", help="It may read /metrics.")] = False,
    file: File = None,
    json: Json = False,
) -> None:
    """Make a token and print it, once: only its SHA-256 is kept."""
    from emporter.cli import showing
    from emporter_runtime.access import Budget
    from emporter_runtime.access_tokens import changing, new_token, read_tokens

    path = _file(file)
    ends = None if expires is None else datetime.now(UTC) + timedelta(seconds=duration(expires, "--expires"))
    entries = [part.strip() for part in volumes.split(",") if part.strip()]
    token, text = new_token(
        name, entries, metrics=metrics, expires_at=ends, budget=None if budget is None else Budget.parse(budget)
    )
    with changing(path) as replace:
        replace([*(read_tokens(path).tokens if path.exists() else ()), token])
    if json:
        showing.print_json({"id": token.id, "token": text, "expires_at": token.expires_at})
        return
    print(text)
    print(f"token {token.id} is in {path}; it is not shown again", file=sys.stderr)


@commands.command(name="list")
def list_(file: File = None, json: Json = False) -> None:
    """Show which tokens there are, by their ids."""
    from emporter.cli import showing
    from emporter_runtime.access_tokens import read_tokens

    found = read_tokens(_file(file)).tokens
    if json:
        showing.print_json([token.model_dump(mode="json", exclude={"sha256"}) for token in found])
        return
    rows = [
        (t.id, t.name, ",".join(t.volumes) + (" metrics" if t.metrics else ""), str(t.budget or "-"), _until(t)) for t in found
    ]
    showing.print_table(("id", "name", "may read", "budget", "until"), rows, "there are no tokens")


@commands.command()
def revoke(
    tokens: Annotated[list[str], typer.Argument(metavar="ID…", help="As `emporter token list` shows them, or names.")],
    file: File = None,
) -> None:
    """Take tokens away, and every link that was made with them. A server notices within a second or two."""
    from emporter.errors import MistakeError
    from emporter_runtime.access_tokens import changing, read_tokens

    path = _file(file)
    with changing(path) as replace:
        present = read_tokens(path).tokens
        for one in tokens:
            if not any(one in {token.id, token.name} for token in present):
                raise MistakeError(f"there is no token {one[:80]}", hint="emporter token list shows which there are")
        gone = [token for token in present if {token.id, token.name} & set(tokens)]
        replace([token for token in present if token not in gone])
    for token in gone:
        print(f"revoked {token.id} {token.name}".rstrip())


def _until(token: Token) -> str:
    if token.expires_at is None:
        return "-"
    return f"{token.expires_at:%Y-%m-%d %H:%M}" + ("" if token.alive(datetime.now(UTC).timestamp()) else " (over)")


def _file(given: Path | None) -> Path:
    from emporter.errors import MistakeError

    told = given or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    if told is None:
        raise MistakeError("nobody says which file the tokens are in", hint=f"give --file FILE, or set {VARIABLE}")
    if not told.resolve().parent.is_dir():
        raise MistakeError(f"there is no folder {told.resolve().parent}", hint="make it first")
    return told
