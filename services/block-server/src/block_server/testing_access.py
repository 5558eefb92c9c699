"""A server that demands tokens, for tests: a few volumes, and tokens of every kind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from block_server.testing import House, Made, house_on
from emporter_contracts.ids import VolumeRef
from emporter_runtime.access import Budget
from emporter_runtime.access_links import Link, LinkKeys
from emporter_runtime.access_tokens import Token, changing, new_token
from emporter_runtime.testing import file_store

SECRET = "s" * 40
"""Signs the links of tests."""
SHAPE = (20, 30, 40)
"""Voxels of each volume."""


@dataclass(frozen=True)
class Closed:
    """A server that demands tokens, and those it knows by what they are for."""

    house: House
    file: Path
    tokens: dict[str, str]
    ids: dict[str, str]

    @property
    def url(self) -> str:
        return self.house.url

    def ask(self, method: str, path: str, token: str | None = None, body: Any = None) -> httpx.Response:
        """`token` by what it is for, else as it stands; none sends none."""
        headers = {"authorization": f"Bearer {self.tokens.get(token, token)}"} if token else {}
        return httpx.request(method, self.url + path, headers=headers, json=body, timeout=60)

    def link(
        self, *volumes: str, seconds: float = 3600, token: str = "", budget: Budget | None = None, secret: str = SECRET
    ) -> str:
        """A prefix, signed as the server would."""
        refs = tuple(VolumeRef.parse(volume) for volume in volumes)
        signer = self.ids.get(token, "")
        return "/s/" + LinkKeys([secret]).sign(Link(refs, int(time.time() + seconds), signer, budget))


def write(file: Path, *tokens: Token) -> None:
    """Make these the tokens of a file."""
    with changing(file) as replace:
        replace(tokens)


@contextmanager
def closed_house(folder: Path) -> Iterator[Closed]:
    """Volumes `mine` with `mine-labels`, `theirs-1`, and `old` in two revisions."""
    (folder / "store").mkdir()
    yesterday = datetime.now(UTC) - timedelta(days=1)
    kinds: dict[str, Any] = {
        "mine": new_token("mine", ["mine"]),
        "theirs": new_token("theirs", ["theirs-*"]),
        "all": new_token("all", ["*"]),
        "pinned": new_token("pinned", ["mine@r1", "old@r1"]),
        "metrics": new_token("prometheus", [], metrics=True),
        "late": new_token("late", ["*"], expires_at=yesterday),
    }
    file = folder / "tokens.json"
    write(file, *(token for token, _ in kinds.values()))
    rng = np.random.default_rng(0)
    with house_on(file_store(folder / "store"), access_file=file, link_secret_key=SECRET) as house:
        for name in ("mine", "theirs-1", "old"):
            house.commit(Made(rng.integers(0, 256, SHAPE, dtype="u1"), name=name))
        house.commit(Made(rng.integers(0, 256, SHAPE, dtype="u1"), name="old", revision=2))
        house.commit(Made(rng.integers(0, 9, SHAPE, dtype="u4"), name="mine-labels", role="labels", labels_of="mine"))
        yield Closed(house, file, {k: text for k, (_, text) in kinds.items()}, {k: token.id for k, (token, _) in kinds.items()})
