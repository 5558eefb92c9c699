"""Wiring: store, routes, health; nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from block_server import telemetry
from block_server.direct import Direct
from block_server.faults import answer_faults
from block_server.middleware import Surroundings
from block_server.rooms import Rooms
from block_server.routes import batch, blocks, links, neuroglancer, others, precomputed, sample, view, volumes, zarr, zarr2
from block_server.settings import BlockServerSettings
from emporter_runtime.access_gate import Gate
from emporter_runtime.health import health_routes, serving
from emporter_runtime.service import forever

DESCRIPTION = (
    "Blocks, slices and the OME-Zarr of committed volumes. Axis order is z, y, x and lengths are nanometres everywhere. "
    "`<volume>@r<N>` is one immutable revision, `<volume>` the current one."
)


def create_app(settings: BlockServerSettings) -> FastAPI:
    """The whole service as an ASGI app; it connects to nothing before the first request. Raises AccessSettingsError."""
    access = settings.who_may_read()
    app = FastAPI(
        title="Emporter blocks",
        version="1",
        description=DESCRIPTION,
        redirect_slashes=False,  # a Zarr reader takes `key/` for a listing
        docs_url=None,
        redoc_url=None,
        lifespan=_closing,
    )
    rooms = Rooms.open(settings)
    app.state.rooms = rooms
    app.state.access = access
    for room in (batch, blocks, sample, zarr, zarr2, precomputed, others, volumes, neuroglancer, view, links):
        app.include_router(room.router)
    app.router.routes.extend(health_routes({"store": rooms.objects.ready}))
    answer_faults(app)
    block = next(route for route in blocks.router.routes if getattr(route, "endpoint", None) is blocks.block)
    app.add_middleware(Direct, handler=blocks.block, route=block)
    if access is not None:
        app.add_middleware(Gate, access=access)
    app.add_middleware(Surroundings)
    telemetry.watch("voxels", rooms.decoding)
    telemetry.watch("stored", rooms.passing)
    return app


@asynccontextmanager
async def _closing(app: FastAPI) -> AsyncIterator[None]:
    """What volumes are read from is let go of when the service ends."""
    yield
    await app.state.rooms.volumes.close()


async def serve(settings: BlockServerSettings) -> None:
    """Serve until cancelled."""
    telemetry.watch_cache()
    async with serving(create_app(settings), settings.http_host, settings.http_port):
        await forever()
