"""Damaged and hostile files: the right voxels or a ReaderError that names the object, quickly and in bounded memory."""

import struct
import tracemalloc

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import CorruptObjectError, ReaderError
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes, volumes_of

ARRAY = (np.arange(5 * 11 * 13) * 7).reshape(5, 11, 13).astype("uint16")
OME = {"ome": True, "metadata": {"axes": "ZYX"}}
FILES = {
    "plain": {"metadata": None},
    "shaped": {},
    "imagej": {"imagej": True, "metadata": {"axes": "ZYX"}},
    "ome": OME,
    "zlib_tiles": {"compression": "zlib", "tile": (16, 16)},
    "lzw_strips": {"compression": "lzw", "predictor": 2, "rowsperstrip": 4},
    "zstd_ome": {**OME, "compression": "zstd"},
    "big_endian_bigtiff": {"bigtiff": True, "byteorder": ">"},
    "packbits": {"compression": "packbits"},
    "jpeg2000": {"compression": "jpeg2000", "tile": (16, 16)},
}
COUNTED = sorted(FILES.keys() - {"plain"})
"""Dresses that say somewhere how many planes they have, so that a lost one shows."""
QUICK = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def of(name):
    return tiff_bytes(ARRAY, **FILES[name])


FILE_BYTES = {name: of(name) for name in FILES}


def read(data):
    """The volumes of a file, or None where it was refused as a user would see it."""
    try:
        return volumes_of([MemorySource("a.tif", bytes(data))])
    except ReaderError as error:
        refusal = error
    assert "a.tif" in refusal.message
    return None


class TestDamage:
    @pytest.mark.parametrize("name", FILES)
    @given(data=st.data())
    @settings(QUICK, max_examples=60)
    def test_a_file_cut_anywhere_is_whole_or_refused(self, name, data):
        whole = FILE_BYTES[name]
        volumes = read(whole[: data.draw(st.integers(0, len(whole) - 1))])
        assert volumes is None or np.array_equal(volumes[""], ARRAY)

    @pytest.mark.parametrize("name", COUNTED)
    @given(data=st.data())
    @settings(QUICK, max_examples=120)
    def test_a_damaged_byte_never_changes_the_shape_unseen(self, name, data):
        damaged = bytearray(FILE_BYTES[name])
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
        volumes = read(damaged)
        if volumes is None:
            return
        (array,) = volumes.values()
        assert array.shape == ARRAY.shape
        assert array.dtype.itemsize == ARRAY.dtype.itemsize

    @pytest.mark.parametrize("name", FILES)
    @given(data=st.data())
    @settings(QUICK, max_examples=60)
    def test_noise_anywhere_is_read_or_refused_and_nothing_else(self, name, data):
        damaged = bytearray(FILE_BYTES[name])
        start = data.draw(st.integers(0, len(damaged) - 1))
        noise = data.draw(st.binary(min_size=1, max_size=64))
        damaged[start : start + len(noise)] = noise
        read(damaged)

    @given(st.binary(max_size=400), st.sampled_from([b"II*\0", b"MM\0*", b"II+\0\x08\0\0\0", b"MM\0+\0\x08\0\0"]))
    @settings(QUICK, max_examples=200)
    def test_noise_behind_a_good_magic_is_refused(self, noise, magic):
        read(magic + noise)

    @pytest.mark.parametrize("name", ["zlib_tiles", "lzw_strips", "zstd_ome", "packbits"])
    def test_a_segment_that_ends_early_is_named_and_never_padded(self, name):
        source = MemorySource("a.tif", of(name))
        (found,) = discover([source], Hints())
        page = open_volume([source], found).pages[2]
        middle = page.offsets[0] + page.counts[0] // 2
        source.data = (
            source.data[:middle] + bytes(page.counts[0] - page.counts[0] // 2) + source.data[page.offsets[0] + page.counts[0] :]
        )
        with pytest.raises(CorruptObjectError, match=r"a\.tif, page 2: segment 0"):
            open_volume([source], found).read(Box.whole(found.shape))

    def test_a_source_that_is_unreachable_is_not_called_corrupt(self):
        class Unreachable(MemorySource):
            def read(self, start, stop):
                if start > 0:
                    raise ConnectionResetError("the archive went away")
                return super().read(start, stop)

        data = tiff_bytes(np.zeros((40, 64, 64), "uint16"), metadata=None)
        with pytest.raises(ConnectionResetError):
            discover([Unreachable("a.tif", data)], Hints())


class TestChangedSincePlanned:
    @pytest.mark.parametrize("array", [ARRAY[:4], ARRAY[:, :10], ARRAY.astype("uint8")])
    def test_a_file_of_another_shape_or_dtype_is_refused(self, array):
        (found,) = discover([MemorySource("a.tif", of("plain"))], Hints())
        changed = MemorySource("a.tif", tiff_bytes(array, metadata=None))
        with pytest.raises(CorruptObjectError, match="was planned as"):
            open_volume([changed], found)


def a_page(tags, *, next_offset=0, start=8):
    """An image file directory of a little-endian classic TIFF that lies at byte `start`; every value is one long."""
    entries = b"".join(struct.pack("<HHII", code, 4, 1, value) for code, value in sorted(tags.items()))
    return struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_offset)


