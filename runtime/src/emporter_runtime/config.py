"""One `config.yaml` for all services, named by EMPORTER_CONFIG; the environment wins over it.

```yaml
global: {store_url: s3://, log_level: "${LOG_LEVEL:info}"}     # any setting, by its name without EMPORTER_
sources: {idr: {base_url: …}}                                   # idr.base_url is EMPORTER_IDR_BASE_URL
consolidation: {keep_revisions: 3}                              # settings of catalog and retention, written as in global
docker: {nats_url: nats://nats:4222}                            # over all of it where EMPORTER_PROFILE=docker
development: {log_format: console}                              # … where EMPORTER_PROFILE=development
```

`${VAR}` and `${VAR:default}` in a value are taken from the environment; a VAR that is not there and has no default is an error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from emporter_contracts.errors import EmporterError

SECTIONS = ("global", "sources", "consolidation", "docker", "development")
PROFILES = ("docker", "development")
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::(?P<default>[^}]*))?\}")

Values = dict[str, Any]


class ConfigError(EmporterError):
    """config.yaml can't be used."""

    code = "config"


def read_config(path: Path, profile: str = "") -> Values:
    """Settings by field name, as the file gives them for a profile. Raises ConfigError."""
    try:
        text = yaml.safe_load(path.read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}".replace("\n", " ")[:300], hint="EMPORTER_CONFIG names it") from error
    if profile and profile not in PROFILES:
        raise ConfigError(f"there is no profile {profile}", hint=f"EMPORTER_PROFILE is one of {', '.join(PROFILES)}, or not set")
    body = _section(path, "the file", text)
    if strange := [name for name in body if name not in SECTIONS]:
        raise ConfigError(f"{path}: there is no section {strange[0]}", hint=f"the sections are {', '.join(SECTIONS)}")
    found: Values = dict(_section(path, "global", body.get("global")))
    for source, settings in _section(path, "sources", body.get("sources")).items():
        named = _section(path, f"sources.{source}", settings)
        found |= {f"{source.replace('-', '_')}_{name}": value for name, value in named.items()}
    found |= _section(path, "consolidation", body.get("consolidation"))
    if profile:
        found |= _section(path, profile, body.get(profile))
    return {name: _filled(path, name, value) for name, value in found.items()}


class ConfigFile(PydanticBaseSettingsSource):
    """What config.yaml says of the fields of one settings class; nothing where EMPORTER_CONFIG is not set."""

    def __init__(self, settings: type[BaseSettings]) -> None:
        super().__init__(settings)
        path = os.environ.get("EMPORTER_CONFIG")
        self._values = read_config(Path(path), os.environ.get("EMPORTER_PROFILE", "")) if path else {}

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002
        return self._values.get(field_name), field_name, False

    def __call__(self) -> Values:
        return {name: self._values[name] for name in self.settings_cls.model_fields if name in self._values}


def _section(path: Path, name: str, body: Any) -> Values:
    if body is None:
        return {}
    if not isinstance(body, dict) or not all(isinstance(key, str) for key in body):
        raise ConfigError(f"{path}: {name} is no list of names and values", hint="write `name: value`, one a line")
    return body


def _filled(path: Path, name: str, value: Any) -> Any:
    """`value` with the environment put into it; one variable and nothing else is read as YAML (a number, true, a list)."""
    if isinstance(value, dict):
        return {key: _filled(path, f"{name}.{key}", part) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(path, name, part) for part in value]
    if not isinstance(value, str) or not _VARIABLE.search(value):
        return value

    def fill(match: re.Match[str]) -> str:
        told = os.environ.get(match["name"], match["default"])
        if told is None:
            raise ConfigError(f"{path}: {name} needs {match['name']}", hint=f"set it, or write ${{{match['name']}:default}}")
        return told

    filled = _VARIABLE.sub(fill, value)
    return yaml.safe_load(filled) if _VARIABLE.fullmatch(value) else filled
