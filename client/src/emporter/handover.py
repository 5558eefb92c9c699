"""Volumes as lazy arrays of other libraries, which are imported only here: dask and xarray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emporter.errors import MistakeError
from emporter_contracts.geometry import AXES

if TYPE_CHECKING:
    import dask.array as da
    import numpy as np
    import xarray as xr
    from numpy.typing import NDArray

    from emporter.volume import Volume


def dask_array(volume: Volume, chunks: Any = None) -> da.Array:
    """A dask array over `volume` at its level; each task is a read of its own, from any thread or process.

    `chunks` as dask takes them; whole shards where it is None, because the server reads those best.
    """
    try:
        import dask.array as da
    except ImportError as error:
        raise MistakeError("dask is not installed", hint="pip install 'dask[array]'") from error
    cut = chunks if chunks is not None else tuple(min(s, n) for s, n in zip(volume.grid.shard, volume.shape, strict=True))
    # Pinned to a revision, so equal names are equal voxels.
    name = f"emporter-{volume.ref}-{volume.grid.level}-{_word(cut)}"
    found: da.Array = da.from_array(volume, chunks=cut, name=name, asarray=False, fancy=False, inline_array=True)
    return found


def data_array(volume: Volume, chunks: Any = None) -> xr.DataArray:
    """A lazy xarray.DataArray, dimensions z, y, x.

    An axis whose voxel size is known has a coordinate: where the centres of its voxels lie, with `attrs["units"] == "nm"`. One
    whose size nobody knows has none, so that no one takes voxels for nanometres.
    """
    try:
        import xarray as xr
    except ImportError as error:
        raise MistakeError("xarray is not installed", hint="pip install xarray 'dask[array]'") from error
    coordinates = {name: xr.Variable(name, along, {"units": "nm"}) for name, along in _centres(volume).items()}
    licence = volume.info["licence"]
    attributes = {
        "volume": str(volume.ref),
        "level": volume.grid.level,
        "voxel_size_nm": volume.voxel_size_nm,
        "description": volume.info["description"],
        "licence": licence["spdx"] or licence["url"] or licence["text"] or "unknown",
        "citation": list(volume.info["citation"]),
        "caveats": [caveat["code"] for caveat in volume.info["caveats"]],
    }
    return xr.DataArray(dask_array(volume, chunks), coordinates, AXES, str(volume.ref), attributes)


def _centres(volume: Volume) -> dict[str, NDArray[np.float64]]:
    import numpy as np

    grid = volume.grid
    return {
        name: first + nm * np.arange(extent, dtype=np.float64)
        for name, nm, first, extent in zip(AXES, grid.voxel_size_nm, grid.translation_nm, grid.shape, strict=True)
        if nm is not None and first is not None
    }


def _word(chunks: Any) -> str:
    from emporter_contracts.ids import short_hash

    return short_hash(repr(chunks))
