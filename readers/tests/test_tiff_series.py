"""Which volumes lie in a TIFF or in several, what they are called, and along which axes they lie."""

import numpy as np
import pytest
import tifffile

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes, volumes_of
from emporter_readers.testing_tiff import a_file, caveats, counting, same


class TestChannelsAndTimes:
    hyperstack = counting(2, 4, 3, 8, 9)

    @pytest.fixture(params=["imagej", "imagej_truncated", "ome", "shaped"])
    def source(self, request):
        options = {
            "imagej": {"imagej": True},
            "imagej_truncated": {"imagej": True, "truncate": True},
            "ome": {"ome": True},
            "shaped": {},
        }[request.param]
        return a_file(self.hyperstack, metadata={"axes": "TZCYX"}, **options)

    def test_each_channel_and_time_is_a_volume_of_its_own(self, source):
        expected = {f"s0-c{c}-t{t}": self.hyperstack[t, :, c] for c in range(3) for t in range(2)}
        same(volumes_of([source]), expected)

    def test_a_selection_keeps_the_names_and_leaves_out_the_rest(self, source):
        chosen = Hints(select=Select(channel=2, time=1))
        same(volumes_of([source], chosen), {"s0-c2-t1": self.hyperstack[1, :, 2]})
        assert len(discover([source], Hints(select=Select(channel=0)))) == 2

    def test_a_selection_of_what_is_not_there_says_what_is(self, source):
        with pytest.raises(AmbiguousContentError, match="channel 3") as refusal:
            discover([source], Hints(select=Select(channel=3)))
        assert "6 volumes" in refusal.value.hint

    def test_the_user_may_say_that_the_axes_are_others(self, source):
        volumes = volumes_of([source], Hints(axes="ctzyx"))
        assert set(volumes) == {f"s0-c{c}-t{t}" for c in range(2) for t in range(4)}
        np.testing.assert_array_equal(volumes["s0-c1-t2"], self.hyperstack[1, 2])

    @pytest.mark.parametrize("axes", ["zyx", "zzcyx", "tzcxy", "xyz"])
    def test_axes_that_do_not_fit_are_refused(self, source, axes):
        with pytest.raises(AmbiguousContentError) as refusal:
            discover([source], Hints(axes=axes))
        assert "axes: tzyx" in refusal.value.hint


class TestImageJOrders:
    @pytest.mark.parametrize("order", ["czt", "ctz", "zct", "ztc", "tcz", "tzc"])
    def test_planes_lie_in_the_order_the_description_says(self, order):
        sizes = {"c": 2, "z": 3, "t": 4}
        planes = counting(*(sizes[axis] for axis in reversed(order)), 5, 6)
        description = f"ImageJ=1.53t\nimages=24\nchannels=2\nslices=3\nframes=4\nhyperstack=true\norder={order}\n"
        source = a_file(planes.reshape(24, 5, 6), metadata=None, description=description)
        moved = np.moveaxis(planes, [order[::-1].index(axis) for axis in "ctz"], [0, 1, 2])
        same(volumes_of([source]), {f"s0-c{c}-t{t}": moved[c, t] for c in range(2) for t in range(4)})

    def test_images_that_are_no_slices_are_an_unnamed_axis_taken_as_z(self):
        source = a_file(counting(5, 6, 7), metadata=None, description="ImageJ=1.53t\nimages=5\n")
        same(volumes_of([source]), {"": counting(5, 6, 7)})
        assert caveats([source]) == [{"axes_assumed"}]

    @pytest.mark.parametrize("said", ["images=6\nslices=6", "images=4\nslices=4", "images=5\nslices=4", "slices=-5", "images=no"])
    def test_a_count_that_the_pages_contradict_is_corrupt(self, said):
        source = a_file(counting(5, 6, 7), metadata=None, description=f"ImageJ=1.53t\n{said}\n")
        with pytest.raises(CorruptObjectError, match=r"a\.tif"):
            discover([source], Hints())


