"""The structure of an HDF5 file: which datasets it holds, and where the values of one lie. Runs in a process of its own.

No link is followed out of the file, and the library never opens another: what an external link, a virtual dataset or external
storage names is a path on the machine of whoever wrote the file, and would be read on ours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np
from pydantic import JsonValue

from emporter_contracts.records import json_safe
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.hdf5.dataset import MAX_CHUNKS, SAY_DATASET, UNWRITTEN, Chunks, Dataset
from emporter_readers.hdf5.filters import FILTERS, Filter
from emporter_readers.protocol import ByteSource
from emporter_readers.tiff.file import SourceFile

MAX_OBJECTS = 10_000
"""Groups and datasets looked at to find the one that is meant."""
MAX_DEPTH = 64
MAX_HOPS = 16
"""Soft links followed one after the other."""
MAX_ATTRIBUTE_BYTES = 4096
MAX_ATTRIBUTES = 64
MOST_LISTED = 20
COPY = "copy the values into this file, with h5repack or h5py, and ingest that"


def find_dataset(source: ByteSource, path: str | None) -> Dataset:
    """The dataset at `path`; where it is None the only one that could be a volume. Raises ReaderError."""
    with _opened(source) as file:
        if path is not None:
            return _read_dataset(file, path, source.name)
        paths = _dataset_paths(file, source.name)
        if not paths:
            raise UnsupportedContentError(
                f"{source.name}: holds no dataset of numbers in two or more dimensions", hint=SAY_DATASET
            )
        if len(paths) > 1:
            listed = ", ".join(paths[:MOST_LISTED]) + (", ..." if len(paths) > MOST_LISTED else "")
            raise AmbiguousContentError(f"{source.name}: holds {len(paths)} datasets: {listed}", hint=SAY_DATASET)
        return _read_dataset(file, paths[0], source.name)


@contextmanager
def _opened(source: ByteSource) -> Iterator[h5py.File]:
    """The structure of `source`. Whatever the library makes of damage inside becomes CorruptObjectError."""
    raw = SourceFile(source)
    try:
        with h5py.File(raw, "r", rdcc_nbytes=0) as file:
            yield file
    except ReaderError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError, AttributeError) as error:
        raw.check()
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CorruptObjectError(
            f"{source.name}: its structure is damaged ({reason})", hint="the file is truncated or damaged; fetch it again"
        ) from error


def _dataset_paths(file: h5py.File, name: str) -> list[str]:
    """Paths of the datasets in `file` that could be volumes, each once. Raises UnsupportedContentError past MAX_OBJECTS."""
    found: list[str] = []
    seen: set[Any] = {h5py.h5o.get_info(file.id).addr}
    waiting: list[tuple[h5py.Group, int]] = [(file["/"], 0)]
    while waiting:
        group, depth = waiting.pop(0)
        for key in group:
            link = group.get(key, getlink=True)
            if not isinstance(link, h5py.HardLink):
                continue  # of soft links the target is found by its own name
            child = group[key]
            address = h5py.h5o.get_info(child.id).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > MAX_OBJECTS:
                raise UnsupportedContentError(f"{name}: holds more than {MAX_OBJECTS} objects", hint=SAY_DATASET)
            if isinstance(child, h5py.Group) and depth < MAX_DEPTH:
                waiting.append((child, depth + 1))
            elif isinstance(child, h5py.Dataset) and _could_be_volume(child):
                found.append(f"{group.name.rstrip('/')}/{key}")
    return sorted(found)


def _read_dataset(file: h5py.File, path: str, name: str) -> Dataset:
    """What `path` names. Raises UnsupportedContentError by name for what is no array of numbers inside this file."""
    label = f"{name}, dataset {path}"
    node = _resolved(file, path, label)
    if not isinstance(node, h5py.Dataset):
        raise UnsupportedContentError(f"{label}: is a group", hint="name the dataset inside it")
    create = node.id.get_create_plist()
    if create.get_layout() == h5py.h5d.VIRTUAL:
        raise UnsupportedContentError(f"{label}: is virtual, its values lie in other datasets", hint=COPY)
    if create.get_external_count():
        raise UnsupportedContentError(f"{label}: its values lie in other files", hint=COPY)
    dtype, is_bool = _dtype(node, label)
    shape = tuple(int(n) for n in node.shape or ())
    if len(shape) < 2 or min(shape) < 1:
        raise UnsupportedContentError(f"{label}: has shape {list(shape)}, which is no image", hint="name another dataset")
    layout = create.get_layout()
    filters = _filters(create, label) if layout == h5py.h5d.CHUNKED else ()
    return Dataset(
        path=path,
        shape=shape,
        dtype=dtype,
        is_bool=is_bool,
        fill=np.asarray(node.fillvalue, dtype)[()],
        labels=_labels(node),
        said=_said(node, path, filters),
        filters=filters,
        chunks=_chunks(node, label) if layout == h5py.h5d.CHUNKED else None,
        offset=_offset(node, label) if layout == h5py.h5d.CONTIGUOUS else None,
        values=np.asarray(node[()], dtype) if layout == h5py.h5d.COMPACT else None,
    )


def _could_be_volume(node: h5py.Dataset) -> bool:
    shape = node.shape
    return shape is not None and len([n for n in shape if n > 1]) >= 2 and min(shape) > 0 and node.dtype.kind in "iufb"


def _resolved(file: h5py.File, path: str, label: str) -> Any:
    """The object at `path`, link by link, none of which leaves the file."""
    parts = [part for part in path.split("/") if part]
    node: Any = file["/"]
    hops = 0
    while parts:
        key = parts.pop(0)
        link = node.get(key, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise UnsupportedContentError(f"{label}: there is none", hint="leave the dataset out to see what there is")
        if isinstance(link, h5py.HardLink):
            node = node[key]
            continue
        hops += 1
        if not isinstance(link, h5py.SoftLink) or hops > MAX_HOPS:
            raise UnsupportedContentError(f"{label}: is a link out of the file, or in a circle", hint=COPY)
        node = file["/"] if link.path.startswith("/") else node
        parts = [part for part in link.path.split("/") if part] + parts
    return node


def _dtype(node: h5py.Dataset, label: str) -> tuple[np.dtype[Any], bool]:
    kind = node.id.get_type()
    dtype = node.dtype
    if h5py.check_string_dtype(dtype) or dtype.kind not in "iufb" or dtype.itemsize > 8:
        what = "complex values" if dtype.kind == "c" or (dtype.names or ())[:2] == ("r", "i") else f"values of type {dtype}"
        raise UnsupportedContentError(
            f"{label}: {what[:80]} are not an image volume", hint="write integers or reals, of at most 64 bits each"
        )
    if isinstance(kind, h5py.h5t.TypeEnumID):
        kind = kind.get_super()
    plain = np.dtype("i1") if dtype.kind == "b" else np.dtype(dtype.str)
    # The library would convert numbers of odd width or layout; here they are read as they lie.
    if not h5py.h5t.py_create(plain).equal(kind) and not (dtype.kind == "b" and kind.get_size() == 1):
        raise UnsupportedContentError(f"{label}: its numbers are of an unusual width or layout", hint=COPY)
    return (np.dtype("u1"), True) if dtype.kind == "b" else (plain, False)


def _filters(create: Any, label: str) -> tuple[Filter, ...]:
    found: list[Filter] = []
    for k in range(create.get_nfilters()):
        code, _, values, name = create.get_filter(k)
        if code not in FILTERS:
            named = name.decode("utf-8", "replace") or f"number {code}"
            raise UnsupportedContentError(
                f"{label}: is compressed by {named}, which is not read here", hint="rewrite it with gzip, by h5repack -f GZIP=1"
            )
        found.append(Filter(int(code), tuple(int(value) for value in values)))
    return tuple(found)


def _chunks(node: h5py.Dataset, label: str) -> Chunks:
    shape = tuple(int(n) for n in node.chunks)
    grid = tuple(-(-n // c) for n, c in zip(node.shape, shape, strict=True))
    if math.prod(grid) > MAX_CHUNKS:
        raise UnsupportedContentError(
            f"{label}: has {math.prod(grid)} chunks, more than {MAX_CHUNKS}", hint="rewrite it with larger ones"
        )
    offsets = np.full(grid, UNWRITTEN, np.uint64)
    sizes, masks = np.zeros(grid, np.uint64), np.zeros(grid, np.uint32)

    def note(stored: Any) -> None:
        at = tuple(int(n) // c for n, c in zip(stored.chunk_offset, shape, strict=True))
        if all(0 <= n < size for n, size in zip(at, grid, strict=True)):
            offsets[at], sizes[at], masks[at] = stored.byte_offset, stored.size, stored.filter_mask

    if node.id.get_num_chunks():
        node.id.chunk_iter(note)
    return Chunks(shape, offsets, sizes, masks)


def _offset(node: h5py.Dataset, label: str) -> int:
    offset = node.id.get_offset()
    if offset is None:
        raise UnsupportedContentError(f"{label}: was never written, it holds no values", hint="name another dataset")
    return int(offset)


def _labels(node: h5py.Dataset) -> str:
    """Axes named by dimension labels, or by the `axistags` of vigra and ilastik."""
    labels = [str(dimension.label) for dimension in node.dims]
    tags = _attribute(node, "axistags")
    if not any(labels) and isinstance(tags, str):
        try:
            labels = [str(axis["key"]) for axis in json.loads(tags)["axes"]]
        except (ValueError, KeyError, TypeError):
            return ""
    joined = "".join(labels).lower()
    whole = len(joined) == len(labels) == len(node.shape) and len(set(joined)) == len(joined)
    return joined if whole and set(joined) <= set("zyxct") and {"y", "x"} <= set(joined) else ""


def _said(node: h5py.Dataset, path: str, filters: tuple[Filter, ...]) -> dict[str, JsonValue]:
    names = [key for _, key in zip(range(MAX_ATTRIBUTES), node.attrs, strict=False)]
    said = json_safe(
        {
            "dataset": path,
            "shape": list(node.shape),
            "dtype": node.dtype.str,
            "chunks": None if node.chunks is None else list(node.chunks),
            "filters": [one.name for one in filters],
            "attributes": {key: _attribute(node, key) for key in names},
        }
    )
    assert isinstance(said, dict)
    return said


def _attribute(node: h5py.Dataset, key: str) -> Any:
    """A small attribute as Python has it; None where there is none, or it is large or strange."""
    if key not in node.attrs:
        return None
    kept = node.attrs.get_id(key)
    if kept.get_storage_size() > MAX_ATTRIBUTE_BYTES or kept.dtype.kind not in "iufbSO":
        return None
    value = node.attrs[key]
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return value if isinstance(value, int | float | list) else str(value)[:MAX_ATTRIBUTE_BYTES]
