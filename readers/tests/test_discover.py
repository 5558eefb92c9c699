"""The one door: what nothing reads is refused by what it is, files are put in natural order, headers cost little."""

import random

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from emporter_readers.array import MemorySource
from emporter_readers.discover import FORMATS, discover, natural_order, open_volume
from emporter_readers.errors import AmbiguousContentError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import tiff_bytes, volumes_of
from emporter_readers.tiff.file import BLOCK_BYTES, HEADER_BYTES, SourceFile


class TestRefusals:
    @pytest.mark.parametrize(
        ("data", "phrase"),
        [
            (b"", "is empty"),
            (b"<!DOCTYPE html><html>not found</html>", "a web page"),
            (b"%PDF-1.7" + bytes(100), "a PDF document"),
            (b'{"error": "gone"}', "a JSON document"),
            (b"PK\x03\x04" + bytes(100), "a ZIP archive"),
            (b"just some words", "a text file"),
            (b"\x01\x02\x03\x04\x05\x06\x07\x08\x00", "no kind known here (it begins with 01 02 03 04"),
        ],
    )
    def test_what_nothing_reads_is_refused_with_what_it_is_and_what_is_readable(self, data, phrase):
        with pytest.raises(UnsupportedContentError) as refusal:
            discover([MemorySource("run7/image.xyz", data)], Hints())
        assert "run7/image.xyz" in refusal.value.message
        assert phrase in refusal.value.message
        assert "tiff" in refusal.value.hint

    def test_the_odd_file_among_many_is_the_one_that_is_named(self):
        slices = [MemorySource(f"s{k}.tif", tiff_bytes(np.zeros((4, 5), "uint8"))) for k in range(3)]
        with pytest.raises(UnsupportedContentError, match=r"readme\.txt is a text file"):
            discover([*slices, MemorySource("readme.txt", b"hello there")], Hints())

    def test_nothing_at_all_is_refused(self):
        with pytest.raises(UnsupportedContentError, match="no file"):
            discover([], Hints())

    def test_a_plan_of_a_format_nobody_knows_is_refused(self):
        source = MemorySource("a.tif", tiff_bytes(np.zeros((4, 5), "uint8")))
        (found,) = discover([source], Hints())
        object.__setattr__(found, "format", "xyz")
        with pytest.raises(UnsupportedContentError, match="'xyz'"):
            open_volume([source], found)

    def test_more_volumes_than_one_request_may_make_are_refused_with_their_number(self):
        data = tiff_bytes(np.zeros((70, 4, 5), "uint8"), imagej=True, metadata={"axes": "TYX"})
        with pytest.raises(AmbiguousContentError, match="70 volumes") as refusal:
            discover([MemorySource("a.tif", data)], Hints())
        assert "select.time" in refusal.value.hint
        assert volumes_of([MemorySource("a.tif", data)], Hints(axes="zyx"))[""].shape == (70, 4, 5)

    def test_names_of_formats_are_unique(self):
        assert len({format_.name for format_ in FORMATS}) == len(FORMATS)


class TestRoles:
    def role(self, array, **hints):
        (found,) = discover([MemorySource("a.tif", tiff_bytes(array, metadata=None))], Hints(**hints))
        return found.role, {caveat.code for caveat in found.caveats} - {"axes_assumed"}

    def test_wide_integers_in_long_runs_are_guessed_to_be_labels_and_said_to_be_guessed(self):
        labels = np.arange(8 * 8).reshape(8, 8).repeat(20, 0).repeat(20, 1)
        for dtype in ("uint32", "uint64"):
            assert self.role(np.stack([labels] * 3).astype(dtype)) == ("labels", {"role_guessed"})

    def test_counts_noise_narrow_integers_and_constants_are_images(self):
        noise = np.random.default_rng(0).poisson(1e6, (3, 64, 64))
        labels = np.arange(64).reshape(8, 8).repeat(8, 0).repeat(8, 1)
        for array in (noise.astype("uint32"), labels.astype("uint16"), labels.astype("int32"), np.full((3, 9, 9), 7, "uint32")):
            assert self.role(array) == ("image", set())

    def test_what_the_user_says_is_no_guess(self):
        assert self.role(np.zeros((3, 9, 9), "uint8"), role="labels") == ("labels", set())
        assert self.role(np.zeros((3, 9, 9), "uint64"), role="image") == ("image", set())


