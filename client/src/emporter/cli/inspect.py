"""`emporter inspect`: what a file or URL holds, without a stack."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli import options
from emporter.cli.ingest import Numbers, Rgb
from emporter.cli.options import Json

if TYPE_CHECKING:
    from emporter.inspecting.seen import Inspection, VolumeSeen

UNREADABLE = 1
"""Exit status where it can't become a volume as it stands."""


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(inspect)


def inspect(
    what: Annotated[
        list[str],
        typer.Argument(metavar="PATH… | URL", help="Files or one folder, or the URL of a file or array.", show_default=False),
    ],
    series: Numbers = None,
    channel: Numbers = None,
    time: Numbers = None,
    level: Numbers = None,
    axes: Annotated[str | None, typer.Option(help="Of the file, such as zyx, where it does not say.")] = None,
    rgb: Annotated[Rgb | None, typer.Option(help="What to do with colours.")] = None,
    given: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A word the format knows, such as dataset=/raw.")
    ] = None,
    json: Json = False,
) -> int:
    """Say what a file or URL holds, by its headers alone; no stack is needed. Exit status 1 where it can't become a volume."""
    from emporter.inspecting.looking import inspect as look
    from emporter_contracts.commands import Select
    from emporter_readers.protocol import Hints

    hints = Hints(
        select=Select(series=series, channel=channel, time=time, level=level),
        axes=axes,
        rgb=rgb.value if rgb is not None else None,
        parameters=options.parameters(given or []),
    )
    found = look(what, hints)
    if json:
        from emporter.cli import showing

        showing.print_json(found)
    else:
        _describe(found)
    return UNREADABLE if found.unreadable is not None else 0


def _describe(found: Inspection) -> None:
    from emporter.cli import showing

    files = f"{found.files} file{'s' if found.files != 1 else ''}, {showing.size(found.bytes)}" if found.files else "an array"
    print(f"{found.what}: {files}; {showing.size(found.bytes_read)} read")
    if found.unreadable is not None:
        hint = f"\n  {found.unreadable.hint}" if found.unreadable.hint else ""
        print(f"  not readable as it stands, {found.unreadable.code}: {found.unreadable.message}{hint}")
        return
    if len(found.volumes) > 1:
        print(f"  {len(found.volumes)} volumes: {found.series} series, {found.channels} channels, {found.times} times")
    for volume in found.volumes:
        for name, value in _lines(volume):
            print(f"  {name:<12} {value}")
        for caveat in volume.caveats:
            print(f"  {caveat.code}: {caveat.evidence}")
        print()


def _lines(volume: VolumeSeen) -> list[tuple[str, Any]]:
    from emporter.cli import showing

    select = [f"{key} {value}" for key, value in volume.select.model_dump().items() if value is not None]
    said_by = "/".join(dict.fromkeys(who for who in volume.voxel_size.said_by if who is not None))
    unknown = "" if volume.voxel_size.known else " (? is not known: --voxel-size-nm says it)"
    lines = [
        ("volume", " ".join(filter(None, [volume.name, f"({', '.join(select)})" if select else ""])) or "-"),
        ("format", f"{volume.format}, {volume.compression if volume.compression != 'none' else 'not compressed'}"),
        ("axes", "z,y,x"),
        ("shape", showing.voxels(volume.shape)),
        ("dtype", volume.dtype),
        ("voxel size", f"{showing.nanometres(volume.voxel_size.nm)} nm{f', said by the {said_by}' if said_by else ''}{unknown}"),
        ("chunk", showing.voxels(volume.native_chunk)),
        ("role", volume.role or "? (only its voxels could tell)"),
    ]
    if volume.levels is not None:
        lines.insert(5, ("levels", str(volume.levels)))
    if any(volume.start):
        lines.append(("starts at", f"{showing.voxels(volume.start)} of the archive's own index"))
    return lines
