"""`emporter volumes | show | catalog export | block`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from emporter.cli.options import Json, Stack, extents, triple, with_client

if TYPE_CHECKING:
    from emporter.aio import AsyncClient

Volume = Annotated[
    str, typer.Argument(metavar="VOLUME", help="<volume>, or one revision of it: <volume>@r<N>.", show_default=False)
]


class Table(StrEnum):
    """Forms of the whole catalog."""

    CSV = "csv"
    JSON = "json"
    PARQUET = "parquet"


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(volumes)
    app.command()(show)
    app.command()(block)
    group = typer.Typer(help="The catalog as one table.", no_args_is_help=True)
    group.command("export")(export)
    app.add_typer(group, name="catalog")


def volumes(
    text: Annotated[str | None, typer.Option("-q", "--query", metavar="TEXT", help="Words to be found.")] = None,
    source: Annotated[str | None, typer.Option(help="Only of this archive.")] = None,
    status: Annotated[str | None, typer.Option(help="Only in this state, such as complete.")] = None,
    max_voxel_nm: Annotated[float | None, typer.Option(help="Only with voxels at most this coarse.")] = None,
    verdict: Annotated[str | None, typer.Option(help="Only what the quality gates said this of: pass, warn or fail.")] = None,
    gate: Annotated[
        str | None, typer.Option(help="Only where this quality gate warns or fails: shifted; or says this: shifted:fail.")
    ] = None,
    held: Annotated[bool | None, typer.Option("--held/--not-held", help="Only if a revision waits to be released.")] = None,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """List the volumes of the catalog."""
    from emporter.cli import showing

    asked = {"source": source, "status": status, "max_voxel_nm": max_voxel_nm}
    judged = {"verdict": verdict, "gate": gate, "held": held}
    found = with_client(stack, lambda client: client.volumes(text, **asked, **judged))
    if json:
        showing.print_json(found)
        return
    headings = ("volume", "rev", "status", "shape z,y,x", "dtype", "nm z,y,x", "stored", "description")
    showing.print_table(headings, map(_row, found), "no volumes" if text else "no volumes yet: emporter ingest brings one in")


def show(volume: Volume, json: Json = False, stack: Stack = None) -> None:
    """Show all that is known of a volume."""
    from emporter.cli import showing

    record = with_client(stack, lambda client: client.record(volume))
    if json:
        showing.print_json(record)
    else:
        _describe(record)


def export(
    csv: Annotated[bool, typer.Option("--csv", help="As CSV (the default).")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, with what the schema finds wrong.")] = False,
    kind: Annotated[
        Table | None, typer.Option("--format", help="csv, json or parquet.", show_default=False, case_sensitive=False)
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Into a file.")] = None,
    stack: Stack = None,
) -> None:
    """Write the whole catalog."""
    if csv and json:
        raise typer.BadParameter("--csv and --json exclude each other")
    if kind is not None and (csv or json):
        raise typer.BadParameter("--format stands alone")
    chosen = kind or (Table.JSON if json else Table.CSV)
    if chosen == Table.PARQUET and output is None:
        raise typer.BadParameter("--format parquet: name a file, -o catalog.parquet")
    if chosen == Table.PARQUET and output is not None:
        _export_parquet(stack, output)
        return

    async def run(client: AsyncClient) -> None:
        await _export(client, "json" if chosen == Table.JSON else "csv", output)

    with_client(stack, run)


def block(
    volume: Volume,
    origin: Annotated[str, typer.Option(metavar="Z,Y,X", help="First voxel.")],
    shape: Annotated[str, typer.Option(metavar="Z,Y,X", help="Voxels.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="out.npy, out.tif or out.png (its middle z slice).")
    ],
    level: Annotated[int, typer.Option(min=0, max=32, help="Of the pyramid, 0 = full resolution.")] = 0,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Fetch a box of voxels into a file."""
    from emporter.cli import showing
    from emporter.pictures import SUFFIXES, write_block

    if output.suffix not in SUFFIXES:
        raise typer.BadParameter(f"-o {output}: the name must end in {', '.join(SUFFIXES)}")
    if not output.resolve().parent.is_dir():
        raise typer.BadParameter(f"-o {output}: there is no folder {output.resolve().parent}")
    first, box = triple(origin, "--origin"), extents(shape, "--shape")

    async def run(client: AsyncClient) -> tuple[str, Any]:
        found = await client.volume(volume)
        return str(found.ref), await found.block(first, box, level)

    ref, voxels = with_client(stack, run)
    write_block(output, voxels)
    if json:
        told = {
            "file": str(output),
            "volume": ref,
            "level": level,
            "origin": first,
            "shape": voxels.shape,
            "dtype": voxels.dtype.name,
        }
        showing.print_json(told)
    else:
        print(f"{output}: {showing.voxels(voxels.shape)} voxels {voxels.dtype.name} of {ref} level {level}")


def _export_parquet(stack: str | None, output: Path) -> None:
    from emporter.parquet import write_table

    async def run(client: AsyncClient) -> int:
        async with client.table("json") as pieces:
            return await write_table(pieces, output)

    print(f"{output}: {with_client(stack, run)} volumes")


