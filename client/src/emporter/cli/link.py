"""`emporter link`: one volume as each tool opens it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emporter.cli.options import Json, Stack, triple, with_client

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
    json: Json = False,
    stack: Stack = None,
) -> None:
    """Print the links of a volume: its page, and a line for each tool. They name the revision it has now."""
    from emporter.cli import showing

    place = None if at is None else triple(at, "--at")

    async def ask(client: AsyncClient) -> Mapping[str, Any]:
        return (await client.volume(volume)).info

    lines = lines_of(with_client(stack, ask), place)
    if json:
        showing.print_json(lines)
        return
    width = max(map(len, lines))
    for tool, line in lines.items():
        print(f"{tool:<{width}}  {line}")


def lines_of(info: Mapping[str, Any], at: Index3 | None) -> dict[str, str]:
    """What each tool is given, by its name; `info` is the answer of /v1/volumes/{v}, `at` voxels z, y, x. Raises MistakeError."""
    from emporter.errors import MistakeError

    shape = info["shape"]
    if at is not None and any(not 0 <= index < n for index, n in zip(at, shape, strict=True)):
        raise MistakeError(
            f"--at {','.join(map(str, at))} lies outside {info['ref']}", hint=f"its shape is {','.join(map(str, shape))} (z,y,x)"
        )
    links = info["links"]
    zarr = links["zarr"].removesuffix("/zarr.json").rstrip("/")
    store = f'{{"driver": "zarr3", "kvstore": "{zarr}/0/"}}'
    return {
        "page": links["view"] + _fragment(at),
        "neuroglancer": f"zarr3://{zarr}/",
        "napari": f"napari --plugin napari-ome-zarr {zarr}",
        "fiji": f"{zarr}  (File > Import > HDF5/N5/Zarr/OME-NGFF…, paste the address)",
        "webknossos": f"{zarr}  (Add Dataset > Add Remote Dataset, paste the address)",
        "tensorstore": f"tensorstore.open({store}).result()",
    }


def _fragment(at: Index3 | None) -> str:
    return "" if at is None else "#" + "&".join(f"{axis}={index}" for axis, index in zip("zyx", at, strict=True))
