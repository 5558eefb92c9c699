"""An upload before one's eyes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emporter import uploading
from emporter.cli import showing

if TYPE_CHECKING:
    from emporter.aio import AsyncClient


async def upload_with_bars(client: AsyncClient, paths: Sequence[Path], name: str | None) -> uploading.Upload:
    """Send files to the inbox, with one bar for reading and one for sending."""
    total = sum(file.bytes for file in uploading.collect(paths))
    with showing.byte_progress() as bars:
        rows = {"hash": bars.add_task("reading", total=total), "send": bars.add_task("sending", total=total)}

        def told(step: uploading.Step) -> None:
            bars.advance(rows["hash" if step.doing == "hash" else "send"], step.bytes)

        return await client.upload(paths, name, told)