def a_tiff(*pages):
    return b"II*\0" + struct.pack("<I", 8) + b"".join(pages)


def tags(width=16, length=16, offset=200, count=256, rows=16, compression=1, **more):
    known = {256: width, 257: length, 258: 8, 259: compression, 262: 1, 273: offset, 277: 1, 278: rows, 279: count}
    return {**known, **{int(code[1:]): value for code, value in more.items()}}


def refused_cheaply(data, match):
    """Refused at discovery, by name, without memory to speak of."""
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObjectError, match=match):
            discover([MemorySource("a.tif", data)], Hints())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


class TestHostileHeaders:
    def test_the_builder_builds_what_is_read(self):
        pixels = bytes(range(256))
        data = a_tiff(a_page(tags())).ljust(200, b"\0") + pixels
        assert volumes_of([MemorySource("a.tif", data)])[""].tobytes() == pixels

    @pytest.mark.parametrize("size", [2**31, 2**32 - 1, 10**6])
    def test_absurd_dimensions_of_a_small_file(self, size):
        for compression in (1, 8, 5, 50000, 32773):
            data = a_tiff(a_page(tags(width=size, length=size, rows=size, compression=compression))).ljust(1000, b"\0")
            refused_cheaply(data, "page 0")

    def test_tiles_without_number(self):
        many = {256: 2**31, 257: 2**31, 258: 8, 259: 1, 262: 1, 277: 1, 322: 16, 323: 16, 324: 8, 325: 8}
        refused_cheaply(a_tiff(a_page(many)).ljust(1000, b"\0"), "its shape needs")

    def test_no_pixels(self):
        for change in ({"width": 0}, {"length": 0}):
            refused_cheaply(a_tiff(a_page(tags(**change))).ljust(1000, b"\0"), "page 0")

    @pytest.mark.parametrize(("offset", "count"), [(900, 256), (2**32 - 1, 256), (0, 256), (4, 256), (200, 2**32 - 1), (200, 0)])
    def test_segments_outside_the_file(self, offset, count):
        data = a_tiff(a_page(tags(offset=offset, count=count))).ljust(1000, b"\0")
        refused_cheaply(data, "segment 0")

    def test_more_or_fewer_bytes_than_the_shape_needs(self):
        for count in (255, 257, 240, 512):
            refused_cheaply(a_tiff(a_page(tags(count=count))).ljust(1000, b"\0"), f"has {count} bytes")

    def test_a_last_strip_filled_up_to_its_full_height_is_no_damage(self):
        data = a_tiff(a_page(tags(length=11, rows=16))).ljust(200, b"\0") + bytes(256)
        with pytest.raises(CorruptObjectError):
            discover([MemorySource("a.tif", data)], Hints())  # a strip is no higher than its image
        array = np.zeros((11, 13), "uint8")
        data = bytearray(tiff_bytes(array, metadata=None, rowsperstrip=8))
        counts = data.index(struct.pack("<HHI", 279, 3, 2)) + 8
        data[counts : counts + 4] = struct.pack("<HH", 8 * 13, 8 * 13)
        data += bytes(5 * 13)
        assert volumes_of([MemorySource("a.tif", bytes(data))])[""].shape == (1, 11, 13)

    def test_a_chain_of_pages_that_comes_back(self):
        first = a_page(tags(), next_offset=8 + 114)
        second = a_page(tags(), next_offset=8)
        refused_cheaply(a_tiff(first, second).ljust(1000, b"\0"), "leads back")

    def test_a_chain_that_comes_back_late(self):
        size = len(a_page(tags()))
        pages = [a_page(tags(offset=100_000), next_offset=8 + size * (k + 1)) for k in range(300)]
        pages.append(a_page(tags(offset=100_000), next_offset=8 + size * 250))
        refused_cheaply(a_tiff(*pages).ljust(110_000, b"\0"), "leads back")

    def test_a_chain_that_leaves_the_file(self):
        refused_cheaply(a_tiff(a_page(tags(), next_offset=2**31)).ljust(1000, b"\0"), "lie at byte 2147483648")

    def test_a_table_longer_than_the_file(self):
        data = bytearray(a_tiff(a_page(tags())).ljust(1000, b"\0"))
        entry = data.index(struct.pack("<HHI", 273, 4, 1))
        data[entry + 4 : entry + 8] = struct.pack("<I", 2**31)
        refused_cheaply(bytes(data), "tag 273")

    @pytest.mark.parametrize("code", [256, 258, 273, 277, 279])
    def test_an_unreadable_tag_that_voxels_depend_on(self, code):
        data = bytearray(a_tiff(a_page(tags())).ljust(1000, b"\0"))
        entry = data.index(struct.pack("<HHI", code, 4, 1))
        data[entry + 2 : entry + 4] = struct.pack("<H", 77)
        refused_cheaply(bytes(data), "a.tif, page 0")

    def test_an_unreadable_private_tag_is_nobodys_business(self):
        data = bytearray(a_tiff(a_page(tags(_65000=7))).ljust(200, b"\0") + bytes(256))
        entry = data.index(struct.pack("<HHI", 65000, 4, 1))
        data[entry + 2 : entry + 4] = struct.pack("<H", 77)
        assert volumes_of([MemorySource("a.tif", bytes(data))])[""].shape == (1, 16, 16)

    def test_no_pages_at_all(self):
        refused_cheaply(b"II*\0" + bytes(100), "holds no image")


