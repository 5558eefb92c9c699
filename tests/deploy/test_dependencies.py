"""What a package imports is what it asks for: else it runs here, where everything is installed, and not in its image."""

from __future__ import annotations

import ast
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {
    tomllib.loads(path.read_text())["project"]["name"]: path.parent
    for pattern in ("*/pyproject.toml", "services/*/pyproject.toml")
    for path in ROOT.glob(pattern)
}
"""Our packages: distribution name → folder."""
OURS = {module.name: name for name, folder in FOLDERS.items() for module in (folder / "src").iterdir()}
"""Module → distribution, of our own."""
TESTING = "testing"
"""Modules whose names begin so support tests, and may import what only the tests need."""


@cache
def asked(distribution: str) -> frozenset[str]:
    """Distributions that one of ours asks for, itself or by another of ours."""
    project = tomllib.loads((FOLDERS[distribution] / "pyproject.toml").read_text())["project"]
    extras = [text for extra in project.get("optional-dependencies", {}).values() for text in extra]
    own = {canonicalize_name(Requirement(text).name) for text in (*project["dependencies"], *extras)}
    return frozenset(own | {distribution}).union(*(asked(name) for name in own & set(FOLDERS)))


def imported(distribution: str) -> dict[str, str]:
    """Top-level modules that are imported anywhere below src, and by which file."""
    found: dict[str, str] = {}
    for path in (FOLDERS[distribution] / "src").rglob("*.py"):
        if path.name.startswith(TESTING):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names = [node.module]
            found.update({name.split(".")[0]: path.relative_to(ROOT).as_posix() for name in names})
    return found


@pytest.mark.parametrize("distribution", sorted(FOLDERS))
def test_a_package_asks_for_what_it_imports(distribution: str) -> None:
    owners = {**packages_distributions(), **{module: [name] for module, name in OURS.items()}}
    missing = {}
    for module, path in imported(distribution).items():
        if module in sys.stdlib_module_names:
            continue
        offered = {canonicalize_name(name) for name in owners.get(module, [module])}
        if not offered & asked(distribution):
            missing[module] = path
    assert missing == {}
