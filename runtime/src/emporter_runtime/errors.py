"""What can go wrong around a service, and what the failure middleware does about it (PROTOCOL section 5).

RuntimeFaultError
├── TransientError           later it may work: the job waits, nothing is counted against it
│   └── StoreUnavailableError
├── PermanentError           it will never work: the job fails with code, object and hint
│   ├── ObjectMissingError   (also a FileNotFoundError)
│   └── InsufficientStorageError
├── StoppedError             this run is no longer the current one: stop and acknowledge
├── ConflictError            a create-only object exists with other content
└── NotProvisionedError      the bus lacks what topology.py says, or has it differently
"""

from __future__ import annotations

from typing import ClassVar

from emporter_contracts.errors import EmporterError
from emporter_contracts.jobs import WaitReason


class RuntimeFaultError(EmporterError):
    """Base of the faults around a service."""


class TransientError(RuntimeFaultError):
    """An archive or the store can't answer now; `retry_after` is in seconds, where the other side said so."""

    code = "transient"
    reason: ClassVar[WaitReason] = "host_down"

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class RateLimitedError(TransientError):
    """The archive asks for patience (429, 503 with Retry-After, FTP 421)."""

    code = "rate_limited"
    reason = "rate_limited"


class StoreUnavailableError(TransientError):
    """The object store does not answer, or answers with an error of its own."""

    code = "store_unavailable"


class DiskFullError(TransientError):
    """The store has no room left."""

    code = "disk_full"
    reason = "disk_full"


class PermanentError(RuntimeFaultError):
    """Trying again can't help; `code` says why."""

    code = "permanent"


class ObjectMissingError(PermanentError, FileNotFoundError):
    """An object that must be there is not."""

    code = "object_missing"


class InsufficientStorageError(PermanentError):
    """The plan needs more room than is free."""

    code = "insufficient_storage"


class ConflictError(RuntimeFaultError):
    """A create-only object exists already, with other content: a bug, or two programs that disagree."""

    code = "internal"


class StoppedError(RuntimeFaultError):
    """The run this work belongs to was cancelled, ended or superseded."""

    code = "stopped"


class NotProvisionedError(RuntimeFaultError):
    """A stream or consumer is missing, or differs from the topology."""

    code = "not_provisioned"
