"""Voxel sizes in nanometres: what a file says, and nothing that a printer, a scanner or a library made up."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emporter_readers.array import MemorySource
from emporter_readers.discover import discover
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes
from emporter_readers.tiff.voxels import imagej_voxel_size, tag_voxel_size

import numpy as np  # isort: skip

STACK = np.zeros((4, 8, 9), "uint8")


def approx(sizes):
    return tuple(None if size is None else pytest.approx(size, rel=1e-6) for size in sizes)


class TestImageJ:
    @pytest.mark.parametrize(
        ("unit", "nm"),
        [
            ("\\u00B5m", 1e3),
            ("um", 1e3),
            ("micron", 1e3),
            ("microns", 1e3),
            ("nm", 1.0),
            ("mm", 1e6),
            ("pm", 1e-3),
            ("Angstrom", 0.1),
        ],
    )
    def test_xy_is_one_over_the_resolution_and_z_the_spacing_in_its_unit(self, unit, nm):
        data = tiff_bytes(STACK, imagej=True, resolution=(50.0, 25.0), metadata={"axes": "ZYX", "spacing": 0.03, "unit": unit})
        (volume,) = discover([MemorySource("a.tif", data)], Hints())
        assert volume.voxel_size.nm == approx((0.03 * nm, nm / 25, nm / 50))
        assert volume.voxel_size.said_by == ("file", "file", "file")

    def test_the_micro_sign_is_the_six_characters_imagej_writes(self):
        data = tiff_bytes(
            STACK, imagej=True, resolution=(50.0, 50.0), metadata={"axes": "ZYX", "spacing": 0.02, "unit": "\\u00B5m"}
        )
        assert b"unit=\\u00B5m" in data
        (volume,) = discover([MemorySource("a.tif", data)], Hints())
        assert volume.voxel_size.nm == approx((20.0, 20.0, 20.0))

    def test_units_may_differ_by_axis(self):
        meta = {"unit": "nm", "yunit": "um", "zunit": "mm", "spacing": 2}
        said = {"XResolution": [1, 4], "YResolution": [1, 8]}
        assert imagej_voxel_size(meta, said).nm == (2e6, 8e3, 4.0)

    @pytest.mark.parametrize("unit", ["", "pixel", "pixels", "parsec", "gray value", "inch", "cm"])
    def test_a_unit_that_is_no_length_or_a_printers_makes_it_unknown(self, unit):
        said = {"XResolution": [72, 1], "YResolution": [72, 1]}
        assert imagej_voxel_size({"unit": unit}, said).nm == (None, None, None)

    def test_no_resolution_leaves_xy_unknown_and_z_known(self):
        assert imagej_voxel_size({"unit": "um", "spacing": 0.05}, {}).nm == approx((50.0, None, None))
        assert imagej_voxel_size({"unit": "um", "spacing": -1.0}, {"XResolution": [0, 1]}).nm == (None, None, None)


class TestResolutionTags:
    @pytest.mark.parametrize("dpi", [72, 96, 100, 150, 200, 300, 600, 1200])
    @pytest.mark.parametrize("unit", [2, 3])
    def test_print_resolutions_are_no_voxel_sizes(self, dpi, unit):
        for value in {dpi, round(dpi / 2.54), dpi / 2.54}:
            said = {
                "XResolution": [int(value * 10_000), 10_000],
                "YResolution": [int(value * 10_000), 10_000],
                "ResolutionUnit": unit,
            }
            if unit == 2 and value != dpi:
                continue
            assert tag_voxel_size(said).nm == (None, None, None), value

    def test_microscopic_pixels_are_believed_and_z_stays_unknown(self):
        said = {"XResolution": [1_250_000, 1], "YResolution": [2_500_000, 1], "ResolutionUnit": 3}
        assert tag_voxel_size(said).nm == approx((None, 4.0, 8.0))
        said = {"XResolution": [25_400_000, 8], "YResolution": [25_400_000, 4], "ResolutionUnit": 2}
        assert tag_voxel_size(said).nm == approx((None, 4.0, 8.0))

    @pytest.mark.parametrize("unit", [1, 0, 7, [2], None, "cm"])
    def test_a_resolution_without_a_length_is_none(self, unit):
        assert (
            tag_voxel_size({"XResolution": [9_000_000, 1], "YResolution": [9_000_000, 1], "ResolutionUnit": unit}).nm
            == (None,) * 3
        )

    def test_pixels_of_a_tenth_of_a_millimetre_are_not_from_a_microscope(self):
        assert tag_voxel_size({"XResolution": [100, 1], "YResolution": [90, 1], "ResolutionUnit": 3}).nm == (None, None, None)

    @given(
        st.dictionaries(
            st.sampled_from(["XResolution", "YResolution", "ResolutionUnit"]),
            st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.lists(st.integers() | st.floats(), max_size=3),
        ),
        st.dictionaries(
            st.sampled_from(["unit", "yunit", "zunit", "spacing"]),
            st.none() | st.floats() | st.sampled_from(["nm", "um", "cm", "x"]),
        ),
    )
    def test_whatever_the_tags_hold_sizes_are_positive_and_finite_or_unknown(self, said, meta):
        for size in (tag_voxel_size(said), imagej_voxel_size(meta, said)):
            assert all(nm is None or (math.isfinite(nm) and nm > 0) for nm in size.nm)
