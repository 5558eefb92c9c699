"""What several commands share: options, and how values are written on the command line."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter.connection import Connection
    from emporter_contracts.commands import Region
    from emporter_runtime.settings import Settings

T = TypeVar("T")

Stack = Annotated[str | None, typer.Option("--stack", metavar="DIR", help="Talk to the stack in this folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Data = Annotated[Path | None, typer.Option("--data", metavar="DIR", help="Folder of the stack.", show_default="./.emporter")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]

_stack: list[str | None] = [None]


def set_stack(stack: str | None) -> None:
    """Keep the --stack that stood before the command's name."""
    _stack[0] = stack


def connection(stack: str | None) -> Connection:
    """The stack that is meant. Raises NoStackError."""
    from emporter.connection import find_connection

    folder = stack or _stack[0]
    return find_connection(Path(folder) if folder is not None else None)


def operator_settings(stack: str | None) -> Settings:
    """The services' settings: DIR/operator.json, or EMPORTER_… in the environment. Raises NoStackError."""
    from emporter_runtime.settings import Settings

    given = _operator(stack)
    return Settings.model_validate(given) if given else Settings()


def operator_environment(stack: str | None) -> dict[str, str]:
    """The same as a service reads them, EMPORTER_… by name; empty where the environment has them already."""
    return {f"EMPORTER_{name.upper()}": str(value) for name, value in _operator(stack).items() if value is not None}


def _operator(stack: str | None) -> dict[str, Any]:
    import json

    from emporter.errors import NoStackError

    where = connection(stack)
    if where.stack is None:
        return {}
    try:
        found: dict[str, Any] = json.loads(where.stack.operator.read_text())
    except OSError as error:
        raise NoStackError(
            f"{where.stack.operator} can't be read: {error.strerror}", hint="ask whoever runs this stack"
        ) from error
    return found


def with_client(stack: str | None, do: Callable[[AsyncClient], Awaitable[T]]) -> T:
    """What `do` returns, given a client of the stack that is meant."""
    import asyncio

    async def run() -> T:
        from emporter.aio import AsyncClient

        async with AsyncClient(connection(stack)) as client:
            return await do(client)

    return asyncio.run(run())


def triple(text: str, option: str) -> tuple[int, int, int]:
    """`z,y,x` as whole numbers. Raises typer.BadParameter."""
    parts = text.split(",")
    if len(parts) != 3 or not all(part.strip().removeprefix("-").isdigit() for part in parts):
        raise typer.BadParameter(f"{option} {text}: write three whole numbers z,y,x, such as 0,128,128")
    z, y, x = (int(part) for part in parts)
    return (z, y, x)


def extents(text: str, option: str) -> tuple[int, int, int]:
    """`z,y,x`, each at least 1. Raises typer.BadParameter."""
    shape = triple(text, option)
    if min(shape) < 1:
        raise typer.BadParameter(f"{option} {text}: each of z,y,x must be at least 1")
    return shape


def region(text: str) -> Region:
    """`z0:z1,y0:y1,x0:x1`, ends exclusive. Raises typer.BadParameter."""
    from emporter_contracts.commands import Region

    ranges = [part.split(":") for part in text.split(",")]
    if len(ranges) != 3 or not all(len(r) == 2 and r[0].strip().isdigit() and r[1].strip().isdigit() for r in ranges):
        raise typer.BadParameter(f"--region {text}: write z0:z1,y0:y1,x0:x1 in voxels of the archive, ends exclusive")
    (z0, z1), (y0, y1), (x0, x1) = ((int(a), int(b)) for a, b in ranges)
    if z0 >= z1 or y0 >= y1 or x0 >= x1:
        raise typer.BadParameter(f"--region {text}: holds no voxel, each end must be greater than its start")
    return Region(origin=(z0, y0, x0), shape=(z1 - z0, y1 - y0, x1 - x0))


def voxel_size(text: str) -> tuple[float | None, float | None, float | None]:
    """`z,y,x` in nm; `?` where it is not known. Raises typer.BadParameter."""
    try:
        z, y, x = (None if part.strip() == "?" else float(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(
            f"--voxel-size-nm {text}: write z,y,x in nm, such as 50,8,8, with ? for what is not known"
        ) from None
    if any(v is not None and not 0 < v < float("inf") for v in (z, y, x)):
        raise typer.BadParameter(f"--voxel-size-nm {text}: nanometres are positive")
    return (z, y, x)


SECONDS = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def duration(text: str, option: str) -> int:
    """`7d` (also m, h, w) in seconds. Raises typer.BadParameter."""
    number, unit = text[:-1], text[-1:]
    if unit not in SECONDS or not (number.isascii() and number.isdigit() and len(number) < 7) or int(number) == 0:
        raise typer.BadParameter(f"{option} {text}: write a time such as 30m, 12h, 7d or 2w")
    return int(number) * SECONDS[unit]


def parameters(given: Sequence[str]) -> dict[str, Any]:
    """`name=value`, each once; what is JSON (a number, true, a list) is that, anything else text. Raises typer.BadParameter."""
    import json

    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"--set {one}: write name=value, such as dataset=/volumes/raw")
        if name in found:
            raise typer.BadParameter(f"--set {name} stands here twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
