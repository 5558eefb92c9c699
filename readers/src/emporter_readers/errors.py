"""What can be wrong with a file.

ReaderError
├── CorruptObjectError       the bytes contradict themselves, or end too early
├── UnsupportedContentError  well-formed, but no 3-D image volume of ours
├── AmbiguousContentError    needs a word from the user (axes, series, rgb)
└── OutsideVolumeError       a box that leaves the volume
"""

from __future__ import annotations

from emporter_contracts.errors import EmporterError


class ReaderError(EmporterError):
    """Base of everything that can be wrong with a file."""

    code = "unreadable"


class CorruptObjectError(ReaderError):
    """The bytes contradict themselves or end too early; the message names the object."""

    code = "corrupt_object"


class UnsupportedContentError(ReaderError):
    """Well-formed, but not something that becomes a volume; the message says what it is."""

    code = "unsupported_content"


class AmbiguousContentError(ReaderError):
    """Could be read in more than one way; the hint says which word of the request decides."""

    code = "ambiguous_content"


class OutsideVolumeError(ReaderError):
    """A box that leaves the volume: readers never pad."""

    code = "invalid_request"
