"""What can be wrong with a conversion. All of it is permanent: the job fails with code and hint.

PermanentError (runtime)
├── TooLittleMemoryError     no plan fits the memory a converter may use
├── CorruptVolumeError       what is stored is not what the archive served, or not what was entered in the ledger
└── ChangedSourceError       a file read in place is no longer what was planned

TransientError (runtime)
└── NotFetchedYetError       bytes of a raw object are wanted that are still on their way
"""

from __future__ import annotations

from emporter_runtime.errors import PermanentError, TransientError


class TooLittleMemoryError(PermanentError):
    """No plan fits the memory a converter may use; the hint names the smallest budget that would do."""

    code = "too_little_memory"


class CorruptVolumeError(PermanentError):
    """What is stored is not what the archive served, or not what was entered in the ledger."""

    code = "verification_failed"


class ChangedSourceError(PermanentError):
    """A file read in place is no longer what was planned."""

    code = "source_changed"


class NotFetchedYetError(TransientError):
    """Bytes of a raw object are wanted that are still on their way."""

    code = "not_fetched_yet"
