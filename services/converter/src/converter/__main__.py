"""`python -m converter`: settings from EMPORTER_* in the environment."""

import sys

from converter.allocator import share_heaps
from converter.app import serve
from converter.settings import ConverterSettings
from emporter_runtime.service import run_service

if __name__ == "__main__":
    share_heaps()
    sys.exit(run_service("converter", ConverterSettings, serve))
