"""The command line, the Python client and the embedded stack.

import emporter

client = emporter.Client()                                # the stack of this folder, or emporter.Client("http://host:port")
crop = client.volume("VOLUME")[0:64, 128:256, -128:]      # numpy, axes z, y, x
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emporter.aio import AsyncClient
    from emporter.client import Client, connect
    from emporter.volume import AsyncVolume, Volume

__all__ = ["AsyncClient", "AsyncVolume", "Client", "Volume", "connect"]

_HOMES = {
    "AsyncClient": "emporter.aio",
    "AsyncVolume": "emporter.volume",
    "Client": "emporter.client",
    "Volume": "emporter.volume",
    "connect": "emporter.client",
}


def __getattr__(name: str) -> Any:
    """Loaded when first named: the command line needs none of it to print its help."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
