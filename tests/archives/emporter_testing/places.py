"""A block-server beside archives and a file root: where volumes are read where they lie."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from block_server.testing import House
from emporter.registering import Wanted, look
from emporter_archives import arrays
from emporter_archives.kinds import KINDS
from emporter_archives.s3 import S3Server
from emporter_archives.server import FileServer
from emporter_contracts.ids import VolumeRef
from emporter_runtime.registering import Registering, commit
from emporter_runtime.roots import RootSettings

SHAPE = (40, 50, 60)


@dataclass
class Place:
    """A block-server, archives that it may open, and a file root."""

    house: House
    web: FileServer
    bucket: S3Server
    files: Path
    settings: RootSettings
    count: list[int] = field(default_factory=list)

    def register(self, source: str, **said: Any) -> VolumeRef:
        """The one volume below `source`, under a name of its own."""
        (ref,) = self.register_all(source, **said)
        return ref

    def register_all(self, source: str, **said: Any) -> list[VolumeRef]:
        self.count.append(1)
        found = self.look(source, name=f"v{len(self.count)}", **said)
        return [asyncio.run(commit(self.house.objects, one, 1)) for one in found]

    def look(self, source: str, **said: Any) -> list[Registering]:
        return asyncio.run(look(Wanted(source=source, **said), self.settings))

    def again(self, source: str, ref: VolumeRef) -> VolumeRef:
        """The next revision of a volume."""
        assert ref.revision is not None
        (one,) = self.look(source, name=ref.volume.removeprefix("registered-"))
        return asyncio.run(commit(self.house.objects, one, ref.revision + 1))

    def get(self, path: str, **asked: Any) -> httpx.Response:
        return httpx.get(f"{self.house.url}{path}", params=asked, timeout=60)

    def info(self, ref: VolumeRef) -> Any:
        answer = self.get(f"/v1/volumes/{ref}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def box(self, ref: VolumeRef, origin: tuple[int, ...], shape: tuple[int, ...], level: int = 0) -> NDArray[Any]:
        answer = self.block(ref, origin, shape, level)
        assert answer.status_code == 200, answer.text
        dtype = np.dtype(answer.headers["x-emporter-dtype"]).newbyteorder("<")
        return np.frombuffer(answer.content, dtype).reshape(shape)

    def block(self, ref: VolumeRef, origin: tuple[int, ...], shape: tuple[int, ...], level: int = 0) -> httpx.Response:
        return self.get(
            f"/v1/volumes/{ref}/block", level=level, origin=",".join(map(str, origin)), shape=",".join(map(str, shape))
        )

    def put_files(self, folder: str, objects: arrays.Objects) -> str:
        for name, body in objects.items():
            path = self.files / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(body)
        return f"file-root:scope/{folder}"


def without_cache(place: Place) -> dict[str, Any]:
    """The settings of the same place, without a cache."""
    said = place.settings.model_dump(include={"file_roots", "url_allowed_hosts", "url_allow_private", "url_s3_endpoint"})
    return said | {"blocks_cache_bytes": 0, "blocks_source_seconds": 0.0}


def noise(shape: tuple[int, ...] = SHAPE, dtype: str = "int16", seed: int = 0) -> NDArray[Any]:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def served(place: Place, where: str, kind: str, voxels: NDArray[Any]) -> str:
    """The root of `voxels` in the format `kind`, behind HTTP, in a bucket or as files."""
    make, shown = KINDS[kind]
    folder = f"data-{len(place.web.files)}-{len(place.bucket.files)}-{len(list(place.files.iterdir()))}"
    if where == "https":
        return shown.format(arrays.put(place.web, f"/{folder}", make(voxels)))
    if where == "s3":
        place.bucket.put_all(folder, make(voxels))
        return f"s3://open-data/{folder}"
    return place.put_files(folder, make(voxels))


def refused_as_changed(place: Place, ref: VolumeRef, origin: tuple[int, ...] = (0, 0, 0)) -> str:
    answer = place.block(ref, origin, (8, 8, 8))
    assert (answer.status_code, answer.json()["code"]) == (409, "source_changed"), answer.text
    assert "--force" in answer.json()["hint"]
    return str(answer.json()["title"])
