"""`emporter sample`: boxes for training, drawn into a file; and such a file checked or brought to another machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli import options
from emporter.cli.options import Json, Stack, with_client

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter_contracts.training import SampleRequest, TrainingSet


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(sample)


def sample(
    volumes: Annotated[list[str] | None, typer.Argument(metavar="VOLUME…", help="Images, each drawn from alike.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Boxes of each volume.")] = 64,
    shape: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels of a box.")] = "64,64,64",
    level: Annotated[int, typer.Option(min=0, max=64, help="Of the pyramid, 0 = full resolution.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed, the same boxes.")] = 0,
    labels: Annotated[
        list[str] | None, typer.Option(metavar="VOLUME", help="Labels of each volume, in their order; auto finds them.")
    ] = None,
    min_foreground: Annotated[
        float, typer.Option(min=0, max=1, help="Share of a box that is not 0, in its labels where there are any.")
    ] = 0.0,
    within: Annotated[str | None, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only from this box of the level.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Never from this one; may be given again.")
    ] = None,
    validation: Annotated[
        float | None, typer.Option(help="Share of the volume held out to validate with: the end of its longest axis.")
    ] = None,
    validation_n: Annotated[
        int | None, typer.Option(min=1, help="Boxes to validate with.", show_default="that share of -n")
    ] = None,
    margin: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels between boxes to train and to validate with.")] = "0,0,0",
    axis: Annotated[str | None, typer.Option(help="z, y or x: the axis that is split.")] = None,
    manifest: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the training set here.")] = None,
    rebuild: Annotated[Path | None, typer.Option(metavar="FILE", help="Ingest the volumes of this training set here.")] = None,
    check: Annotated[Path | None, typer.Option(metavar="FILE", help="Are its volumes here, and what they were?")] = None,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Draw boxes for training."""
    chosen = rebuild or check
    if chosen is not None:
        if volumes or (rebuild and check) or manifest:
            raise typer.BadParameter("--rebuild FILE and --check FILE stand alone")
        _replay(chosen, stack, again=rebuild is not None, json=json)
        return
    if not volumes:
        raise typer.BadParameter("name a VOLUME to draw from, or --rebuild FILE")
    if labels and len(labels) not in {1, len(volumes)}:
        raise typer.BadParameter(f"--labels: {len(labels)} of them for {len(volumes)} volumes")
    if manifest is not None and not manifest.resolve().parent.is_dir():
        raise typer.BadParameter(f"--manifest {manifest}: there is no folder {manifest.resolve().parent}")
    wanted: dict[str, Any] = {
        "seed": seed,
        "min_foreground": min_foreground,
        "within": options.region(within) if within else None,
        "exclude": [options.region(box) for box in exclude or ()],
        "split": None,
    }
    if validation is not None:
        wanted["split"] = {"part": "train", "validation": validation, "margin": options.triple(margin, "--margin"), "axis": axis}
    held_out = validation_n or max(1, round(n * (validation or 0)))
    named = [None] * len(volumes) if not labels else labels * (len(volumes) // len(labels))
    _draw(volumes, (n, shape, level), wanted, named, held_out, manifest, stack, json=json)


def _draw(
    volumes: list[str],
    boxes: tuple[int, str, int],
    wanted: dict[str, Any],
    labels: list[str] | list[None],
    held_out: int,
    manifest: Path | None,
    stack: str | None,
    *,
    json: bool,
) -> None:
    from emporter import training
    from emporter.cli import showing
    from emporter.sampling import sample_request

    n, shape, level = boxes
    request: SampleRequest = sample_request(n, options.extents(shape, "--shape"), level, wanted)

    async def run(client: AsyncClient) -> TrainingSet:
        return await training.draw(client, volumes, request, labels, held_out)

    drawn = with_client(stack, run)
    if manifest is not None:
        training.save(manifest, drawn)
    if json:
        showing.print_json(drawn)
    elif manifest is not None:
        print(f"{manifest}: {_summary(drawn)}")
    else:
        rows = [(str(drawn.volumes[drawn.pairs[b.pair].image].ref), b.part, showing.voxels(b.origin)) for b in drawn.boxes]
        showing.print_table(("volume", "part", "origin z,y,x"), rows, "no boxes")


def _replay(file: Path, stack: str | None, *, again: bool, json: bool) -> None:
    from emporter import training
    from emporter.cli import showing

    drawn = training.load(file)

    async def run(client: AsyncClient) -> list[str]:
        told = (lambda _: None) if json else print
        found = await (training.rebuild(client, drawn, told) if again else training.check(client, drawn))
        return [str(ref) for ref in found]

    found = with_client(stack, run)
    if json:
        showing.print_json({str(v.ref): ref for v, ref in zip(drawn.volumes, found, strict=True)})
    else:
        print(f"{file}: {_summary(drawn)}; all here")


def _summary(drawn: TrainingSet) -> str:
    train, held_out = len(drawn.part("train")), len(drawn.part("validation"))
    shape = ",".join(map(str, drawn.shape))
    licences = sorted({v.licence.spdx or v.licence.url or v.licence.text or "licence unknown" for v in drawn.volumes})
    boxes = f"{train} boxes to train and {held_out} to validate with, {shape} voxels each"
    return f"{boxes}, of {len(drawn.volumes)} volumes ({', '.join(licences)})"
