"""`emporter register`: a volume that is read where it lies, without a copy. For operators, with the services' credentials."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from emporter.cli import options
from emporter.cli.ingest import Numbers, Role
from emporter.cli.options import Json, Stack, operator_environment, operator_settings

if TYPE_CHECKING:
    from emporter.registering import Wanted
    from emporter_runtime.registering import Registered


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command("register")(register_in_place)


def register_in_place(
    source: Annotated[
        str,
        typer.Argument(
            metavar="URL | PATH",
            help="Root of an OME-Zarr, Zarr, N5 or precomputed array: https://, s3://, gs://, or a folder below a file root.",
            show_default=False,
        ),
    ],
    name: Annotated[str | None, typer.Option(help="What the volume is called: registered-NAME.")] = None,
    series: Numbers = None,
    channel: Numbers = None,
    time: Numbers = None,
    axes: Annotated[str | None, typer.Option(help="Of the array, such as zyx, where it does not say.")] = None,
    voxel_size_nm: Annotated[
        str | None, typer.Option(metavar="Z,Y,X", help="Where the source is silent or wrong; ? for unknown.")
    ] = None,
    role: Annotated[Role, typer.Option(help="What the volume is.")] = Role.AUTO,
    labels_of: Annotated[str | None, typer.Option(metavar="VOLUME", help="The image these labels belong to.")] = None,
    embargo_until: Annotated[
        str | None, typer.Option(metavar="DATE", help="What rules are told of an embargo, such as 2027-01-31.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Make a new revision of what is there now.")] = False,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Serve an array where it lies: a row in the catalog and a volume like any other, and not a voxel is copied.

    A source that changes afterwards is refused (409), never mixed. emporter rm takes the volume away, never the source; emporter
    ingest VOLUME copies it in. Rules of publication are asked as of an ingest.
    """
    import asyncio

    from emporter.cli import showing
    from emporter.registering import Wanted
    from emporter_contracts.commands import Select
    from emporter_readers.protocol import Hints

    wanted = Wanted(
        source=source,
        name=name,
        hints=Hints(select=Select(series=series, channel=channel, time=time), axes=axes, role=role.value),
        voxel_size_nm=options.voxel_size(voxel_size_nm) if voxel_size_nm else None,
        labels_of=labels_of,
        embargo_until=embargo_until,
    )
    found = asyncio.run(_register(wanted, stack, anew=force))
    if json:
        rows = [{"ref": str(r.ref), "volume": r.ref.volume, "existing": r.existing, "held_by": r.held_by} for r in found]
        showing.print_json(rows)
        return
    for one in found:
        print(f"{one.ref}{' (registered before, unchanged; --force makes a new revision)' if one.existing else ''}")
        if one.held_by:
            print(f"held by {', '.join(one.held_by)}: not current until an operator says so (emporter release {one.ref})")


async def _register(wanted: Wanted, stack: str | None, *, anew: bool) -> list[Registered]:
    from emporter.bus import require_bus
    from emporter.registering import look
    from emporter_runtime.bus import Bus
    from emporter_runtime.logging import configure_logging
    from emporter_runtime.objects import Objects
    from emporter_runtime.policy.judging import Policy
    from emporter_runtime.registering import register as commit
    from emporter_runtime.roots import RootSettings

    configure_logging("operator", "warning", "console")
    settings = operator_settings(stack)
    given = operator_environment(stack)
    roots = RootSettings.model_validate({key.removeprefix("EMPORTER_").lower(): text for key, text in given.items()})
    rules, purpose = Policy.read(settings.policy), options.connection(stack).purpose
    wanted_volumes = await look(wanted, roots if given else RootSettings())
    await require_bus(settings.nats_url)
    bus = Bus(settings, "register")
    await bus.broker.connect()
    try:
        return await commit(Objects.open(settings), bus, wanted_volumes, anew=anew, rules=rules, purpose=purpose)
    finally:
        await bus.broker.stop()
