"""Volumes to read from, as arrays: `volume[z0:z1, y0:y1, x0:x1]` fetches what it names, and nothing before."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from emporter import paths
from emporter.described import Described, Outside
from emporter.indexing import Piece, Selection, select
from emporter.sampling import ORIGIN_BYTES, Places, Sample, origins_of, sample_request
from emporter.wire import Wire
from emporter_contracts.ids import VolumeRef

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray

    from emporter.web import WebClient

AT_ONCE = 4
"""Pieces of one large read on their way at once in the asynchronous client."""


class Volume(Described):
    """One revision of one volume at one level, an array to be read from. May be used from several threads, forked and pickled."""

    def __init__(self, wire: Wire, info: dict[str, Any], level: int = 0) -> None:
        super().__init__(info, level)
        self._wire = wire

    def __reduce__(self) -> tuple[type[Volume], tuple[Wire, dict[str, Any], int]]:
        return Volume, (self._wire, self.info, self.grid.level)

    def level(self, level: int) -> Volume:
        """The same revision at another level; -1 is the coarsest. Raises MistakeError."""
        return Volume(self._wire, self.info, level)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Voxels by numpy's basic indexing, z, y, x; large reads are many requests, and a step fetches what it steps over.

        Raises IndexError, TypeError, RefusedByServiceError, UnreachableError.
        """
        selection = select(key, self.shape)
        pieces = list(selection.pieces(self.dtype.itemsize, self.grid.chunk))
        if _plain(selection, pieces):
            voxels = self._fetch(pieces[0])
        else:
            voxels = _result(selection, self.dtype)
            for piece in pieces:
                voxels[piece.out] = self._fetch(piece)[piece.inner]
        return _squeezed(voxels, selection)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it: for `numpy.asarray(volume.level(2))`."""
        import numpy as np

        if copy is False:
            raise ValueError("the voxels lie on a server: an array of them is always a copy")
        return np.asarray(self[...], dtype)

    def block(
        self, origin: Sequence[int], shape: Sequence[int], level: int | None = None, outside: Outside = "error"
    ) -> NDArray[Any]:
        """One box of voxels (z, y, x) of a level, C order, of the volume's dtype."""
        grid = self.grid if level is None else self.level(level).grid
        return self._wire.voxels(*paths.block(self.ref, origin, shape, grid.level, outside))

    def blocks(self, origins: ArrayLike, shape: Sequence[int]) -> NDArray[Any]:
        """Boxes of one shape at `origins` (N, 3), in one request: one array (N, z, y, x) in C order."""
        _, voxels = self._wire.posted(*paths.blocks(self.ref, origins, shape, self.grid.level))
        return voxels

    def sample(self, n: int, shape: Sequence[int], **wanted: Any) -> Sample:
        """`n` boxes of `shape` drawn by the server, with where they lie, and with their labels where `labels` names a volume.

        `wanted` are the other fields of `emporter_contracts.training.SampleRequest`: seed, min_foreground, labels, exclude,
        within, split, order. The same request on the same revision gives the same boxes, always.
        """
        if wanted.get("labels") is not None:
            return self._labelled(self.places(n, shape, **wanted))
        path, body = paths.sample(self.ref, sample_request(n, shape, self.grid.level, wanted))
        return Sample.told(*self._wire.posted(path, body, ORIGIN_BYTES * n))

    def _labelled(self, places: Places) -> Sample:
        assert places.labels is not None
        labels = Volume(self._wire, self._wire.document(paths.volume(VolumeRef.parse(places.labels.ref))), places.labels.level)
        origins = origins_of(places)
        found = labels.blocks(origins + places.labels.offset, places.shape)
        return Sample(self.blocks(origins, places.shape), origins, found)

    def places(self, n: int, shape: Sequence[int], **wanted: Any) -> Places:
        """Where `sample` would take its boxes, without their voxels."""
        path, body = paths.sample(self.ref, sample_request(n, shape, self.grid.level, wanted))
        return Places.model_validate(self._wire.document(path, {**body, "format": "places"}))

    def provenance(self) -> Mapping[str, Any]:
        """What was asked of the archive, what was fetched, by what it was converted."""
        return self._wire.document(paths.provenance(self.ref))

    def dask(self, chunks: Any = None) -> da.Array:
        """A lazy dask array whose tasks fetch their own chunks (whole shards where nobody says otherwise). Needs dask."""
        from emporter import handover

        return handover.dask_array(self, chunks)

    def xarray(self, chunks: Any = None) -> xr.DataArray:
        """A lazy xarray.DataArray over dask, with coordinates in nm where the voxel size is known. Needs xarray and dask."""
        from emporter import handover

        return handover.data_array(self, chunks)

    def _fetch(self, piece: Piece) -> NDArray[Any]:
        return self._wire.voxels(*paths.block(self.ref, piece.box.start, piece.box.shape, self.grid.level, "error"))


