"""Real stacks through a real conversion: nothing is found in clean ones, and what is done to them is found or at least not misnamed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.testing_faults import a_phantom, dropped, duplicated, shifted, swapped
from converter.testing_gates import found, gate, native, quality_of, quality_of_conversion
from emporter_contracts.geometry import Box
from emporter_readers.array import FileSource
from emporter_readers.discover import discover, open_volume
from emporter_readers.protocol import Hints
from emporter_testing.samples import ROOT, wants_samples

STACKS = (
    "mrc/EMD-3197.map", "mrc/Custom_movie.mrc", "tiff-stack/test_multipage.tif", "tiff-stack/plant15_slices_030-049",
    "precomputed/boss_raw_sharded_gzip",
)  # fmt: skip
"""Every sample of eight slices or more that goes on from slice to slice and is a picture: no mask, no pattern, no photograph."""
THIN = (
    "mrc/fei-extended_first256rows.mrc", "tiff-stack/D75_16b_grey.tiff", "tiff-stack/D75_08b_grey.tiff",
    "ome-tiff/single-channel.ome.tiff", "ome-tiff-pyramid/em_2z_pyramid.ome.tif",
)  # fmt: skip
PLANT = "tiff-stack/plant15_slices_030-049"


@cache
def voxels_of(name: str) -> NDArray[Any]:
    """As our readers read them."""
    root = ROOT / name
    paths = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
    sources = [FileSource(path.name if path == root else path.relative_to(root).as_posix(), path) for path in paths]
    (volume,) = discover(sources, Hints())
    reader = open_volume([sources[k] for k in volume.objects], volume)
    return native(reader.read(Box.whole(reader.shape)))


@wants_samples
@pytest.mark.parametrize("name", STACKS + THIN)
def test_nothing_is_found_in_a_real_volume_that_is_converted(name: str) -> None:
    quality = quality_of_conversion(voxels_of(name))
    assert found(quality) == {}
    assert bool(gate(quality, "missing").evidence) == (name in THIN), "the order of a real stack is judged, of a few slices not"


@wants_samples
@pytest.mark.parametrize("z", [4, 9, 14])
def test_what_is_done_to_a_real_stack_is_found(z: int) -> None:
    plant = voxels_of(PLANT)
    assert found(quality_of(duplicated(plant, z))) == {"duplicated": (z,)}
    assert found(quality_of(swapped(plant, z))) == {"swapped": (z, z + 1)}
    assert found(quality_of(shifted(plant, z))) == {"shifted": (z,)}


@wants_samples
@pytest.mark.parametrize("name", STACKS)
def test_a_slice_dropped_from_an_uneven_or_noisy_stack_is_never_said_to_be_elsewhere(name: str) -> None:
    voxels = voxels_of(name)
    for z in range(2, len(voxels) - 2, 3):
        assert set(found(quality_of(dropped(voxels, z))).get("missing", ())) <= {z}


def sections(uneven: float, seed: int = 0, count: int = 40) -> NDArray[Any]:
    """A phantom cut into sections whose thickness varies by `uneven` of the usual one, as a knife does."""
    fine = a_phantom((count * 6, 96, 112), step=0.2, seed=seed, noise=3.0)
    thickness = 5 * (1 + uneven * np.random.default_rng(seed).uniform(-1, 1, count))
    fronts = np.round(np.cumsum(thickness) - thickness[0]).astype(int)
    return np.ascontiguousarray(fine[fronts[fronts < len(fine)]])


@pytest.mark.parametrize("uneven", [0.2, 0.5])
def test_sections_of_uneven_thickness_are_not_called_lost(uneven: float) -> None:
    assert found(quality_of(sections(uneven))) == {}


def test_a_gap_that_shows_a_little_is_suspected_and_the_volume_is_not_failed() -> None:
    quality = quality_of(dropped(sections(0.1, seed=5), 20))
    missing = gate(quality, "missing")
    assert (missing.verdict, missing.slices) == ("warn", (20,))
    assert "perhaps" in missing.evidence
    assert quality.verdict == "warn"


def test_a_gap_shows_through_noise() -> None:
    """Neighbours correlate by 0.6 alone: the step over the gap is a fifth greater, and yet stands out."""
    assert found(quality_of(dropped(a_phantom(noise=25.0, seed=16), 18))) == {"missing": (18,)}


def test_a_stack_that_is_displaced_a_little_has_no_gap_there() -> None:
    """The step to where it is displaced is as great as one over a gap."""
    phantom = a_phantom(seed=4)
    phantom[21:] = np.roll(phantom[21:], (2, 2), axis=(1, 2))
    assert found(quality_of(phantom)) == {"shifted": (21,)}
