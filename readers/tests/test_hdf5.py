"""HDF5: the dataset that is meant, read by byte ranges; nothing of a file can make us open another."""

import io
import itertools
import subprocess
import sys

import h5py
import imagecodecs
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.hdf5 import isolated
from emporter_readers.protocol import Hints
from emporter_readers.testing import ReaderCase, ReaderSuite, volumes_of


def voxels_of(shape=(9, 40, 33), dtype="u2"):
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def a_file(write, **options):
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as h5:
        write(h5)
    return MemorySource("a.h5", file.getvalue())


def holding(array, **options):
    return a_file(lambda h5: h5.create_dataset("volume", data=array, **options))


def named(path, **hints):
    return Hints(parameters={"dataset": path}, **hints)


def found_in(source, hints=None):
    (found,) = discover([source], hints or Hints())
    return found


def read_from(source, hints=None):
    (array,) = volumes_of([source], hints or Hints()).values()
    return array


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


class TestWhichDataset:
    def test_the_only_one_that_could_be_a_volume_is_taken(self):
        array = voxels_of()

        def write(h5):
            h5["deep/inside/volume"] = array
            h5["times"] = np.arange(9.0)
            h5["name"] = "a text"
            h5["table"] = np.zeros((3, 3), [("a", "f4"), ("b", "i4")])
            h5["deep/again"] = h5["deep"]
            h5["short cut"] = h5py.SoftLink("/deep/inside/volume")

        found = found_in(a_file(write))
        assert found.parameters == {"dataset": "/deep/inside/volume"}
        assert np.array_equal(read_from(a_file(write)), array)

    def test_of_several_the_user_says_which(self):
        arrays = {"raw": voxels_of(), "labels/neurons": voxels_of(dtype="u8")}
        source = a_file(lambda h5: [h5.create_dataset(path, data=array) for path, array in arrays.items()])
        with pytest.raises(AmbiguousContentError, match=r"a\.h5: holds 2 datasets: /labels/neurons, /raw") as refusal:
            discover([source], Hints())
        assert "dataset" in refusal.value.hint
        for path, array in arrays.items():
            assert np.array_equal(read_from(source, named(path)), array)
            assert np.array_equal(read_from(source, named(f"/{path}/")), array)

    def test_soft_links_inside_the_file_are_followed(self):
        array = voxels_of()

        def write(h5):
            h5["a/volume"] = array
            h5["b/near"] = h5py.SoftLink("../nowhere")
            h5["b/far"] = h5py.SoftLink("/a")
            h5["circle"] = h5py.SoftLink("/circle")

        source = a_file(write)
        assert np.array_equal(read_from(source, named("/b/far/volume")), array)
        for path in ("/b/near", "/circle", "/a", "/nothing", "/a/volume/inside", ""):
            with pytest.raises(UnsupportedContentError, match=r"a\.h5, dataset"):
                discover([source], named(path))

    def test_a_dataset_that_is_no_text_is_refused(self):
        with pytest.raises(AmbiguousContentError, match="no path"):
            discover([holding(voxels_of())], named(5))

    def test_none_at_all_is_refused(self):
        with pytest.raises(UnsupportedContentError, match="holds no dataset"):
            discover([a_file(lambda h5: h5.create_group("empty"))], Hints())

    def test_several_files_are_not_one_volume(self):
        with pytest.raises(AmbiguousContentError, match="one of 2 HDF5 files"):
            discover([holding(voxels_of())] * 2, Hints())