class TestHostileDescriptions:
    @pytest.mark.parametrize(
        "description",
        [
            "ImageJ=1.5\nimages=5\nslices=5\nunit=um\nspacing=" + "9" * 400,
            "ImageJ=1.5\nimages=5\nslices=5\nunit=um\nspacing=" + "9" * 5000,
            "ImageJ=1.5\nimages=" + "9" * 400 + "\nslices=" + "9" * 400,
            "ImageJ=1.5\nimages=" + "9" * 5000,
            '{"shape": ' + "[" * 200_000,
            '{"shape": [' + "9" * 5000 + "]}",
            '{"shape": [5, 11, 13], "axes": {"a": 1}, "name": [1]}',
            '{"shape": [5, 11, 13, 1e400]}',
            '{"shape": [true, 5, 11, 13]}',
            '<OME><Image><Pixels DimensionOrder="XYZCT" SizeX="13" SizeY="11" SizeT="1" SizeC="1" SizeZ="'
            + "9" * 5000
            + '"/></Image></OME>',
            "<a>" * 50_000 + "</OME>",
        ],
    )
    def test_a_description_made_to_break_a_parser_breaks_nothing(self, description):
        volumes = read(tiff_bytes(ARRAY, description=description, metadata=None))
        assert volumes is None or np.array_equal(volumes[""], ARRAY)


class TestBombs:
    @pytest.mark.parametrize("compression", [8, 5, 32773, 50000, 34925])
    def test_a_strip_that_decodes_to_more_than_it_should_stops_there(self, compression):
        codec = {8: "zlib", 5: "lzw", 50000: "zstd", 34925: "lzma"}.get(compression)
        # 0x81 repeats the byte behind it 128 times: PackBits, whose encoder here is slow.
        bomb = getattr(imagecodecs, f"{codec}_encode")(bytes(2_000_000)) if codec else b"\x81\0" * 16_000
        data = a_tiff(a_page(tags(compression=compression, count=len(bomb)))).ljust(200, b"\0") + bytes(bomb)
        source = MemorySource("a.tif", data)
        (found,) = discover([source], Hints())
        reader = open_volume([source], found)
        tracemalloc.start()
        try:
            with pytest.raises(CorruptObjectError, match=r"a\.tif, page 0: segment 0"):
                reader.read(Box.whole(found.shape))
            assert tracemalloc.get_traced_memory()[1] < 500_000
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(("compression", "codec"), [(7, "jpeg8"), (34712, "jpeg2k"), (34933, "png"), (50002, "jpegxl")])
    def test_an_image_of_another_size_than_its_page_is_refused(self, compression, codec):
        for size in ((64, 64), (8, 8), (16, 32), (32, 16)):
            image = getattr(imagecodecs, f"{codec}_encode")(np.zeros(size, "uint8"))
            data = a_tiff(a_page(tags(compression=compression, count=len(image)))).ljust(200, b"\0") + bytes(image)
            with pytest.raises(CorruptObjectError, match="segment 0"):
                volumes_of([MemorySource("a.tif", data)])
