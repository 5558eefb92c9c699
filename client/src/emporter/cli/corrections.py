"""How corrections of a volume are printed: by whom and when, and of each field what was said before and what is said now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LONGEST = 120
"""Characters of a value that are shown; `emporter show --json` has all of it."""


def corrections(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Lines of `emporter show`, the oldest correction first: each names the revision it made."""
    made = record["metadata"]["provenance"].get("corrections", ())
    if not made:
        return []
    # Each changes what the one before it made.
    revisions = [*(correction["revises"] for correction in made[1:]), record["revision"]]
    lines = []
    for correction, revision in zip(made, revisions, strict=True):
        why = f": {_line(correction['reason'])}" if correction.get("reason") else ""
        when = str(correction["at"])[:16].replace("T", " ")
        lines.append(("corrected", f"r{revision} by {_line(correction['by'])}, {when} UTC{why}"))
        before, after = correction.get("before", {}), correction.get("after", {})
        lines += [("", _change(field, before.get(field), after.get(field))) for field in {**before, **after}]
    return lines


def _change(field: str, before: Any, after: Any) -> str:
    shown = SHOWN.get(field, _text)
    return f"{field.removesuffix('_nm').replace('_', ' ')}: {_line(shown(before))} → {_line(shown(after))}"


def _line(value: str) -> str:
    """On one line, whatever it held, and no longer than a person reads."""
    text = "".join(c if c.isprintable() else " " for c in " ".join(value.split()))
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _text(value: Any) -> str:
    return "nothing" if value in (None, "") else str(value)


def _size(value: Any) -> str:
    from emporter.cli import showing

    if not isinstance(value, dict):
        return showing.nanometres(value) + " nm"
    said_by = ", ".join(dict.fromkeys(who or "nobody" for who in value["said_by"]))
    return f"{showing.nanometres(value['nm'])} nm (said by {said_by})"


def _place(value: Any) -> str:
    from emporter.cli import showing

    return f"{showing.nanometres(value)} nm"


def _licence(value: Any) -> str:
    if not isinstance(value, dict):
        return _text(value)
    return str(value.get("spdx") or value.get("url") or value.get("text") or "unknown")


def _listed(value: Any) -> str:
    return "; ".join(map(str, value or ())) or "nothing"


SHOWN: dict[str, Callable[[Any], str]] = {
    "voxel_size_nm": _size,
    "offset_nm": _place,
    "licence": _licence,
    "citation": _listed,
}
"""How fields are shown that are no plain text."""
