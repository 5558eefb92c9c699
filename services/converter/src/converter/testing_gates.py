"""What the gates say of an array, without and with the conversion around them. For tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from converter.gates import judged
from converter.quality_policy import QualityPolicy
from converter.slices import SliceCounter, SliceFacts
from converter.statistics import counter
from converter.testing import a_run
from emporter_contracts import storage
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import Caveat, Role
from emporter_contracts.records import GateResult, MetadataRecord, Quality, Statistics
from emporter_runtime.objects import Objects

NM = VoxelSize(nm=(30.0, 8.0, 8.0), said_by=("file", "file", "file"))
DEFAULT = QualityPolicy()

Voxels = NDArray[Any]


def quality_of(
    voxels: Voxels,
    *,
    voxel_size: VoxelSize = NM,
    role: Role = "image",
    policy: QualityPolicy = DEFAULT,
    caveats: tuple[Caveat, ...] = (),
) -> Quality:
    """As the finish of a conversion judges these voxels, without the conversion."""
    run = a_run(voxels, voxel_size=voxel_size, role=role)
    counts = counter(voxels.dtype)
    counts.add(voxels)
    record = MetadataRecord.model_validate(_record(run, counts.statistics(window=role == "image")))
    return judged(record.model_copy(update={"caveats": caveats}), facts_of(voxels), policy)


def quality_of_conversion(voxels: Voxels, *, voxel_size: VoxelSize = NM, policy: QualityPolicy = DEFAULT) -> Quality:
    """What the record of a whole conversion of these voxels says."""
    objects, run = Objects.in_memory(), a_run(voxels, voxel_size=voxel_size)
    plan = run.plan()
    run.write(objects, plan.volumes[0])
    run.finish(objects, plan, run.shards, policy)
    record = objects.get_sync(storage.VOLUMES, storage.record(run.volume, 1))
    return MetadataRecord.model_validate_json(record).metadata.quality


def facts_of(voxels: Voxels, rows: int | None = None) -> SliceFacts:
    """Fed by whole volumes, or by `rows` rows of a slice at a time."""
    slices = SliceCounter(voxels.shape, voxels.dtype)
    if rows is None:
        slices.add(voxels)
        return slices.facts
    for z in range(len(voxels)):
        for y in range(0, voxels.shape[1], rows):
            slices.add(voxels[z : z + 1, y : y + rows])
    return slices.facts


def found(quality: Quality) -> dict[str, tuple[int, ...]]:
    """Gates that did not pass, with their slices."""
    return {g.gate: g.slices for g in quality.gates if g.verdict != "pass"}


def gate(quality: Quality, name: str) -> GateResult:
    return next(g for g in quality.gates if g.gate == name)


def native(voxels: Any) -> Voxels:
    """Three axes, C order and the byte order of this machine, as readers give."""
    squeezed = np.squeeze(voxels)
    whole = squeezed[None] if squeezed.ndim == 2 else squeezed
    return np.ascontiguousarray(whole).astype(whole.dtype.newbyteorder("="))


def _record(run: Any, statistics: Statistics) -> dict[str, Any]:
    volume = run.fetch.volumes[0]
    core = {"volume_shape": volume.shape, "voxel_size_nm": volume.voxel_size.nm, "data_type": volume.dtype, "role": volume.role}
    return {
        "id": "6f1d3a52-1b5e-5c68-9a0f-3d4c6a3f2c11", "volume": volume.volume, "revision": 1, "source": "url", "source_id": "x",
        "status": "complete", "created_at": run.fetch.planned_at, "updated_at": run.fetch.planned_at,
        "metadata": {"core": core, "technical": {"statistics": statistics.model_dump()}},
    }  # fmt: skip
