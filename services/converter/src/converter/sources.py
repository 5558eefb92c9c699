"""Raw objects of a run as byte sources, and the readers over them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from converter.errors import ChangedSourceError, NotFetchedYetError
from emporter_contracts import storage
from emporter_contracts.errors import EmporterError
from emporter_contracts.geometry import Box, ChunkGrid
from emporter_contracts.plans import (
    SEGMENT_BYTES,
    FetchPlan,
    FileRootPath,
    InboxKey,
    Manifest,
    ManifestObject,
    PlannedObject,
    PlannedVolume,
    Segments,
)
from emporter_readers.array import RegionReader
from emporter_readers.discover import open_volume
from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import ByteSource, FoundVolume, Reader
from emporter_runtime.errors import ObjectMissingError, TransientError
from emporter_runtime.file_roots import opened, root_folder, version_of
from emporter_runtime.objects import Objects

Raw = PlannedObject | ManifestObject
"""Where an object's bytes lie was decided by the plan; the manifest says the same, and that they are all there."""


def open_reader(objects: Objects, plan: FetchPlan, manifest: Manifest, volume: str, file_roots: Mapping[str, Path]) -> Reader:
    """The voxels of one volume of a run, of the region asked for; blocking. Raises ReaderError, and what the store raises."""
    planned = next(v for v in plan.volumes if v.volume == volume)
    return _opened([open_source(objects, manifest.objects[n], file_roots) for n in planned.objects], planned)


def open_early(objects: Objects, plan: FetchPlan, volume: str, file_roots: Mapping[str, Path], awaited: Awaited) -> Reader:
    """The same while the run is still being fetched: of what is not there yet NotFetchedYetError is raised."""
    planned = next(v for v in plan.volumes if v.volume == volume)
    return _opened([_early(objects, plan.objects[n], file_roots, awaited) for n in planned.objects], planned)


def _opened(sources: Sequence[ByteSource], planned: PlannedVolume) -> Reader:
    reader = open_volume(sources, _found(planned))
    if (reader.shape, reader.dtype.name) != (planned.source_shape, planned.dtype):
        raise ChangedSourceError(
            f"{planned.name or planned.volume} is {reader.dtype.name} {list(reader.shape)}, not as planned",
            hint="ingest again with --refresh",
        )
    return _region(reader, planned)


def open_source(objects: Objects, stored: Raw, file_roots: Mapping[str, Path]) -> ByteSource:
    """The bytes of one raw object, wherever they lie."""
    if isinstance(stored.location, FileRootPath):
        return RootedSource(stored, stored.location, file_roots)
    return StoredSource(objects, stored)


def _early(objects: Objects, planned: PlannedObject, file_roots: Mapping[str, Path], awaited: Awaited) -> ByteSource:
    # Uploads and files of this machine were there before the ingest began: one that is gone is gone.
    if isinstance(planned.location, Segments):
        return ArrivingSource(objects, planned, awaited)
    return open_source(objects, planned, file_roots)


