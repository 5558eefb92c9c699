"""The in-memory twins keep what every Reader promises."""

import numpy as np
import pytest

from emporter_contracts.geometry import Box, VoxelSize
from emporter_readers.array import ArrayReader, FileSource, MemorySource, RegionReader
from emporter_readers.errors import CorruptObjectError
from emporter_readers.testing import ReaderCase, ReaderSuite


def an_array(dtype="uint16"):
    return np.random.default_rng(1).integers(0, 250, (5, 17, 23)).astype(dtype)


class TestArrayReader(ReaderSuite):
    @pytest.fixture(params=["uint8", "<u2", ">u2", ">f8"])
    def case(self, request):
        array = an_array(request.param)
        return ReaderCase(ArrayReader(array), array)


class TestRegionReader(ReaderSuite):
    @pytest.fixture
    def case(self):
        array = an_array()
        region = Box((1, 2, 3), (4, 15, 20))
        return ReaderCase(RegionReader(ArrayReader(array), region, VoxelSize()), array[region.slices()])


class TestSources:
    def test_a_file_and_its_bytes_in_memory_read_alike(self, tmp_path):
        path = tmp_path / "a.bin"
        path.write_bytes(bytes(range(100)))
        for source in (FileSource("a.bin", path), MemorySource("a.bin", bytes(range(100)))):
            assert source.size == 100
            assert source.read(10, 13) == bytes([10, 11, 12])
            with pytest.raises(CorruptObjectError, match=r"a\.bin.*ends at byte 100"):
                source.read(90, 101)
