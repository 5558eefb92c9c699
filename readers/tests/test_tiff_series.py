"""Which volumes lie in a TIFF, what they are called, along which axes they lie, and what is refused by name."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import FileSource, MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes, volumes_of


def counting(*shape, dtype="uint16"):
    """Every voxel differs from every other."""
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


def a_file(array, name="a.tif", **options):
    return MemorySource(name, tiff_bytes(array, **options))


def same(volumes, expected):
    assert volumes.keys() == expected.keys()
    for series, array in expected.items():
        np.testing.assert_array_equal(volumes[series], array, strict=True)


def caveats(sources, hints=None):
    return [{caveat.code for caveat in volume.caveats} for volume in discover(sources, hints or Hints())]


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


class TestColours:
    grey = counting(3, 8, 9, dtype="uint8")
    colour = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3), dtype="uint8")

    def rgb(self, array, **options):
        if options.get("planarconfig") == "separate":
            array = np.moveaxis(array, -1, 1)
        return a_file(array, photometric="rgb", metadata=None, **options)

    @pytest.fixture(params=[{}, {"planarconfig": "separate"}, {"compression": "zlib", "predictor": 2}, {"tile": (16, 16)}])
    def options(self, request):
        return request.param

    def test_equal_colours_are_grey(self, options):
        source = self.rgb(np.stack([self.grey] * 3, axis=-1), **options)
        same(volumes_of([source]), {"": self.grey})
        assert caveats([source]) == [{"axes_assumed", "rgb_as_grey"}]

    def test_colours_are_refused_with_the_two_ways_out(self, options):
        with pytest.raises(AmbiguousContentError, match="coloured") as refusal:
            discover([self.rgb(self.colour, **options)], Hints())
        assert "rgb: luma" in refusal.value.hint
        assert "rgb: split" in refusal.value.hint

    def test_split_makes_a_volume_of_each_colour(self, options):
        volumes = volumes_of([self.rgb(self.colour, **options)], Hints(rgb="split"))
        same(volumes, {f"s0-c{c}-t0": np.ascontiguousarray(self.colour[..., c]) for c in range(3)})

    def test_luma_is_that_of_bt_601_rounded(self, options):
        source = self.rgb(self.colour, **options)
        exact = self.colour @ np.array([0.299, 0.587, 0.114])
        (luma,) = volumes_of([source], Hints(rgb="luma")).values()
        assert np.abs(luma - exact).max() <= 0.5 + 1e-9
        assert luma.dtype == np.uint8
        assert caveats([source], Hints(rgb="luma")) == [{"axes_assumed", "rgb_luma"}]

    def test_luma_of_16_bits_does_not_overflow(self):
        white = np.full((1, 8, 9, 3), 65535, "uint16")
        (luma,) = volumes_of([self.rgb(white)], Hints(rgb="luma")).values()
        assert (luma == 65535).all()

    def test_colour_outside_the_sample_is_an_error_when_it_is_read_never_a_wrong_grey(self):
        array = np.stack([counting(40, 64, 64, dtype="uint8")] * 3, axis=-1)
        array[3, 1, 1, 0] ^= 1
        with pytest.raises(UnsupportedContentError, match="colours differ"):
            volumes_of([self.rgb(array)])

    @pytest.mark.parametrize("subsampling", [(1, 1), (2, 2)])
    def test_jpeg_colours_are_those_tifffile_reads(self, subsampling):
        smooth = np.indices((48, 64)).sum(0).astype("uint8")
        array = np.stack([smooth, smooth[::-1], smooth[:, ::-1]], axis=-1)
        source = self.rgb(array, compression="jpeg", compressionargs={"subsampling": subsampling}, rowsperstrip=16)
        theirs = tifffile.imread(io.BytesIO(source.data))
        volumes = volumes_of([source], Hints(rgb="split"))
        same(volumes, {f"s0-c{c}-t0": np.ascontiguousarray(theirs[None, ..., c]) for c in range(3)})

    def test_channels_that_are_no_colours_are_volumes(self):
        array = counting(2, 8, 9)
        source = a_file(np.moveaxis(array, 0, -1), photometric="minisblack", planarconfig="contig", metadata=None)
        same(volumes_of([source]), {f"s0-c{c}-t0": array[c : c + 1] for c in range(2)})


class TestOldHabits:
    def test_bits_stored_last_first_are_turned_round(self):
        array = counting(8, 16, dtype="uint8")
        data = tiff_bytes(array, metadata=None, extratags=[(65266, 3, 1, 2, True)])
        data = data.replace(struct.pack("<HHI", 65266, 3, 1), struct.pack("<HHI", 266, 3, 1))
        (found,) = discover([MemorySource("a.tif", data)], Hints())
        offset = open_volume([MemorySource("a.tif", data)], found).pages[0].offsets[0]
        turned = data[:offset] + imagecodecs.bitorder_decode(data[offset : offset + 128]) + data[offset + 128 :]
        same(volumes_of([MemorySource("a.tif", turned)]), {"": array[None]})

    def test_one_strip_without_a_byte_count_has_the_bytes_its_shape_needs(self):
        array = counting(8, 9)
        data = tiff_bytes(array, metadata=None)
        renamed = data.replace(struct.pack("<HHI", 279, 4, 1), struct.pack("<HHI", 65279, 4, 1))
        renamed = renamed.replace(struct.pack("<HHI", 279, 3, 1), struct.pack("<HHI", 65279, 3, 1))
        assert renamed != data
        same(volumes_of([MemorySource("a.tif", renamed)]), {"": array[None]})

    def test_min_is_white_is_read_as_stored(self):
        array = counting(3, 8, 9, dtype="uint8")
        same(volumes_of([a_file(array, photometric="miniswhite", metadata=None)]), {"": array})


class TestBytesRead:
    stack = counting(3, 400, 500)

    def cost(self, box, **options):
        source = a_file(self.stack, metadata=None, **options)
        (found,) = discover([source], Hints())
        reader = open_volume([source], found)
        source.bytes_read = 0
        np.testing.assert_array_equal(reader.read(box), self.stack[box.slices()])
        return source.bytes_read

    def test_rows_of_an_uncompressed_page_are_read_alone(self):
        assert self.cost(Box((1, 10, 0), (2, 13, 500))) == 3 * 1000
        assert self.cost(Box((0, 10, 100), (3, 13, 101))) == 3 * 3 * 1000
        assert self.cost(Box((1, 10, 0), (2, 13, 500)), rowsperstrip=11) == 3 * 1000

    def test_of_compressed_pages_the_strips_a_box_touches(self):
        whole = self.cost(Box.whole((3, 400, 500)), compression="zlib", rowsperstrip=10)
        assert self.cost(Box((1, 100, 0), (2, 110, 500)), compression="zlib", rowsperstrip=10) < whole / 100

    def test_of_tiled_pages_the_tiles_a_box_touches(self):
        assert self.cost(Box((1, 16, 16), (2, 32, 32)), tile=(16, 16)) == 512


class TestRefusedByName:
    def refusal(self, source):
        with pytest.raises(UnsupportedContentError, match=r"a\.tif") as refusal:
            discover([source], Hints())
        assert refusal.value.hint
        return refusal.value.message

    def test_complex_pixels(self):
        assert "complex" in self.refusal(a_file(counting(8, 9, dtype="complex64"), metadata=None))

    @pytest.mark.parametrize("bits", [4, 10, 12])
    def test_packed_bit_depths(self, bits):
        data = tiff_bytes(counting(8, 16), metadata=None)
        patched = patch_tag(data, 258, bits)
        assert f"{bits} bits" in self.refusal(MemorySource("a.tif", patched))

    def test_indexed_colour(self):
        colormap = np.zeros((3, 256), "uint16")
        source = a_file(counting(8, 9, dtype="uint8"), photometric="palette", colormap=colormap, metadata=None)
        assert "palette" in self.refusal(source)

    def test_cmyk(self):
        assert "CMYK" in self.refusal(a_file(counting(8, 9, 4, dtype="uint8"), photometric="separated", metadata=None))

    def test_a_compression_nobody_knows(self):
        patched = patch_tag(tiff_bytes(counting(8, 9), metadata=None), 259, 65432)
        assert "compression 65432" in self.refusal(MemorySource("a.tif", patched))

    @pytest.mark.parametrize(("tag", "name"), [(33628, "STK"), (34362, "FluoView"), (43314, "NIH"), (34412, "LSM")])
    def test_formats_that_only_look_like_tiff(self, tag, name):
        source = a_file(counting(8, 9), metadata=None, extratags=[(tag, 4, 1, 1, True)])
        assert name in self.refusal(source)


def patch_tag(data, code, value):
    """`data`, a little-endian classic TIFF, with the short value of one tag of its first page changed."""
    entry = code.to_bytes(2, "little") + b"\x03\x00\x01\x00\x00\x00"
    at = data.index(entry) + len(entry)
    return data[:at] + value.to_bytes(2, "little") + data[at + 2 :]


class TestBeyondFourGigabytes:
    def test_the_last_plane_of_a_stack_of_which_only_the_first_has_a_directory(self, tmp_path):
        path = tmp_path / "a.tif"
        plane = np.arange(2048 * 2048, dtype="uint32").astype("uint8").reshape(2048, 2048)
        path.write_bytes(tiff_bytes(plane, description="ImageJ=1.53t\nimages=1200\nslices=1200\n", metadata=None, byteorder=">"))
        offset = path.stat().st_size - plane.nbytes
        with path.open("r+b") as file:
            file.truncate(offset + 1200 * plane.nbytes)  # sparse: 5 GB that take no room
            file.seek(offset + 1199 * plane.nbytes)
            file.write(plane[::-1].tobytes())
        source = FileSource("a.tif", path)
        (found,) = discover([source], Hints())
        assert found.shape == (1200, 2048, 2048)
        voxels = open_volume([source], found).read(Box((1198, 100, 100), (1200, 110, 120)))
        np.testing.assert_array_equal(voxels[0], np.zeros((10, 20), "uint8"))
        np.testing.assert_array_equal(voxels[1], plane[::-1][100:110, 100:120])
