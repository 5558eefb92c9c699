"""Neuroglancer's own client, as its wheel brings it (Apache-2.0), read from there; nothing is changed but one line of its page.

The wheel's client belongs to a Python server that sends it a configuration; ours has none to send, so the page says once that
it is connected. All that is looked at stands in the fragment of the URL. The package is never imported: only its files are read.
"""

from __future__ import annotations

import re
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse

from block_server.answers import ASK_AGAIN, FOR_EVER
from block_server.errors import NoSuchKeyError
from block_server.faults import problems
from block_server.queries import documented

router = APIRouter(tags=["pages"])

TYPES = {".js": "text/javascript", ".css": "text/css", ".wasm": "application/wasm", ".html": "text/html; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "frame-ancestors 'self'"
)
"""It can fetch from nowhere else: what is looked at stays here."""
CONNECTED = (
    "<!-- Neuroglancer, Copyright Google Inc. and its contributors, Apache License 2.0: "
    "https://github.com/google/neuroglancer/blob/master/LICENSE -->"
    "<script>window.EventSource = class { constructor() { setTimeout(() => this.onopen?.()); } close() {} "
    "addEventListener(type, listener) { if (type === 'open') this.onopen = listener; } };</script>"
)
FILE = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}, "description": "a file of the client"}
_FILE = re.compile(r"[a-z0-9][a-z0-9_.-]*\.(?:js|css|wasm|html)\Z", re.ASCII)


@lru_cache(maxsize=1)
def installed() -> Path | None:
    """The folder of the client; None where the wheel is not there."""
    spec = find_spec("neuroglancer")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    folder = Path(places[0]) / "static" / "client" if places else None
    return folder if folder is not None and (folder / "index.html").is_file() else None


@router.get(
    "/neuroglancer/v/client/{file}",  # noqa: FAST003  # the client looks for `/v/` in its own address
    response_class=Response,
    responses={200: {"description": "A file of the client"}, **problems(400, 404)},
    openapi_extra=documented(None, FILE),
)
async def client(request: Request) -> Response:
    """A file of Neuroglancer's client."""
    name, folder = request.path_params["file"], installed()
    if folder is None or not _FILE.match(name) or not (folder / name).is_file():
        raise NoSuchKeyError(f"Neuroglancer's client has no {name[:80]}", hint="look at a volume from /")
    kind = TYPES[Path(name).suffix]
    if name == "index.html":
        headers = {"cache-control": ASK_AGAIN, "content-security-policy": POLICY, "x-content-type-options": "nosniff"}
        return Response(_page(folder), headers=headers, media_type=kind)
    # Their names hold a digest of what is in them.
    return FileResponse(folder / name, media_type=kind, headers={"cache-control": FOR_EVER, "x-content-type-options": "nosniff"})


@lru_cache(maxsize=1)
def _page(folder: Path) -> str:
    text = (folder / "index.html").read_text(encoding="utf-8")
    return text.replace("<head>", f"<head>{CONNECTED}", 1)
