"""`emporter ingest`: an archive's entry, files of one's own, or a URL."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli import options
from emporter.cli.options import Json, Stack, Yes, with_client

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter_contracts.commands import IngestRequest
    from emporter_contracts.plans import PlanSummary

LATER = frozenset({"transient", "rate_limited", "store_unavailable", "disk_full", "host_down"})
"""Why a plan can't be made now though the job may well succeed: it waits."""

Numbers = Annotated[int | None, typer.Option(min=0)]


class Role(StrEnum):
    AUTO = "auto"
    IMAGE = "image"
    LABELS = "labels"


class Rgb(StrEnum):
    LUMA = "luma"
    SPLIT = "split"


class Force(StrEnum):
    CONVERT = "convert"
    FETCH = "fetch"


class Codec(StrEnum):
    AUTO = "auto"
    ZSTD = "zstd"
    BLOSC = "blosc"
    NONE = "none"


class Verify(StrEnum):
    SAMPLE = "sample"
    FULL = "full"


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(ingest)


def ingest(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE ID | PATH… | URL", help="An archive's entry, files or one folder, or a URL.", show_default=False
        ),
    ],
    plan: Annotated[bool, typer.Option("--plan", help="Only say what it would do.")] = False,
    region: Annotated[
        str | None, typer.Option(metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only this box of the archive's voxels.")
    ] = None,
    random: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="A box of this shape at a random place.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of --random: the same seed, the same place.")] = None,
    voxel_size_nm: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Where the archive is silent or wrong; ? for unknown.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What uploaded files are called.")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay until it ends: exit status 0 complete, 1 failed, 130 cancelled.")
    ] = False,
    yes: Yes = False,
    series: Numbers = None,
    channel: Numbers = None,
    time: Numbers = None,
    level: Numbers = None,
    axes: Annotated[str | None, typer.Option(help="Of the file, such as zyx, where it does not say.")] = None,
    rgb: Annotated[Rgb | None, typer.Option(help="What to do with colours.")] = None,
    role: Annotated[Role, typer.Option(help="What the volume is.")] = Role.AUTO,
    labels_of: Annotated[str | None, typer.Option(metavar="VOLUME", help="The image these labels belong to.")] = None,
    store_chunk: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Voxels of one chunk.")] = None,
    store_shard: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Voxels of one stored object.")] = None,
    store_codec: Annotated[Codec, typer.Option(help="How chunks are compressed.")] = Codec.AUTO,
    store_verify: Annotated[Verify, typer.Option(help="How much is read back before the volume is committed.")] = Verify.SAMPLE,
    force: Annotated[Force | None, typer.Option(help="Make a new revision: convert again, or fetch again as well.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Make a new revision if the archive has changed.")] = False,
    json: Json = False,
    stack: Stack = None,
) -> int:
    """Bring a volume in."""
    from emporter.cli.sending import upload_with_bars
    from emporter.ingesting import target_of

    if seed is not None and random is None:
        raise typer.BadParameter("--seed belongs to --random Z,Y,X")
    if region is not None and random is not None:
        raise typer.BadParameter("--region and --random exclude each other")
    target = target_of(what)
    if name is not None and target.source != "inbox":
        raise typer.BadParameter("--name is for uploaded files")
    wanted: dict[str, Any] = {
        "region": options.region(region) if region else None,
        "random_region": {"shape": options.extents(random, "--random"), "seed": seed or 0} if random else None,
        "voxel_size_nm": options.voxel_size(voxel_size_nm) if voxel_size_nm else None,
        "select": {"series": series, "channel": channel, "time": time, "level": level},
        "axes": axes,
        "rgb": rgb,
        "role": role,
        "labels_of": labels_of,
        "output": {
            "chunk": options.extents(store_chunk, "--store-chunk") if store_chunk else None,
            "shard": options.extents(store_shard, "--store-shard") if store_shard else None,
            "codec": store_codec,
            "verify": store_verify,
        },
        "force": force or "no",
        "refresh": refresh,
    }

    async def run(client: AsyncClient) -> int:
        source_id = target.source_id or (await upload_with_bars(client, target.paths, name)).source_id
        request = _request(target.source, source_id, wanted)
        return await (_plan(client, request, json=json) if plan else _ingest(client, request, watch=watch, yes=yes, json=json))

    return with_client(stack, run)


