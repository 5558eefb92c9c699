"""`emporter browse`: what an archive holds, without a stack; its output can be piped into `emporter ingest`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli.options import Json

if TYPE_CHECKING:
    from emporter.browsing.things import Picture, Thing

IDR_USAGE = "emporter browse idr screen|plate|well|image|dataset|project ID"


class Archive(StrEnum):
    IDR = "idr"
    EMPIAR = "empiar"
    OPENORGANELLE = "openorganelle"


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(browse)


def browse(
    archive: Annotated[Archive, typer.Argument(help="Which archive.", show_default=False)],
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KIND] [ID]", help="idr: screen|plate|well|image|dataset|project ID; the others: ID.", show_default=False
        ),
    ] = None,
    annotations: Annotated[bool, typer.Option("--annotations", help="idr: its map annotations, pairs in their order.")] = False,
    thumbnails: Annotated[
        Path | None, typer.Option(metavar="DIR", help="idr: save a small picture of each image here. Pictures are no data.")
    ] = None,
    render: Annotated[
        Path | None, typer.Option(metavar="DIR", help="idr: save the middle plane of each image here, as the server renders it.")
    ] = None,
    ids: Annotated[bool, typer.Option("--ids", help="Only what can be ingested: one id a line, for xargs.")] = False,
    requests: Annotated[bool, typer.Option("--requests", help="Only requests, for emporter ingest -f -.")] = False,
    json: Json = False,
) -> None:
    """List what an archive holds: its images, how they are described, and what ingests them."""
    from emporter.cli import showing

    words = what or []
    if archive is not Archive.IDR and (annotations or thumbnails or render):
        raise typer.BadParameter("--annotations, --thumbnails and --render are of idr")
    pictures: list[Picture] = []
    if archive is Archive.IDR:
        thing, pictures = _idr(words, thumbnails, render, annotations=annotations)
    else:
        thing = _found(archive, words)
    if requests:
        showing.print_json([request.model_dump(exclude_defaults=True) for request in thing.requests()])
    elif ids:
        print("\n".join(dict.fromkeys(request.source_id for request in thing.requests())))
    elif json:
        showing.print_json(thing.model_dump(mode="json") | {"pictures": [picture.model_dump() for picture in pictures]})
    else:
        _describe(thing, pictures)


def _idr(words: list[str], thumbnails: Path | None, render: Path | None, *, annotations: bool) -> tuple[Thing, list[Picture]]:
    from emporter.browsing.omero import Omero
    from emporter.browsing.pictures import save_rendered, save_thumbnails

    if len(words) != 2 or not words[1].isdigit():
        raise typer.BadParameter(f"write {IDR_USAGE}")
    with Omero() as omero:
        thing = omero.look(words[0], int(words[1]), annotations=annotations)
        pictures = save_thumbnails(omero, thing.images(), thumbnails) if thumbnails is not None else []
        pictures += save_rendered(omero, thing.images(), render) if render is not None else []
    return thing, pictures


def _found(archive: Archive, words: list[str]) -> Thing:
    from emporter.browsing import empiar, openorganelle

    if len(words) > 1:
        raise typer.BadParameter(f"write emporter browse {archive} ID")
    if archive is Archive.OPENORGANELLE:
        return openorganelle.dataset(words[0]) if words else openorganelle.datasets()
    if not words:
        raise typer.BadParameter("empiar can't be listed: write emporter browse empiar EMPIAR-11759")
    return empiar.entry(words[0])


def _describe(thing: Thing, pictures: list[Picture]) -> None:
    from emporter.cli import showing

    print(" ".join(filter(None, [thing.kind, thing.id, thing.name if thing.name != thing.id else ""])))
    for name, value in thing.details.items():
        if value not in (None, "", []):
            print(f"  {name:<14} {_short(value)}")
    for key, value in thing.annotations or ():
        print(f"  {key} = {value}")
    for picture in pictures:
        print(f"  {picture.kind}: {picture.path}")
    if thing.children:
        print()
        showing.print_table(("id", "kind", "name", "holds", "ingest"), [_row(child) for child in thing.children], "")
    if thing.kind == "image":
        print(f"ingest it with: emporter ingest idr {thing.id}")


def _row(child: Thing) -> tuple[Any, ...]:
    inside = [f"{one.kind} {one.id}" for one in child.children[:8]]
    holds = ", ".join(inside) or str(child.details.get("holds") or "")
    request = child.request
    words = [f"{request.source} {request.source_id}"] if request is not None else []
    words += [f"--set {name}={value}" for name, value in (request.parameters.items() if request is not None else ())]
    return (child.id, child.kind, child.name, holds, " ".join(words))


def _short(value: Any) -> str:
    text = ", ".join("?" if one is None else str(one) for one in value) if isinstance(value, list) else str(value)
    return text if len(text) <= 300 else text[:299] + "…"
