"""What a page of a TIFF holds: colours, old habits, which bytes a box costs, and what is refused by name."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile

from emporter_contracts.geometry import Box
from emporter_readers.array import FileSource, MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import AmbiguousContentError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes, volumes_of
from emporter_readers.testing_tiff import a_file, caveats, counting, same


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
