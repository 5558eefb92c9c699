"""MRC: voxels in the order z, y, x whatever the header calls its axes, sizes only where it says them, and by no guess."""

import tracemalloc

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import ReaderCase, ReaderSuite, volumes_of
from emporter_readers.testing_mrc import mrc_file

IMOD = 1146047817


def voxels_of(shape=(5, 40, 33), dtype="u2"):
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def a_source(data, name="a.mrc"):
    return MemorySource(name, data)


def found_in(data, hints=None, name="a.mrc"):
    (found,) = discover([a_source(data, name)], hints or Hints())
    return found


def read_from(data, hints=None):
    (array,) = volumes_of([a_source(data)], hints or Hints()).values()
    return array


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
class TestVolume(ReaderSuite):
    @pytest.fixture
    def case(self, order, dtype):
        array = voxels_of(dtype=dtype)
        source = a_source(mrc_file(array, order=order, extended=bytes(1000)))
        return ReaderCase(open_volume([source], found_in(source.data)), array, [source], 33 * array.dtype.itemsize)


@pytest.mark.parametrize("map_axes", [(1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1)])
class TestAxisMap(ReaderSuite):
    @pytest.fixture
    def stored(self):
        return voxels_of((5, 12, 9))

    @pytest.fixture
    def case(self, stored, map_axes):
        # The header names the axis of columns, rows and sections; numpy has them the other way round.
        names = ["-xyz"[axis] for axis in reversed(map_axes)]
        array = stored.transpose([names.index(axis) for axis in "zyx"])
        source = a_source(mrc_file(stored, map_axes=map_axes))
        return ReaderCase(open_volume([source], found_in(source.data)), array, [source], 9 * 2)

    def test_voxel_sizes_follow_the_axes_not_the_order_they_are_stored_in(self, stored, map_axes):
        found = found_in(mrc_file(stored, map_axes=map_axes, sampling=(10, 10, 10), cell=(20.0, 30.0, 40.0)))
        assert found.voxel_size.nm == (pytest.approx(0.4), pytest.approx(0.3), pytest.approx(0.2))


class TestSeriesOfFiles(ReaderSuite):
    @pytest.fixture
    def case(self):
        array = voxels_of()
        sources = [a_source(mrc_file(plane, extended=bytes(80 * k)), f"{k}.mrc") for k, plane in enumerate(array)]
        (found,) = discover(sources, Hints())
        reader = open_volume(sources, found)
        reader.read(Box.whole(reader.shape))  # headers are read once, when a section is first asked for
        return ReaderCase(reader, array, sources, 33 * 2)


class TestAgainstMrcfile:
    @pytest.mark.parametrize("dtype", ["i1", "i2", "u2", "f2", "f4"])
    def test_what_mrcfile_writes_is_read(self, dtype, tmp_path):
        array = voxels_of(dtype=dtype)
        with mrcfile.new(tmp_path / "a.mrc") as file:
            file.set_data(array)
            file.voxel_size = (20.0, 30.0, 40.0)
            file.set_volume()
        data = (tmp_path / "a.mrc").read_bytes()
        assert np.array_equal(read_from(data), array)
        assert found_in(data).voxel_size.nm == (pytest.approx(4.0), pytest.approx(3.0), pytest.approx(2.0))
        assert not found_in(data).caveats

    def test_mrcfile_reads_our_test_files_alike(self, tmp_path):
        array = voxels_of(dtype="f4")
        for order in "<>":
            path = tmp_path / f"{ord(order)}.mrc"
            path.write_bytes(mrc_file(array, order=order, extended=bytes(160), cell=(1.0, 2.0, 3.0)))
            with mrcfile.open(path) as file:
                assert np.array_equal(file.data, array)


