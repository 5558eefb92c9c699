"""config.yaml: what it says counts where the environment is silent."""

from __future__ import annotations

from pathlib import Path

import pytest

from emporter_runtime.config import ConfigError, read_config
from emporter_runtime.garbage import GarbageSettings
from emporter_runtime.service import run_service
from emporter_runtime.settings import Settings

EXAMPLE = Path(__file__).parents[2] / "deploy" / "config.yaml"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(text: str) -> Path:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        monkeypatch.setenv("EMPORTER_CONFIG", str(path))
        return path

    for name in ("EMPORTER_LOG_LEVEL", "EMPORTER_PROFILE", "LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return write


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(config, monkeypatch):
    config("global: {log_level: debug, ack_wait_seconds: 7}")
    monkeypatch.setenv("EMPORTER_LOG_LEVEL", "error")
    settings = Settings()
    assert (settings.log_level, settings.ack_wait_seconds, settings.sweep_seconds) == ("error", 7.0, 30.0)


def test_a_variable_is_filled_in_or_its_default(config, monkeypatch):
    config('global: {log_level: "${LEVEL:warning}", nats_url: "nats://${HOST_OF_BUS:bus}:4222"}')
    assert (Settings().log_level, Settings().nats_url) == ("warning", "nats://bus:4222")
    monkeypatch.setenv("LEVEL", "debug")
    assert Settings().log_level == "debug"


def test_a_profile_lies_over_the_rest(config, monkeypatch):
    config("global: {log_level: info}\ndevelopment: {log_level: debug}\ndocker: {log_level: error}")
    assert Settings().log_level == "info"
    monkeypatch.setenv("EMPORTER_PROFILE", "development")
    assert Settings().log_level == "debug"


def test_sources_and_retention_have_sections_of_their_own(config):
    path = config("sources: {idr: {base_url: https://idr.example}}\nconsolidation: {keep_revisions: 3}")
    assert read_config(path)["idr_base_url"] == "https://idr.example"
    assert GarbageSettings().keep_revisions == 3


@pytest.mark.parametrize(
    "text", ["globl: {}", "global: [1]", "- 1", "a: [", "global: {log_level: '${NOBODY_SETS_THIS}'}", "sources: {idr: 3}"]
)
def test_a_file_that_is_none_is_refused_in_one_line(config, text):
    path = config(text)
    with pytest.raises(ConfigError) as caught:
        Settings()
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_service_with_a_wrong_file_ends_with_2(config):
    config("global: {log_level: '${NOBODY_SETS_THIS}'}")

    async def serve(_: Settings) -> None:
        raise AssertionError

    assert run_service("tested", Settings, serve) == 2


@pytest.mark.parametrize("profile", ["", "docker", "development"])
def test_the_example_is_one_every_service_can_read(profile, monkeypatch):
    monkeypatch.setenv("EMPORTER_CONFIG", str(EXAMPLE))
    monkeypatch.setenv("EMPORTER_PROFILE", profile)
    assert Settings().store_url == "s3://"
    assert GarbageSettings().keep_revisions is None
