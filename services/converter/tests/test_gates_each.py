"""Each gate that no other test fails: what it finds, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.quality_policy import QualityPolicy, Rule
from converter.testing_faults import a_phantom, shifted
from converter.testing_gates import found, gate, quality_of
from emporter_contracts.geometry import VoxelSize
from emporter_contracts.plans import Caveat


def a_tall_phantom() -> NDArray[Any]:
    return a_phantom((60, 96, 96), seed=11).astype(np.float32)


def grey(voxels: NDArray[Any]) -> NDArray[Any]:
    return np.clip(voxels, 1, 254).astype(np.uint8)


def with_contrast(times: Any) -> NDArray[Any]:
    """Each slice z with its contrast times `times[z]`."""
    phantom = a_tall_phantom()
    middle = phantom.mean()
    return grey(middle + (phantom - middle) * np.asarray(times)[:, None, None])


def test_one_bright_slice_is_found() -> None:
    phantom = a_tall_phantom()
    phantom[20] += 90
    quality = quality_of(grey(phantom))
    assert found(quality) == {"contrast": (20,)}
    assert quality.verdict == "warn"


def test_one_pale_slice_is_found() -> None:
    quality = quality_of(with_contrast([0.2 if z == 33 else 1 for z in range(60)]))
    assert found(quality)["contrast"] == (33,)


def test_brightness_that_drifts_far_is_found() -> None:
    quality = quality_of(grey(a_tall_phantom() * 0.5 + np.arange(60)[:, None, None] * 2))
    assert found(quality) == {"contrast": ()}
    assert "brightness" in gate(quality, "contrast").evidence


FADES = {"fades": np.linspace(1, 0.15, 60), "grows": np.linspace(0.15, 1, 60), "drops": [1] * 30 + [0.2] * 30}


@pytest.mark.parametrize("how", FADES)
def test_contrast_that_fades_grows_or_drops_is_found(how: str) -> None:
    contrast = gate(quality_of(with_contrast(FADES[how])), "contrast")
    assert contrast.verdict == "warn"
    assert contrast.measured is not None
    assert 4 < contrast.measured < 8
    assert "times" in contrast.evidence


def test_contrast_that_varies_a_little_is_left_alone() -> None:
    assert found(quality_of(with_contrast(0.75 + 0.25 * np.sin(np.arange(60))))) == {}


def test_the_policy_says_from_where_on_contrast_fails() -> None:
    strict = QualityPolicy(contrast=Rule(warn=None, fail=None), contrast_times=Rule(warn=2.0, fail=3.0))
    assert gate(quality_of(with_contrast(np.linspace(1, 0.15, 60)), policy=strict), "contrast").verdict == "fail"


def test_a_picture_of_one_grey_fails() -> None:
    voxels = np.full((20, 64, 64), 77, np.uint8)
    voxels[np.arange(20), np.arange(20), 5] = 3
    histogram = gate(quality_of(voxels), "histogram")
    assert histogram.verdict == "warn"
    assert histogram.measured is not None
    assert histogram.measured > 0.99
    assert gate(quality_of(np.where(voxels == 3, 0, voxels)), "histogram").verdict == "fail"


def test_a_slice_of_another_place_is_unlike_both_neighbours() -> None:
    phantom = a_phantom()
    phantom[20] = a_phantom(seed=99)[20]
    quality = quality_of(phantom)
    assert found(quality) == {"jump": (20,)}
    assert quality.verdict == "warn"


def test_a_displaced_slice_is_no_jump() -> None:
    assert "jump" not in found(quality_of(shifted(a_phantom(), 20)))


def a_caveat(evidence: str, about: Any = None) -> Caveat:
    return Caveat(code="archive_disagrees", evidence=evidence, about=about)


def test_a_shape_other_than_the_archive_announced_is_found_by_axis() -> None:
    said = [f"voxels along {axis}: 40 by the file, 41 by the archive's API; the file counts" for axis in "zy"]
    shape = gate(quality_of(a_phantom((8, 32, 32)), caveats=tuple(a_caveat(text, "shape") for text in said)), "shape")
    assert (shape.verdict, shape.measured, shape.evidence) == ("warn", 2, "; ".join(said))


@pytest.mark.parametrize("evidence", ["voxel type: uint8 by the file, int16 by the archive's API", "modality: SEM or TEM"])
def test_the_shape_gate_judges_shapes_only(evidence: str) -> None:
    assert gate(quality_of(a_phantom((8, 32, 32)), caveats=(a_caveat(evidence),)), "shape").verdict == "pass"


def test_what_a_record_does_not_know_fails_completeness_where_the_policy_asks_for_it() -> None:
    policy = QualityPolicy(completeness=Rule(warn=0.5, fail=0.85))
    half, less = (
        quality_of(a_phantom((8, 32, 32)), voxel_size=size, policy=policy)
        for size in (VoxelSize.said("file", (30.0, 8.0, 8.0)), VoxelSize())
    )
    assert [gate(quality, "completeness").verdict for quality in (half, less)] == ["warn", "fail"]
    assert "licence" in gate(half, "completeness").evidence
    assert "voxel size z" in gate(less, "completeness").evidence
    assert half.completeness is not None
    assert less.completeness is not None
    assert half.completeness > less.completeness
