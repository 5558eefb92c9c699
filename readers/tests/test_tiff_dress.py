"""Every dress a TIFF comes in keeps the promises of a Reader, and reads as tifffile and the array it was made from say."""

import io
from dataclasses import dataclass, field

import numpy as np
import pytest
import tifffile

from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.protocol import Hints
from emporter_readers.testing import ReaderCase, ReaderSuite, tiff_bytes
from emporter_readers.tiff.reader import GAP_BYTES

SHAPE = (7, 50, 61)


def smooth(dtype, shape=SHAPE):
    """Compressible, and different at every voxel of a neighbourhood, so that no axis can be swapped unseen."""
    z, y, x = np.indices(shape)
    values = (z * 31 + y * 3 + x) % 120
    if np.dtype(dtype).kind in "iu" and np.dtype(dtype).itemsize > 1:
        values = values * 200 + z
    return values.astype(dtype)


def bits(shape=SHAPE):
    return smooth("uint8", shape) % 3 == 0


@dataclass(frozen=True)
class Dress:
    array: np.ndarray
    options: dict = field(default_factory=dict)
    caveats: frozenset = frozenset()
    exact: bool = True
    """Whether the file holds the array itself; otherwise tifffile's reading of it is the measure."""


def dresses():
    u8, u16 = smooth("uint8"), smooth("uint16")
    assumed = frozenset({"axes_assumed"})
    yield "plain", Dress(u8, {"metadata": None}, assumed)
    yield "one_2d_image", Dress(u16[:1], {"metadata": None})
    for dtype in ("int8", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64"):
        yield dtype, Dress(smooth(dtype), {"metadata": None}, assumed)
        yield f"{dtype}_big_endian", Dress(smooth(dtype), {"metadata": None, "byteorder": ">"}, assumed)
    for compression in ("zlib", "lzw", "zstd", "packbits", "lzma"):
        yield compression, Dress(u16, {"compression": compression, "metadata": None, "rowsperstrip": 16}, assumed)
        yield f"{compression}_tiles", Dress(u8, {"compression": compression, "tile": (16, 32), "metadata": None}, assumed)
    for dtype in ("uint8", "int16", "uint32", "uint64"):
        for order in "<>":
            options = {"compression": "zlib", "predictor": 2, "byteorder": order, "rowsperstrip": 9, "metadata": None}
            yield f"{dtype}_{order}_horizontal_predictor", Dress(smooth(dtype), options, assumed)
    for dtype in ("float16", "float32", "float64"):
        for order in "<>":
            options = {"compression": "lzw", "predictor": 3, "byteorder": order, "tile": (16, 16), "metadata": None}
            yield f"{dtype}_{order}_float_predictor", Dress(smooth(dtype), options, assumed)
    yield "strips", Dress(u16, {"rowsperstrip": 7, "metadata": None}, assumed)
    yield "strips_big_endian", Dress(u16, {"rowsperstrip": 7, "metadata": None, "byteorder": ">"}, assumed)
    yield "tiles", Dress(u16, {"tile": (16, 16), "metadata": None}, assumed)
    yield "tiles_big_endian", Dress(u16, {"tile": (32, 16), "metadata": None, "byteorder": ">"}, assumed)
    yield "deep_tiles", Dress(u16, {"tile": (4, 16, 16), "volumetric": True, "metadata": None})
    yield "deep_tiles_zstd", Dress(u16, {"tile": (4, 16, 16), "volumetric": True, "compression": "zstd", "metadata": None})
    yield "deep_strips", Dress(u16, {"volumetric": True, "metadata": None})
    yield "bigtiff", Dress(u8, {"bigtiff": True, "metadata": None}, assumed)
    yield "bigtiff_big_endian_zlib", Dress(u16, {"bigtiff": True, "byteorder": ">", "compression": "zlib"}, assumed)
    yield "shaped", Dress(u8, {}, assumed)
    yield "shaped_named", Dress(u8, {"metadata": {"axes": "ZYX"}})
    yield "shaped_truncated", Dress(u16, {"truncate": True, "metadata": {"axes": "ZYX"}})
    yield "shaped_truncated_big_endian", Dress(u16, {"truncate": True, "byteorder": ">"}, assumed)
    yield "imagej", Dress(u16, {"imagej": True, "metadata": {"axes": "ZYX"}})
    yield "imagej_truncated", Dress(u16, {"imagej": True, "metadata": {"axes": "ZYX"}, "truncate": True})
    yield "imagej_zlib", Dress(u16, {"imagej": True, "metadata": {"axes": "ZYX"}, "compression": "zlib"})
    yield "ome", Dress(u16, {"ome": True, "metadata": {"axes": "ZYX"}})
    yield "ome_zstd_tiles", Dress(u16, {"ome": True, "metadata": {"axes": "ZYX"}, "compression": "zstd", "tile": (16, 16)})
    yield "ome_big_endian", Dress(u16, {"ome": True, "metadata": {"axes": "ZYX"}, "byteorder": ">"})
    yield "minisblack_inverted", Dress(u8, {"photometric": "miniswhite", "metadata": None}, assumed)
    flagged = assumed | {"bool_as_uint8"}
    yield "bool", Dress(bits(), {"metadata": None}, flagged)
    yield "bool_miniswhite", Dress(bits(), {"metadata": None, "photometric": "miniswhite"}, flagged)
    yield "bool_zlib_strips", Dress(bits(), {"metadata": None, "compression": "zlib", "rowsperstrip": 8}, flagged)
    yield "bool_tiles", Dress(bits(), {"metadata": None, "tile": (16, 16)}, flagged)
    lossy = assumed | {"lossy"}
    yield "jpeg", Dress(u8, {"compression": "jpeg", "metadata": None, "rowsperstrip": 16}, lossy, exact=False)
    yield "jpeg_tiles", Dress(u8, {"compression": "jpeg", "metadata": None, "tile": (16, 16)}, lossy, exact=False)
    yield "jpeg2000", Dress(u16, {"compression": "jpeg2000", "metadata": None, "tile": (32, 32)}, lossy)
    yield "jpegxl", Dress(u8, {"compression": "jpegxl", "metadata": None}, lossy)
    yield "png", Dress(u16, {"compression": "png", "metadata": None}, assumed)


DRESSES = dict(dresses())


@pytest.mark.parametrize("name", DRESSES)
class TestDress(ReaderSuite):
    @pytest.fixture
    def dress(self, name):
        return DRESSES[name]

    @pytest.fixture
    def source(self, dress, name):
        return MemorySource(f"{name}.tif", tiff_bytes(dress.array, **dress.options))

    @pytest.fixture
    def found(self, source):
        (found,) = discover([source], Hints())
        return found

    @pytest.fixture
    def case(self, dress, source, found):
        array = dress.array if dress.exact else tifffile.imread(io.BytesIO(source.data))
        if array.dtype == bool:
            array = array.astype("uint8")
        reader = open_volume([source], found)
        longest = max(max(page.counts) for page in reader.pages)
        row = reader.layout.row_bytes if reader.native.cell[1] == 1 else longest
        return ReaderCase(reader, array, [source], row + GAP_BYTES)

    def test_tifffile_reads_the_same(self, case, source):
        theirs = tifffile.imread(io.BytesIO(source.data))
        assert theirs.reshape(case.voxels.shape).astype(case.voxels.dtype).tobytes() == case.voxels.tobytes()

    def test_it_is_found_as_what_it_is(self, found, case, dress):
        assert found.format == "tiff"
        assert found.series == ""
        assert found.shape == case.voxels.shape
        assert found.dtype == case.voxels.dtype.name
        assert found.native == case.reader.native
        assert {caveat.code for caveat in found.caveats} - {"role_guessed"} == dress.caveats
