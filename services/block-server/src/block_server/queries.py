"""Query parameters: models that are checked, and described in OpenAPI, in one place.

Not by FastAPI's own parameters: those take 0.25 ms for each request, as long as reading a 128³ crop from the cache, and pass over
a parameter they don't know, so that a misspelt `origin` would quietly give another box.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, WithJsonSchema
from starlette.requests import Request

from block_server.cropping import Frame, Outside
from block_server.encoding import BlockFormat
from emporter_contracts.errors import InvalidValueError

Q = TypeVar("Q", bound="Query")
N = TypeVar("N", int, float)

VOLUME = {
    "name": "v",
    "in": "path",
    "required": True,
    "schema": {"type": "string"},
    "description": "`<volume>`, its current revision, or pinned: `<volume>@r<N>`",
}
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
LevelNumber = Annotated[int, Field(ge=0, le=64, description="level of the pyramid, 0 = full resolution")]


class BlockQuery(Query):
    level: LevelNumber = 0
    origin: Annotated[Index | None, Field(description="first voxel z,y,x; 0,0,0 if absent")] = None
    shape: Annotated[Index | None, Field(description="voxels z,y,x; 128,128,128 if absent, less in a smaller level")] = None
    origin_nm: Annotated[Numbers | None, Field(description="world z,y,x in nm: the voxel nearest to it")] = None
    shape_nm: Annotated[Numbers | None, Field(description="z,y,x in nm, to whole voxels")] = None
    frame: Annotated[Frame, Field(description="voxel: of the level; source: the archive's own, full resolution")] = "voxel"
    format: Annotated[BlockFormat | None, Field(description="if absent, by Accept; else raw")] = None
    outside: Annotated[Outside, Field(description="what to give for voxels outside the volume")] = "error"


class SliceQuery(Query):
    level: LevelNumber = 0
    format: Literal["png"] = "png"
    window: Annotated[
        str,
        Field(
            max_length=LONGEST,
            description="what is black and what white: auto (8 bit as it is, else 0.1 to 99.9 percentile), "
            "full (minimum, maximum), or low,high",
        ),
    ] = "auto"


class ListQuery(Query):
    limit: Annotated[int, Field(ge=1, le=1000, description="volumes at most")] = 100
    cursor: Annotated[str, Field(max_length=200, description="`next` of the page before")] = ""


class IndexQuery(Query):
    after: Annotated[str, Field(max_length=200)] = ""


def asked(request: Request, model: type[Q]) -> Q:
    """The parameters of a request. Raises InvalidValueError."""
    try:
        return model.model_validate(dict(request.query_params))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(map(str, first["loc"][:1]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields)
            raise InvalidValueError(f"there is no parameter {name[:LONGEST]!r}", hint=f"the parameters are {known}") from None
        message = first["msg"].removeprefix("Value error, ")
        raise InvalidValueError(f"{name}: {message}", hint="/openapi.json says what may be asked") from None


def documented(model: type[Query] | None, *path: dict[str, Any]) -> dict[str, Any]:
    """What FastAPI adds to a route's OpenAPI: `path` parameters, and the fields of `model` as query parameters."""
    properties = {} if model is None else model.model_json_schema()["properties"]
    query = [
        {"name": name, "in": "query", "required": False, "schema": schema, "description": schema.pop("description", "")}
        for name, schema in properties.items()
    ]
    return {"parameters": [*path, *query]}
