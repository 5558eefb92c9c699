"""`python -m block_server`: settings from the environment, then serve."""

from __future__ import annotations

import sys

from block_server.app import serve
from block_server.memory import keep_freed_memory
from block_server.settings import BlockServerSettings
from emporter_runtime.service import run_service


def main() -> int:
    """Exit codes as `run_service` gives them."""
    keep_freed_memory()
    return run_service("block-server", BlockServerSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