class AsyncVolume(Described):
    """One revision of one volume at one level; what is read is awaited: `await volume[0:64, :, 5]`. Belongs to one event loop."""

    def __init__(self, web: WebClient, info: dict[str, Any], level: int = 0) -> None:
        super().__init__(info, level)
        self._web = web

    def level(self, level: int) -> Self:
        """The same revision at another level; -1 is the coarsest. Raises MistakeError."""
        return type(self)(self._web, self.info, level)

    async def __getitem__(self, key: Any) -> NDArray[Any]:
        """Voxels by numpy's basic indexing, z, y, x. Raises IndexError, TypeError, RefusedByServiceError, UnreachableError."""
        selection = select(key, self.shape)
        pieces = list(selection.pieces(self.dtype.itemsize, self.grid.chunk))
        if _plain(selection, pieces):
            voxels = await self._fetch(pieces[0])
        else:
            voxels = _result(selection, self.dtype)
            await self._fill(voxels, pieces)
        return _squeezed(voxels, selection)

    async def block(
        self, origin: Sequence[int], shape: Sequence[int], level: int | None = None, outside: Outside = "error"
    ) -> NDArray[Any]:
        """One box of voxels (z, y, x) of a level, C order, of the volume's dtype."""
        grid = self.grid if level is None else self.level(level).grid
        return await self._web.voxels(*paths.block(self.ref, origin, shape, grid.level, outside))

    async def blocks(self, origins: ArrayLike, shape: Sequence[int]) -> NDArray[Any]:
        """Boxes of one shape at `origins` (N, 3), in one request: one array (N, z, y, x) in C order."""
        _, voxels = await self._web.posted(*paths.blocks(self.ref, origins, shape, self.grid.level))
        return voxels

    async def sample(self, n: int, shape: Sequence[int], **wanted: Any) -> Sample:
        """`n` boxes of `shape` drawn by the server, as `Volume.sample` tells."""
        if wanted.get("labels") is not None:
            return await self._labelled(await self.places(n, shape, **wanted))
        path, body = paths.sample(self.ref, sample_request(n, shape, self.grid.level, wanted))
        return Sample.told(*await self._web.posted(path, body, ORIGIN_BYTES * n))

    async def _labelled(self, places: Places) -> Sample:
        assert places.labels is not None
        info = await self._web.document(paths.volume(VolumeRef.parse(places.labels.ref)))
        labels, origins = type(self)(self._web, info, places.labels.level), origins_of(places)
        found = await labels.blocks(origins + places.labels.offset, places.shape)
        return Sample(await self.blocks(origins, places.shape), origins, found)

    async def places(self, n: int, shape: Sequence[int], **wanted: Any) -> Places:
        """Where `sample` would take its boxes, without their voxels."""
        path, body = paths.sample(self.ref, sample_request(n, shape, self.grid.level, wanted))
        return Places.model_validate(await self._web.document(path, {**body, "format": "places"}))

    async def provenance(self) -> Mapping[str, Any]:
        """What was asked of the archive, what was fetched, by what it was converted."""
        return await self._web.document(paths.provenance(self.ref))

    async def _fill(self, out: NDArray[Any], pieces: Sequence[Piece]) -> None:
        turn = asyncio.Semaphore(AT_ONCE)

        async def one(piece: Piece) -> None:
            async with turn:
                out[piece.out] = (await self._fetch(piece))[piece.inner]

        tasks = [asyncio.ensure_future(one(piece)) for piece in pieces]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            raise

    async def _fetch(self, piece: Piece) -> NDArray[Any]:
        return await self._web.voxels(*paths.block(self.ref, piece.box.start, piece.box.shape, self.grid.level, "error"))


def _plain(selection: Selection, pieces: Sequence[Piece]) -> bool:
    """Whether one box, as it comes, is the result."""
    return len(pieces) == 1 and all(axis.step == 1 or len(axis) == 1 for axis in selection.axes)


def _result(selection: Selection, dtype: np.dtype[Any]) -> NDArray[Any]:
    import numpy as np

    return np.empty(selection.shape, dtype)


def _squeezed(voxels: NDArray[Any], selection: Selection) -> NDArray[Any]:
    found: NDArray[Any] = voxels[selection.squeezed()] if any(selection.dropped) else voxels
    return found
