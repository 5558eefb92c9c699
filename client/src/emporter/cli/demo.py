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
    single: Annotated[bool, typer.Option("--single", help="One volume by its URL instead of one of each archive.")] = False,
) -> int:
    """Start a stack, ingest small volumes of five archives, find them in the catalog, compare every voxel, draw a picture."""
    from emporter.cli.demonstrating import run_demo
    from emporter.cli.demonstrating_archives import run_archives_demo
    from emporter.demo.archives import installed

    if path is not None or single:
        return run_demo(path, data, output, keep=keep)
    archives = installed()
    if archives is None:
        print("The five archives of the demo come with Emporter's repository (make demo); here one volume stands for them.")
        return run_demo(None, data, output, keep=keep)
    return run_archives_demo(archives, data, output, keep=keep)
