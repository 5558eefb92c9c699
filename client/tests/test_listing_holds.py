"""`emporter volumes` says which revision waits to be released."""

from __future__ import annotations

import pytest

from emporter.cli.catalog import _standing


@pytest.mark.parametrize(
    ("held", "said"), [(None, "complete"), (2, "complete, held"), (3, "complete, r3 held")], ids=["none", "shown", "newer"]
)
def test_a_row_says_what_is_held(held: int | None, said: str) -> None:
    assert _standing({"status": "complete", "revision": 2, "held_revision": held}) == said


def test_a_row_of_an_older_catalog_holds_nothing() -> None:
    assert _standing({"status": "failed", "revision": 1}) == "failed"