class TestBytes:
    @pytest.mark.parametrize(
        ("fields", "dtype"),
        [
            ({}, "int8"),
            ({"imod": (IMOD, 0)}, "uint8"),
            ({"imod": (IMOD, 1)}, "int8"),
            ({"imod": (IMOD, 2)}, "uint8"),
            ({"imod": (IMOD, 3)}, "int8"),
            ({"imod": (77, 0)}, "int8"),
            ({"statistics": (0.0, 255.0, 90.0)}, "uint8"),
            ({"statistics": (-128.0, 127.0, 0.0)}, "int8"),
            ({"statistics": (0.0, 127.0, 60.0)}, "int8"),
            ({"statistics": (0.0, 45804.0, 3521.0)}, "int8"),
            ({"statistics": (0.0, 255.0, 90.0), "imod": (IMOD, 1)}, "int8"),
        ],
    )
    def test_whether_bytes_are_signed_is_what_the_file_says(self, fields, dtype):
        array = np.arange(256, dtype="u1").reshape(1, 16, 16)
        data = mrc_file(array, **fields)
        assert found_in(data).dtype == dtype
        assert np.array_equal(read_from(data), array.view(dtype))


class TestVoxelSize:
    @pytest.mark.parametrize(
        ("fields", "nm"),
        [
            ({"cell": (330.0, 80.0, 25.0)}, (0.5, 0.2, 1.0)),
            ({"cell": (0.0, 0.0, 0.0)}, (None, None, None)),
            ({"cell": (-330.0, -80.0, 0.0)}, (None, None, None)),
            ({"cell": (330.0, 80.0, 0.0)}, (None, 0.2, 1.0)),
            ({"cell": (330.0, 80.0, 25.0), "sampling": (0, 40, -5)}, (None, 0.2, None)),
            ({"cell": (float("nan"), float("inf"), 25.0)}, (0.5, None, None)),
            ({"cell": (330.0, 80.0, 7.0), "sampling": (33, 40, 1), "space_group": 0}, (None, 0.2, 1.0)),
            ({"cell": (33.0, 40.0, 5.0)}, (0.1, 0.1, 0.1)),
            ({"cell": (33.0, 40.0, 5.0), "imod": (IMOD, 1)}, (None, None, None)),
        ],
    )
    def test_it_is_cell_over_sampling_where_both_are_positive(self, fields, nm):
        found = found_in(mrc_file(voxels_of(), **fields))
        assert found.voxel_size.nm == tuple(None if n is None else pytest.approx(n) for n in nm)


class TestStacks:
    def test_images_are_taken_as_z_with_a_caveat(self):
        array = voxels_of()
        data = mrc_file(array, space_group=0)
        assert np.array_equal(read_from(data), array)
        assert [caveat.code for caveat in found_in(data).caveats] == ["axes_assumed"]
        assert found_in(data, Hints(axes="zyx")).caveats == ()

    def test_frames_of_a_movie_are_a_volume_each_where_the_user_says_so(self):
        array = voxels_of()
        read = volumes_of([a_source(mrc_file(array, space_group=0))], Hints(axes="tyx"))
        assert np.array_equal(read["s0-c0-t4"], array[4:])
        assert len(read) == 5

    def test_a_stack_of_volumes_is_a_series_of_them(self):
        array = voxels_of((6, 4, 5))
        data = mrc_file(array, space_group=401, sampling=(5, 4, 2), cell=(50.0, 40.0, 20.0))
        read = volumes_of([a_source(data)])
        assert list(read) == ["s0-c0-t0", "s1-c0-t0", "s2-c0-t0"]
        assert np.array_equal(read["s1-c0-t0"], array[2:4])
        assert found_in(data, Hints(select=Select(series=2))).voxel_size.nm == (pytest.approx(1.0),) * 3
        with pytest.raises(AmbiguousContentError, match="series 3"):
            found_in(data, Hints(select=Select(series=3)))
        with pytest.raises(CorruptObjectError, match="no whole number of volumes"):
            found_in(mrc_file(array, space_group=401, sampling=(5, 4, 4)))

    def test_files_of_many_sections_are_not_stacked(self):
        sources = [a_source(mrc_file(voxels_of()), f"{k}.mrc") for k in range(2)]
        with pytest.raises(AmbiguousContentError, match=r"0\.mrc: holds 5 sections"):
            discover(sources, Hints())

    def test_the_odd_one_of_a_series_is_named(self):
        shapes = ((4, 6), (4, 6), (4, 7))
        sources = [a_source(mrc_file(voxels_of(shape)), f"{k}.mrc") for k, shape in enumerate(shapes)]
        with pytest.raises(CorruptObjectError, match=r"2\.mrc: is 4 x 7"):
            discover(sources, Hints())