class StoredSource:
    """An object in the store: in segments below RAW, or as uploaded to INBOX. One ranged GET per segment that is touched."""

    def __init__(self, objects: Objects, stored: Raw) -> None:
        self.name = stored.path
        self.size = stored.bytes
        self._objects = objects
        self._location = stored.location

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive). Raises CorruptObjectError where the object ends before or is gone."""
        parts = [self._part(bucket, key, a, b) for bucket, key, a, b in self._ranges(start, stop)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _ranges(self, start: int, stop: int) -> list[tuple[str, str, int, int]]:
        """Bucket, key and range inside it of every stored object that is touched."""
        if isinstance(self._location, InboxKey):
            return [(storage.INBOX, self._location.key, start, stop)]
        assert not isinstance(self._location, FileRootPath)
        origin = self._location.origin
        return [
            (
                storage.RAW,
                storage.segment(origin, k),
                max(start - k * SEGMENT_BYTES, 0),
                min(stop - k * SEGMENT_BYTES, SEGMENT_BYTES),
            )
            for k in range(start // SEGMENT_BYTES, -(-stop // SEGMENT_BYTES))
        ]

    def _part(self, bucket: str, key: str, start: int, stop: int) -> bytes:
        try:
            data = self._objects.get_range_sync(bucket, key, start, stop)
        except ObjectMissingError as error:
            raise self._missing(bucket, key) from error
        if len(data) != stop - start:
            raise CorruptObjectError(f"{self.name}: {bucket}/{key} ends at byte {start + len(data)}, needed up to {stop}")
        return data

    def _missing(self, bucket: str, key: str) -> EmporterError:
        return CorruptObjectError(f"{self.name}: {bucket}/{key} is gone from the store", hint="ingest again with --force")


class Awaited:
    """Whether something was wanted that is still on its way; set from any thread."""

    def __init__(self) -> None:
        self._wanted = threading.Event()

    def want(self) -> None:
        self._wanted.set()

    def __bool__(self) -> bool:
        return self._wanted.is_set()


class ArrivingSource(StoredSource):
    """An object whose segments are still being fetched."""

    def __init__(self, objects: Objects, stored: Raw, awaited: Awaited) -> None:
        super().__init__(objects, stored)
        self._awaited = awaited

    def _missing(self, bucket: str, key: str) -> EmporterError:
        self._awaited.want()
        return NotFetchedYetError(f"{self.name}: {bucket}/{key} is not fetched yet")


class RootedSource:
    """A file under a root the operator named, read in place and without following any link."""

    def __init__(self, stored: Raw, location: FileRootPath, file_roots: Mapping[str, Path]) -> None:
        self.name = stored.path
        self.size = stored.bytes
        self._root = root_folder(dict(file_roots), location.root).resolve()
        self._path = location.path
        self._version = stored.version

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive). Raises ChangedSourceError where the file is no longer the one that was planned."""
        # Opened for each read: a folder of ten thousand slices would use up what a process may have open.
        with opened(self._root, self._path) as descriptor:
            data = self._pread(descriptor, start, stop)
            # Looked at after the read, so that a change under our hands is seen.
            version = version_of(os.fstat(descriptor))
        if version != self._version:
            raise ChangedSourceError(
                f"{self.name} changed since the ingest was planned", hint="ingest again with --refresh once nobody writes to it"
            )
        if len(data) != stop - start:
            raise CorruptObjectError(f"{self.name} ends at byte {start + len(data)}, needed up to {stop}")
        return data

    def _pread(self, descriptor: int, start: int, stop: int) -> bytes:
        """One `pread` gives less than asked for past 2 GiB and when interrupted; fewer bytes only where the file ends."""
        parts, at = [], start
        try:
            while at < stop and (part := os.pread(descriptor, stop - at, at)):
                parts.append(part)
                at += len(part)
        except OSError as error:
            raise TransientError(f"{self.name} can't be read: {error.strerror}", hint="is its disk mounted?") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _region(whole: Reader, planned: PlannedVolume) -> Reader:
    return whole if planned.region == Box.whole(whole.shape) else RegionReader(whole, planned.region, planned.voxel_size)


def _found(planned: PlannedVolume) -> FoundVolume:
    return FoundVolume(
        format=planned.format,
        objects=tuple(range(len(planned.objects))),
        series="",
        select=planned.select,
        shape=planned.source_shape,
        dtype=planned.dtype,
        voxel_size=planned.voxel_size,
        native=ChunkGrid((1, 1, 1)),  # the reader knows its own
        role=planned.role,
        axes=planned.axes,
        rgb=planned.rgb,
        parameters=planned.parameters,
        name=planned.name,
        said=dict(planned.said),
        region=planned.region if planned.region != Box.whole(planned.source_shape) else None,
    )
