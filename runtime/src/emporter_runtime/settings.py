"""Settings every service reads from the environment, prefix EMPORTER_, and below it from config.yaml (config.py).

A service adds its own in its `settings.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from emporter_runtime.config import ConfigFile


class StoreSettings(BaseSettings):
    """Where objects lie: `s3://` (endpoint and keys below) or `file:///folder`."""

    model_config = SettingsConfigDict(env_prefix="EMPORTER_", extra="ignore")

    store_url: Annotated[str, Field(pattern=r"^(s3://.*|file:///.+)$")] = "s3://"
    """`s3://` or `s3://<prefix>`: the prefix stands before every bucket's name (`s3://lab-a-` → `lab-a-emporter-raw`)."""
    s3_endpoint: str | None = None
    """Such as http://127.0.0.1:8333; None means AWS."""
    s3_region: str = "us-east-1"
    s3_access_key: str = ""
    s3_secret_key: SecretStr = SecretStr("")
    store_disk: Path | None = None
    """Folder whose free space is the store's, where the store runs on this machine."""
    store_quota_bytes: int | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What is given, then the environment, then config.yaml."""
        return (init_settings, env_settings, dotenv_settings, file_secret_settings, ConfigFile(settings_cls))


class HttpSettings(StoreSettings):
    """What every service needs: a store, a port and logs."""

    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 0
    """Of /healthz, /readyz and /metrics (and, where a service has one, its API); 0 takes a free port and logs it."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    grace_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How long running handlers may take to finish after SIGTERM."""
    policy: Annotated[Path | None, BeforeValidator(lambda given: given or None)] = None
    """YAML file of the operator's rules (docs/policy.md); without one there are none."""


class Settings(HttpSettings):
    """What every service on the bus needs."""

    nats_url: str = "nats://127.0.0.1:4222"
    nats_user: str | None = None
    nats_password: SecretStr | None = None
    ack_wait_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long the bus waits for a sign of life before it gives a command to another worker. A bus outage longer than this
    lets two workers do the same work, so keep it well above a restart of the bus; heartbeats come four times as often."""
    sweep_seconds: Annotated[float, Field(gt=0)] = 30.0
    """How often a steward looks at every running job whether or not anything happened."""
    patience_seconds: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """How long a job may wait without progress before it fails."""


def wrong_setting(error: ValidationError) -> tuple[str, str]:
    """Of settings that can't be: the variable that says the first of them, and why it can't."""
    first = error.errors(include_url=False, include_input=False)[0]
    return "EMPORTER_" + ".".join(map(str, first["loc"])).upper(), first["msg"]