class TestNothingLeavesTheFile:
    @pytest.fixture
    def secret(self, tmp_path):
        path = tmp_path / "secret.h5"
        with h5py.File(path, "w") as h5:
            h5["secret"] = voxels_of()
        (tmp_path / "secret.raw").write_bytes(bytes(9 * 40 * 33 * 2))
        return path

    def test_external_links_are_refused(self, secret):
        source = a_file(lambda h5: h5.__setitem__("link", h5py.ExternalLink(str(secret), "/secret")))
        for path in ("/link", "/link/secret"):
            with pytest.raises(UnsupportedContentError, match="out of the file"):
                discover([source], named(path))
        with pytest.raises(UnsupportedContentError, match="holds no dataset"):
            discover([source], Hints())

    def test_virtual_datasets_are_refused(self, secret):
        def write(h5):
            layout = h5py.VirtualLayout((9, 40, 33), "u2")
            layout[:] = h5py.VirtualSource(str(secret), "secret", shape=(9, 40, 33))
            h5.create_virtual_dataset("volume", layout)

        with pytest.raises(UnsupportedContentError, match="virtual"):
            discover([a_file(write)], Hints())

    def test_external_storage_is_refused(self, secret):
        raw = str(secret.with_suffix(".raw"))
        source = a_file(lambda h5: h5.create_dataset("volume", (9, 40, 33), "u2", external=[(raw, 0, h5py.h5f.UNLIMITED)]))
        with pytest.raises(UnsupportedContentError, match="lie in other files"):
            discover([source], Hints())


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

    def test_booleans_are_bytes_with_a_caveat(self):
        array = voxels_of() % 2 == 0
        assert np.array_equal(read_from(holding(array)), array.astype("u1"))
        assert "bool_as_uint8" in {caveat.code for caveat in found_in(holding(array)).caveats}

    def test_finding_a_volume_reads_no_voxel(self):
        source = holding(np.zeros((64, 256, 256), "u1"))
        found_in(source)
        assert source.bytes_read < 256 * 1024 < source.size


class TestRefusals:
    @pytest.mark.parametrize(
        ("write", "phrase"),
        [
            (lambda h5: h5.create_dataset("v", data=np.zeros((3, 4), "c8")), "complex"),
            (lambda h5: h5.create_dataset("v", data=np.zeros((3, 4), [("a", "f4")])), "values of type"),
            (lambda h5: h5.create_dataset("v", (3, 4), h5py.string_dtype()), "values of type"),
            (lambda h5: h5.create_dataset("v", (3, 4), h5py.vlen_dtype("i4")), "values of type"),
            (lambda h5: h5.create_dataset("v", (3, 4), h5py.ref_dtype), "values of type"),
            (lambda h5: h5.create_dataset("v", data=np.zeros(9)), "no image"),
            (lambda h5: h5.create_dataset("v", (0, 4), "u1"), "no image"),
            (lambda h5: h5.create_dataset("v", data=np.zeros((8, 8), "i2"), chunks=(4, 4), scaleoffset=0), "scaleoffset"),
            (lambda h5: h5.create_dataset("v", (3, 4), "u1"), "never written"),
            (lambda h5: h5.create_dataset("v", (2**30, 2**30, 2**30), "u1", chunks=(1, 1, 1)), "chunks, more than"),
        ],
    )
    def test_what_is_no_image_volume_is_refused_by_name(self, write, phrase):
        with pytest.raises(UnsupportedContentError, match=rf"a\.h5, dataset /v: .*{phrase}") as refusal:
            discover([a_file(write)], named("/v"))
        assert refusal.value.hint

    def test_numbers_of_odd_width_are_refused(self):
        def write(h5):
            kind = h5py.h5t.STD_U16LE.copy()
            kind.set_precision(12)
            space = h5py.h5s.create_simple((3, 4))
            h5py.h5d.create(h5.id, b"v", kind, space)

        with pytest.raises(UnsupportedContentError, match="unusual width"):
            discover([a_file(write)], named("/v"))


