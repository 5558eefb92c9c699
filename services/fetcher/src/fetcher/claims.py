"""What an archive says of its volumes, beside what their files say: the files count, and where the two differ it is told."""

from __future__ import annotations

from collections.abc import Iterator

from emporter_contracts.commands import IngestRequest, Select
from emporter_contracts.geometry import AXES
from emporter_contracts.plans import Caveat
from emporter_readers.protocol import FoundVolume
from fetcher.sources.protocol import Claims, Part


def selection(request: IngestRequest, part: Part) -> Select:
    """What the request selects, and what the archive says is meant wherever the request is silent."""
    asked = request.select.model_dump(exclude_none=True)
    return part.select.model_copy(update=asked)


def disagreements(claims: Claims, found: FoundVolume) -> Iterator[Caveat]:
    """A caveat for every claim of the archive that the file contradicts."""
    for axis, here, there in zip(AXES, found.shape, claims.shape, strict=True):
        if there is not None and here != there:
            evidence = f"voxels along {axis}: {here} by the file, {there} by the archive's API; the file counts"
            yield Caveat(code="archive_disagrees", evidence=evidence, about="shape")
    if claims.dtype is not None and claims.dtype != found.dtype:
        evidence = f"voxel type: {found.dtype} by the file, {claims.dtype} by the archive's API; the file counts"
        yield Caveat(code="archive_disagrees", evidence=evidence)
