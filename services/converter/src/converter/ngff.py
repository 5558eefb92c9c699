"""OME-Zarr 0.5 metadata: arrays, and the group that makes them one pyramid (https://ngff.openmicroscopy.org/0.5/)."""

from __future__ import annotations

import json
from typing import Any

from converter.shards import array_metadata
from emporter_contracts import storage
from emporter_contracts.geometry import AXES
from emporter_contracts.plans import PlannedVolume, VolumePlan
from emporter_contracts.records import Statistics
from emporter_runtime.objects import Objects

VERSION = "0.5"


def create_arrays(objects: Objects, plan: VolumePlan, revision: int) -> None:
    """Write each level's `zarr.json`; blocking. Raises ConflictError where there is another one."""
    root = storage.zarr_root(plan.volume, revision)
    for key, data in array_documents(plan).items():
        objects.create_same_sync(storage.VOLUMES, root + key, data)


def array_documents(plan: VolumePlan) -> dict[str, bytes]:
    """The `zarr.json` of every level, by key below the OME-Zarr folder."""
    return {f"{path}/zarr.json": document(array) for path, array in _arrays(plan).items()}


def group_document(plan: VolumePlan, volume: PlannedVolume, statistics: Statistics) -> bytes:
    """The group's `zarr.json`. An axis whose voxel size nobody knows has scale 1 and no unit.

    It holds those of its arrays, too, in the form of zarr-python (https://github.com/zarr-developers/zarr-specs/pull/309): what
    lists a group to see its arrays, as xarray does, finds none behind plain HTTP.
    """
    ome: dict[str, Any] = {"version": VERSION, "multiscales": [_multiscale(plan, volume)]}
    if plan.role == "labels":
        ome["image-label"] = {"version": VERSION}
    else:
        ome["omero"] = _omero(volume, statistics)
    arrays = {"kind": "inline", "must_understand": False, "metadata": _arrays(plan)}
    return document({"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}, "consolidated_metadata": arrays})


def document(value: Any) -> bytes:
    """JSON as it is stored: the same value is the same bytes."""
    return json.dumps(value, sort_keys=True, indent=1, allow_nan=False).encode()


def _arrays(plan: VolumePlan) -> dict[str, dict[str, Any]]:
    """What each level says of itself, by its path."""
    return {str(k): array_metadata(level, plan.dtype, plan.codec) for k, level in enumerate(plan.levels)}


def _multiscale(plan: VolumePlan, volume: PlannedVolume) -> dict[str, Any]:
    datasets = [
        {
            "path": str(k),
            "coordinateTransformations": [
                {"type": "scale", "scale": list(level.scale)},
                {"type": "translation", "translation": list(level.translation)},
            ],
        }
        for k, level in enumerate(plan.levels)
    ]
    how = {"type": "mode", "ties": "smallest"} if plan.role == "labels" else {"type": "mean", "rounding": "half to even"}
    return {
        "name": volume.name or volume.volume,
        "axes": [_axis(name, known is not None) for name, known in zip(AXES, volume.voxel_size.nm, strict=True)],
        "datasets": datasets,
        "type": how["type"],
        "metadata": {"method": "emporter", **how},
    }


def _axis(name: str, known: bool) -> dict[str, str]:
    axis = {"name": name, "type": "space"}
    return {**axis, "unit": "nanometer"} if known else axis


def _omero(volume: PlannedVolume, statistics: Statistics) -> dict[str, Any]:
    low, high = _number(statistics.minimum), _number(statistics.maximum)
    start, end = (_number(v) for v in statistics.window or (low, high))
    window = {"min": low, "max": high, "start": start, "end": end}
    channel = {"label": volume.name or volume.volume, "color": "FFFFFF", "active": True, "window": window}
    return {"channels": [channel], "rdefs": {"model": "greyscale"}}


def _number(value: float | str | None) -> int | float:
    """A number of the record; nothing finite at all is shown as 0."""
    return int(value) if isinstance(value, str) else value if value is not None else 0
