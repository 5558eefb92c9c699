"""The parameters of a list of volumes, as the routes take them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from cataloger.ranges import MEASURES
from emporter_contracts.commands import CatalogQuery

Range = Annotated[str | None, Field(max_length=100, description="low..high, low.. or ..high; both ends included")]


class VolumeFilters(BaseModel):
    """Which volumes. What is not known of a volume matches no filter."""

    model_config = ConfigDict(extra="ignore")

    q: Annotated[str | None, Field(max_length=2000, description="every word must be in a volume's texts, or a form of it")] = None
    source: str | None = None
    status: str | None = None
    modality: str | None = None
    organism: str | None = None
    dtype: str | None = None
    licence: str | None = None
    role: str | None = None
    labels_of: Annotated[str | None, Field(description="the image a volume labels, or one revision of it: <volume>@r<N>")] = None
    verified: Annotated[str | None, Field(description="how much was read back: no, sample, full")] = None
    verdict: Annotated[str | None, Field(description="of the quality gates: pass, warn, fail")] = None
    gate: Annotated[
        str | None,
        Field(description="one quality gate, on the revision shown: shifted (warns or fails), shifted:fail, shifted:pass"),
    ] = None
    held: Annotated[bool | None, Field(description="true: a revision waits to be released, the one shown or a newer one")] = None
    caveat: str | None = None
    managed: Annotated[bool | None, Field(description="false: read where it lies, never copied (emporter register)")] = None
    annotation: Annotated[str | None, Field(description="key, or key=value")] = None
    where: Annotated[
        list[str],
        Field(description="conditions on any field of the record: metadata.core.axes=zyx; operators = != < <= > >= ~ (contains)"),
    ] = []
    max_voxel_nm: Annotated[float | None, Field(gt=0, allow_inf_nan=False, description="Coarsest axis, nm per voxel")] = None
    voxel_nm: Annotated[str | None, Field(max_length=100, description="nm per voxel, all three axes: low..high")] = None
    voxel_nm_z: Range = None
    voxel_nm_y: Range = None
    voxel_nm_x: Range = None
    shape_z: Range = None
    shape_y: Range = None
    shape_x: Range = None
    bytes: Range = None
    stored_bytes: Range = None
    mean: Range = None
    std: Range = None
    zero_share: Range = None
    saturated_share: Range = None
    nan_share: Range = None
    created_at: Range = None
    updated_at: Range = None

    def query(self) -> CatalogQuery:
        """The same as on the bus."""
        ranges = {name: value for name in MEASURES if (value := getattr(self, name)) is not None}
        same = self.model_dump(exclude={*MEASURES, "where"}, exclude_none=True)
        return CatalogQuery(**same, ranges=ranges, where=tuple(self.where))


class VolumeList(VolumeFilters):
    """Which volumes, in which order, which page."""

    sort: Annotated[str, Field(description="such as -updated_at, bytes, max_voxel_nm; relevance with q")] = "-updated_at"
    cursor: Annotated[str | None, Field(description="`cursor` of the page before")] = None
    limit: Annotated[int, Field(ge=1, le=1000, description="Items of one page at most; `cursor` says if there may be more")] = 100
