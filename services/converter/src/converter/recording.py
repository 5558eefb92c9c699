"""The metadata record of a converted volume, and what lies beside it: provenance and digests."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from typing import Any

from converter.digesting import Sums
from converter.entered import Entered
from converter.gathering import Counted
from converter.ngff import document
from converter.shards import ZSTD_LEVEL
from converter.verifying import VERIFIED_BY, Seen
from emporter_contracts import storage
from emporter_contracts.commands import IngestRequest
from emporter_contracts.ids import record_uuid
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Caveat, FetchPlan, Manifest, PlannedVolume, VolumePlan
from emporter_contracts.records import (
    Core,
    LevelRecord,
    Metadata,
    MetadataRecord,
    Provenance,
    Quality,
    Technical,
    exact,
    json_safe,
)

SOFTWARE = f"emporter-converter {version('emporter-converter')}"
ENCODER = f"tensorstore {version('tensorstore')}"
COMPRESSION = {"zstd": f"zstd-{ZSTD_LEVEL}", "blosc": f"blosc-zstd-{ZSTD_LEVEL}-shuffle", "none": "none"}


def digests_document(digest: str, seen: Seen, counted: Counted, entered: Entered, arrays: Sums) -> bytes:
    """`digests.json`: checksums by which anyone can tell later whether the volume is still what was committed."""
    said = {
        "digest": digest,
        "voxels": {"sha256": seen.sha256, "bytes": exact(seen.bytes), "order": seen.order, "byte_order": "little"},
        "arrays": {key: held._asdict() for key, held in sorted(arrays.items())},
        "occupancy": {key: held._asdict() for key, held in sorted(counted.occupancy.items())},
        "census": {key: held._asdict() for key, held in sorted(counted.censuses.items())},
        "shards": None,
    }
    # Of millions of shards as bytes, which is a tenth of what they are as values.
    before, shards, after = document(said).partition(b'"shards": null')
    assert shards
    lines = bytearray(before + b'"shards": {')
    for n, shard in enumerate(entered):
        lines += f'{"," if n else ""}\n  "{shard.key}": {{"bytes": {shard.bytes}, "crc32c": "{shard.crc32c}"}}'.encode()
    lines += b"\n }" + after
    return bytes(lines)


def provenance_document(fetch: FetchPlan, manifest: Manifest, request: IngestRequest, plan: VolumePlan) -> dict[str, Any]:
    """`provenance.json`: what was asked, what was fetched, by what it was converted."""
    return {
        "request": request.model_dump(mode="json"),
        "job": fetch.job,
        "revision": fetch.revision,
        "source": fetch.source,
        "source_id": fetch.source_id,
        "download_url": fetch.download_url,
        "objects": [manifest.objects[n].model_dump(mode="json") for n in _planned(fetch, plan.volume).objects],
        "archive": json_safe(manifest.archive or fetch.archive),
        "plan": plan.model_dump(mode="json"),
        "software": {"fetcher": fetch.software, "converter": SOFTWARE, "encoder": ENCODER},
    }


def metadata_record(
    fetch: FetchPlan,
    manifest: Manifest,
    plan: VolumePlan,
    seen: Seen,
    counted: Counted,
    quality: Quality,
    entered: Entered,
    now: datetime,
) -> MetadataRecord:
    """The record of a volume that is about to be committed."""
    volume = _planned(fetch, plan.volume)
    return MetadataRecord(
        id=record_uuid(plan.volume),
        volume=plan.volume,
        revision=fetch.revision,
        source=fetch.source,
        source_id=fetch.source_id,
        status=JobState.COMPLETE,
        created_at=fetch.planned_at,
        updated_at=now,
        metadata=Metadata(
            core=_core(fetch, volume),
            acquisition=volume.acquisition,
            technical=_technical(volume, plan, seen, counted, entered),
            provenance=_provenance(fetch, manifest, volume),
            quality=quality,
        ),
        licence=fetch.licence,
        citation=fetch.citation,
        caveats=_caveats(fetch, volume, plan),
        files=tuple(fetch.objects[n].path for n in volume.objects),
        additional_metadata=_additional(fetch, manifest, volume),
    )


def sampled(voxels: int) -> Quality:
    """What was checked when sample boxes were read back."""
    return Quality(verified="sample", verified_by=VERIFIED_BY, voxels_compared=exact(voxels))


def compared_in_full(voxels: int) -> Quality:
    """What was checked when every voxel was read back."""
    return Quality(verified="full", verified_by=VERIFIED_BY, voxels_compared=exact(voxels))


def _planned(fetch: FetchPlan, volume: str) -> PlannedVolume:
    return next(v for v in fetch.volumes if v.volume == volume)


def _core(fetch: FetchPlan, volume: PlannedVolume) -> Core:
    return Core(
        description=fetch.description or volume.name,
        volume_shape=volume.shape,
        voxel_size_nm=volume.voxel_size.nm,
        data_type=volume.dtype,
        modality=fetch.modality,
        role=volume.role,
        labels_of=volume.labels_of,
        source_origin=volume.source_origin,
    )


def _technical(volume: PlannedVolume, plan: VolumePlan, seen: Seen, counted: Counted, entered: Entered) -> Technical:
    levels = tuple(
        LevelRecord(shape=k.shape, chunk=k.chunk, shard=k.shard, scale=k.scale, translation=k.translation) for k in plan.levels
    )
    return Technical(
        sha256=seen.sha256 if seen.order == "C" else None,
        planes_sha256=seen.sha256 if seen.order == "planes" else None,
        file_size_bytes=exact(seen.bytes),
        stored_bytes=exact(entered.stored_bytes),
        compression=COMPRESSION[plan.codec],
        chunk=plan.levels[0].chunk,
        shard=plan.levels[0].shard,
        levels=levels,
        fill_value=volume.fill_value,
        statistics=counted.statistics,
    )


def _provenance(fetch: FetchPlan, manifest: Manifest, volume: PlannedVolume) -> Provenance:
    return Provenance(
        download_url=fetch.download_url,
        objects=tuple(manifest.objects[n] for n in volume.objects),
        software=f"{SOFTWARE}, {ENCODER}",
        plan=storage.conversion(fetch.job, fetch.revision),
        voxel_size=volume.voxel_size,
    )


def _caveats(fetch: FetchPlan, volume: PlannedVolume, plan: VolumePlan) -> tuple[Caveat, ...]:
    """The run's and the volume's, each once, and those the conversion adds."""
    added = []
    unknown = [axis for axis, nm in zip("zyx", volume.voxel_size.nm, strict=True) if nm is None]
    if unknown:
        added.append(Caveat(code="voxel_size_unknown", evidence=f"nobody says the voxel size along {', '.join(unknown)}"))
    if unknown and len(plan.levels) > 1:
        added.append(Caveat(code="isotropy_assumed", evidence="the pyramid halves all axes alike, as if voxels were cubes"))
    said = list(dict.fromkeys((*fetch.caveats, *volume.caveats)))
    codes = {caveat.code for caveat in said}
    return (*said, *(caveat for caveat in added if caveat.code not in codes))


def _additional(fetch: FetchPlan, manifest: Manifest, volume: PlannedVolume) -> dict[str, Any]:
    """What the archive and the file's own headers said, verbatim."""
    said = {f"{fetch.source.replace('-', '_')}_metadata": json_safe(manifest.archive or fetch.archive)}
    return said | ({"header": json_safe(volume.said)} if volume.said else {})
