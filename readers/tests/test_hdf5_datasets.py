"""HDF5: the dataset that is meant; nothing of a file can make us open another, and what is no image volume is refused."""

import h5py
import numpy as np
import pytest

from emporter_readers.discover import discover
from emporter_readers.errors import AmbiguousContentError, UnsupportedContentError
from emporter_readers.protocol import Hints
from emporter_readers.testing_hdf5 import a_file, found_in, holding, named, read_from, voxels_of


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
