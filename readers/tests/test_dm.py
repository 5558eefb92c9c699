"""DM3 and DM4: the true image, its voxels and its scale, by reading headers only; what is no image volume is refused by name."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emporter_contracts.commands import Select
from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.dm.tags import WINDOW_BYTES, read_tags
from emporter_readers.errors import AmbiguousContentError, CorruptObjectError, ReaderError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import ReaderCase, ReaderSuite, volumes_of
from emporter_readers.testing_dm import dm_bytes, dm_file, dm_image, dm_thumbnail, dm_tree

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")


def voxels_of(shape=(5, 40, 33), dtype="u2"):
    return np.random.default_rng(7).integers(0, 120, shape).astype(dtype)


def a_source(data, name="a.dm3"):
    return MemorySource(name, data)


def slices(array, **options):
    """A series of files of one slice each, whose data begin at different bytes."""
    return [a_source(dm_file(plane, junk=1000 * k, **options), f"slice_{k:04}.dm3") for k, plane in enumerate(array)]


def the_volume(sources, hints=None):
    (found,) = discover(sources, hints or Hints())
    return found


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", DTYPES)
class TestStackInOneFile(ReaderSuite):
    @pytest.fixture
    def case(self, version, order, dtype):
        array = voxels_of(dtype=dtype)
        source = a_source(dm_file(array, version=version, order=order))
        reader = open_volume([source], the_volume([source]))
        return ReaderCase(reader, array, [source], array.shape[2] * array.dtype.itemsize)


class TestSeriesOfFiles(ReaderSuite):
    @pytest.fixture
    def case(self):
        array = voxels_of()
        sources = slices(array)
        reader = open_volume(sources, the_volume(sources))
        reader.read(Box.whole(reader.shape))  # headers are read once, when a slice is first asked for
        return ReaderCase(reader, array, sources, array.shape[2] * 2)


class TestWhichImage:
    def test_the_thumbnail_is_never_the_image_wherever_it_lies(self):
        array = voxels_of((4, 6))
        for images, thumbnail in (([dm_thumbnail(), dm_image(array)], 0), ([dm_image(array), dm_thumbnail()], 1)):
            (read,) = volumes_of([a_source(dm_bytes(dm_tree(*images, thumbnail=thumbnail)))]).values()
            assert np.array_equal(read[0], array)

    def test_a_grey_thumbnail_is_known_by_the_list_of_thumbnails(self):
        array = voxels_of((4, 6))
        tree = dm_tree(dm_image(voxels_of((3, 3))), dm_image(array), thumbnail=0)
        (read,) = volumes_of([a_source(dm_bytes(tree))]).values()
        assert np.array_equal(read[0], array)

    def test_a_coloured_first_image_of_a_file_without_that_list_is_its_thumbnail(self):
        array = voxels_of((4, 6))
        (read,) = volumes_of([a_source(dm_bytes(dm_tree(dm_thumbnail(), dm_image(array))))]).values()
        assert np.array_equal(read[0], array)

    def test_several_images_are_a_series_each(self):
        arrays = [voxels_of((4, 6)), voxels_of((2, 3, 5), "f4")]
        source = a_source(dm_bytes(dm_tree(dm_thumbnail(), *map(dm_image, arrays), thumbnail=0)))
        read = volumes_of([source])
        assert list(read) == ["s0-c0-t0", "s1-c0-t0"]
        assert np.array_equal(read["s1-c0-t0"], arrays[1])
        (one,) = volumes_of([source], Hints(select=Select(series=1))).values()
        assert np.array_equal(one, arrays[1])
        with pytest.raises(AmbiguousContentError, match="series 2"):
            discover([source], Hints(select=Select(series=2)))

    def test_a_spectrum_beside_an_image_does_not_hide_it(self):
        array = voxels_of((4, 6))
        source = a_source(dm_bytes(dm_tree(dm_image(array), dm_image(voxels_of((9,)), unit="eV"))))
        with pytest.raises(UnsupportedContentError) as refusal:
            discover([source], Hints())
        assert "select.series" in refusal.value.hint
        (read,) = volumes_of([source], Hints(select=Select(series=0))).values()
        assert np.array_equal(read[0], array)

    def test_no_image_at_all_is_a_damaged_file(self):
        with pytest.raises(CorruptObjectError, match=r"a\.dm3: holds no image"):
            discover([a_source(dm_bytes(dm_tree()))], Hints())


class TestVoxelSize:
    @pytest.mark.parametrize(
        ("scale", "unit", "nm"),
        [
            (7.5, "nm", 7.5), (0.0075, "µm", 7.5), (0.0075, "\u03bcm", 7.5), (0.0075, "um", 7.5), (7.5e-6, "mm", 7.5),
            (75, "Å", 7.5), (75, "\u212b", 7.5), (75, "A", 7.5), (7500, "pm", 7.5), (7.5, " nm ", 7.5),
            (1.0, "", None), (0.0, "nm", None), (-2.0, "nm", None), (2.0, "1/nm", None), (2.0, "µ", None), (2.0, "px", None),
            (float("nan"), "nm", None), (float("inf"), "nm", None), (5e-324, "pm", None), (1e308, "mm", None),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("order", ["<", ">"])
    def test_the_unit_is_read_or_the_size_is_unknown(self, scale, unit, nm, order):
        found = the_volume([a_source(dm_file(voxels_of((4, 6)), scale=scale, unit=unit, order=order))])
        expected = None if nm is None else pytest.approx(nm)
        assert found.voxel_size.nm == (None, expected, expected)
        assert found.voxel_size.said_by[1] == ("file" if nm else None)

    def test_each_axis_has_its_own(self):
        scales = [(2.0, "pm"), (3.0, "nm"), (4.0, "um")]
        found = the_volume([a_source(dm_file(voxels_of(), scales=scales))])
        assert found.voxel_size.nm == (4000.0, 3.0, 0.002)
        assert not found.caveats

    def test_z_of_a_slice_is_what_the_microtome_recorded_not_how_it_approached(self):
        meta = {"Dimension info": [{}, {}, {"Scale": 50.0, "Units": "nm"}]}
        sbfsem = {"Approach": {"Slice thickness": 200.0}, "Record": {"Slice thickness": 50.0}}
        options = {"scale": 0.008, "unit": "µm"}
        for tags in ({"Meta Data": meta, "SBFSEM": sbfsem}, {"Meta Data": meta}, {"SBFSEM": sbfsem}):
            found = the_volume(slices(voxels_of((3, 4, 6)), **options, **tags))
            assert found.voxel_size.nm == (50.0, 8.0, 8.0)
            assert found.voxel_size.said_by == ("file", "file", "file")
        approach = {"SBFSEM": {"Approach": {"Slice thickness": 200.0}}}
        found = the_volume(slices(voxels_of((3, 4, 6)), **approach))
        assert found.voxel_size.nm[0] is None
        assert [caveat.code for caveat in found.caveats] == ["axes_assumed"]

    def test_tags_that_disagree_are_reported(self):
        tags = {
            "Meta Data": {"Dimension info": [{}, {}, {"Scale": 50.0, "Units": "nm"}]},
            "SBFSEM": {"Record": {"Slice thickness": 70.0}},
        }
        found = the_volume(slices(voxels_of((3, 4, 6)), **tags))
        assert found.voxel_size.nm[0] == 50.0
        assert [caveat.code for caveat in found.caveats] == ["archive_disagrees"]

    def test_slices_of_different_thickness_have_no_common_one(self):
        sources = [
            a_source(dm_file(plane, SBFSEM={"Record": {"Slice thickness": 50.0 + k}}), f"{k}.dm3")
            for k, plane in enumerate(voxels_of((3, 4, 6)))
        ]
        found = the_volume(sources)
        assert found.voxel_size.nm[0] is None
        assert "50 nm, 51 nm, 52 nm" in found.caveats[0].evidence


class TestAxes:
    def test_a_third_dimension_without_a_length_is_taken_as_z_with_a_caveat(self):
        found = the_volume([a_source(dm_file(voxels_of()))])
        assert [caveat.code for caveat in found.caveats] == ["axes_assumed"]

    def test_the_user_may_name_it(self):
        array = voxels_of()
        source = a_source(dm_file(array))
        assert the_volume([source], Hints(axes="zyx")).caveats == ()
        read = volumes_of([source], Hints(axes="tyx"))
        assert len(read) == 5
        assert np.array_equal(read["s0-c0-t3"], array[3:4])
        (one,) = volumes_of([source], Hints(axes="cyx", select=Select(channel=2))).values()
        assert np.array_equal(one, array[2:3])
        with pytest.raises(AmbiguousContentError, match="do not fit"):
            discover([source], Hints(axes="xyz"))

    def test_a_dimension_of_seconds_is_time(self):
        array = voxels_of((3, 4, 6))
        read = volumes_of([a_source(dm_file(array, scales=[(1, "nm"), (1, "nm"), (0.5, "s")]))])
        assert [volume.shape for volume in read.values()] == [(1, 4, 6)] * 3

    def test_more_times_than_a_job_may_hold_are_refused_with_their_count(self):
        with pytest.raises(AmbiguousContentError, match="65 volumes"):
            discover([a_source(dm_file(voxels_of((65, 2, 2))))], Hints(axes="tyx"))


class TestSeriesClaims:
    def test_files_are_stacked_in_the_order_given(self):
        array = voxels_of((3, 4, 6))
        sources = slices(array)[::-1]
        (read,) = volumes_of(sources).values()
        assert np.array_equal(read, array[::-1])

    def test_finding_a_series_reads_headers_only(self):
        array = np.zeros((3, 1000, 1000), "u1")
        sources = slices(array)
        the_volume(sources)
        assert all(source.bytes_read < 6 * WINDOW_BYTES for source in sources)

    def test_opening_a_series_reads_one_header_and_reading_a_slice_that_slice_only(self):
        sources = slices(np.zeros((9, 300, 300), "u1"))
        found = the_volume(sources)
        before = [source.bytes_read for source in sources]
        open_volume(sources, found).read(Box.at((4, 0, 0), (1, 10, 10)))
        touched = [k for k, source in enumerate(sources) if source.bytes_read > before[k]]
        assert touched == [0, 4]

    @pytest.mark.parametrize(
        "odd", [{"shape": (4, 7)}, {"dtype": "i2"}, {"scale": 8.1}, {"unit": ""}], ids=["shape", "dtype", "scale", "unit"]
    )
    def test_the_odd_one_out_is_named(self, odd):
        sources = slices(voxels_of((3, 4, 6)), scale=8.0, unit="nm")
        array = voxels_of(odd.get("shape", (4, 6)), odd.get("dtype", "u2"))
        sources[1] = a_source(dm_file(array, scale=odd.get("scale", 8.0), unit=odd.get("unit", "nm")), "odd.dm3")
        with pytest.raises(CorruptObjectError, match=r"odd\.dm3: is .*slice_0000\.dm3 is"):
            discover(sources, Hints())

    def test_a_slice_that_changed_since_the_plan_is_named_when_it_is_read(self):
        sources = slices(voxels_of((3, 4, 6)))
        found = the_volume(sources)
        sources[2] = a_source(dm_file(voxels_of((4, 7))), "changed.dm3")
        reader = open_volume(sources, found)
        reader.read(Box.at((0, 0, 0), (2, 4, 6)))
        with pytest.raises(CorruptObjectError, match=r"changed\.dm3"):
            reader.read(Box.whole(reader.shape))

    def test_stacks_are_not_stacked(self):
        sources = [a_source(dm_file(voxels_of()), f"{k}.dm3") for k in range(2)]
        with pytest.raises(AmbiguousContentError, match="stack of 5 planes, and one of several files"):
            discover(sources, Hints())


class TestRefusals:
    @pytest.mark.parametrize(
        ("array", "options", "phrase"),
        [
            (voxels_of((4, 6)).astype("c8"), {}, "complex64"),
            (voxels_of((4, 6)).astype("c16"), {}, "complex128"),
            (voxels_of((4, 6), "f4"), {"data_type": 5}, "packed complex"),
            (voxels_of((4, 6), "u4"), {"data_type": 23}, "RGBA"),
            (voxels_of((4, 6), "u4"), {"data_type": 8}, "RGB"),
            (voxels_of((4, 6), "u4"), {"data_type": 77}, "DataType 77"),
            (voxels_of((64,), "f4"), {"unit": "eV"}, "spectral data"),
            (voxels_of((64,), "f4"), {}, "spectral data"),
            (voxels_of((8, 4, 6), "f4"), {"scales": [(1, "nm"), (1, "nm"), (0.2, "keV")]}, "spectral data"),
            (voxels_of((4, 6), "f4"), {"Meta Data": {"Format": "Spectrum image"}}, "spectral data"),
            (voxels_of((2, 3, 4, 6), "f4"), {}, "4-dimensional"),
        ],
    )
    @pytest.mark.parametrize("version", [3, 4])
    def test_what_is_no_image_volume_is_refused_by_name(self, array, options, phrase, version):
        with pytest.raises(UnsupportedContentError, match=rf"a\.dm3, image 1: .*{phrase}") as refusal:
            discover([a_source(dm_file(array, version=version, **options))], Hints())
        assert refusal.value.hint

    def test_binary_images_are_bytes_with_a_caveat(self):
        array = voxels_of((4, 6), "u1") % 2
        found = the_volume([a_source(dm_file(array, data_type=14))])
        assert found.dtype == "uint8"
        assert [caveat.code for caveat in found.caveats] == ["bool_as_uint8"]

    def test_data_that_do_not_fit_their_dimensions_are_damaged(self):
        image = dm_image(voxels_of((4, 6)))
        image["ImageData"]["Dimensions"] = [6, 5]
        with pytest.raises(CorruptObjectError, match="48 bytes of data, its dimensions need 60"):
            discover([a_source(dm_bytes(dm_tree(image)))], Hints())

    def test_absurd_dimensions_are_damaged(self):
        for dimensions in ([2**40, 2**40], [0, 6], [-4, -6], [], [2.5, 3.0]):
            image = dm_image(voxels_of((4, 6)))
            image["ImageData"]["Dimensions"] = dimensions
            with pytest.raises(ReaderError):
                discover([a_source(dm_bytes(dm_tree(image), version=4))], Hints())


class TestDamage:
    def test_tags_that_nest_without_end_are_refused(self):
        group = bytes.fromhex("0100 00000001 14 0001 41")
        with pytest.raises(CorruptObjectError, match="more than 64 deep"):
            read_tags(a_source(bytes.fromhex("00000003 00000000 00000001") + group * 5000))

    @pytest.mark.parametrize("version", [3, 4])
    def test_an_absurd_count_of_tags_is_refused(self, version):
        data = bytearray(dm_file(voxels_of((4, 6)), version=version))
        at = 14 if version == 3 else 18
        data[at : at + 4] = b"\x7f\xff\xff\xff"
        with pytest.raises(CorruptObjectError, match="claims more than"):
            read_tags(a_source(bytes(data)))

    def test_arrays_of_arrays_without_end_are_refused(self):
        value = b"%%%%" + (1000).to_bytes(4) + (20).to_bytes(4) * 1000
        data = bytes.fromhex("00000003 00000000 00000001 0100 00000001 15 0001 41") + value
        with pytest.raises(CorruptObjectError, match="too deep"):
            read_tags(a_source(data + bytes(100)))

    def test_a_cut_off_file_is_refused_at_every_length(self):
        whole = dm_file(voxels_of((4, 6)), SBFSEM={"Record": {"Slice thickness": 50.0}})
        for length in range(len(whole) - 8):  # the last 8 bytes say that nothing follows
            with pytest.raises(ReaderError) as refusal:
                discover([a_source(whole[:length])], Hints())
            assert "a.dm3" in str(refusal.value)

    @pytest.mark.parametrize("version", [3, 4])
    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=6))
    def test_any_damage_is_a_volume_or_a_refusal_in_bounded_memory(self, version, flips):
        data = bytearray(
            dm_file(voxels_of((4, 6)), version=version, scale=8.0, unit="nm", SBFSEM={"Record": {"Slice thickness": 50.0}})
        )
        for place, flip in flips:
            data[int(place * len(data))] ^= flip
        tracemalloc.start()
        try:
            for volume in volumes_of([a_source(bytes(data))]).values():
                assert volume.size <= 10_000
        except ReaderError:
            pass
        finally:
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert peak < 8 * 2**20