def _request(source: str, source_id: str, wanted: dict[str, Any]) -> IngestRequest:
    """Raises MistakeError naming what is wrong."""
    from pydantic import ValidationError

    from emporter.errors import MistakeError
    from emporter_contracts.commands import IngestRequest

    try:
        return IngestRequest.model_validate({"source": source, "source_id": source_id, **wanted})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the request"
        raise MistakeError(f"{where}: {first['msg'].removeprefix('Value error, ')}", hint="emporter ingest --help") from error


async def _plan(client: AsyncClient, request: IngestRequest, *, json: bool) -> int:
    from emporter.cli import showing

    found = await client.plan(request)
    if json:
        showing.print_json(found)
    else:
        _describe(found)
    return 0


async def _ingest(client: AsyncClient, request: IngestRequest, *, watch: bool, yes: bool, json: bool) -> int:
    from emporter.cli import showing
    from emporter.cli.watching import watch_job

    await _look_first(client, request, ask=not yes and not json and sys.stdin.isatty(), quiet=json)
    accepted = await client.ingest(request)
    if watch:
        return await watch_job(client, accepted.job, json=json)
    if json:
        showing.print_json(accepted)
    else:
        again = f" ({accepted.state} before; --force makes a new revision)" if accepted.existing else ""
        print(f"{accepted.job} r{accepted.revision}{again}")
        if not accepted.existing:
            print(f"watch it with: emporter watch {accepted.job}", file=sys.stderr)
    return 0


async def _look_first(client: AsyncClient, request: IngestRequest, *, ask: bool, quiet: bool) -> None:
    """Plan, show, and let the user say no. Raises RefusedByServiceError for what can't be ingested, typer.Abort."""
    from emporter.errors import RefusedByServiceError

    try:
        found = await client.plan(request)
    except RefusedByServiceError as error:
        if error.code not in LATER:
            raise
        print(f"emporter: not now: {error}; the job will wait", file=sys.stderr)
        return
    if not found.fits:
        from emporter.cli.showing import size

        raise RefusedByServiceError(
            f"needs about {size(found.copied_bytes + found.stored_bytes_estimate)}, there are {size(found.free_bytes)} free",
            code="insufficient_storage",
            hint="free some room, or ingest a --region",
        )
    if not quiet:
        _describe(found, to_stderr=True)
    if ask:
        typer.confirm("Ingest it?", default=True, abort=True, err=True)


def _describe(plan: PlanSummary, *, to_stderr: bool = False) -> None:
    from emporter.cli import showing

    out = sys.stderr if to_stderr else sys.stdout
    first = f"{plan.job}: {plan.objects} object{'s' if plan.objects != 1 else ''}, {showing.size(plan.raw_bytes)}"
    print(f"{first} in the archive, about {showing.size(plan.stored_bytes_estimate)} stored", file=out)
    for volume in plan.volumes:
        nm = showing.nanometres(volume.voxel_size.nm)
        print(
            f"  {volume.volume}  {showing.voxels(volume.shape)} {volume.dtype}  {nm} nm  {volume.role}  {volume.format}", file=out
        )
        for caveat in volume.caveats:
            print(f"    {caveat.code}: {caveat.evidence}", file=out)
    for caveat in plan.caveats:
        print(f"  {caveat.code}: {caveat.evidence}", file=out)
    licence = plan.licence.spdx or plan.licence.url or plan.licence.text
    print(f"  licence {licence or 'unknown'}, {showing.size(plan.free_bytes)} free", file=out)
