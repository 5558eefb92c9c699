"""Which hosts an operator allowed, by name."""

from __future__ import annotations


def host_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    """Whether `host` is named: exactly, by `*.suffix`, or by `*`."""
    name = host.lower().rstrip(".")
    return any(
        pattern == "*" or name == pattern.lower() or (pattern.startswith("*.") and name.endswith(pattern[1:].lower()))
        for pattern in allowed
    )
