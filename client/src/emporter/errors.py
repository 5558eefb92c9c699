"""What a user of the client meets.

ClientError                  (an EmporterError: code, message, hint)
├── MistakeError             what was asked for can't be done as it was written; the command line exits with 2
│   └── NoStackError         nothing to talk to is known here
├── UnreachableError         a part of the stack does not answer
├── RefusedByServiceError    a service answered no, with its own code, message and hint
└── StackError               the embedded stack could not be started or kept up
    └── StackIsUpError       it is up already
"""

from __future__ import annotations

from emporter_contracts.errors import EmporterError


class ClientError(EmporterError):
    """Base of what the client raises."""


class MistakeError(ClientError):
    """What was asked for can't be done as it was written."""

    code = "mistake"


class NoStackError(MistakeError):
    """Nothing to talk to is known here."""

    code = "no_stack"


class UnreachableError(ClientError):
    """A part of the stack does not answer."""

    code = "unreachable"


class RefusedByServiceError(ClientError):
    """A service answered no. `code` is the service's own."""

    code = "refused"

    def __init__(self, message: str, *, code: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code  # type: ignore[misc]  # each answer brings its own


class StackError(ClientError):
    """The embedded stack could not be started or kept up."""

    code = "stack_failed"


class StackIsUpError(StackError):
    """Another supervisor holds this folder."""

    code = "stack_is_up"


class AuditError(ClientError):
    """A volume could not be looked at."""

    code = "not_audited"
