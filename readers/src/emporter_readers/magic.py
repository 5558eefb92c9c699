"""What a file is by its first bytes: enough to refuse it by name."""

from __future__ import annotations

from emporter_readers.protocol import ByteSource

HEAD_BYTES = 512
"""Of a file, looked at to name it. MRC's mark lies at byte 208, NIfTI's at 344."""

MAGIC: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (0, b"PK\x05\x06", "an empty ZIP archive"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"\xfd7zXZ\x00", "xz-compressed"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (257, b"ustar", "a tar archive"),
    (0, b"%PDF", "a PDF document"),
    (0, b"GIF8", "a GIF image"),
    (0, b"BM", "a BMP image"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (0, b"\x00\x00\x00\x03", "a DigitalMicrograph 3 file"),
    (0, b"\x00\x00\x00\x04", "a DigitalMicrograph 4 file"),
    (208, b"MAP ", "an MRC map"),
    (344, b"n+1\x00", "a NIfTI volume"),
    (0, b"NRRD", "an NRRD volume"),
    (0, b"II*\x00", "a TIFF file"),
    (0, b"MM\x00*", "a TIFF file"),
    (0, b"II+\x00", "a BigTIFF file"),
    (0, b"MM\x00+", "a BigTIFF file"),
)
"""Offset, bytes that lie there, what that says."""


def what_it_is(source: ByteSource) -> str:
    """A phrase such as `a PNG image`; raises whatever reading the source raises."""
    if source.size == 0:
        return "empty"
    head = source.read(0, min(HEAD_BYTES, source.size))
    for offset, mark, phrase in MAGIC:
        if head[offset : offset + len(mark)] == mark:
            return phrase
    return _text(head) or f"of no kind known here (it begins with {head[:8].hex(' ')})"


def _text(head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    if start.startswith(b"<?xml"):
        return "an XML document"
    if start.startswith((b"{", b"[")):
        return "a JSON document"
    return "" if any(byte < 9 for byte in head) else "a text file"
