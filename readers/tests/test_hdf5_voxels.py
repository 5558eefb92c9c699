"""HDF5: voxels, axes and what a file says of them, however they are stored; read by byte ranges."""

import itertools

import h5py
import imagecodecs
import numpy as np
import pytest

from emporter_contracts.commands import Select
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import AmbiguousContentError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import ReaderCase, ReaderSuite, volumes_of
from emporter_readers.testing_hdf5 import a_file, found_in, holding, read_from, voxels_of

STORED = {
    "contiguous": {},
    "chunked": {"chunks": (4, 16, 16)},
    "gzip": {"chunks": (4, 16, 16), "compression": "gzip"},
    "gzip_shuffled": {"chunks": (4, 16, 16), "compression": "gzip", "shuffle": True},
    "lzf_shuffled_checked": {"chunks": (4, 16, 16), "compression": "lzf", "shuffle": True, "fletcher32": True},
    "checked": {"chunks": (3, 13, 11), "fletcher32": True},
    "rows": {"chunks": (1, 1, 33)},
    "one_chunk": {"chunks": (9, 40, 33), "compression": "gzip"},
    "resizable": {"chunks": (4, 16, 16), "maxshape": (None, None, 33)},
}


DTYPES = ("u1", ">u2", "<f4", ">f8", "<u8", "<f2")


@pytest.mark.parametrize(
    ("stored", "dtype"),
    [(stored, "<i2") for stored in STORED] + [(s, d) for s in ("contiguous", "gzip_shuffled") for d in DTYPES],
)
class TestDataset(ReaderSuite):
    @pytest.fixture
    def case(self, stored, dtype):
        array = voxels_of(dtype=dtype)
        source = holding(array, **STORED[stored])
        found = found_in(source)
        assert found.format == "hdf5"
        assert found.parameters == {"dataset": "/volume"}
        cell = STORED[stored].get("chunks", (1, 1, 33))
        return ReaderCase(open_volume([source], found), array, [source], int(np.prod(cell)) * array.dtype.itemsize + 100)


@pytest.mark.parametrize("axes", ["".join(axes) for axes in itertools.permutations("zyx")])
@pytest.mark.parametrize("chunks", [None, (3, 4, 5)])
class TestAxesOrder(ReaderSuite):
    @pytest.fixture
    def case(self, axes, chunks):
        stored = voxels_of((8, 9, 11))
        array = stored.transpose([axes.index(axis) for axis in "zyx"])
        source = holding(stored, chunks=chunks)
        found = found_in(source, Hints(axes=axes))
        assert found.caveats == ()
        row = stored.nbytes if chunks is None else 3 * 4 * 5 * 2
        return ReaderCase(open_volume([source], found), array, [source], row)


class TestCompact(ReaderSuite):
    @pytest.fixture
    def case(self):
        array = voxels_of((3, 4, 5))

        def write(h5):
            create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            create.set_layout(h5py.h5d.COMPACT)
            space = h5py.h5s.create_simple(array.shape)
            h5py.h5d.create(h5.id, b"volume", h5py.h5t.py_create(array.dtype), space, create).write(space, space, array)

        source = a_file(write)
        return ReaderCase(open_volume([source], found_in(source)), array)


@pytest.mark.parametrize("libver", ["earliest", "v108", "latest"])
def test_every_kind_of_chunk_index_is_read(libver):
    array = voxels_of((9, 40, 33))
    for options in ({"chunks": (9, 40, 33)}, {"chunks": (2, 8, 8)}, {"chunks": (2, 8, 8), "maxshape": (None, 40, 33)},
                    {"chunks": (2, 8, 8), "maxshape": (None, None, None)}):  # fmt: skip
        source = a_file(lambda h5, options=options: h5.create_dataset("v", data=array, **options), libver=libver)
        assert np.array_equal(read_from(source), array)


@pytest.mark.parametrize("options", [{}, {"chunks": (4, 8, 8)}], ids=["contiguous", "chunked"])
def test_a_file_behind_somebody_elses_bytes_is_read(options):
    array = voxels_of()
    source = a_file(lambda h5: h5.create_dataset("v", data=array, **options), userblock_size=1024)
    assert np.array_equal(read_from(source), array)


@pytest.mark.parametrize(("code", "encode"), [(32015, imagecodecs.zstd_encode), (32001, imagecodecs.blosc_encode)])
def test_registered_codecs_are_read_without_their_plugin(code, encode):
    array = voxels_of((4, 16, 16))

    def write(h5):
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk(array.shape)
        create.set_filter(code, h5py.h5z.FLAG_OPTIONAL, ())
        made = h5py.h5d.create(h5.id, b"volume", h5py.h5t.py_create(array.dtype), h5py.h5s.create_simple(array.shape), create)
        made.write_direct_chunk((0, 0, 0), encode(array.tobytes()), 0)

    assert np.array_equal(read_from(a_file(write)), array)


