"""The documents of a revision that says something else of the same voxels. Pure: from what was said before, and a change."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from converter.gates import judged_again
from converter.ngff import document
from converter.quality_policy import QualityPolicy
from emporter_contracts.geometry import AXES, VoxelSize
from emporter_contracts.plans import Caveat, Licence
from emporter_contracts.records import Core, LevelRecord, MetadataRecord
from emporter_contracts.revisions import Changes, Correction, Revising

SPDX = re.compile(
    r"(CC0-1\.0|CC-BY(-(NC|SA|ND))*-[1-4]\.[05]|PDDL-1\.0|ODbL-1\.0|ODC-By-1\.0|Apache-2\.0|MIT|BSD-[23]-Clause|LicenseRef-[\w.-]+)\Z"
)
"""Identifiers of https://spdx.org/licenses that data is given under; anything else is words or an address."""

Floats3 = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Described:
    """What is said of one revision, beside its commit."""

    record: MetadataRecord
    group: dict[str, Any]
    """The OME-Zarr group's `zarr.json` (0.5)."""
    provenance: dict[str, Any]


def corrected(before: Described, change: Revising, revision: int, policy: QualityPolicy, *, held: bool) -> Described | None:
    """What `revision` says once `change` is made; None where all of it is said already. `held`: whether a gate holds what is
    changed.
    """
    record = _record(before.record, change.changes)
    group = _group(before.group, record, change.changes)
    said, says = _said(before), _said(Described(record, group, {}))
    differing = [field for field in says if says[field] != said[field]]
    if not differing:
        return None
    correction = Correction(
        revises=change.revises,
        arrays=change.arrays,
        by=change.by,
        reason=change.reason,
        at=change.at,
        before={field: said[field] for field in differing},
        after={field: says[field] for field in differing},
    )
    provenance = record.metadata.provenance
    told = provenance.model_copy(update={"corrections": (*provenance.corrections, correction)})
    metadata = record.metadata.model_copy(update={"provenance": told})
    record = record.model_copy(update={"revision": revision, "updated_at": change.at, "metadata": metadata})
    metadata = metadata.model_copy(update={"quality": judged_again(record, policy, held=held)})
    corrections = [*before.provenance.get("corrections", []), correction.model_dump(mode="json")]
    kept = {**before.provenance, "revision": revision, "corrections": corrections}
    return Described(record.model_copy(update={"metadata": metadata}), group, kept)


def read_described(record: bytes, group: bytes, provenance: bytes) -> Described:
    """From the documents as they are stored. Raises ValueError."""
    return Described(MetadataRecord.model_validate_json(record), json.loads(group), json.loads(provenance))


def group_bytes(described: Described) -> bytes:
    """The group's `zarr.json` as it is stored."""
    return document(described.group)


def provenance_bytes(described: Described) -> bytes:
    """`provenance.json` as it is stored."""
    return document(described.provenance)


def licence_of(text: str) -> Licence:
    """A licence as a person names it."""
    if SPDX.match(text):
        return Licence(spdx=text, known=True)
    if text.startswith(("https://", "http://")):
        return Licence(url=text, known=True)
    return Licence(text=text, known=True)


def _record(before: MetadataRecord, changes: Changes) -> MetadataRecord:
    core, provenance, technical = before.metadata.core, before.metadata.provenance, before.metadata.technical
    said = provenance.voxel_size
    if changes.voxel_size_nm is not None and changes.voxel_size_nm != core.voxel_size_nm:
        said = VoxelSize.said("user", changes.voxel_size_nm)
    told = {name: value for name in ("description", "modality") if (value := getattr(changes, name)) is not None}
    size = changes.voxel_size_nm if changes.voxel_size_nm is not None else core.voxel_size_nm
    levels = technical.levels
    if changes.offset_nm is not None or size != core.voxel_size_nm:
        levels = _levels(core, levels, size, changes.offset_nm)
    metadata = before.metadata.model_copy(
        update={
            "core": core.model_copy(update={**told, "voxel_size_nm": size}),
            "provenance": provenance.model_copy(update={"voxel_size": said}),
            "technical": technical.model_copy(update={"levels": levels}),
        }
    )
    return before.model_copy(
        update={
            "metadata": metadata,
            "licence": before.licence if changes.licence is None else licence_of(changes.licence),
            "citation": before.citation if changes.citation is None else changes.citation,
            "caveats": before.caveats if changes.voxel_size_nm is None else _caveats(before.caveats, said),
        }
    )