class TestUnnamedAxes:
    def test_pages_of_no_name_are_z_with_a_caveat(self):
        source = a_file(counting(5, 6, 7), metadata=None)
        same(volumes_of([source]), {"": counting(5, 6, 7)})
        assert caveats([source]) == [{"axes_assumed"}]

    def test_the_user_may_name_them(self):
        source = a_file(counting(5, 6, 7), metadata=None)
        same(volumes_of([source], Hints(axes="cyx")), {f"s0-c{c}-t0": counting(5, 6, 7)[c : c + 1] for c in range(5)})
        same(volumes_of([source], Hints(axes="tyx")), {f"s0-c0-t{t}": counting(5, 6, 7)[t : t + 1] for t in range(5)})
        assert caveats([source], Hints(axes="zyx")) == [set()]

    def test_two_of_no_name_need_a_word_of_the_user(self):
        array = counting(2, 4, 6, 7)
        source = a_file(array)
        with pytest.raises(AmbiguousContentError, match=r"\?=2, \?=4, y, x"):
            discover([source], Hints())
        same(volumes_of([source], Hints(axes="tzyx")), {f"s0-c0-t{t}": array[t] for t in range(2)})

    def test_one_page_is_a_volume_of_one_plane(self):
        source = a_file(counting(6, 7), metadata=None)
        same(volumes_of([source]), {"": counting(1, 6, 7)})
        assert caveats([source], Hints(axes="zyx")) == [set()]