class TestNaturalOrder:
    def test_numbers_are_compared_as_numbers(self):
        names = ["slice_10.tif", "slice_9.tif", "slice_2.tif", "Slice_1.tif", "slice_100.tif"]
        assert natural_order(names) == ["Slice_1.tif", "slice_2.tif", "slice_9.tif", "slice_10.tif", "slice_100.tif"]
        assert natural_order(["b2/1", "b10/0", "b1/9"]) == ["b1/9", "b2/1", "b10/0"]

    @given(st.lists(st.text(alphabet="a1020B/_.٣", max_size=8)), st.randoms())
    def test_the_order_is_total_and_does_not_depend_on_the_order_given(self, names, rng):
        shuffled = list(names)
        rng.shuffle(shuffled)
        assert natural_order(names) == natural_order(shuffled)

    @given(st.sets(st.integers(0, 10**30)))
    def test_numbered_names_come_by_number(self, numbers):
        names = [f"z{n}.tif" for n in numbers]
        random.shuffle(names)
        assert natural_order(names) == [f"z{n}.tif" for n in sorted(numbers)]


class Requests(MemorySource):
    """Keeps every range that was asked for."""

    def __init__(self, name, data):
        super().__init__(name, data)
        self.ranges = []

    def read(self, start, stop):
        self.ranges.append((start, stop))
        return super().read(start, stop)


class TestHeadersOverTheNetwork:
    def test_a_contiguous_stack_costs_few_small_requests(self):
        for options in ({"imagej": True, "metadata": {"axes": "ZYX"}}, {}, {"bigtiff": True}, {"truncate": True}):
            source = Requests("a.tif", tiff_bytes(np.zeros((300, 200, 210), "uint8"), **options))
            discover([source], Hints())
            assert len(source.ranges) <= 6
            assert source.bytes_read < 0.02 * source.size

    def test_pages_far_apart_cost_one_small_request_each(self, tmp_path):
        path = tmp_path / "a.tif"
        with tifffile.TiffWriter(path) as file:
            for page in np.zeros((100, 400, 420), "uint8"):
                file.write(page, photometric="minisblack", metadata=None, contiguous=False)
        source = Requests("a.tif", path.read_bytes())
        discover([source], Hints())
        assert len(source.ranges) <= 110
        assert source.bytes_read <= 120 * BLOCK_BYTES
        assert max(stop - start for start, stop in source.ranges) <= BLOCK_BYTES

    @given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 60_000)), max_size=20))
    def test_a_source_as_a_file_reads_what_is_there(self, reads):
        data = np.random.default_rng(3).bytes(90_001)
        file = SourceFile(MemorySource("a", data))
        for start, size in reads:
            file.seek(start)
            assert file.read(size) == data[start : start + size]
            assert file.tell() == min(start + size, max(start, len(data)))

    def test_blocks_foreseen_are_fetched_once(self):
        source = Requests("a", bytes(40 * BLOCK_BYTES))
        file = SourceFile(source)
        offsets = range(0, 40 * BLOCK_BYTES, 4 * BLOCK_BYTES)
        file.foresee(offsets)
        for offset in offsets:
            file.seek(offset)
            assert file.read(10) == bytes(10)
        assert len(source.ranges) == 10

    def test_a_header_that_claims_half_the_world_is_not_read(self):
        class Endless(MemorySource):
            @property
            def size(self):
                return 2**40

            def read(self, start, stop):
                raise AssertionError("nothing this large may be read")

        file = SourceFile(Endless("a.tif", b""))
        with pytest.raises(Exception, match=r"a\.tif: a header claims"):
            file.read(HEADER_BYTES + 1)
        with pytest.raises(Exception, match=r"a\.tif: a header claims"):
            file.check()
