"""What can't be served, and with which status it is said.

EmporterError
└── BlockServerError
    ├── PolicyRefusedError      403  a rule of the operator's policy refuses (451 where the rule says so)
    ├── UnknownVolumeError      404  no such volume or revision
    ├── UnknownLevelError       404  the volume has fewer levels
    ├── NoSuchKeyError          404  nothing is stored under that key of the Zarr
    ├── NotPinnedError          404  a route of many requests was asked without a revision
    ├── NotAcceptableError      406  the client accepts none of the formats there are
    ├── VoxelSizeUnknownError   409  nanometres were asked of a volume whose voxel size nobody knows
    ├── SourceChangedError      409  a volume is read where it lies, and its source is not what was registered
    ├── NoLinksError            409  a link was asked for, and this server signs none
    ├── RemovedVolumeError      410  the revision was removed
    ├── TooLargeError           413  one request that is more than all may hold
    ├── UnsuitableViewError     415  what that view can't carry
    │   └── NotStoredHereError  415  the stored bytes of a volume that is read where it lies, in another format
    ├── OutsideVolumeError      416  a box or slice that leaves the volume
    ├── UnsatisfiableRangeError 416  a byte range past the end of an object
    ├── DamagedVolumeError      502  something that a commit promises is missing or can't be read
    ├── SourceClosedError       502  the source of a volume that is read where it lies may not be read
    ├── SourceAwayError         503  … or does not answer
    ├── ClientGoneError         499  the client hung up; nobody is there to be told
    └── BusyError               503  too much is being read at the moment
"""

from __future__ import annotations

from typing import ClassVar

from emporter_contracts.errors import EmporterError
from emporter_contracts.policy import PURPOSE_HEADER, RuleDecision

RESTORE = "restore it from a backup, or ingest it again with force"
"""What to do about bytes that are not what was committed."""


class BlockServerError(EmporterError):
    """Base of what this service can't serve; `status` is of HTTP."""

    status: ClassVar[int] = 500

    @property
    def headers(self) -> dict[str, str]:
        """What the answer says beside its body."""
        return {}


class UnknownVolumeError(BlockServerError):
    code = "volume_unknown"
    status = 404


class UnknownLevelError(BlockServerError):
    code = "level_unknown"
    status = 404


class NoSuchKeyError(BlockServerError):
    code = "key_unknown"
    status = 404


class NotPinnedError(BlockServerError):
    """`pinned` is the URL to ask instead."""

    code = "not_pinned"
    status = 404

    def __init__(self, message: str, *, pinned: str) -> None:
        super().__init__(message, hint=f"ask for {pinned}")
        self.pinned = pinned

    @property
    def headers(self) -> dict[str, str]:
        return {"link": f'<{self.pinned}>; rel="canonical"'}


class NotAcceptableError(BlockServerError):
    code = "not_acceptable"
    status = 406


class PolicyRefusedError(BlockServerError):
    """A rule of the operator's policy refuses; it says whether as 403 or as 451 (RFC 7725)."""

    code = "policy_denied"
    status = 403

    def __init__(self, about: str, decision: RuleDecision, status: int) -> None:
        why = "it could not be evaluated" if decision.error else decision.message
        super().__init__(
            f"policy rule {decision.rule} refuses {about}" + (f": {why}" if why else ""),
            hint=f"where it asks what it is for, say it (emporter --purpose, header {PURPOSE_HEADER}); else the operator decides",
        )
        self.status = status  # type: ignore[misc]  # the rule chooses
        self.rule = decision.rule

    @property
    def headers(self) -> dict[str, str]:
        return {"emporter-policy-rule": self.rule}


class VoxelSizeUnknownError(BlockServerError):
    code = "voxel_size_unknown"
    status = 409


class NoLinksError(BlockServerError):
    code = "links_off"
    status = 409


class SourceChangedError(BlockServerError):
    code = "source_changed"
    status = 409


class RemovedVolumeError(BlockServerError):
    code = "volume_removed"
    status = 410


class TooLargeError(BlockServerError):
    code = "too_large"
    status = 413


class UnsuitableViewError(BlockServerError):
    code = "unsuitable_view"
    status = 415


class NotStoredHereError(UnsuitableViewError):
    """The bytes of a volume that is read where it lies, in whatever format that is: only its voxels are served."""

    code = "not_stored_here"

    def __init__(self, ref: object, source: str) -> None:
        super().__init__(
            f"{ref} is read where it lies and has no OME-Zarr of its own here",
            hint=f"ask for blocks or /precomputed/{ref}; open {source} itself; or copy it in: emporter ingest {ref}",
        )


class OutsideVolumeError(BlockServerError):
    code = "outside_volume"
    status = 416


class UnsatisfiableRangeError(BlockServerError):
    """A byte range past the end of an object of `size` bytes."""

    code = "range_unsatisfiable"
    status = 416

    def __init__(self, message: str, *, size: int) -> None:
        super().__init__(message, hint=f"the object holds {size} bytes")
        self.size = size

    @property
    def headers(self) -> dict[str, str]:
        return {"content-range": f"bytes */{self.size}"}


class DamagedVolumeError(BlockServerError):
    code = "data_missing"
    status = 502


class SourceClosedError(BlockServerError):
    code = "source_refused"
    status = 502


class SourceAwayError(BlockServerError):
    code = "source_unreachable"
    status = 503

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": "5"}


class ClientGoneError(BlockServerError):
    code = "client_gone"
    status = 499  # nginx's; never sent


class BusyError(BlockServerError):
    code = "busy"
    status = 503

    @property
    def headers(self) -> dict[str, str]:
        return {"retry-after": "1"}
