"""HDF5: damaged files, and the process of its own that looks at them."""

import io
import subprocess
import sys

import h5py
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emporter_contracts.geometry import Box
from emporter_readers.array import MemorySource
from emporter_readers.discover import discover, open_volume
from emporter_readers.errors import CorruptObjectError, ReaderError
from emporter_readers.hdf5 import isolated
from emporter_readers.protocol import Hints
from emporter_readers.testing import volumes_of
from emporter_readers.testing_hdf5 import a_file, found_in, holding, named, read_from, voxels_of


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
            ("import signal; signal.pause()", "it takes too long"),
            ("raise SystemExit(1)", "it has ended"),
            ("import os, sys; sys.stdin.read(1); os.write(1, b'no frame of ours' * 99)", "it makes no sense"),
            ("import os, struct; [os.write(1, struct.pack('>BQQQ', 2, 16, 0, 2**40)) for _ in 'ab']", "it makes no sense"),
            (
                "import os, struct, signal; [os.write(1, struct.pack('>BQQQ', 2, 16, 0, 20000)) for _ in range(99)]; signal.pause()",
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
