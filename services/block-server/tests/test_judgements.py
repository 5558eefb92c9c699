"""What the quality gates said is on the pages: the verdict, the slices, and what is held."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright.sync_api import expect

from block_server.testing import House, Made, house_on
from emporter_contracts import storage
from emporter_contracts.records import GateResult, MetadataRecord, Quality, Verdict
from emporter_runtime.commits import release
from emporter_runtime.objects import json_bytes
from emporter_runtime.testing import file_store
from emporter_testing.browsing import browsing

EVIDENCE = "slice 17 is <b>missing</b>"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with house_on(file_store(tmp_path), blocks_fresh_seconds=0) as house:
        yield house


def judged(house: House, name: str, verdict: Verdict, revision: int = 1, *, held: bool = False) -> None:
    """A committed revision of which a gate found something at slices 17 and 18."""
    made = house.commit(Made(np.ones((20, 20, 20), "u1"), name=name, revision=revision))
    key = storage.record(made.name, made.revision)
    record = MetadataRecord.model_validate_json(house.objects.get_sync(storage.VOLUMES, key))
    gates = (
        GateResult(gate="missing", verdict=verdict, slices=(17, 18) if verdict != "pass" else (), evidence=EVIDENCE),
        GateResult(gate="shape", verdict="pass"),
    )
    quality = Quality(verdict=verdict, gates=gates, policy="default", completeness=0.5, held=held)
    metadata = record.metadata.model_copy(update={"quality": quality})
    house.objects.put_sync(storage.VOLUMES, key, json_bytes(record.model_copy(update={"metadata": metadata})))
    if held:
        house.objects.put_sync(storage.VOLUMES, storage.hold(made.name, made.revision), b"{}")


def test_the_index_shows_each_verdict_with_its_slices_and_trusts_no_evidence(house: House) -> None:
    judged(house, "bad", "fail")
    judged(house, "good", "pass")
    house.commit(Made(np.ones((20, 20, 20), "u1"), name="older"))
    page = httpx.get(house.url).text
    assert "fail: missing (z 17, 18)</span>" in page
    assert '<span class="pass" title="">pass</span>' in page
    assert "slice 17 is &lt;b&gt;missing" in page
    assert "<b>missing" not in page
    assert 'id="held"' not in page


def test_what_is_held_is_on_the_index_until_it_is_released(house: House) -> None:
    judged(house, "volume", "pass")
    judged(house, "volume", "fail", 2, held=True)
    judged(house, "alone", "fail", held=True)
    page = httpx.get(house.url).text
    held = page[page.index('id="held"') : page.index("<h1>Volumes")]
    assert '<a href="view/volume@r2">' in held
    assert '<a href="view/alone@r1">' in held
    assert "emporter release volume@r2" in held
    assert "fail: missing (z 17, 18)" in held
    assert '<a href="view/volume@r1">' in page[page.index("<h1>Volumes") :]
    asyncio.run(release(house.objects, "volume", 2))
    page = httpx.get(house.url).text
    assert "emporter release volume@r2" not in page
    assert '<a href="view/volume@r2">' in page


@pytest.mark.parametrize("path", ["/view/volume@r2", "/view/volume@r2?plain"])
def test_a_volumes_page_says_what_was_found_where_and_that_it_is_held(house: House, path: str) -> None:
    judged(house, "volume", "pass")
    judged(house, "volume", "fail", 2, held=True)
    page = httpx.get(house.url + path).text
    assert "@@" not in page
    assert "fail missing: slice 17 is &lt;b&gt;missing&lt;/b&gt; (z 17, 18)" in page
    assert "not current until somebody releases it (emporter release volume@r2)" in page
    current = httpx.get(house.url + "/view/volume").text
    assert '<span class="pass">pass</span>' in current
    assert "emporter release" not in current


def test_a_volume_nobody_judged_says_nothing(house: House) -> None:
    house.commit(Made(np.ones((20, 20, 20), "u1"), name="older"))
    assert 'id="quality"' not in httpx.get(house.url + "/view/older").text


def test_a_browser_shows_the_findings(house: House) -> None:
    judged(house, "volume", "fail")
    with browsing() as browser:
        page = browser.new_page()
        page.goto(f"{house.url}/view/volume?plain")
        expect(page.locator("#quality li")).to_have_text("fail missing: slice 17 is <b>missing</b> (z 17, 18)")
        expect(page.locator("#quality li")).to_be_visible()
        page.goto(house.url)
        expect(page.get_by_text("fail: missing (z 17, 18)")).to_be_visible()
