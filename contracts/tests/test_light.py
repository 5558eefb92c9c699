"""The contracts stay light: whoever imports them, a command line say, pays for nothing heavy."""

import pkgutil
import subprocess
import sys

import emporter_contracts

HEAVY = {"numpy", "zarr", "faststream", "nats", "obstore", "tensorstore", "sqlalchemy", "starlette", "httpx"}


def test_importing_the_contracts_pulls_in_nothing_heavy():
    modules = [f"emporter_contracts.{m.name}" for m in pkgutil.iter_modules(emporter_contracts.__path__)]
    assert "emporter_contracts.records" in modules
    program = f"import sys, {', '.join(modules)}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "pydantic" in loaded
    assert HEAVY.isdisjoint(loaded)
