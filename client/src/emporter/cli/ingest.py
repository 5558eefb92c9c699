"""`emporter ingest`: an archive's entry, files of one's own, or a URL."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli import options
from emporter.cli.options import Json, Stack, Yes, with_client

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter.checksums import Checksums
    from emporter.ingesting import Target
    from emporter_contracts.commands import IngestRequest

FOR_FILES = frozenset({"what", "file", "checksums", "plan", "yes", "json", "stack", "watch"})
"""Parameters that may stand beside -f."""

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
    context: typer.Context,
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SOURCE ID… | PATH… | URL | VOLUME",
            help="Entries of an archive; files or one folder; a URL of a file, an array or an archive's page; a volume to copy.",
            show_default=False,
        ),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="FILE", help="Ingest all requests this YAML lists; - reads them from a pipe."),
    ] = None,
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
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="A word the source or format knows, such as dataset=/raw or imageset=0."
        ),
    ] = None,
    labels_of: Annotated[str | None, typer.Option(metavar="VOLUME", help="The image these labels belong to.")] = None,
    store_chunk: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Voxels of one chunk.")] = None,
    store_shard: Annotated[str | None, typer.Option(metavar="Z,Y,X", help="Voxels of one stored object.")] = None,
    store_codec: Annotated[Codec, typer.Option(help="How chunks are compressed.")] = Codec.AUTO,
    store_verify: Annotated[Verify, typer.Option(help="How much is read back before the volume is committed.")] = Verify.SAMPLE,
    force: Annotated[Force | None, typer.Option(help="Make a new revision: convert again, or fetch again as well.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Make a new revision if the archive has changed.")] = False,
    checksums: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Of -f: keep checksums here, or compare with those kept: same bytes?")
    ] = None,
    json: Json = False,
    stack: Stack = None,
) -> int:
    """Bring volumes in."""
    from emporter.ingesting import targets_of

    if file is not None:
        _alone(context, what)
        return _ingest_file(file, checksums, stack, plan=plan, yes=yes, json=json)
    if not what:
        raise typer.BadParameter("Missing argument 'SOURCE ID… | PATH… | URL'")
    if checksums is not None:
        raise typer.BadParameter("--checksums belongs to -f FILE")
    if seed is not None and random is None:
        raise typer.BadParameter("--seed belongs to --random Z,Y,X")
    if region is not None and random is not None:
        raise typer.BadParameter("--region and --random exclude each other")
    targets = targets_of(what)
    if name is not None and targets[0].source != "inbox":
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
        "parameters": options.parameters(given or []),
    }
    doing = Doing(plan=plan, watch=watch, yes=yes, json=json)
    return with_client(stack, lambda client: _ingest_targets(client, targets, wanted, name, doing))


@dataclass(frozen=True, slots=True)
class Doing:
    """What is to be done with requests, and how it is shown."""

    plan: bool
    watch: bool
    yes: bool
    json: bool

    @property
    def asks(self) -> bool:
        """Whether somebody is there to be asked."""
        return not self.yes and not self.json and sys.stdin.isatty()


async def _ingest_targets(
    client: AsyncClient, targets: Sequence[Target], wanted: dict[str, Any], name: str | None, doing: Doing
) -> int:
    from emporter.cli.copying import copying
    from emporter.cli.sending import upload_with_bars
    from emporter.ingesting import REGISTERED

    requests = []
    for target in targets:
        if target.source == REGISTERED:
            requests.append(await copying(client, target.source_id, wanted))
            continue
        source_id = target.source_id or (await upload_with_bars(client, target.paths, name)).source_id
        parameters = {**target.parameters, **wanted["parameters"]}
        requests.append(_request(target.source, source_id, {**wanted, "parameters": parameters}))
    if len(requests) > 1:
        return await _ingest_all(client, requests, doing)
    return await (_plan(client, requests[0], json=doing.json) if doing.plan else _ingest(client, requests[0], doing))


async def _ingest_all(
    client: AsyncClient, requests: Sequence[IngestRequest], doing: Doing, checksums: Checksums | None = None
) -> int:
    from emporter.cli.batching import ingest_side_by_side, plan_side_by_side

    if doing.plan:
        return await plan_side_by_side(client, requests, json=doing.json)
    return await ingest_side_by_side(client, requests, watch=doing.watch, ask=doing.asks, json=doing.json, checksums=checksums)


def _alone(context: typer.Context, what: list[str] | None) -> None:
    """Options that belong to one request are written in the file: given beside it they would be passed over in silence."""
    if what:
        raise typer.BadParameter(f"-f FILE says what to ingest: leave {what[0]} out, or write it into the file")
    beside = [parameter.opts[0] for parameter in context.command.params if _is_given(context, str(parameter.name))]
    if beside:
        raise typer.BadParameter(f"{beside[0]} is for one request: with -f write it into the file")


def _is_given(context: typer.Context, parameter: str) -> bool:
    source = context.get_parameter_source(parameter)
    return parameter not in FOR_FILES and source is not None and source.name == "COMMANDLINE"


def _ingest_file(file: str, checksums: Path | None, stack: str | None, *, plan: bool, yes: bool, json: bool) -> int:
    """Every request of a file; always watched, since the table at the end is what it is for."""
    from emporter.checksums import Checksums
    from emporter.errors import MistakeError
    from emporter.listed import requests_in

    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except UnicodeDecodeError as error:
        raise MistakeError(f"{file} is no text", hint="write a list of requests, in YAML") from error
    except OSError as error:
        raise MistakeError(f"{file}: {error.strerror}", hint="check the spelling") from error
    requests = [listed.request for listed in requests_in(text, "standard input" if file == "-" else Path(file).name)]
    kept = Checksums.at(checksums) if checksums is not None else None
    doing = Doing(plan=plan, watch=True, yes=yes or file == "-", json=json)
    return with_client(stack, lambda client: _ingest_all(client, requests, doing, kept))


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
    from emporter.cli.planned import describe

    found = await client.plan(request)
    if json:
        showing.print_json(found)
    else:
        describe(found)
    return 0


async def _ingest(client: AsyncClient, request: IngestRequest, doing: Doing) -> int:
    from emporter.cli import showing
    from emporter.cli.watching import watch_job

    await _look_first(client, request, ask=doing.asks, quiet=doing.json)
    accepted = await client.ingest(request)
    if doing.watch:
        return await watch_job(client, accepted.job, json=doing.json)
    if doing.json:
        showing.print_json(accepted)
    else:
        again = f" ({accepted.state} before; --force makes a new revision)" if accepted.existing else ""
        print(f"{accepted.job} r{accepted.revision}{again}")
        if not accepted.existing:
            print(f"watch it with: emporter watch {accepted.job}", file=sys.stderr)
    return 0


async def _look_first(client: AsyncClient, request: IngestRequest, *, ask: bool, quiet: bool) -> None:
    """Plan, show, and let the user say no. Raises RefusedByServiceError for what can't be ingested, typer.Abort."""
    from emporter.cli.planned import LATER, describe
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
            f"needs about {size(found.stored_bytes_estimate)}, there are {size(found.free_bytes)} free",
            code="insufficient_storage",
            hint="free some room, or ingest a --region",
        )
    if not quiet:
        describe(found, to_stderr=True)
    if ask:
        typer.confirm("Ingest it?", default=True, abort=True, err=True)
