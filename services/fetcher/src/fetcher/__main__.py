"""`python -m fetcher`: settings from EMPORTER_* in the environment."""

import sys

from emporter_runtime.service import run_service
from fetcher.app import serve
from fetcher.settings import FetcherSettings

if __name__ == "__main__":
    sys.exit(run_service("fetcher", FetcherSettings, serve))
