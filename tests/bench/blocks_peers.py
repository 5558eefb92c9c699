"""The servers that are compared, each a process of its own, and arrays as other libraries open them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tensorstore as ts
import zarr
from starlette.responses import Response
from starlette.routing import Route

from block_server.app import create_app
from block_server.memory import keep_freed_memory
from block_server.settings import BlockServerSettings
from emporter_runtime.health import serving
from emporter_runtime.service import forever, run_service
from emporter_runtime.settings import StoreSettings

TILED = "EMPORTER_PYTHON_TILED"
"""Names a Python that has tiled and zarr, which can't share an environment with us; else that of `make bench-blocks` counts."""
INSTALLED_TILED = Path(__file__).parents[2] / ".venv-clients" / "tiled" / "bin" / "python"

OPEN = """
import json, sys, zarr
def opened(where):
    if not where.startswith("{"):
        return zarr.open_array(where, mode="r")
    from obstore.store import S3Store
    place = json.loads(where)
    path = place.pop("path")
    return zarr.open_array(zarr.storage.ObjectStore(S3Store(**place), read_only=True), path=path, mode="r")
array = opened(sys.argv[1])
"""
ZARR_APP = (
    OPEN
    + """
import asyncio, numpy, uvicorn
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    z, y, x = map(int, scope["path"].strip("/").split(","))
    voxels = await asyncio.to_thread(lambda: array[z:z+128, y:y+128, x:x+128])
    body = numpy.ascontiguousarray(voxels).reshape(-1).view("u1").data
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})
    await send({"type": "http.response.body", "body": body})
uvicorn.run(app, port=int(sys.argv[2]), log_level="error", lifespan="off", loop="uvloop", http="httptools")
"""
)
TILED_APP = (
    OPEN
    + """
import uvicorn
from tiled.adapters.mapping import MapAdapter
from tiled.adapters.zarr import ZarrArrayAdapter
from tiled.server.app import build_app
from tiled.config import Authentication
from tiled.structures.array import ArrayStructure
tree = MapAdapter({"a": ZarrArrayAdapter(array, ArrayStructure.from_array(array))})
app = build_app(tree, authentication=Authentication(allow_anonymous_access=True), server_settings={"response_bytesize_limit": 10**9})
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""
)


def serve() -> int:
    """The block-server as it is, with one more route that gives a constant body of as many bytes as the path says."""

    async def run(settings: BlockServerSettings) -> None:
        app = create_app(settings)
        bodies: dict[int, bytes] = {}

        async def constant(request: Any) -> Response:
            size = int(request.path_params["size"])
            return Response(bodies.setdefault(size, bytes(size)), media_type="application/octet-stream")

        app.router.routes.insert(0, Route("/constant/{size}", constant))
        async with serving(app, settings.http_host, settings.http_port):
            await forever()

    keep_freed_memory()
    return run_service("block-server", BlockServerSettings, run)


@contextmanager
def block_server(store: StoreSettings, cache_bytes: int) -> Iterator[tuple[int, int]]:
    """Yields its port and its process id."""
    env = os.environ | {
        "EMPORTER_STORE_URL": store.store_url,
        "EMPORTER_S3_ACCESS_KEY": store.s3_access_key,
        "EMPORTER_S3_SECRET_KEY": store.s3_secret_key.get_secret_value(),
        "EMPORTER_BLOCKS_CACHE_BYTES": str(cache_bytes),
    }
    if store.s3_endpoint:
        env["EMPORTER_S3_ENDPOINT"] = store.s3_endpoint
    script = Path(__file__).with_name("blocks.py")
    process = subprocess.Popen([sys.executable, str(script), "--serve"], env=env, stderr=subprocess.PIPE, text=True)
    try:
        for line in process.stderr or ():
            if '"listening"' in line:
                threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
                yield json.loads(line)["port"], process.pid
                return
        raise RuntimeError("the server did not start")
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def peer(python: str, script: str, where: str) -> Iterator[int]:
    """Another server over an array: `where` is its folder, or JSON of `place_of`; yields its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([python, "-c", script, where, str(port)], stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(
                        (process.stderr.read() if process.stderr and process.poll() is not None else "")[-2000:]
                    ) from None
                time.sleep(0.1)
        threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
        yield port
    finally:
        process.terminate()
        process.wait(30)


def python_of_tiled() -> str | None:
    """A Python that has tiled; None where there is none."""
    return os.environ.get(TILED) or (str(INSTALLED_TILED) if INSTALLED_TILED.exists() else None)


def place_of(kvstore: dict[str, Any]) -> dict[str, Any]:
    """An array in S3 for obstore, from how TensorStore is told of it; the keys are in the environment."""
    return {
        "bucket": kvstore["bucket"],
        "path": kvstore["path"].rstrip("/"),
        "endpoint": kvstore["endpoint"],
        "region": kvstore.get("aws_region", "us-east-1"),
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": True},
    }


def by_tensorstore(kvstore: dict[str, Any], cache: int) -> Any:
    context = ts.Context({"cache_pool": {"total_bytes_limit": cache}})
    spec = {"driver": "zarr3", "kvstore": kvstore, "recheck_cached_data": "open", "fill_missing_data_reads": False}
    return ts.open(spec, open=True, read=True, context=context).result()


def by_zarrs(folder: Path) -> Any:
    """zarr-python with the zarrs pipeline, for this whole process."""
    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    return zarr.open_array(folder, mode="r")


def processor_ms(pid: int) -> float:
    """Processor time of a process up to now, ended threads too (proc(5), stat: utime and stime, in steps of 10 ms)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1e3 / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """The most it ever had resident (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6
