"""`emporter demo`: the whole way, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emporter.cli.options import Data


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(demo)


def demo(
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="A file or folder of your own.", show_default=False)
    ] = None,
    data: Data = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the picture goes.")] = Path(
        "emporter-demo.png"
    ),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the stack up.")] = False,
) -> int:
    """Start a stack, ingest a volume, find it in the catalog, fetch a block, compare it, draw a picture."""
    from emporter.cli.demonstrating import run_demo

    return run_demo(path, data, output, keep=keep)
