"""A file that lists requests, YAML or JSON: what each entry asks for, or line and entry of what can't be.

requests:
  - link: https://idr.openmicroscopy.org/webclient/img_detail/9846137/
    region: {origin: [0, 0, 0], shape: [64, 512, 512]}
  - source: hemibrain
    random_region: {shape: [256, 256, 256], seed: 7}
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from pydantic import ValidationError

from emporter.errors import MistakeError
from emporter.ingesting import DEFAULT_ENTRIES, SCHEMES, linked
from emporter_contracts.commands import IngestRequest, Message, Output, RandomRegion, Region, Select
from emporter_contracts.ids import job_id
from emporter_contracts.topology import SOURCES

MOST_CHARACTERS = 2**20
"""Of one file of requests; a thousand of them need a fifth of it."""
LINK = "link"
PARTS: Mapping[str, type[Message]] = {"region": Region, "random_region": RandomRegion, "select": Select, "output": Output}
"""Fields of a request that have fields of their own."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One request and where it stands: `five.yaml line 4, entry 2`."""

    place: str
    request: IngestRequest


def requests_in(text: str, name: str) -> list[Listed]:
    """Every request of a file called `name`, in its order. Raises MistakeError naming line and entry of the first mistake."""
    if len(text) > MOST_CHARACTERS:
        raise MistakeError(f"{name} has more than {MOST_CHARACTERS} characters", hint="split it into several files")
    entries = _entries(text, name)
    found: list[Listed] = []
    jobs: dict[str, str] = {}
    for number, node in enumerate(entries, 1):
        one = _Entry(name, number, node).listed()
        job = job_id(one.request)
        if job in jobs:
            raise MistakeError(f"{one.place}: asks for the same as {jobs[job]}", hint="leave one of the two out")
        jobs[job] = one.place
        found.append(one)
    return found


def _entries(text: str, name: str) -> list[yaml.Node]:
    """The nodes of the list, which stands alone or under `requests`."""
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark is not None else ""
        problem = str(getattr(error, "problem", None) or "is no YAML")
        raise MistakeError(f"{name}{line}: {problem}", hint="write a list of requests, each beginning with '- '") from error
    if isinstance(root, yaml.MappingNode):
        if [key.value for key, _ in root.value] != ["requests"]:
            keys = ", ".join(str(key.value)[:40] for key, _ in root.value)
            raise MistakeError(f"{name} holds {keys or 'nothing'}", hint="write a list of requests, or requests: and the list")
        root = root.value[0][1]
    if not isinstance(root, yaml.SequenceNode) or not root.value:
        raise MistakeError(f"{name} lists no request", hint="write one for each volume: - link: https://…")
    return list(root.value)


class _Entry:
    """One entry of the list, not believed yet."""

    def __init__(self, name: str, number: int, node: yaml.Node) -> None:
        self._name = name
        self._number = number
        self._node = node

    def listed(self) -> Listed:
        return Listed(self._place(self._node), self._request())

    def _request(self) -> IngestRequest:
        if not isinstance(self._node, yaml.MappingNode):
            raise self._mistake(self._node, "is no request", hint="such as - link: https://… or - source: idr")
        self._known_fields(self._node, IngestRequest, also=(LINK,), inside="")
        fields = {str(key.value): self._value(key.value, value) for key, value in self._node.value}
        asked = self._addressed(fields)
        try:
            return IngestRequest.model_validate(asked)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "the request"
            said = first["msg"].removeprefix("Value error, ")
            raise self._mistake(self._at(first["loc"]), f"{where}: {said}", hint="emporter ingest --help") from error

    def _known_fields(self, node: yaml.MappingNode, model: type[Message], also: tuple[str, ...], inside: str) -> None:
        """Every key is a field, and stands once: an unknown one would be passed over in silence."""
        known = (*also, *model.model_fields)
        seen: set[str] = set()
        for key, value in node.value:
            word = str(key.value)
            if word not in known:
                close = difflib.get_close_matches(word, known, n=1)
                hint = f"did you mean {close[0]}?" if close else f"it can be {', '.join(known)}"
                raise self._mistake(key, f"{inside}{word}: there is no such field", hint=hint)
            if word in seen:
                raise self._mistake(key, f"{inside}{word}: stands here twice", hint="leave one of the two out")
            seen.add(word)
            part = PARTS.get(word) if not inside else None
            if part is not None and isinstance(value, yaml.MappingNode):
                self._known_fields(value, part, also=(), inside=f"{word}.")

    def _value(self, key: Any, node: yaml.Node) -> Any:
        if key in {"source_id", LINK} and isinstance(node, yaml.ScalarNode):
            # As it is written: an id such as 0012 or 1e5 is no number.
            return node.value
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except (yaml.YAMLError, ValueError) as error:
            said = str(getattr(error, "problem", None) or error)
            raise self._mistake(node, f"{key}: {said}", hint="write plain values") from error
        finally:
            loader.dispose()

    def _addressed(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields with `source` and `source_id` in place of a link."""
        link = fields.pop(LINK, None)
        if link is None:
            return self._named(fields)
        if "source" in fields or "source_id" in fields:
            raise self._mistake(self._node, "link stands beside source or source_id", hint="leave one of the two out")
        if not str(link).startswith(SCHEMES):
            raise self._mistake(self._at((LINK,)), f"{str(link)[:80]!r} is no link", hint="it begins with https://")
        try:
            target = linked(str(link))
        except MistakeError as error:
            raise self._mistake(self._at((LINK,)), error.message, hint=error.hint) from error
        said = fields.get("parameters")
        parameters = {**target.parameters, **(said if isinstance(said, dict) else {})}
        return {**fields, "source": target.source, "source_id": target.source_id, "parameters": parameters}

    def _named(self, fields: dict[str, Any]) -> dict[str, Any]:
        source = fields.get("source")
        if source is None:
            raise self._mistake(self._node, "says neither link nor source", hint="such as source: idr, source_id: 9846137")
        if source not in SOURCES:
            close = difflib.get_close_matches(str(source), SOURCES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"archives are {', '.join(sorted(SOURCES))}"
            raise self._mistake(self._at(("source",)), f"there is no archive {source!r}", hint=hint)
        if "source_id" not in fields and source not in DEFAULT_ENTRIES:
            raise self._mistake(self._node, f"{source} is an archive: which of its entries?", hint="say source_id")
        return {"source_id": DEFAULT_ENTRIES.get(source), **fields}

    def _at(self, path: tuple[int | str, ...]) -> yaml.Node:
        """The deepest node on the way along `path`."""
        node = self._node
        for step in path:
            below = dict(_steps(node)).get(step)
            if below is None:
                break
            node = below
        return node

    def _mistake(self, node: yaml.Node, said: str, hint: str) -> MistakeError:
        return MistakeError(f"{self._place(node)}: {said}", hint=hint)

    def _place(self, node: yaml.Node) -> str:
        return f"{self._name} line {node.start_mark.line + 1}, entry {self._number}"


def _steps(node: yaml.Node) -> Iterator[tuple[int | str, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        yield from ((str(key.value), value) for key, value in node.value)
    if isinstance(node, yaml.SequenceNode):
        yield from enumerate(node.value)
