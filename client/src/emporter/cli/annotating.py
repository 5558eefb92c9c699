"""`emporter tag | cite`: what users note about volumes, and how they cite them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from emporter.cli.options import Json, Stack, with_client

if TYPE_CHECKING:
    from emporter.aio import AsyncClient


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(tag)
    app.command()(cite)


def tag(
    volume: Annotated[str, typer.Argument(metavar="VOLUME", show_default=False)],
    notes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…", help="KEY= takes it away.", show_default=False)],
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Note something about a volume; `emporter volumes -q` finds it."""
    from emporter.cli import showing

    pairs = [_pair(note) for note in notes]

    async def run(client: AsyncClient) -> dict[str, str]:
        for key, value in pairs:
            await (client.annotate(volume, key, value) if value else client.unannotate(volume, key))
        found: dict[str, str] = (await client.record(volume))["annotations"]
        return found

    found = with_client(stack, run)
    if json:
        showing.print_json(found)
        return
    for key, value in found.items():
        print(f"{key}={value}")


def cite(
    volumes: Annotated[list[str] | None, typer.Argument(metavar="[VOLUME…]", show_default=False)] = None,
    text: Annotated[str | None, typer.Option("-q", "--query", metavar="TEXT", help="All volumes with these words.")] = None,
    source: Annotated[str | None, typer.Option(help="All volumes of this archive.")] = None,
    bibtex: Annotated[bool, typer.Option("--bibtex", help="As BibTeX (the default).")] = False,
    csl: Annotated[bool, typer.Option("--csl", help="As CSL-JSON.")] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Into a file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="The same as --csl.")] = False,
    stack: Stack = None,
) -> None:
    """Print how to cite volumes: each data set, and each publication once."""
    if bibtex and (csl or json):
        raise typer.BadParameter("--bibtex and --csl exclude each other")
    chosen = {name: value for name, value in (("q", text), ("source", source)) if value}
    if bool(volumes) == bool(chosen):
        raise typer.BadParameter("name volumes, or say which with -q and --source")
    form: Literal["bibtex", "csl"] = "csl" if csl or json else "bibtex"
    once = list(dict.fromkeys(volumes or ()))
    if once:
        found = with_client(stack, lambda client: client.citation(once, form))
    else:
        found = with_client(stack, lambda client: client.citation_of(form=form, **chosen))
    if output is None:
        print(found, end="")
    else:
        output.write_text(found)


def _pair(note: str) -> tuple[str, str]:
    key, equals, value = note.partition("=")
    if not equals or not key.strip():
        raise typer.BadParameter(f"{note}: write KEY=VALUE, such as reviewed=yes")
    return key.strip(), value.strip()
