from __future__ import annotations

from pathlib import Path

import pytest

from emporter_contracts.topology import SOURCES
from emporter_runtime.errors import NotProvisionedError
from emporter_runtime.objects import Objects
from fetcher.settings import FetcherSettings
from fetcher.sources import registry


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("", ()),
        ("*", ("*",)),
        ("a.example, *.b.example", ("a.example", "*.b.example")),
        ('["a.example","*"]', ("a.example", "*")),
    ],
)
def test_hosts_are_a_json_list_or_stand_between_commas(
    monkeypatch: pytest.MonkeyPatch, text: str, hosts: tuple[str, ...]
) -> None:
    monkeypatch.setenv("EMPORTER_URL_ALLOWED_HOSTS", text)
    assert FetcherSettings().url_allowed_hosts == hosts


def test_file_roots_are_names_and_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPORTER_FILE_ROOTS", '{"scope1": "/data/scope1"}')
    assert FetcherSettings().file_roots == {"scope1": Path("/data/scope1")}


async def test_the_fetcher_has_exactly_the_sources_of_the_bus() -> None:
    assert registry.all_sources(FetcherSettings(), Objects.in_memory()).keys() == SOURCES.keys()


async def test_a_source_the_bus_does_not_know_is_noticed_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "another", 4)
    with pytest.raises(NotProvisionedError):
        registry.all_sources(FetcherSettings(), Objects.in_memory())
