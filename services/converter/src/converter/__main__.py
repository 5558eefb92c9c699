"""`python -m converter`: settings from EMPORTER_* in the environment."""

import sys

from converter.allocator import keep_buffers
from converter.app import serve
from converter.settings import ConverterSettings
from emporter_runtime.service import run_service

if __name__ == "__main__":
    keep_buffers()
    sys.exit(run_service("converter", ConverterSettings, serve))
