"""Committed volumes for tests, stored as DESIGN section 4 says, and a running server of one's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import tensorstore as ts
import uvicorn
from numpy.typing import NDArray

from block_server.app import create_app
from block_server.settings import BlockServerSettings
from emporter_contracts import storage
from emporter_contracts.fills import Fill
from emporter_contracts.geometry import Index3, Shape3
from emporter_contracts.ids import VolumeRef, job_of, record_uuid
from emporter_contracts.jobs import JobState
from emporter_contracts.plans import Caveat, Commit, Licence, Role, Tombstone
from emporter_contracts.records import Core, Metadata, MetadataRecord, Statistics, Technical, exact, finite
from emporter_runtime.objects import Objects, json_bytes
from emporter_runtime.settings import StoreSettings

COMPRESSION: dict[str, list[dict[str, Any]]] = {
    "zstd": [{"name": "zstd", "configuration": {"level": 1}}],
    "blosc": [{"name": "blosc", "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "shuffle"}}],
    "none": [],
}
MADE_AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    """A volume to be stored: level 0 as an array z, y, x, and what else matters for serving it."""

    voxels: NDArray[Any]
    name: str = "phantom"
    revision: int = 1
    chunk: Shape3 = (16, 16, 16)
    shard: Shape3 = (32, 32, 32)
    halvings: Sequence[Shape3] = ((2, 2, 2), (4, 4, 4))
    """Voxels of level 0 in one of each further level, by axis."""
    voxel_size_nm: tuple[float | None, float | None, float | None] = (40.0, 8.0, 8.0)
    source_origin: Index3 = (0, 0, 0)
    role: Role = "image"
    labels_of: str | None = None
    fill_value: Fill = 0
    """What the source it was made of is filled with."""
    caveats: tuple[Caveat, ...] = ()
    description: str = ""
    zeros_stored: bool = True
    consolidated: bool = True
    """Whether its group holds the metadata of its arrays; that of older volumes does not."""
    codec: Literal["zstd", "blosc", "none"] = "zstd"
    digest: str = "0" * 64
    levels: list[NDArray[Any]] = field(default_factory=list)
    """The levels as they were stored, filled by `commit`."""

    @property
    def ref(self) -> VolumeRef:
        return VolumeRef(self.name, self.revision)

    @property
    def factors(self) -> list[Shape3]:
        return [(1, 1, 1), *self.halvings]


def commit(objects: Objects, made: Made) -> Made:
    """Store and commit `made`, blocking; its levels are strided samples, not means: what is served is what matters here."""
    root = storage.zarr_root(made.name, made.revision)
    made.levels.extend(made.voxels[::fz, ::fy, ::fx] for fz, fy, fx in made.factors)
    for number, voxels in enumerate(made.levels):
        _write(objects, f"{root}{number}/", made, voxels)
    put = objects.put_sync
    put(storage.VOLUMES, storage.record(made.name, made.revision), json_bytes(_record(made)))
    group = _group(made)
    if made.consolidated:
        arrays = {str(k): json.loads(objects.get_sync(storage.VOLUMES, f"{root}{k}/zarr.json")) for k in range(len(made.levels))}
        group["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": arrays}
    put(storage.VOLUMES, root + "zarr.json", json.dumps(group).encode())
    done = Commit(volume=made.name, revision=made.revision, digest=made.digest, job=job_of(made.name), committed_at=MADE_AT)
    put(storage.VOLUMES, storage.commit(made.name, made.revision), json_bytes(done))
    return made


def bury(objects: Objects, ref: VolumeRef) -> None:
    """Write the tombstone of a revision, blocking; its objects stay, as in the first moment of `emporter rm`."""
    assert ref.revision is not None
    stone = Tombstone(volume=ref.volume, revision=ref.revision, removed_at=MADE_AT)
    objects.put_sync(storage.VOLUMES, storage.tombstone(ref.volume, ref.revision), json_bytes(stone))


@contextmanager
def running(settings: BlockServerSettings) -> Iterator[str]:
    """The real server on a free port, in a thread of its own, while inside; yields its base URL."""
    config = uvicorn.Config(create_app(settings), host="127.0.0.1", port=0, log_config=None, loop="uvloop", lifespan="on")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    socket.listen()  # who asks before it is up waits, rather than being refused
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]}, name="block-server")
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        socket.close()


def _write(objects: Objects, prefix: str, made: Made, voxels: NDArray[Any]) -> None:
    inner = [{"name": "bytes", "configuration": {"endian": "little"}}, *COMPRESSION[made.codec], {"name": "crc32c"}]
    chunk, shard = _clamped(made, voxels.shape)
    metadata = {
        "shape": voxels.shape,
        "data_type": voxels.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": chunk, "codecs": inner}}],
        "dimension_names": ["z", "y", "x"],
        "fill_value": 0,
    }
    spec = {
        "driver": "zarr3",
        "kvstore": objects.kvstore(storage.VOLUMES, prefix),
        "metadata": metadata,
        # Without it chunks of zeros are left out, and a lost one could not be told from them (PROTOCOL section 3).
        "store_data_equal_to_fill_value": made.zeros_stored,
    }
    ts.open(spec, create=True).result().write(voxels).result()


def _clamped(made: Made, shape: Sequence[int]) -> tuple[list[int], list[int]]:
    """Chunk and shard no larger than they need be."""
    chunk = [min(c, n) for c, n in zip(made.chunk, shape, strict=True)]
    shard = [c * min(-(-s // c), -(-n // c)) for c, s, n in zip(chunk, made.shard, shape, strict=True)]
    return chunk, shard


def _scale(made: Made, factor: Shape3) -> list[float]:
    return [(1.0 if nm is None else nm) * f for nm, f in zip(made.voxel_size_nm, factor, strict=True)]


def _translation(made: Made, factor: Shape3) -> list[float]:
    at = zip(made.voxel_size_nm, factor, made.source_origin, strict=True)
    return [(1.0 if nm is None else nm) * (origin + (f - 1) / 2) for nm, f, origin in at]


def _group(made: Made) -> dict[str, Any]:
    axes = [
        {"name": name, "type": "space", **({} if nm is None else {"unit": "nanometer"})}
        for name, nm in zip("zyx", made.voxel_size_nm, strict=True)
    ]
    datasets = [
        {
            "path": str(k),
            "coordinateTransformations": [
                {"type": "scale", "scale": _scale(made, factor)},
                {"type": "translation", "translation": _translation(made, factor)},
            ],
        }
        for k, factor in enumerate(made.factors)
    ]
    multiscales = [{"name": made.name, "axes": axes, "datasets": datasets}]
    return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", "multiscales": multiscales}}}


def _record(made: Made) -> MetadataRecord:
    core = Core(
        description=made.description,
        volume_shape=made.voxels.shape,
        voxel_size_nm=made.voxel_size_nm,
        data_type=made.voxels.dtype.name,
        role=made.role,
        labels_of=made.labels_of,
        source_origin=made.source_origin,
    )
    return MetadataRecord(
        id=record_uuid(made.name),
        volume=made.name,
        revision=made.revision,
        source="inbox",
        source_id=made.name,
        status=JobState.COMPLETE,
        created_at=MADE_AT,
        updated_at=MADE_AT,
        metadata=Metadata(core=core, technical=Technical(fill_value=made.fill_value, statistics=_statistics(made))),
        licence=Licence(spdx="CC0-1.0", known=True),
        caveats=made.caveats,
    )


def _statistics(made: Made) -> Statistics:
    real = made.voxels.dtype.kind == "f"
    values = made.voxels[np.isfinite(made.voxels)] if real else made.voxels
    low, high = (finite(float(v)) if real else exact(int(v)) for v in (values.min(), values.max()))
    if made.role == "labels":
        return Statistics(minimum=low, maximum=high)
    black, white = np.percentile(values, [0.1, 99.9])
    return Statistics(minimum=low, maximum=high, window=(float(black), float(white)))


@dataclass(frozen=True)
class House:
    """A running server, and the store behind it."""

    url: str
    objects: Objects
    settings: BlockServerSettings

    def commit(self, made: Made) -> Made:
        """Store and commit a volume."""
        return commit(self.objects, made)


@contextmanager
def house_on(store: StoreSettings, **settings: Any) -> Iterator[House]:
    """The server over a store, with whatever settings differ from the defaults."""
    chosen = BlockServerSettings(**(store.model_dump() | settings))
    with running(chosen) as url:
        yield House(url, Objects.open(chosen), chosen)


@contextmanager
def serving_process(store: StoreSettings, made: Made, settings: dict[str, str]) -> Iterator[tuple[str, int]]:
    """`python -m block_server` over a store that holds `made`, with `settings` in its environment; its URL and process id."""
    commit(Objects.open(store), made)
    said = {
        "EMPORTER_STORE_URL": store.store_url,
        "EMPORTER_S3_ENDPOINT": store.s3_endpoint or "",
        "EMPORTER_S3_ACCESS_KEY": store.s3_access_key,
        "EMPORTER_S3_SECRET_KEY": store.s3_secret_key.get_secret_value(),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EMPORTER_"))}
    env = clean | {name: value for name, value in said.items() if value} | settings
    process = subprocess.Popen([sys.executable, "-m", "block_server"], env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if '"listening"' in line:
                # What it says further is read, or it would stop when the pipe is full.
                reader = threading.Thread(target=process.stderr.read, daemon=True)
                reader.start()
                yield f"http://127.0.0.1:{json.loads(line)['port']}", process.pid
                break
        else:
            raise AssertionError(f"it ended with {process.wait()}")
    finally:
        process.terminate()
        process.wait(60)
        reader.join(10)
        process.stderr.close()
