"""The metadata record, version 2.0: what is known of one volume, and who said so (DESIGN section 4)."""

from __future__ import annotations

import math
import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, JsonValue

from emporter_contracts.acquisition import Acquisition
from emporter_contracts.commands import Index3, Message, Shape3
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Caveat, Licence, ManifestObject, Role
from emporter_contracts.policy import RuleDecision
from emporter_contracts.revisions import Correction

RECORD_VERSION = "2.0"
MAX_SAFE_INTEGER = 2**53
"""Past it a JSON number is no longer exact in every reader, so the record holds a string."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

ExactInt = int | Annotated[str, Field(pattern=r"^-?[0-9]+$")]
"""An integer, as a string past MAX_SAFE_INTEGER."""
Number = ExactInt | float | None
"""A number of the volume's dtype; None for what is not finite."""


class Core(Message):
    """What the volume is. `volume_shape` and `source_origin` in voxels z, y, x; None until the plan is ready."""

    description: str = ""
    volume_shape: Shape3 | None = None
    voxel_size_nm: tuple[float | None, float | None, float | None] = (None, None, None)
    data_type: str | None = None
    modality: str = "unknown"
    axes: str = "zyx"
    role: Role = "image"
    labels_of: str | None = None
    source_origin: Index3 = (0, 0, 0)


class Statistics(Message):
    """Of the level-0 voxels. Shares are 0 to 1; `histogram` counts voxels between consecutive `edges`, the last one included."""

    minimum: Number = None
    maximum: Number = None
    mean: float | None = None
    std: float | None = None
    zero_share: float = 0.0
    saturated_share: float = 0.0
    nan_share: float = 0.0
    edges: tuple[float, ...] = ()
    histogram: tuple[int, ...] = ()
    window: tuple[Number, Number] | None = None
    """0.1 and 99.9 percentile without fill voxels; None for labels."""


class LevelRecord(Message):
    """One level as stored: voxels z, y, x; scale and translation in nm (1.0 where the voxel size is unknown)."""

    shape: Shape3
    chunk: Shape3
    shard: Shape3
    scale: tuple[float, float, float]
    translation: tuple[float, float, float]


class Technical(Message):
    """`sha256` and `file_size_bytes` are of the level-0 voxels in C order, little-endian. Where planes are too large to be hashed
    in that order, `planes_sha256` is there instead: SHA-256 over the SHA-256 (32 bytes) of every plane z. `fill_value` is what
    the source reads as where it stored nothing.
    """

    sha256: str | None = None
    planes_sha256: str | None = None
    file_size_bytes: ExactInt | None = None
    stored_bytes: ExactInt | None = None
    compression: str | None = None
    chunk: Shape3 | None = None
    shard: Shape3 | None = None
    levels: tuple[LevelRecord, ...] = ()
    fill_value: Fill = 0
    statistics: Statistics | None = None


class Provenance(Message):
    """Where the voxels came from."""

    download_url: str = ""
    objects: tuple[ManifestObject, ...] = ()
    software: str = ""
    plan: str = ""
    voxel_size: VoxelSize = VoxelSize()
    corrections: tuple[Correction, ...] = ()
    """The metadata-only revisions since the voxels were converted, oldest first."""


Verdict = Literal["pass", "warn", "fail"]
Gate = Literal[
    "empty", "saturated", "histogram", "missing", "duplicated", "swapped", "shifted", "jump", "contrast", "shape", "voxel_size",
    "completeness",
]  # fmt: skip
"""The quality gates our converter asks. A record entered from outside may name others."""


class GateResult(Message):
    """What one quality gate found. `slices` are indices z of level 0 the finding is about, the first hundred, ascending."""

    gate: str
    verdict: Verdict
    measured: float | None = None
    threshold: float | None = None
    slices: tuple[int, ...] = ()
    evidence: str = ""


class Quality(Message):
    """What was checked: voxels read back by a second implementation, and how many differed (always 0 in a committed volume)."""

    verified: Literal["no", "sample", "full"] = "no"
    verified_by: str = ""
    voxels_compared: ExactInt = 0
    verdict: Verdict | None = None
    """The worst of the gates; None where none was asked (volumes converted before there were gates)."""
    gates: tuple[GateResult, ...] = ()
    completeness: float | None = None
    """Share of what a user would want to know of the volume that is known, 0 to 1."""
    policy: str = ""
    """Name of the quality policy the gates went by."""
    held: bool = False
    """Whether the policy kept the revision from becoming current when it was committed."""


class Metadata(Message):
    core: Core = Core()
    acquisition: Acquisition = Acquisition()
    technical: Technical = Technical()
    provenance: Provenance = Provenance()
    quality: Quality = Quality()


class MetadataRecord(Message):
    """One volume at one revision. A stub at `pending`, enriched as the job goes, written to the store once, when complete."""

    version: Literal["2.0"] = "2.0"
    id: UUID
    volume: str
    revision: int
    source: str
    source_id: str
    status: JobState
    managed: bool = True
    """False where the voxels are read from where they lie and were never copied: they are somebody else's to keep."""
    created_at: datetime
    updated_at: datetime
    metadata: Metadata = Metadata()
    licence: Licence = Licence()
    citation: tuple[str, ...] = ()
    caveats: tuple[Caveat, ...] = ()
    files: tuple[str, ...] = ()
    embargo_until: datetime | None = None
    """As the request said; what follows from it, rules say."""
    decisions: tuple[RuleDecision, ...] = ()
    """What the policy's rules said when it was to be published."""
    additional_metadata: dict[str, JsonValue] = {}


def exact(value: int) -> ExactInt:
    """`value`, as a string where a JSON number would not be exact."""
    return value if abs(value) <= MAX_SAFE_INTEGER else str(value)


def finite(value: float) -> float | None:
    """`value`, None where it is not finite."""
    return value if math.isfinite(value) else None


def json_safe(value: Any) -> JsonValue:
    """What an archive said, fit for JSON everywhere: non-finite numbers null, integers past 2^53 strings, the rest text.

    Lone surrogates (a header's bytes read with `surrogateescape`, say) become U+FFFD: our own readers refuse them.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return exact(value) if isinstance(value, int) else finite(value)
    if isinstance(value, dict):
        return {_text(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_safe(v) for v in value]
    return _text(value)


def _text(value: Any) -> str:
    return _LONE_SURROGATE.sub("\ufffd", str(value))