def _levels(
    core: Core, levels: Sequence[LevelRecord], size: Sequence[float | None], offset: Floats3 | None
) -> tuple[LevelRecord, ...]:
    """The levels under another voxel size: where a region was cut moves with it, an offset that was said stays where it is."""
    finest = levels[0]
    nm = [1.0 if s is None else s for s in size]
    cut = [
        offset is None and math.isclose(t, o * s, rel_tol=1e-9, abs_tol=1e-9)
        for t, o, s in zip(finest.translation, core.source_origin, finest.scale, strict=True)
    ]
    start = finest.translation if offset is None else offset
    found = []
    for level in levels:
        factor = [_factor(n, m) for n, m in zip(finest.shape, level.shape, strict=True)]
        scale = [s * f for s, f in zip(nm, factor, strict=True)]
        within = [(f - 1) / 2 for f in factor]
        # One product where it can be one, as conversion computes it: the same voxel size gives the same bytes.
        places = [
            s * (o + w) if is_cut else t + s * w
            for s, o, w, t, is_cut in zip(nm, core.source_origin, within, start, cut, strict=True)
        ]
        found.append(level.model_copy(update={"scale": _three(scale), "translation": _three(places)}))
    return tuple(found)


def _factor(finest: int, voxels: int) -> int:
    """Voxels of level 0 that one voxel of a level spans, where each halving of n leaves (n + 1) // 2."""
    factor = 1
    while -(-finest // factor) > voxels:
        factor *= 2
    return factor


def _group(before: dict[str, Any], record: MetadataRecord, changes: Changes) -> dict[str, Any]:
    """The same group with the record's scales and, where it was changed, its name (NGFF 0.5, "multiscales")."""
    after: dict[str, Any] = json.loads(json.dumps(before))
    ome = after["attributes"]["ome"]
    multiscale = ome["multiscales"][0]
    for axis, name, nm in zip(multiscale["axes"], AXES, record.metadata.core.voxel_size_nm, strict=True):
        assert axis["name"] == name
        axis.pop("unit", None)
        axis.update({} if nm is None else {"unit": "nanometer"})
    for dataset, level in zip(multiscale["datasets"], record.metadata.technical.levels, strict=True):
        dataset["coordinateTransformations"] = [
            {"type": "scale", "scale": list(level.scale)},
            {"type": "translation", "translation": list(level.translation)},
        ]
    if changes.name is not None:
        multiscale["name"] = changes.name
        for channel in ome.get("omero", {}).get("channels", []):
            channel["label"] = changes.name
    return after


def _said(described: Described) -> dict[str, Any]:
    """What can be changed, as a person reads it."""
    record, core = described.record, described.record.metadata.core
    technical = record.metadata.technical
    return {
        "voxel_size_nm": {
            "nm": list(core.voxel_size_nm),
            "said_by": list(record.metadata.provenance.voxel_size.said_by),
        },
        "offset_nm": list(technical.levels[0].translation) if technical.levels else None,
        "name": described.group["attributes"]["ome"]["multiscales"][0].get("name"),
        "description": core.description,
        "modality": core.modality,
        "licence": record.licence.model_dump(mode="json"),
        "citation": list(record.citation),
    }


def _caveats(before: Iterable[Caveat], said: VoxelSize) -> tuple[Caveat, ...]:
    """What is known of the voxel size now, in place of what was not."""
    kept = [caveat for caveat in before if caveat.code not in {"voxel_size_unknown", "voxel_size_by_user"}]
    unknown = ", ".join(axis for axis, nm in zip(AXES, said.nm, strict=True) if nm is None)
    if unknown:
        kept.append(Caveat(code="voxel_size_unknown", evidence=f"nobody says the voxel size along {unknown}"))
    told = ", ".join(axis for axis, by in zip(AXES, said.said_by, strict=True) if by == "user")
    if told:
        kept.append(Caveat(code="voxel_size_by_user", evidence=f"along {told}"))
    return tuple(kept)


def _three(values: Sequence[float]) -> Floats3:
    z, y, x = (float(v) for v in values)
    return (z, y, x)
