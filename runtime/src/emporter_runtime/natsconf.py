"""The configuration of nats-server: one account for the services, one for clients, and the little that passes between them.

Permissions inside one account would not be enough: a request whose reply subject is `status.x` makes whoever answers write there.
Between accounts a reply goes back to where the request came from, whatever subject it names (PROTOCOL section 2).

`python -m emporter_runtime.natsconf` prints the file that `deploy/nats` keeps, with the passwords left to the environment.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from emporter_contracts.topology import CLIENT_SERVICES, CLIENT_STREAMS

SERVICES_ACCOUNT = "EMPORTER"
CLIENT_ACCOUNT = "CLIENT"
MAX_PAYLOAD = "1MB"
"""Of one message. A request is at most 256 KiB, a plan of 64 volumes far less than this."""
INBOX = "_INBOX.>"
"""Where a client hears the answers to its requests."""
INDENT = "    "


@dataclass(frozen=True, slots=True)
class FromEnvironment:
    """A value that nats-server itself reads from the environment variable `name` when it starts."""

    name: str


Text: TypeAlias = str | FromEnvironment
Value: TypeAlias = "str | FromEnvironment | Bare | Sequence[Value] | Mapping[str, Value]"


@dataclass(frozen=True, slots=True)
class Bare:
    """A word of the configuration language: `enabled`, `1MB`, an account's name."""

    word: str


@dataclass(frozen=True, slots=True)
class NatsUser:
    """Who may connect."""

    name: Text
    password: Text


@dataclass(frozen=True, slots=True)
class Listener:
    """Where nats-server answers: the bus at `host:port`, its monitoring at `host:http_port`."""

    host: str = "127.0.0.1"
    port: int = 4222
    http_port: int = 8222


def nats_config(listener: Listener, store_dir: str, services: NatsUser, client: NatsUser) -> str:
    """The whole file. `store_dir` is where JetStream keeps its streams."""
    return _render(
        {
            "server_name": "emporter",
            "listen": f"{listener.host}:{listener.port}",
            "http": f"{listener.host}:{listener.http_port}",
            "max_payload": Bare(MAX_PAYLOAD),
            "jetstream": {
                "store_dir": store_dir,
                # By default JetStream acknowledges first and writes to the disk within two minutes.
                "sync_interval": Bare("always"),
            },
            "accounts": {SERVICES_ACCOUNT: _services_account(services), CLIENT_ACCOUNT: _client_account(client)},
        }
    )


def _services_account(user: NatsUser) -> Mapping[str, Value]:
    only = [CLIENT_ACCOUNT]
    return {
        "jetstream": Bare("enabled"),
        "users": [{"user": user.name, "password": user.password}],
        "exports": [
            *({"service": subject, "accounts": only} for subject in CLIENT_SERVICES),
            *({"stream": subject, "accounts": only} for subject in CLIENT_STREAMS),
        ],
    }


def _client_account(user: NatsUser) -> Mapping[str, Value]:
    source = {"account": Bare(SERVICES_ACCOUNT)}
    return {
        "users": [
            {
                "user": user.name,
                "password": user.password,
                "permissions": {
                    "publish": {"allow": [*CLIENT_SERVICES, INBOX]},
                    "subscribe": {"allow": [INBOX, *CLIENT_STREAMS]},
                },
            }
        ],
        "imports": [
            *({"service": {**source, "subject": subject}} for subject in CLIENT_SERVICES),
            *({"stream": {**source, "subject": subject}} for subject in CLIENT_STREAMS),
        ],
    }


def _render(values: Mapping[str, Value], depth: int = 0) -> str:
    return "".join(f"{INDENT * depth}{key}: {_value(value, depth)}\n" for key, value in values.items())


def _value(value: Value, depth: int) -> str:
    if isinstance(value, Bare):
        return value.word
    if isinstance(value, FromEnvironment):
        return f"${value.name}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{\n" + _render(value, depth + 1) + INDENT * depth + "}"
    if len(value) == 1 and isinstance(value[0], str):
        return f"[{_value(value[0], depth)}]"
    items = "".join(f"{INDENT * (depth + 1)}{_value(item, depth + 1)}\n" for item in value)
    return "[\n" + items + INDENT * depth + "]"


HEADER = """\
# Written by `python -m emporter_runtime.natsconf`; change that, not this.
# Passwords come from the environment. nats-server reads such a value as it reads this file: put it in double quotes there if
# it is anything but letters and digits that begin with a letter.
"""


def container_config() -> str:
    """The file for a container: every address, data in /data, users and passwords from the environment."""
    return HEADER + nats_config(
        Listener(host="0.0.0.0"),  # noqa: S104  # inside a container; what is published is said in docker-compose.yml
        "/data",
        NatsUser(FromEnvironment("EMPORTER_NATS_USER"), FromEnvironment("EMPORTER_NATS_PASSWORD")),
        NatsUser(FromEnvironment("EMPORTER_CLIENT_NATS_USER"), FromEnvironment("EMPORTER_CLIENT_NATS_PASSWORD")),
    )


if __name__ == "__main__":
    sys.stdout.write(container_config())
