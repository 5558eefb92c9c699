"""The one door: which volumes lie in some sources, and how to open one. A format is one module and one row of FORMATS."""

from __future__ import annotations

from collections.abc import Sequence

from emporter_readers.chunked.dvid import DVID
from emporter_readers.chunked.format import N5, PRECOMPUTED, ZARR
from emporter_readers.dm.format import DmFormat
from emporter_readers.errors import UnsupportedContentError
from emporter_readers.hdf5.format import Hdf5Format
from emporter_readers.magic import what_it_is
from emporter_readers.mrc.format import MrcFormat
from emporter_readers.ordering import natural_order
from emporter_readers.protocol import ByteSource, Format, FoundVolume, Hints, Reader
from emporter_readers.slices import JPEG, PNG
from emporter_readers.tiff.format import TiffFormat

__all__ = ["FORMATS", "discover", "natural_order", "open_volume"]

FORMATS: tuple[Format, ...] = (ZARR, N5, PRECOMPUTED, DVID, TiffFormat(), DmFormat(), MrcFormat(), PNG, JPEG, Hdf5Format())
"""In the order they are asked: those that are known by names first, since they read nothing to tell."""


def discover(sources: Sequence[ByteSource], hints: Hints) -> list[FoundVolume]:
    """Every volume in `sources`, by their headers and a bounded sample of voxels.

    Several sources are one volume, or parts of one data set, in the order given: a caller that has names only sorts them by
    `natural_order` first. Raises ReaderError; what no format claims is refused with what it is.
    """
    if not sources:
        raise UnsupportedContentError("there is no file to read", hint="name at least one file")
    for format_ in FORMATS:
        if format_.claims(sources):
            return format_.discover(sources, hints)
    raise _refusal(sources)


def open_volume(sources: Sequence[ByteSource], found: FoundVolume) -> Reader:
    """The volume `found`; `sources` are those of `found.objects`, in that order.

    Raises ReaderError: CorruptObjectError where the sources no longer hold what was found.
    """
    for format_ in FORMATS:
        if format_.name == found.format:
            return format_.open(sources, found)
    raise UnsupportedContentError(
        f"no reader here is called {found.format!r}", hint=f"this version reads {_readable()}; plan the ingest again"
    )


def _refusal(sources: Sequence[ByteSource]) -> UnsupportedContentError:
    for source in sources:
        if not any(format_.claims([source]) for format_ in FORMATS):
            return UnsupportedContentError(f"{source.name} is {what_it_is(source)}", hint=f"readable here: {_readable()}")
    return UnsupportedContentError(
        f"{sources[0].name} and {sources[-1].name} are of different formats", hint="ingest the files of one format at a time"
    )


def _readable() -> str:
    return ", ".join(format_.name for format_ in FORMATS)
