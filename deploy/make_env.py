"""Write `.env` from `.env.example`: every empty secret gets a random value, what `.env` has already stays. And `.env.client`,
which tells a client on this machine where all is: `. ./.env.client`.

Standard library only: it runs before anything is installed.
"""
# ruff: noqa: INP001  # a script, no package

from __future__ import annotations

import os
import secrets
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECRET_NAMES = ("_PASSWORD", "_SECRET_KEY", "_TOKEN")
SECRET_BYTES = 20
"""MinIO takes at most 40 characters for a secret: a letter and 39 of these digits, 156 bits."""


def assignments(text: str) -> dict[str, str]:
    """`NAME=value` lines; comments and empty lines are passed over."""
    pairs = (line.partition("=") for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def new_secret() -> str:
    """Letters and digits beginning with a letter: safe in a URL, in a shell and in the configuration of nats-server."""
    return "s" + secrets.token_hex(SECRET_BYTES)[1:]


def filled(example: str, present: dict[str, str]) -> str:
    """The text of `.env`: the example's lines with values, then what only `present` names."""
    lines, named = [], set()
    for line in example.splitlines():
        name, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            lines.append(line)
            continue
        named.add(name)
        kept = present.get(name) or value
        lines.append(f"{name}={kept or (new_secret() if name.endswith(SECRET_NAMES) else '')}")
    lines += [f"{name}={value}" for name, value in present.items() if name not in named]
    return "\n".join(lines) + "\n"


def client_environment(values: dict[str, str]) -> str:
    """What `emporter` on this machine needs to talk to the containers, for a shell to read."""
    told = {
        "EMPORTER_NATS_URL": f"nats://127.0.0.1:{values['NATS_PORT']}",
        "EMPORTER_NATS_USER": values["EMPORTER_CLIENT_NATS_USER"],
        "EMPORTER_NATS_PASSWORD": values["EMPORTER_CLIENT_NATS_PASSWORD"],
        "EMPORTER_STORE_URL": "s3://",
        "EMPORTER_S3_ENDPOINT": f"http://127.0.0.1:{values['S3_PORT']}",
        "EMPORTER_S3_ACCESS_KEY": values["EMPORTER_CLIENT_S3_ACCESS_KEY"],
        "EMPORTER_S3_SECRET_KEY": values["EMPORTER_CLIENT_S3_SECRET_KEY"],
        "EMPORTER_CATALOG_TOKEN": values["EMPORTER_CATALOG_TOKEN"],
        "EMPORTER_CATALOG_URL": f"http://127.0.0.1:{values['CATALOG_PORT']}",
        "EMPORTER_BLOCKS_URL": f"http://127.0.0.1:{values['BLOCKS_PORT']}",
    }
    return "".join(f"export {name}={value}\n" for name, value in told.items())


def write_private(path: Path, text: str) -> None:
    """Only its owner may read it, from the first byte on."""
    draft = path.with_name(path.name + ".new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    draft.replace(path)


def main(root: Path = ROOT) -> int:
    target = root / ".env"
    present = assignments(target.read_text()) if target.exists() else {}
    text = filled((root / ".env.example").read_text(), present)
    write_private(target, text)
    write_private(root / ".env.client", client_environment(assignments(text)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
