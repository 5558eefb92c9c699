"""How the voxels of a volume are packed, in the words of its format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import tifffile

from emporter_readers.protocol import FoundVolume, Reader

NONE = "none"
PACKED_AS_FORMAT = {"png": "deflate (PNG)", "jpeg": "jpeg"}
PLAIN = frozenset({"dm", "mrc"})
"""Formats whose voxels are never packed."""


def compression_of(found: FoundVolume, reader: Reader) -> str:
    """Such as `zstd level 1`, `jpeg, sharded`, `deflate, predictor 2`, or `none`."""
    if found.format in PLAIN:
        return NONE
    layout = getattr(reader, "layout", None)
    if found.format == "tiff" and layout is not None:
        return _tiff(layout)
    if found.format == "hdf5":
        return ", ".join(map(str, _listed(found.said.get("filters")))) or NONE
    return PACKED_AS_FORMAT.get(found.format) or chunk_compression(found.said)


def chunk_compression(said: Mapping[str, Any]) -> str:
    """Of an array, by the documents that describe it."""
    for document in said.values():
        if isinstance(document, dict):
            for told in _told(document):
                return told
    return NONE


def _tiff(layout: Any) -> str:
    try:
        name = tifffile.COMPRESSION(layout.compression).name.lower()
    except ValueError:
        name = str(layout.compression)
    predictor = f", predictor {layout.predictor}" if layout.predictor != 1 else ""
    return NONE if name == NONE else f"{name}{predictor}"


def _told(document: dict[str, Any]) -> Iterator[str]:
    if "compressor" in document:
        filters = [_named(one) for one in _listed(document.get("filters"))]
        yield ", ".join([*filters, _named(document["compressor"])])
    if "codecs" in document:
        yield ", ".join(_codecs(document["codecs"])) or NONE
    if "compression" in document or "compressionType" in document:
        told = _named(document.get("compression", document.get("compressionType")))
        yield NONE if told == "raw" else told
    for scale in _listed(document.get("scales"))[:1]:
        if isinstance(scale, dict) and scale.get("encoding"):
            encoding = NONE if scale["encoding"] == "raw" else str(scale["encoding"])
            yield f"{encoding}, sharded" if scale.get("sharding") else encoding


def _codecs(codecs: Any) -> Iterator[str]:
    """Those that pack; of a shard, those of its chunks."""
    for codec in _listed(codecs):
        name = codec.get("name") if isinstance(codec, dict) else codec
        configuration = codec.get("configuration") if isinstance(codec, dict) else None
        if name == "sharding_indexed" and isinstance(configuration, dict):
            yield ", ".join(_codecs(configuration.get("codecs"))) or NONE
            yield "sharded"
        elif name not in ("bytes", "transpose", "endian", "crc32c"):
            yield _named({"id": name, **(configuration if isinstance(configuration, dict) else {})})


def _named(codec: Any) -> str:
    if not isinstance(codec, dict):
        return str(codec) if codec else NONE
    name = str(codec.get("id") or codec.get("type") or NONE)
    inner = f" ({codec['cname']})" if codec.get("cname") else ""
    level = codec.get("level", codec.get("clevel"))
    return f"{name}{inner}" + (f" level {level}" if isinstance(level, int) and level >= 0 else "")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
