"""What can go wrong between an archive and the store.

TransientError                    (runtime) later it may work: the job waits
├── ArchiveUnreachableError       refused, reset, timed out, 5xx, ended early
└── RateLimitedError              (runtime) the archive asks for patience
PermanentError                    (runtime) trying again can't help: the job fails
└── FetcherError
    ├── NotInArchiveError         the archive has no such thing
    ├── ForbiddenError            the archive has it, not for us
    ├── ArchiveRefusedError       the archive gave another answer than data
    ├── ArchiveMisbehavesError    its answers contradict each other
    │   ├── ContentEncodedError   compressed in transit although asked not to
    │   └── RangesIgnoredError    it serves whole files only
    ├── UrlRefusedError           an address no message may make us open
    ├── SourceChangedError        another version than the one planned
    ├── ChecksumMismatchError     other bytes than the archive or the uploader says
    ├── InboxRefusedError         an upload that is not what its name says
    ├── RegionOutsideError        a region the volume does not hold
    └── TooManyVolumesError       more volumes than one job may hold
"""

from __future__ import annotations

from emporter_runtime.errors import PermanentError, TransientError


class ArchiveUnreachableError(TransientError):
    """The archive does not answer, answers with an error of its own, or breaks off."""

    code = "archive_unreachable"


class UnknownHostError(ArchiveUnreachableError):
    """No such name; while a resolver is away, every name looks like this."""

    code = "unknown_host"


class FetcherError(PermanentError):
    """Base of what no second try mends."""


class NotInArchiveError(FetcherError):
    """The archive has no such thing."""

    code = "not_found"


class ForbiddenError(FetcherError):
    """The archive has it, but not for us."""

    code = "forbidden"


class ArchiveRefusedError(FetcherError):
    """The archive gave another answer than data."""

    code = "archive_refused"


class ArchiveMisbehavesError(FetcherError):
    """The archive's answers contradict each other, so none of its bytes can be trusted."""

    code = "archive_misbehaves"


class ContentEncodedError(ArchiveMisbehavesError):
    """Compressed in transit although asked not to: offsets and sizes are not those of the file."""

    code = "content_encoded"


class RangesIgnoredError(ArchiveMisbehavesError):
    """The server sends whole files only, and this needs a part."""

    code = "no_ranges"


class UrlRefusedError(FetcherError):
    """An address that no message may make this service open."""

    code = "url_refused"


class HostRefusedError(UrlRefusedError):
    """A host the operator did not allow."""

    code = "host_not_allowed"


class PrivateAddressError(UrlRefusedError):
    """A name that leads into the operator's own network."""

    code = "private_address"


class SourceChangedError(FetcherError):
    """The source is another version than the one planned; a new revision plans anew."""

    code = "source_changed"


class ChecksumMismatchError(FetcherError):
    """Other bytes than the archive or the uploader says."""

    code = "checksum_mismatch"


class InboxRefusedError(FetcherError):
    """An upload that is not what its name says."""

    code = "inbox_refused"


class RegionOutsideError(FetcherError):
    """A region the volume does not hold."""

    code = "region_outside"


class TooManyVolumesError(FetcherError):
    """More volumes than one job may hold."""

    code = "too_many_volumes"


CHANGED_HINT = "ingest it again with --refresh: a new revision is planned from what is there now"
