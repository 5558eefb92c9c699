"""Query parameters: models that are checked, and described in OpenAPI, in one place.

Not by FastAPI's own parameters: those take 0.25 ms for each request, as long as reading a 128³ crop from the cache, and pass over
a parameter they don't know, so that a misspelt `origin` would quietly give another box.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema, model_validator
from starlette.requests import Request

from block_server.arrays import Level, OpenVolume
from block_server.cropping import Frame, Outside
from block_server.encoding import PictureFormat
from block_server.errors import TooLargeError
from block_server.formats import BlockFormat, Dtype
from emporter_contracts.errors import InvalidValueError

Q = TypeVar("Q", bound=BaseModel)
N = TypeVar("N", int, float)

VOLUME = {
    "name": "v",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "`<volume>`, its current revision, or pinned: `<volume>@r<N>`",
}
LARGEST_BODY = 8 * 2**20
"""Bytes of a JSON body: some 200,000 origins."""
PURPOSE = "purpose"
"""A parameter of every route that names a volume: what it is for, where no header can be sent (policing)."""
LONGEST = 100
"""Characters of one parameter; three indices take 60 at most."""


class Query(BaseModel):
    """Parameters of one route; others are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _three(kind: Callable[[str], N], what: str) -> Callable[[object], tuple[N, N, N]]:
    def parsed(text: object) -> tuple[N, N, N]:
        try:
            z, y, x = (kind(part) for part in str(text)[:LONGEST].split(","))
        except ValueError:
            raise ValueError(f"{str(text)[:LONGEST]!r} is not {what}") from None
        return (z, y, x)

    return parsed


Index = Annotated[
    tuple[int, int, int],
    BeforeValidator(_three(int, "z,y,x, three whole numbers")),
    WithJsonSchema({"type": "string", "example": "0,0,0"}),
]
Numbers = Annotated[
    tuple[float, float, float], BeforeValidator(_three(float, "z,y,x, three numbers of nm")), WithJsonSchema({"type": "string"})
]


def _size(text: object) -> tuple[float, float, float]:
    one = str(text)
    return _three(float, "a voxel size, in nm: one number, or z,y,x")(one if "," in one else f"{one},{one},{one}")


Size = Annotated[tuple[float, float, float], BeforeValidator(_size), WithJsonSchema({"type": "string", "example": "32"})]
LevelNumber = Annotated[int, Field(ge=0, le=64, description="level of the pyramid, 0 = full resolution")]


class Leveled(Query):
    """Which level: by number, or the coarsest that is no coarser than a voxel size."""

    level: Annotated[LevelNumber | None, Field(description="level of the pyramid, 0 = full resolution, which is the default")] = (
        None
    )
    voxel_size_nm: Annotated[Size | None, Field(description="z,y,x or one for all: the coarsest level that is no coarser")] = None

    @model_validator(mode="after")
    def _once(self) -> Self:
        if self.level is not None and self.voxel_size_nm is not None:
            raise ValueError("level and voxel_size_nm say the same thing twice")
        if self.voxel_size_nm is not None and not all(0 < nm < float("inf") for nm in self.voxel_size_nm):
            raise ValueError("voxel_size_nm must be more than 0")
        return self

    def of(self, volume: OpenVolume) -> Level:
        """Raises UnknownLevelError, VoxelSizeUnknownError."""
        return volume.level(self.level or 0) if self.voxel_size_nm is None else volume.fitting_level(self.voxel_size_nm)


class BlockQuery(Leveled):
    origin: Annotated[Index | None, Field(description="first voxel z,y,x; 0,0,0 if absent")] = None
    shape: Annotated[Index | None, Field(description="voxels z,y,x; 128,128,128 if absent, less in a smaller level")] = None
    origin_nm: Annotated[Numbers | None, Field(description="world z,y,x in nm: the voxel nearest to it")] = None
    shape_nm: Annotated[Numbers | None, Field(description="z,y,x in nm, to whole voxels")] = None
    frame: Annotated[Frame, Field(description="voxel: of the level; source: the archive's own, full resolution")] = "voxel"
    format: Annotated[BlockFormat | None, Field(description="if absent, by Accept; else raw")] = None
    outside: Annotated[Outside, Field(description="what to give for voxels outside the volume")] = "error"
    dtype: Annotated[Dtype | None, Field(description="other than the stored one; numbers stay what they are")] = None
    window: Annotated[
        str | None,
        Field(max_length=LONGEST, description="contrast, never by default: auto, full, or low,high becomes the dtype's range"),
    ] = None


class SliceQuery(Leveled):
    format: Annotated[PictureFormat | None, Field(description="if absent, by Accept; else png; jpeg and webp are lossy")] = None
    depth: Annotated[Literal["8", "16"], Field(description="bits of a pixel; 16 in png only")] = "8"
    window: Annotated[
        str,
        Field(
            max_length=LONGEST,
            description="what is black and what white: auto (8 bit, or 16 bit at depth 16, as it is, else 0.1 to 99.9 "
            "percentile), full (minimum, maximum), or low,high",
        ),
    ] = "auto"


class ListQuery(Query):
    limit: Annotated[int, Field(ge=1, le=1000, description="volumes at most")] = 100
    cursor: Annotated[str, Field(max_length=200, description="`next` of the page before")] = ""


class IndexQuery(Query):
    after: Annotated[str, Field(max_length=200)] = ""


class ViewQuery(Query):
    plain: Annotated[str | None, Field(max_length=8, description="if there: three plain slices, without WebGL")] = None


def asked(request: Request, model: type[Q]) -> Q:
    """The parameters of a request. Raises InvalidValueError."""
    try:
        return model.model_validate({name: value for name, value in request.query_params.items() if name != PURPOSE})
    except ValidationError as error:
        raise _misread(error, model, 1) from None


async def asked_body(request: Request, model: type[Q]) -> Q:
    """The JSON body of a request. Raises InvalidValueError, TooLargeError."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise TooLargeError(f"the request is longer than {LARGEST_BODY} bytes", hint="ask for fewer boxes at once")
    try:
        return model.model_validate_json(bytes(body))
    except ValidationError as error:
        raise _misread(error, model, 4) from None


def _misread(error: ValidationError, model: type[BaseModel], depth: int) -> InvalidValueError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(map(str, first["loc"][:depth]))[:LONGEST]
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return InvalidValueError(f"there is no parameter {name!r}", hint=f"the parameters are {known}")
    message = first["msg"].removeprefix("Value error, ")
    return InvalidValueError(f"{name}: {message}" if name else message, hint="/openapi.json says what may be asked")


def documented(model: type[Query] | None, *path: dict[str, Any]) -> dict[str, Any]:
    """What FastAPI adds to a route's OpenAPI: `path` parameters, and the fields of `model` as query parameters."""
    properties = {} if model is None else model.model_json_schema()["properties"]
    query = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.pop("description", "")}
        for name, schema in properties.items()
    ]
    return {"parameters": [*path, *query]}
