"""`emporter set`: another voxel size, licence or name of a volume whose voxels stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from emporter.cli import options
from emporter.cli.options import Json, Stack, with_client

if TYPE_CHECKING:
    from emporter_contracts.revisions import Changes


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("set")(set_volume)


def set_volume(
    volume: Annotated[
        str, typer.Argument(metavar="VOLUME[@rN]", help="With @rN only while that is current.", show_default=False)
    ],
    voxel_size_nm: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="In nm; ? for what nobody knows.")] = None,
    offset_nm: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Where the first voxel's centre lies.")] = None,
    name: Annotated[str | None, typer.Option(help="What viewers call it.")] = None,
    description: Annotated[str | None, typer.Option(help="What it shows.")] = None,
    modality: Annotated[str | None, typer.Option(help="Such as FIB-SEM.")] = None,
    licence: Annotated[str | None, typer.Option(metavar="SPDX | URL | TEXT", help="Such as CC-BY-4.0.")] = None,
    citation: Annotated[list[str] | None, typer.Option(help="In place of those there are; may be repeated.")] = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for whoever wonders later.")] = "",
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Correct what is known of a volume: a new revision in seconds, which shows the same voxels.

    Nothing is copied or converted. The revision before stays as it was, and links to it show what they showed.
    """
    from emporter.cli import showing

    changes = _changes(voxel_size_nm, offset_nm)
    given = {"name": name, "description": description, "modality": modality, "licence": licence, "citation": citation}
    said = {**changes.model_dump(exclude_none=True), **{field: value for field, value in given.items() if value}}
    made = with_client(stack, lambda client: client.correct(volume, by=_who(), reason=reason, **said))
    if json:
        showing.print_json({**made.model_dump(mode="json"), "ref": f"{made.volume}@r{made.revision}"})
    elif made.existing:
        print(f"{made.volume}@r{made.revision} says all of that already")
    else:
        print(f"{made.volume}@r{made.revision}: the voxels of r{made.revises}, corrected")
    if made.held_by and not json:
        who = ", ".join(made.held_by)
        print(f"held by {who}: not current until an operator says so (emporter release {made.volume}@r{made.revision})")


def _changes(voxel_size_nm: str | None, offset_nm: str | None) -> Changes:
    """Lengths as they were written. Raises typer.BadParameter."""
    from pydantic import ValidationError

    from emporter_contracts.revisions import Changes

    size = options.voxel_size(voxel_size_nm) if voxel_size_nm is not None else None
    offset = _offset(offset_nm) if offset_nm is not None else None
    try:
        return Changes(voxel_size_nm=size, offset_nm=offset)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}"
        raise typer.BadParameter(f"{option} {first['input']:g}: {first['msg']}; is it in nm?") from error


def _offset(text: str) -> tuple[float, float, float]:
    try:
        z, y, x = (float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--offset-nm {text}: write z,y,x in nm, such as 1000,0,0") from None
    return (z, y, x)


def _who() -> str:
    """Who says so, as this machine knows them."""
    import getpass

    try:
        return getpass.getuser()[:100] or "unknown"
    except (KeyError, OSError):
        return "unknown"
