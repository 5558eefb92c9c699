"""`emporter up | down`: the whole stack on this machine."""

from __future__ import annotations

import re
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emporter.cli.options import Data

if TYPE_CHECKING:
    from emporter.stack.files import StackFiles
    from emporter.stack.plan import StackOptions
    from emporter.stack.supervisor import StackEvent


class Store(StrEnum):
    """Kinds of store."""

    S3 = "s3"
    FILE = "file"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(up)
    app.command()(down)


def up(
    data: Data = None,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return when everything is ready, and leave it running.")
    ] = False,
    store: Annotated[
        Store | None, typer.Option(help="Volumes in an S3 server of ours, or as plain folders.", show_default="s3, or as before")
    ] = None,
    file_root: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="A folder requests may read in place. May be given again.")
    ] = None,
) -> None:
    """Start NATS, S3 and the four services on this machine; no Docker needed."""
    from emporter.errors import StackIsUpError
    from emporter.stack.detached import start_detached
    from emporter.stack.files import DEFAULT_FOLDER, StackFiles
    from emporter.stack.plan import StackOptions
    from emporter.stack.supervisor import supervise

    files = StackFiles.at(data or DEFAULT_FOLDER)
    options = StackOptions(files.root, store.value if store else None, dict(_file_root(text) for text in file_root or []))
    try:
        if detach:
            start_detached(options, _Shown(files, detached=True))
        else:
            supervise(options, _Shown(files, detached=False))
    except StackIsUpError:
        print(f"The stack in {files.root} is up already.")
        _print_addresses(files)


def down(data: Data = None) -> None:
    """Stop the stack; jobs go on with the next `emporter up`."""
    from emporter.stack.files import DEFAULT_FOLDER, StackFiles
    from emporter.stack.stopping import take_down

    files = StackFiles.at(data or DEFAULT_FOLDER)
    if take_down(files):
        print(f"The stack in {files.root} is down.")
    else:
        print(f"No stack is up in {files.root}.")


def start_in_background(options: StackOptions) -> None:
    """`emporter up --detach` for other commands. Raises StackIsUpError, StackError."""
    from emporter.stack.detached import start_detached
    from emporter.stack.files import StackFiles

    start_detached(options, _Shown(StackFiles.at(options.data), detached=True))


def _file_root(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not equals or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
        raise typer.BadParameter(f"--file-root {text}: write NAME=PATH, the name in small letters, digits, - and _")
    folder = Path(path).expanduser().resolve()
    if not folder.is_dir():
        raise typer.BadParameter(f"--file-root {text}: there is no folder {folder}")
    return name, folder


class _Shown:
    """Says on standard error how the start goes; on standard output where everything is."""

    def __init__(self, files: StackFiles, *, detached: bool) -> None:
        self._files = files
        self._detached = detached

    def __call__(self, event: StackEvent) -> None:
        if event.kind == "ready":
            print(f"  {event.seconds:5.1f} s  {event.what} ready", file=sys.stderr, flush=True)
        elif event.kind == "died":
            print(f"  {event.what} ended and is started again; see {self._files.log(event.what)}", file=sys.stderr, flush=True)
        elif event.kind == "stopping" and not self._detached:
            print("stopping, so that running work is kept …", file=sys.stderr, flush=True)
        elif event.kind == "up":
            self._say_up(event.seconds)

    def _say_up(self, seconds: float) -> None:
        how = (
            f"emporter down --data {shlex.quote(str(self._files.root))} stops it."
            if self._detached
            else "Ctrl-C stops it; jobs go on with the next `emporter up`."
        )
        print(f"The stack in {self._files.root} is up after {seconds:.1f} s. {how}")
        _print_addresses(self._files)


def _print_addresses(files: StackFiles) -> None:
    info = files.info()
    if info is None:
        return
    print(f"  catalog  {info.catalog}/v1/volumes")
    print(f"  blocks   {info.blocks}")
    print(f"  bus      {info.nats}", flush=True)