class TestDialects:
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_a_file_of_before_2000_is_known_by_its_suffix_and_a_header_that_makes_sense(self, order):
        array = voxels_of()
        data = mrc_file(array, order=order, map=bytes(4), stamp=bytes(4) or None, map_axes=(0, 0, 0))
        assert np.array_equal(read_from(data), array)
        with pytest.raises(UnsupportedContentError, match="of no kind known here"):
            discover([a_source(data, "a.bin")], Hints())

    def test_a_wrong_machine_stamp_is_overruled_by_a_header_that_makes_sense_only_the_other_way(self):
        array = voxels_of()
        for order, stamp in (("<", b"\x11\x11\0\0"), (">", b"\x44\x41\0\0")):
            assert np.array_equal(read_from(mrc_file(array, order=order, stamp=stamp)), array)

    @pytest.mark.parametrize(
        ("fields", "phrase"),
        [
            ({"mode": 3}, "complex values"), ({"mode": 4}, "complex64"), ({"mode": 16}, "RGB"), ({"mode": 101}, "4-bit"),
            ({"mode": 0, "imod": (IMOD, 16)}, "4-bit"),
        ],
    )  # fmt: skip
    def test_what_is_no_image_volume_is_refused_by_name(self, fields, phrase):
        with pytest.raises(UnsupportedContentError, match=rf"a\.mrc: .*{phrase}"):
            found_in(mrc_file(voxels_of(), **fields))

    def test_a_compressed_map_says_what_it_is(self):
        with pytest.raises(UnsupportedContentError, match=r"a\.map\.gz is gzip-compressed"):
            found_in(b"\x1f\x8b" + bytes(2000), name="a.map.gz")


class TestDamage:
    def test_a_cut_off_file_is_refused_at_every_length(self):
        whole = mrc_file(voxels_of((3, 4, 5)), extended=bytes(80))
        for length in [0, 100, 207, 500, 1023, 1024, 1103, *range(1104, len(whole))]:
            with pytest.raises(ReaderError, match=r"a\.mrc"):
                found_in(whole[:length])

    def test_padding_is_no_harm_and_sections_nobody_counted_are(self):
        array = voxels_of((3, 4, 5))
        assert np.array_equal(read_from(mrc_file(array, trailing=bytes(39))), array)
        with pytest.raises(CorruptObjectError, match="room for more of them"):
            found_in(mrc_file(array, trailing=bytes(40)))

    @pytest.mark.parametrize(
        "fields",
        [
            {"size": (2**31 - 1,) * 3}, {"size": (0, 4, 5)}, {"size": (-5, 40, 33)}, {"mode": 5}, {"map_axes": (1, 1, 3)},
            {"map_axes": (1, 2, 4)},
        ],
    )  # fmt: skip
    def test_absurd_headers_are_damaged(self, fields):
        with pytest.raises(CorruptObjectError, match=r"a\.mrc"):
            found_in(mrc_file(voxels_of(), **fields))

    @settings(max_examples=400, deadline=None)
    @given(flips=st.lists(st.tuples(st.integers(0, 1200), st.integers(1, 255)), min_size=1, max_size=6))
    def test_any_damage_is_a_volume_or_a_refusal_in_bounded_memory(self, flips):
        data = bytearray(mrc_file(voxels_of((3, 8, 9)), cell=(1.0, 2.0, 3.0)))
        for place, flip in flips:
            data[place % len(data)] ^= flip
        tracemalloc.start()
        try:
            for volume in volumes_of([a_source(bytes(data))]).values():
                assert volume.nbytes <= len(data)
        except ReaderError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 8 * 2**20


def test_headers_only_are_read_to_find_a_volume():
    source = a_source(mrc_file(np.zeros((10, 200, 200), "f4"), extended=bytes(10_000)))
    discover([source], Hints())
    assert source.bytes_read <= 2 * 1024 + 100