async def _export(client: AsyncClient, kind: Literal["csv", "json"], output: Path | None) -> None:
    async with client.table(kind) as pieces:
        if output is None:
            async for piece in pieces:
                sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
            return
        with output.open("wb") as file:
            async for piece in pieces:
                file.write(piece)


def _row(volume: dict[str, Any]) -> tuple[object, ...]:
    from emporter.cli import showing

    stored = showing.size(volume["stored_bytes"]) if volume["stored_bytes"] is not None else ""
    return (
        volume["volume"],
        f"r{volume['revision']}",
        _standing(volume),
        showing.voxels(volume["shape"]),
        volume["dtype"] or "?",
        showing.nanometres(volume["voxel_size_nm"]),
        stored,
        volume["description"],
    )


def _standing(volume: dict[str, Any]) -> str:
    """A row's status, and which revision waits to be released."""
    held = volume.get("held_revision")
    if held is None:
        return str(volume["status"])
    return f"{volume['status']}, held" if held == volume["revision"] else f"{volume['status']}, r{held} held"


def _describe(record: dict[str, Any]) -> None:
    """The record as lines: what it is, how it is stored, who said what."""
    for name, value in _facts(record):
        print(f"{name:<12}{value}")


def _status(record: dict[str, Any]) -> str:
    if record.get("removed"):
        return "removed"
    if not record.get("held"):
        return str(record["status"])
    rules = [f"rule {said['rule']}" for said in record.get("decisions", ()) if said["outcome"] == "hold"]
    gates = ["a quality gate"] if record["metadata"]["quality"]["held"] or not rules else []
    who = " and ".join([*gates, *rules])
    return f"{record['status']}; held by {who} (emporter release {record['volume']}@r{record['revision']})"


def _rules(record: dict[str, Any]) -> list[tuple[str, str]]:
    """What the operator's rules said at publication."""
    until = [("embargo", f"until {record['embargo_until']}")] if record.get("embargo_until") else []
    said = [
        ("policy", f"{d['outcome']} by rule {d['rule']}" + (f": {why}" if (why := d["error"] or d["message"]) else ""))
        for d in record.get("decisions", ())
    ]
    return [*until, *said]


def _judgement(quality: dict[str, Any]) -> list[tuple[str, str]]:
    """The verdict of the quality gates, and each that did not pass with the slices it is about."""
    if quality.get("verdict") is None:
        return []
    facts = [("quality", f"{quality['verdict']} by policy {quality['policy']}, completeness {quality['completeness']:.0%}")]
    for gate in quality["gates"]:
        if gate["verdict"] == "pass":
            continue
        slices = (
            f" (z {', '.join(map(str, gate['slices'][:8]))}{', …' if len(gate['slices']) > 8 else ''})" if gate["slices"] else ""
        )
        facts.append(("", f"{gate['verdict']} {gate['gate']}: {gate['evidence']}{slices}"))
    return facts


def _facts(record: dict[str, Any]) -> list[tuple[str, str]]:
    from emporter.checksums import of_voxels
    from emporter.cli import showing
    from emporter.cli.corrections import corrections

    core, technical, provenance = (record["metadata"][part] for part in ("core", "technical", "provenance"))
    said_by = [who or "nobody" for who in provenance["voxel_size"]["said_by"]]
    guessed = any(caveat["code"] == "role_guessed" for caveat in record["caveats"])
    facts = [
        ("volume", f"{record['volume']}@r{record['revision']}"),
        ("status", _status(record)),
        ("source", f"{record['source']} {record['source_id']}"),
        ("description", core["description"]),
        ("shape", f"{showing.voxels(core['volume_shape'])} (z,y,x)"),
        ("dtype", core["data_type"] or "?"),
        ("voxel size", f"{showing.nanometres(core['voxel_size_nm'])} nm (z,y,x; said by {', '.join(said_by)})"),
        ("role", core["role"] + (" (a guess; --role says otherwise)" if guessed else "")),
    ]
    if technical["levels"]:
        shapes = "; ".join(showing.voxels(level["shape"]) for level in technical["levels"])
        facts.append(("levels", f"{len(technical['levels'])}: {shapes}"))
        facts.append(("chunks", f"{showing.voxels(technical['chunk'])} in shards of {showing.voxels(technical['shard'])}"))
        facts.append(("stored", f"{showing.size(technical['stored_bytes'])} {technical['compression'] or ''}".rstrip()))
        facts.append(("sha256", of_voxels(technical) or "?"))
    facts.extend(_judgement(record["metadata"]["quality"]))
    facts.extend(_rules(record))
    facts.extend(corrections(record))
    licence = record["licence"]
    facts.append(("licence", licence["spdx"] or licence["url"] or licence["text"] or "unknown"))
    facts.extend(("citation", text) for text in record["citation"])
    facts.extend(("caveat", f"{caveat['code']}: {caveat['evidence']}") for caveat in record["caveats"])
    facts.extend((name, url) for name, url in record.get("links", {}).items())
    return facts