class TestSeveralImagesInAFile:
    def test_runs_of_pages_of_another_shape_or_dtype_are_series(self, tmp_path):
        runs = [counting(3, 8, 9), counting(2, 5, 6), counting(2, 5, 6, dtype="uint8"), counting(3, 8, 9)]
        source = written(tmp_path, [(page, {}) for run in runs for page in run])
        same(volumes_of([source]), {f"s{k}-c0-t0": run for k, run in enumerate(runs)})
        same(volumes_of([source], Hints(select=Select(series=2))), {"s2-c0-t0": runs[2]})

    def test_thumbnails_and_masks_are_no_volumes(self, tmp_path):
        stack = counting(3, 8, 9)
        pages = [
            (stack[0], {}),
            (counting(4, 5), {"subfiletype": 1}),
            (stack[1], {}),
            (counting(4, 5) > 3, {"subfiletype": 4}),
            (stack[2], {}),
        ]
        same(volumes_of([written(tmp_path, pages)]), {"": stack})

    def test_a_page_as_large_as_the_others_is_none_left_out_for_its_mark(self, tmp_path):
        stack = counting(3, 8, 9)
        pages = [(stack[0], {}), (stack[1], {"subfiletype": 1}), (stack[2], {"subfiletype": 2})]
        same(volumes_of([written(tmp_path, pages)]), {"": stack})

    def test_several_arrays_that_tifffile_wrote_are_series(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            file.write(counting(3, 8, 9), photometric="minisblack", metadata={"axes": "ZYX", "name": "raw"})
            file.write(counting(2, 5, 6), photometric="minisblack", metadata={"axes": "CYX"})
        source = MemorySource("a.tif", path.read_bytes())
        expected = {"s0-c0-t0": counting(3, 8, 9), "s1-c0-t0": counting(2, 5, 6)[:1], "s1-c1-t0": counting(2, 5, 6)[1:]}
        same(volumes_of([source]), expected)
        assert discover([source], Hints())[0].name == "raw"

    def test_what_can_not_be_read_beside_what_can_is_named_with_the_way_round_it(self, tmp_path):
        source = written(tmp_path, [(counting(8, 9), {}), (counting(5, 6, dtype="complex64"), {})])
        with pytest.raises(UnsupportedContentError, match="page 1: complex") as refusal:
            discover([source], Hints())
        assert "select.series" in refusal.value.hint
        same(volumes_of([source], Hints(select=Select(series=0))), {"s0-c0-t0": counting(1, 8, 9)})


def written(tmp_path, pages):
    """A file of these pages, each with its own options, and no description."""
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for page, options in pages:
            file.write(page, photometric="minisblack", metadata=None, contiguous=False, **options)
    return MemorySource("a.tif", path.read_bytes())


class TestSeveralFiles:
    stack = counting(12, 8, 9)

    def slices(self, **options):
        return [a_file(self.stack[k], f"run/slice_{k}.tif", **options) for k in range(12)]

    @pytest.mark.parametrize("options", [{}, {"metadata": None}, {"compression": "zlib"}, {"ome": True}, {"imagej": True}])
    def test_slices_are_one_volume_in_the_order_given(self, options):
        slices = self.slices(**options)
        same(volumes_of(slices), {"": self.stack})
        same(volumes_of(slices[::-1]), {"": self.stack[::-1]})

    def test_opening_slices_reads_the_first_and_a_box_those_it_touches(self):
        slices = self.slices()
        (found,) = discover(slices, Hints())
        for source in slices:
            source.bytes_read = 0
        reader = open_volume(slices, found)
        assert [k for k, source in enumerate(slices) if source.bytes_read] == [0]
        np.testing.assert_array_equal(reader.read(Box((4, 2, 3), (7, 8, 9))), self.stack[4:7, 2:8, 3:9])
        assert [k for k, source in enumerate(slices) if source.bytes_read] == [0, 4, 5, 6]

    def test_a_slice_that_changed_after_the_plan_is_named_when_it_is_read(self):
        slices = self.slices()
        (found,) = discover(slices, Hints())
        reader = open_volume(slices, found)
        slices[4].data = tiff_bytes(counting(8, 10))
        slices[5].data = tiff_bytes(counting(2, 8, 9))
        reader.read(Box((0, 0, 0), (4, 8, 9)))
        for z in (4, 5):
            with pytest.raises(CorruptObjectError, match=rf"slice_{z}\.tif"):
                reader.read(Box.at((z, 0, 0), (1, 1, 1)))

    def test_files_of_several_planes_follow_each_other(self):
        files = [a_file(self.stack[:5], "a.tif"), a_file(self.stack[5:], "b.tif")]
        same(volumes_of(files), {"": self.stack})

    def test_the_odd_slice_is_named(self):
        slices = self.slices()
        slices[7] = a_file(counting(8, 10), "run/slice_7.tif")
        with pytest.raises(CorruptObjectError, match=r"slice_7\.tif: is 8 x 10 uint16, run/slice_0\.tif is 8 x 9 uint16"):
            discover(slices, Hints())

    def test_the_odd_dtype_is_named(self):
        slices = self.slices()
        slices[3] = a_file(counting(8, 9, dtype="uint8"), "run/slice_3.tif")
        with pytest.raises(CorruptObjectError, match=r"slice_3\.tif"):
            discover(slices, Hints())

    def test_a_slice_that_is_no_tiff_is_named_with_what_it_is(self):
        slices = self.slices()
        slices[5] = MemorySource("run/slice_5.tif", b"\x89PNG\r\n\x1a\n" + bytes(100))
        with pytest.raises(UnsupportedContentError, match=r"slice_5\.tif is a PNG image"):
            discover(slices, Hints())

    def test_a_file_of_several_channels_is_no_slice(self):
        files = [a_file(counting(3, 8, 9), f"{k}.tif", ome=True, metadata={"axes": "CYX"}) for k in range(2)]
        with pytest.raises(AmbiguousContentError, match=r"0\.tif: holds channels"):
            discover(files, Hints())

    def test_the_voxel_size_is_known_only_where_all_files_agree(self):
        def slices(last):
            resolutions = [(250.0, 250.0)] * 2 + [(last, 250.0)]
            options = {"imagej": True, "metadata": {"unit": "um"}}
            return [a_file(self.stack[k], f"{k}.tif", resolution=r, **options) for k, r in enumerate(resolutions)]

        (volume,) = discover(slices(250.0), Hints())
        assert volume.voxel_size.nm == (None, pytest.approx(4.0), pytest.approx(4.0))
        (volume,) = discover(slices(125.0), Hints())
        assert volume.voxel_size.nm == (None, None, None)
        assert [c.evidence for c in volume.caveats if c.code == "archive_disagrees"] == [
            "2.tif says another voxel size than 0.tif, so neither is believed"
        ]
