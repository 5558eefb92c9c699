"""The quality policy: where a gate warns or fails, and which failures keep a revision from becoming current. A YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emporter_contracts.errors import EmporterError
from emporter_contracts.records import Gate

Share = Annotated[float, Field(ge=0, le=1)]


class QualityPolicyError(EmporterError):
    """The policy file can't be used."""

    code = "quality_policy"


class Rule(BaseModel):
    """From which measure on a gate warns and fails; null never."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warn: float | None = None
    fail: float | None = None


class QualityPolicy(BaseModel):
    """One rule a gate. Shares are 0 to 1, sequence gates count slices, sizes are nanometres."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "default"
    hold: frozenset[Gate] = frozenset()
    """Gates whose failure keeps the revision from becoming current."""
    empty: Rule = Rule(warn=0.4, fail=0.9)
    """Share of zero voxels; a slice of one value warns at any share."""
    saturated: Rule = Rule(warn=0.02, fail=0.25)
    """Share of voxels at the largest value, where they are clipped there, of the worst slice above the usual one."""
    histogram: Rule = Rule(warn=0.98, fail=1.0)
    """Share of the most frequent bin of non-zero voxels: a picture of one grey is none."""
    missing: Rule = Rule(warn=0.5, fail=1)
    """Gaps; 0.5 where one is only suspected."""
    duplicated: Rule = Rule(fail=1)
    swapped: Rule = Rule(fail=1)
    shifted: Rule = Rule(fail=1)
    jump: Rule = Rule(warn=1)
    contrast: Rule = Rule(warn=1.5, fail=10.0)
    """How far a slice's mean lies from its neighbours', or the last tenth's from the first, in usual deviations of a slice."""
    contrast_times: Rule = Rule(warn=3.0)
    """How many times the deviation of a slice is that of both beside it, or the last tenth's that of the first, or less."""
    shape: Rule = Rule(warn=1)
    """Axes along which the files have another number of voxels than the archive says."""
    voxel_size: Rule = Rule(warn=1, fail=2)
    """1 where a size is unusual, 2 where it can't be."""
    completeness: Rule = Rule()
    """1 less the completeness score."""
    usual_nm: tuple[float, float] = (0.2, 5000.0)
    possible_nm: tuple[float, float] = (0.02, 20000.0)
    most_anisotropic: Annotated[float, Field(ge=1)] = 60.0
    most_anisotropic_in_plane: Annotated[float, Field(ge=1)] = 2.0
    fewest_slices: Annotated[int, Field(ge=4)] = 8
    """Of a volume whose order of slices is judged."""
    least_likeness: Share = 0.3
    """Median correlation of neighbouring slices below which their order is not judged: nothing goes on from slice to slice."""


def read_policy(path: Path | None) -> QualityPolicy:
    """The policy in a file; the default one without a file. Raises QualityPolicyError."""
    if path is None:
        return QualityPolicy()
    try:
        return QualityPolicy.model_validate(yaml.safe_load(path.read_text()) or {})
    except (OSError, yaml.YAMLError) as error:
        raise QualityPolicyError(f"{path}: {error}".replace("\n", " ")[:300], hint="EMPORTER_QUALITY_POLICY names it") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise QualityPolicyError(
            f"{path}: {where}: {first['msg']}", hint="deploy/quality-policy.yaml shows what there is"
        ) from error
