"""`emporter register` under the operator's rules of publication: refused by name, held, and for what it is said to be for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from emporter.cli.main import run
from emporter_archives import arrays
from emporter_runtime.testing_bus import provisioned

RULES = """
rules:
  - {name: never-for-sale, at: [publication], when: 'request.purpose == "sale"', then: deny, message: ask Ada}
  - {name: known-licence, at: [publication], when: '!volume.licence_known && embargo_until == null', then: hold}
  - {name: embargo, at: [publication], when: 'embargo_until != null && now < embargo_until', then: hold}
"""
Said = tuple[int, str, str]
Emporter = Callable[..., Awaitable[Said]]


@pytest.fixture
async def emporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Emporter]:
    """The command line of an operator, where there are rules and an array in a file root."""
    for name, body in arrays.zarr2(np.arange(512, dtype=np.uint8).reshape(8, 8, 8), compressor=None).items():
        path = tmp_path / "scope" / "cells.zarr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (tmp_path / "policy.yaml").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMPORTER_PURPOSE", "")
    async with provisioned(tmp_path / "bus") as (settings, _):
        given = {
            "NATS_URL": settings.nats_url,
            "STORE_URL": settings.store_url,
            "POLICY": str(tmp_path / "policy.yaml"),
            "FILE_ROOTS": json.dumps({"scope": str(tmp_path / "scope")}),
        }
        for name, value in given.items():
            monkeypatch.setenv(f"EMPORTER_{name}", value)

        async def command(*words: str) -> Said:
            capsys.readouterr()
            status = await asyncio.to_thread(run, [*words])
            said = capsys.readouterr()
            return status, said.out, said.err

        yield command


async def test_a_rule_that_refuses_is_named_and_one_that_holds_says_how_it_is_released(emporter: Emporter) -> None:
    register = ("register", "scope/cells.zarr", "--name", "cells")
    status, out, err = await emporter("--purpose", "sale", *register)
    assert (status, out) == (2, "")
    assert "never-for-sale" in err
    assert "ask Ada" in err
    status, out, err = await emporter("--purpose", "research", *register)
    assert status == 0, err
    first, second = out.splitlines()
    assert first == "registered-cells@r1"
    assert second.startswith("held by known-licence: ")
    assert "emporter release registered-cells@r1" in second
    status, out, err = await emporter("release", "registered-cells@r1")
    assert status == 0, err
    status, out, err = await emporter(*register, "--json")
    assert status == 0, err
    assert json.loads(out) == [{"ref": "registered-cells@r1", "volume": "registered-cells", "existing": True, "held_by": []}]


async def test_an_embargo_is_told_when_a_volume_is_registered_and_again_when_it_is_another(emporter: Emporter) -> None:
    register = ("register", "scope/cells.zarr", "--name", "cells")
    status, out, err = await emporter(*register, "--embargo-until", "2126-01-31")
    assert status == 0, err
    assert out.splitlines()[1].startswith("held by embargo: ")
    status, out, err = await emporter(*register, "--embargo-until", "2126-01-31", "--json")
    assert json.loads(out) == [
        {"ref": "registered-cells@r1", "volume": "registered-cells", "existing": True, "held_by": ["embargo"]}
    ]
    status, out, err = await emporter(*register, "--embargo-until", "2026-01-31")
    assert (status, out) == (0, "registered-cells@r2\n"), "an embargo that is over holds nothing"
    status, out, err = await emporter(*register, "--embargo-until", "the day after")
    assert (status, out) == (2, "")
    assert "2027-01-31" in err
