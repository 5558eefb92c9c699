"""Real DM3, DM4 and MRC files: voxels as independent readers said, or a refusal by name. Every entry of the manifest is in the table."""

import hashlib

import numpy as np
import pytest

from emporter_readers.array import FileSource
from emporter_readers.discover import discover
from emporter_readers.errors import UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing import volumes_of
from emporter_testing.samples import ROOT, samples_of, wants_samples

FORMATS = ("dm3", "dm4", "mrc")
UNKNOWN = (None, None, None)

READ = {
    "dm3/DMReader_Image_SI-Survey.dm3": UNKNOWN,
    "dm3/dmTest_3D_int16_64-65-66.dm3": (4000.0, 3.0, 0.002),
    "dm3/ref_F_0_2.dm3": UNKNOWN,
    "dm3/ref_F_1_2.dm3": UNKNOWN,
    "dm3/ref_T_0_2.dm3": UNKNOWN,
    "dm3/rs2D_test-1.dm3": UNKNOWN,
    "dm3/rs2D_test-6.dm3": UNKNOWN,
    "dm3/rs2D_test-10.dm3": UNKNOWN,
    "dm3/rs3D_test-1.dm3": UNKNOWN,
    "dm3/rs3D_test-9.dm3": UNKNOWN,
    "dm3/test_dm_image_um_unit.dm3": (None, 168.674693, 168.674693),
    "dm4/dmTest_3D_int16_64-65-66.dm4": (4000.0, 3.0, 0.002),
    "dm4/ref_F_0_2.dm4": UNKNOWN,
    "dm4/ref_F_1_2.dm4": UNKNOWN,
    "dm4/ref_T_0_2.dm4": UNKNOWN,
    "dm4/rs2D_test-1.dm4": UNKNOWN,
    "dm4/rs2D_test-6.dm4": UNKNOWN,
    "dm4/rs2D_test-10.dm4": UNKNOWN,
    "dm4/rs3D_test-1.dm4": UNKNOWN,
    "dm4/rs3D_test-9.dm4": UNKNOWN,
    "dm4/test-MonarcCL_mono-image.dm4": (None, 18325.34981, 18325.34981),
    "mrc/EMD-3197.map": (1.14, 1.14, 1.14),
    "mrc/HAADFscan.mrc": (None, 5.679131, 5.679131),
    "mrc/Custom_movie.mrc": UNKNOWN,
    "mrc/temp.mrc": (0.2, 0.2, 0.2),
    "mrc/fei-extended_first256rows.mrc": (None, 0.08537755, 0.08537755),
}
"""What is read, with its voxel size in nm, z y x. `µ` and `µn` are no units, an empty one says nothing."""
REFUSED = {
    "dm3/AL-DFoffset0.00.dm3": "spectral data",
    "dm4/DMReader_EELS_STO.dm4": "spectral data",
    "dm3/rs2D_test-3.dm3": "complex64",
    "dm3/rs3D_test-3.dm3": "complex64",
    "dm3/rs2D_test-23.dm3": "RGBA",
    "dm4/rs2D_test-3.dm4": "complex64",
    "dm4/rs2D_test-27.dm4": "complex64",
    "dm4/rs3D_test-27.dm4": "complex64",
    "mrc/emd_3197.map.gz": "gzip-compressed",
}
"""What is not, with the word the refusal names it by."""


ENTRIES = samples_of(*FORMATS)
pytestmark = wants_samples


def source_of(path):
    return FileSource(path, ROOT / path)


def facts_of(entry):
    """Every independent reading of an entry; they agree, or it is none of ours."""
    expected = entry["expected"]
    if "data" in expected:
        return [expected["data"]]
    assert expected["readers_agree"]
    return expected["rosettasciio"] + expected["ncempy"]


def test_every_sample_is_read_or_refused_by_name():
    assert set(ENTRIES) == READ.keys() | REFUSED.keys()
    assert not READ.keys() & REFUSED.keys()


@pytest.mark.parametrize("path", sorted(READ))
def test_a_sample_comes_back_voxel_for_voxel(path):
    (array,) = volumes_of([source_of(path)]).values()
    stored = array.astype(array.dtype.newbyteorder("<")).tobytes()
    for facts in facts_of(ENTRIES[path]):
        assert array.dtype == np.dtype(facts["dtype"])
        assert list(array.shape) == [1] * (3 - len(facts["shape"])) + facts["shape"]
        assert hashlib.sha256(stored).hexdigest() == facts["sha256_c_order_le"]


@pytest.mark.parametrize("path", sorted(READ))
def test_voxel_sizes_are_those_the_file_says_and_otherwise_unknown(path):
    (found,) = discover([source_of(path)], Hints())
    assert found.voxel_size.nm == tuple(None if n is None else pytest.approx(n, rel=1e-6) for n in READ[path])


@pytest.mark.parametrize("path", sorted(REFUSED))
def test_a_sample_that_is_no_volume_is_refused_by_name(path):
    with pytest.raises(UnsupportedContentError, match=REFUSED[path]) as refusal:
        discover([source_of(path)], Hints())
    assert path in str(refusal.value)
    assert refusal.value.hint


def test_slices_of_different_files_that_are_alike_are_one_volume():
    paths = ["dm3/rs2D_test-10.dm3", "dm4/rs2D_test-10.dm4"]
    (array,) = volumes_of([source_of(path) for path in paths]).values()
    assert array.tolist() == [[[1, 2], [3, 4]]] * 2