class TestDamage:
    def test_a_damaged_chunk_is_named(self):
        array = voxels_of((8, 16, 16))
        source = holding(array, chunks=(4, 8, 8), fletcher32=True)
        with h5py.File(io.BytesIO(source.data)) as h5:
            chunk = h5["volume"].id.get_chunk_info_by_coord((4, 8, 0))
        data = bytearray(source.data)
        data[chunk.byte_offset + 5] ^= 1
        source.data = bytes(data)
        reader = open_volume([source], found_in(source))
        assert np.array_equal(reader.read(Box((0, 0, 0), (4, 16, 16))), array[:4])
        with pytest.raises(
            CorruptObjectError, match=r"a\.h5, dataset /volume: chunk \[1, 1, 0\] can't be decoded \(its checksum"
        ):
            reader.read(Box.whole(reader.shape))

    @pytest.mark.parametrize("options", [{}, {"chunks": (4, 8, 8), "compression": "gzip"}], ids=["contiguous", "gzip"])
    def test_a_cut_off_file_is_refused_at_every_length(self, options):
        whole = holding(voxels_of((8, 16, 16)), **options).data
        for length in [7, 50, 500, len(whole) // 4, len(whole) // 2, len(whole) - 1]:
            with pytest.raises(ReaderError, match=r"a\.h5"):
                volumes_of([MemorySource("a.h5", whole[:length])])

    def test_what_the_source_raises_is_raised(self):
        def write(h5):
            h5.attrs["notes"] = np.zeros(30_000, "u1")
            h5["first"] = np.zeros((300, 300), "u1")
            h5["second"] = voxels_of()

        class Away(MemorySource):
            def read(self, start, stop):
                if start > 0:
                    raise ConnectionError("the archive is away")
                return super().read(start, stop)

        with pytest.raises(ConnectionError, match="away"):
            discover([Away("a.h5", a_file(write).data)], named("/second"))


class TestIsolation:
    def test_a_child_that_dies_is_a_damaged_file_and_the_next_one_is_read(self):
        source = holding(voxels_of())

        class Deadly(MemorySource):
            def read(self, start, stop):
                if stop - start > 8:  # the first look is at the magic number, by this process
                    for child in psutil.Process().children():
                        child.kill()
                return super().read(start, stop)

        with pytest.raises(CorruptObjectError, match=r"a\.h5: its structure is damaged \(reading it: it has ended"):
            discover([Deadly("a.h5", source.data)], Hints())
        assert np.array_equal(read_from(source), voxels_of())

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            ("import time; time.sleep(60)", "it takes too long"),
            ("raise SystemExit(1)", "it has ended"),
            ("import os, sys; sys.stdin.read(1); os.write(1, b'no frame of ours' * 99)", "it makes no sense"),
            ("import os, struct; [os.write(1, struct.pack('>BQQQ', 2, 16, 0, 2**40)) for _ in 'ab']", "it makes no sense"),
            (
                "import os, struct, time; [os.write(1, struct.pack('>BQQQ', 2, 16, 0, 20000)) for _ in range(99)]; time.sleep(60)",
                "it takes too long",  # it asks and never listens
            ),
            (
                "import os, struct, sys; [os.write(1, struct.pack('>BQQQ', 2, 16, 0, 20000)) for _ in range(99)]; sys.stdin.read()",
                "it runs in circles",
            ),
            ("import os, struct; os.write(1, struct.pack('>BQ', 4, 2) + b'{}' + struct.pack('>BQ', 5, 0))", "it makes no sense"),
        ],
    )
    def test_whatever_a_child_does_is_a_damaged_file(self, script, reason, monkeypatch):
        def started():
            return subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)

        isolated._end_all()
        monkeypatch.setattr(isolated, "_started", started)
        monkeypatch.setattr(isolated, "PATIENCE_SECONDS", 2.0)
        monkeypatch.setattr(isolated, "MAX_READ_TOTAL", 10**6)
        with pytest.raises(CorruptObjectError, match=reason):
            discover([holding(voxels_of())], Hints())

    def test_children_are_kept_for_the_next_file(self):
        source = holding(voxels_of())
        discover([source], Hints())
        before = {child.pid for child in psutil.Process().children()}
        discover([source], Hints())
        assert {child.pid for child in psutil.Process().children()} == before

    def test_the_library_is_never_loaded_by_the_process_that_reads_voxels(self):
        script = "import sys; from emporter_readers.discover import discover; print('h5py' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"

    @settings(max_examples=30, deadline=None)
    @given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
    def test_any_damage_is_a_volume_or_a_refusal(self, flips):
        data = bytearray(holding(voxels_of((8, 16, 16)), chunks=(4, 8, 8), compression="gzip").data)
        for place, flip in flips:
            data[int(place * len(data))] ^= flip
        try:
            for volume in volumes_of([MemorySource("a.h5", bytes(data))]).values():
                assert volume.nbytes < 10**8
        except ReaderError as error:
            assert "a.h5" in str(error)  # noqa: PT017  # a volume is as good
