"""What browsing finds: values for programs, tables for people, requests for an ingest."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue

Pair = tuple[str, str]
"""Of a map annotation. Keys may come more than once and their order means something: pairs, never a dict."""


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True)


class Request(_Value):
    """What `emporter ingest -f -` takes: one entry of its list."""

    source: str
    source_id: str
    parameters: dict[str, JsonValue] = {}


class Picture(_Value):
    """A rendered picture that was saved: 8 bits after contrast settings and JPEG, for eyes only."""

    kind: Literal["picture, not data"] = "picture, not data"
    of: str
    path: str


class Thing(_Value):
    """Something an archive holds: a screen, an image, an entry, a data set."""

    kind: str
    id: str
    name: str = ""
    details: dict[str, JsonValue] = {}
    children: tuple[Thing, ...] = ()
    annotations: tuple[Pair, ...] | None = None
    """None where nobody asked."""
    request: Request | None = None
    """What ingests it; None where it is no image, or several."""

    def requests(self) -> list[Request]:
        """What ingests it, or everything in it."""
        if self.request is not None and not self.children:
            return [self.request]
        return [request for child in self.children for request in child.requests()]

    def images(self) -> list[Thing]:
        """It, or those in it, that are images."""
        return [self] if self.kind == "image" else [image for child in self.children for image in child.images()]
