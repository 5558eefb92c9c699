"""What a folder's stack chooses once and keeps: ports, passwords, kind of store."""

from __future__ import annotations

import secrets

from pydantic import BaseModel, ConfigDict

from emporter.errors import StackError
from emporter.stack.files import StackFiles, StoreKind, read_private, write_model
from emporter.stack.ports import choose_ports

KEY_BYTES = 24
"""Of entropy in each password: past guessing."""
SECRETS = (
    "nats_services", "nats_client", "s3_operator", "s3_client", "s3_write_token", "s3_read_token", "s3_filer_write_token",
    "s3_filer_read_token",
)  # fmt: skip


class Choices(BaseModel):
    """`chosen.json`."""

    model_config = ConfigDict(frozen=True)

    store: StoreKind
    ports: dict[str, int]
    secrets: dict[str, str]


def choices_of(files: StackFiles, store: StoreKind | None) -> Choices:
    """What was chosen for this folder, now if never before. Raises StackError where `store` is not what it was begun with."""
    found = read_private(files.chosen, Choices)
    if found is None:
        if (files.root / "s3").exists() or (files.root / "store").exists():
            store = store or ("file" if (files.root / "store").exists() else "s3")
        words = {name: secrets.token_hex(KEY_BYTES) for name in SECRETS}
        # A word that begins with a letter is text in every configuration language.
        made = Choices(store=store or "s3", ports=choose_ports(), secrets={name: f"k{word}" for name, word in words.items()})
        write_model(files.chosen, made)
        return made
    if store is not None and store != found.store:
        raise StackError(
            f"{files.root} keeps its volumes in a store of kind {found.store}",
            hint=f"leave out --store, or name another folder with --data for a store of kind {store}",
        )
    return found
