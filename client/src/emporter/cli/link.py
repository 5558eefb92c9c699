"""`emporter link`: one volume as each tool opens it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli.options import Json, Stack, duration, triple, with_client

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter_contracts.geometry import Index3

Volume = Annotated[
    str, typer.Argument(metavar="VOLUME", help="<volume>, or one revision of it: <volume>@r<N>.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(link)


def link(
    volume: Volume,
    at: Annotated[str | None, typer.Option("--at", metavar="z,y,x", help="Where to look: voxels of level 0.")] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", metavar="7d", help="Sign them: whoever has them reads this volume without a token, so long."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", metavar="10GiB/day", help="And no more than that, with --expires.")
    ] = None,
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Print the links of a volume: its page, and a line for each tool. They name the revision it has now."""
    from emporter.cli import showing

    place = None if at is None else triple(at, "--at")
    seconds = None if expires is None else duration(expires, "--expires")
    if seconds is None and budget is not None:
        raise typer.BadParameter("--budget is of signed links: give --expires, too")

    async def ask(client: AsyncClient) -> Mapping[str, str]:
        if seconds is not None:
            return await _signed(client, volume, place, seconds, budget)
        if client.connection.token:
            print("these need your token; --expires 7d makes links for tools that send none", file=sys.stderr)
        return _said((await client.volume(volume)).info, place)

    lines = with_client(stack, ask)
    if json:
        showing.print_json(lines)
        return
    width = max(map(len, lines))
    for tool, line in lines.items():
        print(f"{tool:<{width}}  {line}")


async def _signed(client: AsyncClient, volume: str, place: Index3 | None, seconds: int, budget: str | None) -> Mapping[str, str]:
    """The same lines below a signed prefix, and until when they hold."""
    from dataclasses import replace

    from emporter.aio import AsyncClient
    from emporter_runtime.access import Budget

    spent = None if budget is None else Budget.parse(budget).model_dump()
    signed = await client.link([volume], seconds, spent)
    # Asked through the link itself, at the address known here: that it works is then known, too.
    prefix = signed["base"][signed["base"].rindex("/s/") :]
    through = replace(client.connection, blocks=client.connection.blocks + prefix, token="")
    async with AsyncClient(through) as linked:
        info = (await linked.volume(signed["volumes"][0])).info
    return {**_said(info, place), "expires": signed["expires_at"]}


def _said(info: Mapping[str, Any], place: Index3 | None) -> Mapping[str, str]:
    """The lines; what is not among them is told beside."""
    lines = lines_of(info, place)
    if why := left_out(info):
        print(why, file=sys.stderr)
    return lines


def lines_of(info: Mapping[str, Any], at: Index3 | None) -> dict[str, str]:
    """What each tool that can open it is given, by its name; `info` is the answer of /v1/volumes/{v}, `at` voxels z, y, x.

    Raises MistakeError.
    """
    from emporter.errors import MistakeError

    shape = info["shape"]
    if at is not None and any(not 0 <= index < n for index, n in zip(at, shape, strict=True)):
        raise MistakeError(
            f"--at {','.join(map(str, at))} lies outside {info['ref']}", hint=f"its shape is {','.join(map(str, shape))} (z,y,x)"
        )
    links = info["links"]
    lines = {"page": links["view"] + _fragment(at)}
    if links["zarr"] is not None:
        return lines | _of_zarr(links["zarr"])
    return lines | ({} if links["precomputed"] is None else _of_precomputed(links["precomputed"]))


def left_out(info: Mapping[str, Any]) -> str:
    """Which tools are given no line, and why; empty where all are."""
    if info["links"]["zarr"] is not None:
        return ""
    why = f"{info['ref']} is read where it lies and has no OME-Zarr here, so there are no lines for napari and Fiji"
    how = f"emporter ingest {info['volume']} copies it in"
    if info["links"]["precomputed"] is not None:
        return f"{why}; {how}"
    lacking = f"knows no {info['dtype']}" if None not in info["voxel_size_nm"] else "needs its voxel size, which nobody knows"
    return f"{why}; none for Neuroglancer, webKnossos and tensorstore either, as precomputed {lacking}; {how}"


def _of_zarr(zarr: str) -> dict[str, str]:
    store = f'{{"driver": "zarr3", "kvstore": "{zarr}/0/"}}'
    return {
        "neuroglancer": f"zarr3://{zarr}/",
        "napari": f"napari --plugin napari-ome-zarr {zarr}",
        "fiji": f"{zarr}  (File > Import > HDF5/N5/Zarr/OME-NGFF…, paste the address)",
        "webknossos": f"{zarr}  (Add Dataset > Add Remote Dataset, paste the address)",
        "tensorstore": f"tensorstore.open({store}).result()",
    }


def _of_precomputed(precomputed: str) -> dict[str, str]:
    store = f'{{"driver": "neuroglancer_precomputed", "kvstore": "{precomputed}/"}}'
    return {
        "neuroglancer": f"precomputed://{precomputed}",
        "webknossos": f"{precomputed}  (Add Dataset > Add Remote Dataset, paste the address)",
        "tensorstore": f"tensorstore.open({store}).result()  # axes x, y, z, channel",
    }


def _fragment(at: Index3 | None) -> str:
    return "" if at is None else "#" + "&".join(f"{axis}={index}" for axis, index in zip("zyx", at, strict=True))
