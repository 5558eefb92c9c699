"""The root of every error a user can meet.

EmporterError
├── InvalidValueError        a value that breaks its own rules (also a ValueError)
│   └── EmptyBoxError        a box that holds no voxel
├── RefusedError             a request that can't be taken as it stands
└── IllegalMoveError         a job state changed against the rules: our bug
Each package hangs its own branch under one of these.
"""

from __future__ import annotations

from typing import ClassVar


class EmporterError(Exception):
    """An error with a stable `code`, a message that names the thing, and a hint that is an action."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class InvalidValueError(EmporterError, ValueError):
    """A value that breaks its own rules."""

    code = "invalid_request"


class EmptyBoxError(InvalidValueError):
    """A box that holds no voxel."""


class RefusedError(EmporterError):
    """A request that can't be taken as it stands; `code` says why."""

    code = "invalid_request"

    def __init__(self, message: str, *, code: str | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        if code is not None:
            self.code = code  # type: ignore[misc]  # an instance may be more precise than its class


class IllegalMoveError(EmporterError):
    """A job state was changed against the rules: a bug of ours, never of the user."""
