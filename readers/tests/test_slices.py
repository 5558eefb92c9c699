"""PNG and JPEG slices: one picture decoded per plane a box touches, values as stored, and never what a decoder made up."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.slices import HEAD_BYTES
from emporter_readers.testing import ReaderCase, ReaderSuite, volumes_of


def smooth(shape=(5, 40, 33), dtype="u1"):
    z, y, x = np.indices(shape)
    return ((z * 31 + y * 3 + x * 5) % 251).astype(dtype) * (1 if np.dtype(dtype).itemsize == 1 else 257)


def written(image, kind="PNG", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, kind, **options)
    return file.getvalue()


def sources_of(files, suffix="png"):
    return [MemorySource(f"slice_{k:03}.{suffix}", data) for k, data in enumerate(files)]


def read_from(sources, hints=None):
    (array,) = volumes_of(sources, hints or Hints()).values()
    return array


def codes(sources, hints=None):
    (found,) = discover(sources, hints or Hints())
    return {caveat.code for caveat in found.caveats}


@pytest.mark.parametrize("dtype", ["u1", "u2"])
class TestPng(ReaderSuite):
    @pytest.fixture
    def case(self, dtype):
        array = smooth(dtype=dtype)
        sources = sources_of([imagecodecs.png_encode(plane) for plane in array])
        (found,) = discover(sources, Hints())
        assert found.format == "png"
        return ReaderCase(open_volume(sources, found), array, sources, max(source.size for source in sources))


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=["plain", "progressive", "restarts"]
)
class TestJpeg(ReaderSuite):
    @pytest.fixture
    def case(self, options):
        files = [written(plane, "JPEG", **options) for plane in smooth()]
        array = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        sources = sources_of(files, "jpg")
        (found,) = discover(sources, Hints())
        assert found.format == "jpeg"
        return ReaderCase(open_volume(sources, found), array, sources, max(source.size for source in sources))


class TestWhatIsSaid:
    def test_jpeg_is_lossy_and_the_order_of_files_assumed(self):
        assert codes(sources_of([written(plane, "JPEG") for plane in smooth()], "jpg")) == {"lossy", "axes_assumed"}
        assert codes(sources_of([written(smooth()[0])])) == set()
        assert codes(sources_of([written(plane) for plane in smooth()]), Hints(axes="zyx")) == set()

    def test_dots_per_inch_are_no_voxel_size(self):
        (found,) = discover(sources_of([written(smooth()[0], dpi=(300, 300))]), Hints())
        assert found.voxel_size.nm == (None, None, None)

    def test_finding_slices_reads_their_heads_only(self):
        noise = np.random.default_rng(3).integers(0, 255, (3, 300, 300)).astype("u1")
        sources = sources_of([written(plane) for plane in noise])
        discover(sources, Hints())
        assert all(source.bytes_read < 2 * HEAD_BYTES < source.size for source in sources)

    def test_a_box_of_one_plane_decodes_one_picture(self):
        sources = sources_of([written(plane) for plane in smooth()])
        (found,) = discover(sources, Hints())
        before = [source.bytes_read for source in sources]
        open_volume(sources, found).read(Box.at((3, 2, 2), (1, 5, 5)))
        assert [k for k, source in enumerate(sources) if source.bytes_read - before[k] == source.size] == [3]

    def test_a_header_behind_long_notes_is_found(self):
        sources = sources_of([written(smooth()[0], "JPEG", comment=b"x" * 60_000)], "jpg")
        assert read_from(sources).shape == (1, 40, 33)


class TestFewBits:
    def test_one_bit_is_kept_as_0_and_1(self):
        bits = smooth()[0] % 3 == 0
        sources = sources_of([written(Image.fromarray(bits))])
        assert np.array_equal(read_from(sources)[0], bits.astype("u1"))
        assert codes(sources) == {"bool_as_uint8"}

    @pytest.mark.parametrize("bits", [2, 4])
    def test_values_of_few_bits_are_not_stretched(self, bits):
        array = smooth()[0] % 2**bits
        packed = np.zeros((40, -(-33 * bits // 8) * 8 // bits), "u1")
        packed[:, :33] = array
        groups = packed.reshape(40, -1, 8 // bits)
        rows = sum(groups[..., k].astype("u1") << (8 - bits * (k + 1)) for k in range(8 // bits)).astype("u1")
        data = a_png(33, 40, bits, 0, b"".join(b"\0" + row.tobytes() for row in rows))
        assert np.array_equal(read_from(sources_of([data]))[0], array)

    def test_twelve_bit_jpeg_is_16_bit_values(self):
        array = smooth(dtype="u2")[0] // 16
        sources = sources_of([imagecodecs.jpeg_encode(array, level=100, bitspersample=12)], "jpg")
        read = read_from(sources)[0]
        assert read.dtype == np.uint16
        assert int(np.abs(read.astype(int) - array).max()) < 256


class TestColours:
    @pytest.fixture
    def coloured(self):
        return np.stack([smooth()[0], smooth()[1], smooth()[2]], axis=-1)

    def test_equal_colours_are_grey(self):
        grey = smooth()[0]
        for mode in ("RGB", "RGBA", "LA"):
            sources = sources_of([written(Image.fromarray(grey).convert(mode))])
            assert np.array_equal(read_from(sources)[0], grey)
            assert codes(sources) == {"rgb_as_grey"}

    def test_colours_are_refused_until_the_user_says_what_becomes_of_them(self, coloured):
        sources = sources_of([written(coloured)])
        with pytest.raises(AmbiguousContentError, match=r"slice_000\.png: is coloured") as refusal:
            discover(sources, Hints())
        assert "rgb: luma" in refusal.value.hint

    def test_split_gives_a_volume_of_each(self, coloured):
        read = volumes_of(sources_of([written(coloured)] * 2), Hints(rgb="split"))
        assert list(read) == ["s0-c0-t0", "s0-c1-t0", "s0-c2-t0"]
        assert np.array_equal(read["s0-c1-t0"][1], coloured[..., 1])
        green = read_from(sources_of([written(coloured)]), Hints(rgb="split", select=Select(channel=1)))
        assert np.array_equal(green[0], coloured[..., 1])

    def test_luma_is_one_volume(self, coloured):
        sources = sources_of([written(coloured)])
        expected = (coloured.astype(int) @ [299, 587, 114] + 500) // 1000
        assert np.array_equal(read_from(sources, Hints(rgb="luma"))[0], expected)
        assert codes(sources, Hints(rgb="luma")) == {"rgb_luma"}

    def test_a_colour_that_no_sample_showed_is_refused_when_it_is_read(self):
        array = np.full((60, 30, 3), 7, "u1")
        array[0, 0] = 1, 2, 3
        sources = sources_of([written(array)])
        (found,) = discover(sources, Hints())
        reader = open_volume(sources, found)
        reader.read(Box((0, 1, 0), (1, 60, 30)))
        with pytest.raises(UnsupportedContentError, match="colours differ"):
            reader.read(Box.whole(reader.shape))

    def test_a_transparent_value_changes_no_other(self):
        array = smooth()[0]
        assert np.array_equal(read_from(sources_of([written(array, transparency=4)]))[0], array)


class TestRefusals:
    def test_a_palette_is_no_value(self):
        with pytest.raises(UnsupportedContentError, match="palette"):
            discover(sources_of([written(Image.fromarray(smooth()[0]).convert("P"))]), Hints())

    def test_an_animation_is_not_its_first_frame(self):
        frames = [Image.fromarray(plane) for plane in smooth()]
        data = written(frames[0], save_all=True, append_images=frames[1:])
        with pytest.raises(UnsupportedContentError, match="animation"):
            discover(sources_of([data]), Hints())

    def test_cmyk_and_lossless_jpeg_are_refused_by_name(self):
        with pytest.raises(UnsupportedContentError, match="CMYK"):
            discover(sources_of([written(Image.fromarray(smooth()[0]).convert("CMYK"), "JPEG")], "jpg"), Hints())
        with pytest.raises(UnsupportedContentError, match="JPEG process 3"):
            discover(sources_of([imagecodecs.ljpeg_encode(smooth(dtype="u2")[0])], "jpg"), Hints())

    def test_the_odd_one_out_is_named(self):
        for odd in (smooth((1, 41, 33))[0], smooth(dtype="u2")[0], np.zeros((40, 33, 3), "u1")):
            sources = sources_of([written(smooth()[0]), written(smooth()[1]), imagecodecs.png_encode(odd)])
            with pytest.raises(CorruptObjectError, match=r"slice_002\.png: is .*slice_000\.png is 40 x 33"):
                discover(sources, Hints())

    def test_a_slice_that_is_something_else_is_named(self):
        sources = sources_of([written(smooth()[0]), b"<html>404</html>"])
        with pytest.raises(CorruptObjectError, match=r"slice_001\.png: is no PNG file"):
            discover(sources, Hints())

    def test_axes_that_are_no_slices_are_refused(self):
        with pytest.raises(AmbiguousContentError, match="do not fit a series"):
            discover(sources_of([written(smooth()[0])]), Hints(axes="tyx"))


class TestDamage:
    def test_a_cut_off_png_is_refused_or_whole(self):
        array = smooth()[0]
        whole = written(array)
        for length in range(0, len(whole), 3):
            sources = sources_of([whole[:length]])
            try:
                read = read_from(sources)
            except ReaderError:
                continue
            assert np.array_equal(read[0], array)

    @pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["plain", "progressive"])
    def test_a_cut_off_jpeg_is_refused_at_every_length(self, options):
        whole = written(smooth()[0], "JPEG", **options)
        for length in range(len(whole)):
            with pytest.raises(ReaderError, match=r"slice_000\.jpg"):
                read_from(sources_of([whole[:length]], "jpg"))

    def test_a_slice_that_changed_since_the_plan_is_named_when_it_is_read(self):
        sources = sources_of([written(plane) for plane in smooth()])
        (found,) = discover(sources, Hints())
        sources[2].data = written(smooth()[0][:, :20])
        with pytest.raises(CorruptObjectError, match=r"slice_002\.png: decodes to \[40, 20, 1\]"):
            open_volume(sources, found).read(Box.whole(found.shape))

    def test_a_bomb_is_refused_by_its_size(self):
        bomb = a_png(2**20, 2**20, 8, 0, b"\0")
        with pytest.raises(CorruptObjectError, match="can't hold"):
            discover(sources_of([bomb]), Hints())
        jpeg = bytearray(written(smooth()[0], "JPEG"))
        at = jpeg.index(b"\xff\xc0")
        jpeg[at + 5 : at + 9] = b"\xff\xff\xff\xff"
        with pytest.raises(CorruptObjectError, match="can't hold"):
            discover(sources_of([bytes(jpeg)], "jpg"), Hints())

    @pytest.mark.parametrize("kind", ["png", "jpeg"])
    @settings(max_examples=300, deadline=None)
    @given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
    def test_any_damage_is_a_volume_or_a_refusal(self, kind, flips):
        array = smooth()[0]
        data = bytearray(written(array, kind.upper()))
        for place, flip in flips:
            data[int(place * len(data))] ^= flip
        try:
            for volume in volumes_of(sources_of([bytes(data)], kind)).values():
                assert volume.nbytes < 10_000_000
                if kind == "png" and volume.shape == (1, 40, 33):
                    assert np.array_equal(volume[0], array)  # every byte of it is under a checksum
        except ReaderError:
            pass


def a_png(columns, rows, bits, colour, raw):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
