"""Real files of real programs: voxels as an independent reader said, or a refusal that is expected here by name."""

import hashlib

import numpy as np
import pytest

from emporter_readers.array import FileSource
from emporter_readers.discover import discover, natural_order
from emporter_readers.errors import AmbiguousContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import volumes_of
from emporter_testing.samples import ROOT, samples_of, wants_samples

FORMATS = ("tiff-stack", "ome-tiff", "ome-tiff-pyramid")
COLOURED = {"tiff-stack/D75_08b_3page.tiff", "tiff-stack/D75_08b_tiled.tiff"}
"""Photographs in colour: refused unless the user says what is to become of the colours."""
GREY_RGB = {"tiff-stack/re05.tiff"}
"""RGB with three equal samples: read as grey, where the manifest lists all three."""
VOXEL_SIZES = {
    "tiff-stack/test_loading_image_saved_with_imageJ_stack.tif": (2500.0, 168.674711, 168.674711),
    "tiff-stack/test_loading_image_saved_with_imageJ.tif": (None, 168.674711, 168.674711),
    "ome-tiff-pyramid/em_2z_pyramid.ome.tif": (40.0, 8.0, 8.0),
}


ENTRIES = samples_of(*FORMATS)
pytestmark = wants_samples


def sources_of(entry):
    return [FileSource(path, ROOT / path) for path in natural_order(file["path"] for file in entry["files"])]


def expected_of(entry):
    expected = entry["expected"]
    if "series" not in expected:
        return expected["data"]
    assert len(expected["series"]) == 1
    return expected["series"][0]


def joined(volumes, axes):
    """Volumes of several channels put together again, in the order the manifest has them."""
    arrays = [volumes[name] for name in sorted(volumes)]
    if "S" in axes:
        return np.stack(arrays, axis=-1)
    return np.stack(arrays, axis=axes.index("C") if "C" in axes else 0)


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()).hexdigest()


@pytest.mark.parametrize("path", sorted(ENTRIES.keys() - COLOURED - GREY_RGB))
def test_a_sample_comes_back_voxel_for_voxel(path):
    expected = expected_of(ENTRIES[path])
    volumes = volumes_of(sources_of(ENTRIES[path]))
    array = next(iter(volumes.values())) if len(volumes) == 1 else joined(volumes, expected["axes"])
    assert array.size == np.prod(expected["shape"])
    assert array.dtype == np.dtype(expected["dtype"])
    assert [n for n in array.shape if n > 1] == [n for n in expected["shape"] if n > 1]
    assert sha256(array) == expected["sha256_c_order_le"]


@pytest.mark.parametrize("path", sorted(ENTRIES.keys() & COLOURED))
def test_a_coloured_sample_is_refused_until_the_user_says_what_becomes_of_its_colours(path):
    sources = sources_of(ENTRIES[path])
    with pytest.raises(AmbiguousContentError, match=path) as refusal:
        discover(sources, Hints())
    assert "rgb: luma" in refusal.value.hint
    expected = expected_of(ENTRIES[path])
    volumes = volumes_of(sources, Hints(rgb="split"))
    assert len(volumes) == 3
    assert sha256(joined(volumes, "ZYXS")) == expected["sha256_c_order_le"]


@pytest.mark.parametrize("path", sorted(ENTRIES.keys() & GREY_RGB))
def test_a_sample_of_three_equal_colours_is_one_grey_volume(path):
    expected = expected_of(ENTRIES[path])
    (array,) = volumes_of(sources_of(ENTRIES[path])).values()
    assert sha256(np.stack([array[0]] * 3, axis=-1)) == expected["sha256_c_order_le"]


@pytest.mark.parametrize("path", sorted(ENTRIES))
def test_voxel_sizes_are_those_the_file_says_and_otherwise_unknown(path):
    rgb = "split" if path in COLOURED else None
    for volume in discover(sources_of(ENTRIES[path]), Hints(rgb=rgb)):
        expected = VOXEL_SIZES.get(path, (None, None, None))
        assert volume.voxel_size.nm == tuple(None if n is None else pytest.approx(n, rel=1e-6) for n in expected)


@pytest.mark.parametrize("path", sorted(p for p in ENTRIES if p.startswith("ome-tiff-pyramid/")))
def test_every_level_of_a_pyramid_sample_can_be_chosen(path):
    levels = expected_of(ENTRIES[path])["level_facts"]
    for level, facts in enumerate(levels):
        hints = Hints(select=type(Hints().select)(level=level))
        (volume,) = discover(sources_of(ENTRIES[path]), hints)
        (array,) = volumes_of(sources_of(ENTRIES[path]), hints).values()
        assert list(array.shape) == facts["shape"]
        assert sha256(array) == facts["sha256_c_order_le"]
        assert volume.voxel_size.nm[1] == pytest.approx(8.0 * 2**level)