class TestAxes:
    def test_three_axes_are_taken_as_zyx_and_two_as_yx_with_a_caveat(self):
        for shape in ((9, 40, 33), (40, 33)):
            found = found_in(holding(voxels_of(shape)))
            assert [caveat.code for caveat in found.caveats] == ["axes_assumed"]
            assert found.shape == (1,) * (3 - len(shape)) + shape

    def test_axes_the_file_names_are_believed(self):
        array = voxels_of((5, 4, 3))

        def labelled(h5):
            volume = h5.create_dataset("volume", data=array)
            for dimension, label in zip(volume.dims, "xyz", strict=True):
                dimension.label = label

        def tagged(h5):
            h5["volume"] = array
            h5["volume"].attrs["axistags"] = '{"axes": [{"key": "x"}, {"key": "y"}, {"key": "z"}]}'

        for write in (labelled, tagged):
            assert found_in(a_file(write)).caveats == ()
            assert np.array_equal(read_from(a_file(write)), array.transpose(2, 1, 0))

    @pytest.mark.parametrize("chunks", [None, (1, 1, 2, 20, 20)])
    def test_channels_and_times_are_volumes_of_their_own(self, chunks):
        array = voxels_of((2, 3, 5, 20, 21))
        read = volumes_of([holding(array, chunks=chunks)], Hints(axes="tczyx"))
        assert len(read) == 6
        for t, c in itertools.product(range(2), range(3)):
            assert np.array_equal(read[f"s0-c{c}-t{t}"], array[t, c])
        one = read_from(holding(array, chunks=chunks), Hints(axes="tczyx", select=Select(channel=2, time=1)))
        assert np.array_equal(one, array[1, 2])

    def test_interleaved_channels_are_read_where_they_are_chunked(self):
        array = voxels_of((5, 20, 21, 3))
        read = volumes_of([holding(array, chunks=(2, 8, 8, 3))], Hints(axes="zyxc"))
        assert np.array_equal(read["s0-c1-t0"], array[..., 1])
        with pytest.raises(UnsupportedContentError, match="interleaved"):
            discover([holding(array)], Hints(axes="zyxc"))

    def test_axes_of_length_one_are_left_out(self):
        array = voxels_of((1, 5, 1, 20, 21))
        assert np.array_equal(read_from(holding(array)), array[0, :, 0])
        assert np.array_equal(read_from(holding(array), Hints(axes="xzy")), array[0, :, 0].transpose(1, 2, 0))

    def test_four_axes_without_names_need_a_word_of_the_user(self):
        with pytest.raises(AmbiguousContentError, match="does not name its 4 axes"):
            discover([holding(voxels_of((2, 3, 4, 5)))], Hints())
        for axes in ("zyx", "zz", "tzc", "zyxct"):
            with pytest.raises(AmbiguousContentError):
                discover([holding(voxels_of((2, 3, 4, 5)))], Hints(axes=axes))


class TestWhatIsSaid:
    @pytest.mark.parametrize(
        ("size", "nm"),
        [
            ([0.04, 0.008, 0.004], (40.0, 8.0, 4.0)), ([0.008, 0.004], (None, 8.0, 4.0)), ([0.0, -1.0, 0.004], (None, None, 4.0)),
            ([float("nan")] * 3, (None,) * 3), (0.004, (None,) * 3), ("4 nm", (None,) * 3), ([1.0] * 5, (None,) * 3),
        ],
    )  # fmt: skip
    def test_element_size_um_is_the_voxel_size(self, size, nm):
        def write(h5):
            h5["volume"] = voxels_of()
            h5["volume"].attrs["element_size_um"] = size

        assert found_in(a_file(write)).voxel_size.nm == tuple(None if n is None else pytest.approx(n) for n in nm)

    def test_chunks_that_were_never_written_read_as_the_fill_value_with_a_caveat(self):
        def write(h5):
            volume = h5.create_dataset("volume", (8, 16, 16), "u2", chunks=(4, 8, 8), fillvalue=7)
            volume[:4, :8, :8] = 1

        source = a_file(write)
        expected = np.full((8, 16, 16), 7, "u2")
        expected[:4, :8, :8] = 1
        assert np.array_equal(read_from(source), expected)
        evidence = {caveat.code: caveat.evidence for caveat in found_in(source).caveats}
        assert evidence["chunks_missing"].startswith("7 of 8 chunks")
        assert found_in(source).fill_value == 7

    def test_booleans_are_bytes_with_a_caveat(self):
        array = voxels_of() % 2 == 0
        assert np.array_equal(read_from(holding(array)), array.astype("u1"))
        assert "bool_as_uint8" in {caveat.code for caveat in found_in(holding(array)).caveats}

    def test_finding_a_volume_reads_no_voxel(self):
        source = holding(np.zeros((64, 256, 256), "u1"))
        found_in(source)
        assert source.bytes_read < 256 * 1024 < source.size
