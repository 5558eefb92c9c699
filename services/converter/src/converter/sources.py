"""Raw objects of a run as byte sources, and the readers over them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from converter.errors import ChangedSourceError
from emporter_contracts import storage
from emporter_contracts.geometry import Box, ChunkGrid
from emporter_contracts.plans import SEGMENT_BYTES, FetchPlan, FileRootPath, InboxKey, Manifest, ManifestObject, PlannedVolume
from emporter_readers.array import RegionReader
from emporter_readers.discover import open_volume
from emporter_readers.errors import CorruptObjectError
from emporter_readers.protocol import ByteSource, FoundVolume, Reader
from emporter_runtime.errors import ObjectMissingError, PermanentError
from emporter_runtime.objects import Objects


def open_reader(objects: Objects, plan: FetchPlan, manifest: Manifest, volume: str, file_roots: Mapping[str, Path]) -> Reader:
    """The voxels of one volume of a run, of the region asked for; blocking. Raises ReaderError, and what the store raises."""
    planned = next(v for v in plan.volumes if v.volume == volume)
    sources = [open_source(objects, manifest.objects[n], file_roots) for n in planned.objects]
    return _region(open_volume(sources, _found(planned)), planned)


def open_source(objects: Objects, stored: ManifestObject, file_roots: Mapping[str, Path]) -> ByteSource:
    """The bytes of one raw object, wherever they lie."""
    if isinstance(stored.location, FileRootPath):
        return RootedSource(stored, file_path(stored.location, file_roots))
    return StoredSource(objects, stored)


class StoredSource:
    """An object in the store: in segments below RAW, or as uploaded to INBOX. One ranged GET per segment that is touched."""

    def __init__(self, objects: Objects, stored: ManifestObject) -> None:
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
            raise CorruptObjectError(
                f"{self.name}: {bucket}/{key} is gone from the store", hint="ingest again with --force"
            ) from error
        if len(data) != stop - start:
            raise CorruptObjectError(f"{self.name}: {bucket}/{key} ends at byte {start + len(data)}, needed up to {stop}")
        return data


class RootedSource:
    """A file under a root the operator named, read in place."""

    def __init__(self, stored: ManifestObject, path: Path) -> None:
        self.name = stored.path
        self.size = stored.bytes
        self._path = path
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise ChangedSourceError(
                f"{self.name} can't be opened: {error.strerror}", hint="ingest again with --refresh"
            ) from error
        self._require_size()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop` (exclusive). Raises ChangedSourceError where the file is no longer as long as planned."""
        parts, at = [], start
        while at < stop:
            part = os.pread(self._file.fileno(), stop - at, at)
            if not part:
                self._require_size()
                raise CorruptObjectError(f"{self.name} ends at byte {at}, needed up to {stop}")
            parts.append(part)
            at += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _require_size(self) -> None:
        size = os.fstat(self._file.fileno()).st_size
        if size != self.size:
            raise ChangedSourceError(
                f"{self.name} is {size} bytes long, and was {self.size} when the ingest was planned",
                hint="ingest again with --refresh once nobody writes to it",
            )


def file_path(location: FileRootPath, file_roots: Mapping[str, Path]) -> Path:
    """The file a location names, without following any link out of its root."""
    root = file_roots.get(location.root)
    if root is None:
        raise PermanentError(
            f"no file root {location.root!r} is configured here",
            hint=f"start the converter with --file-root {location.root}=/folder",
        )
    folder = root.resolve()
    parts = Path(location.path).parts
    path = folder.joinpath(*parts)
    if ".." in parts or not path.is_relative_to(folder) or path.resolve() != path:
        raise PermanentError(
            f"{location.root}/{location.path} leads out of its root", hint="name a plain file below the root, not a link"
        )
    return path


def _region(whole: Reader, planned: PlannedVolume) -> Reader:
    region = Box.at(planned.source_origin, planned.shape)
    return whole if region == Box.whole(whole.shape) else RegionReader(whole, region, whole.voxel_size)


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
        name=planned.name,
        said=dict(planned.said),
    )
