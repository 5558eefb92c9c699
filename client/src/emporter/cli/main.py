"""`emporter`: which commands there are, and how a mistake ends: one line that says what to do, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated

import typer

from emporter.cli import (
    annotating,
    browse,
    catalog,
    demo,
    doctor,
    ingest,
    inspect,
    jobs,
    link,
    operator,
    policy,
    register,
    sample,
    setting,
    storing,
    tokens,
    up,
    verify,
    webhooks,
)
from emporter.cli.options import set_stack

MISTAKE = 2
"""Exit status where what was asked for can't be done as it was written."""
FAILED = 1
INTERRUPTED = 130
"""As a shell says it: 128 + SIGINT."""

app = typer.Typer(
    name="emporter",
    help="Electron-microscopy volumes out of public archives, as blocks for machine learning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"emporter {version('emporter')}")
        raise typer.Exit


@app.callback()
def root(
    stack: Annotated[str | None, typer.Option("--stack", metavar="DIR", help="Talk to the stack in this folder.")] = None,
    purpose: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the data is for, where rules ask that; else EMPORTER_PURPOSE.")
    ] = None,
    version: Annotated[
        bool,
        typer.Option("--version", callback=lambda value: _print_version(wanted=value), is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """The stack is found by --stack DIR, EMPORTER_… in the environment, or in ./.emporter, in that order."""
    del version
    set_stack(stack)
    if purpose is not None:
        os.environ["EMPORTER_PURPOSE"] = purpose


for _module in (
    up, demo, ingest, inspect, register, browse, jobs, catalog, link, sample, annotating, storing, operator, policy, tokens,
    setting, verify, webhooks, doctor,
):  # fmt: skip
    _module.register(app)


def run(arguments: Sequence[str]) -> int:
    """The exit status of one command line."""
    try:
        # The command's own exit status, or None.
        status = app(list(arguments), prog_name="emporter", standalone_mode=False)
    except typer.TyperException as error:
        return _say(error.format_message().replace("\n", " ").rstrip("."), _help_for(error), MISTAKE)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001  # whatever it is, a user is told in one line
        return _say_error(error)
    return status if isinstance(status, int) else 0


def main() -> None:
    """Entry point of the `emporter` command."""
    status = run(sys.argv[1:])
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    # Not sys.exit: threads of native libraries (obstore's) that still need the interpreter while it is taken apart abort us.
    os._exit(status)


def _say_error(error: Exception) -> int:
    from pydantic import ValidationError

    from emporter.errors import StackError
    from emporter_contracts.errors import EmporterError

    if isinstance(error, EmporterError):
        return _say(error.message, error.hint, FAILED if isinstance(error, StackError) else MISTAKE)
    if isinstance(error, ValidationError) and error.title.endswith("Settings"):
        from emporter_runtime.settings import wrong_setting

        setting, reason = wrong_setting(error)
        return _say(f"{setting}: {reason}", "set it otherwise in the environment, or in the file EMPORTER_CONFIG names", MISTAKE)
    if os.environ.get("EMPORTER_DEBUG"):
        raise error
    if isinstance(error, OSError) and error.strerror:
        return _say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, "", FAILED)
    said = str(error).replace("\n", " ")[:300]
    return _say(f"{type(error).__name__}: {said}", "this is a bug of emporter; EMPORTER_DEBUG=1 shows where", FAILED)


def _say(message: str, hint: str, status: int) -> int:
    print(f"emporter: {message}" + (f"; {hint}" if hint else ""), file=sys.stderr)
    return status


def _help_for(error: typer.TyperException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "emporter"
    return f"{path} --help lists the commands" if path == "emporter" else f"{path} --help says how"


if __name__ == "__main__":
    main()
