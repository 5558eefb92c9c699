"""What a GraphQL document may ask for: bounded in length, in depth and in cost, all known before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
    parse,
)

from cataloger.errors import InvalidQueryError

MAX_TOKENS = 2000
"""Of one document; the longest the introspection of common tools needs is about 400."""
MAX_DEPTH = 10
"""Of fields in fields. Introspection is not counted: it reads no data, and nests types deeply by nature."""
MAX_COST = 20_000
"""A field costs 1, a list what its items cost times how many are asked for: 1000 volumes with twenty fields each are allowed."""
LISTS = {"volumes": 50, "jobs": 50, "events": 50, "labels": 20, "quality": 50}
"""Fields of many items, and how many they are where `first` is not said."""
COSTS = {"record": 5, "lineage": 1000, "facets": 500, "raw": 100}
"""Fields that cost more than reading a column."""
ALONE = frozenset({"lineage"})
"""Fields that take several statements each, and so are not for the items of a list."""


@dataclass(frozen=True, slots=True)
class _Size:
    depth: int = 0
    cost: int = 0
    alone: str = ""
    """A field of ALONE that is somewhere in it."""


@dataclass(slots=True)
class _Measure:
    """Depth and cost of a document; each fragment is measured once, however often it is spread."""

    fragments: Mapping[str, FragmentDefinitionNode]
    variables: Mapping[str, Any]
    known: dict[str, _Size] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def of(self, selections: SelectionSetNode | None) -> _Size:
        found = _Size()
        for node in selections.selections if selections else ():
            one = self._of_one(node)
            found = _Size(max(found.depth, one.depth), found.cost + one.cost, found.alone or one.alone)
        return found

    def _of_one(self, node: Any) -> _Size:
        if isinstance(node, FragmentSpreadNode):
            return self._fragment(node.name.value)
        if isinstance(node, InlineFragmentNode):
            return self.of(node.selection_set)
        name = node.name.value
        inside = self.of(node.selection_set)
        if name.startswith("__"):
            return _Size(1, 1)
        if name not in LISTS:
            return _Size(inside.depth + 1, COSTS.get(name, 1) + inside.cost, name if name in ALONE else inside.alone)
        if inside.alone:
            raise InvalidQueryError(
                f"{inside.alone} is not told of each item of a list", hint=f"ask {{ volume(id: …) {{ {inside.alone} }} }}"
            )
        return _Size(inside.depth + 1, 1 + self._first(node, LISTS[name]) * max(1, inside.cost))

    def _fragment(self, name: str) -> _Size:
        if name in self.open:
            raise InvalidQueryError(f"fragment {name[:40]} holds itself", hint="leave the inner one out")
        if name not in self.known:
            fragment = self.fragments.get(name)
            self.open.add(name)
            self.known[name] = self.of(fragment.selection_set) if fragment else _Size()
            self.open.discard(name)
        return self.known[name]

    def _first(self, node: FieldNode, default: int) -> int:
        for argument in node.arguments or ():
            if argument.name.value != "first":
                continue
            if isinstance(argument.value, IntValueNode):
                return max(0, int(argument.value.value[:9]))
            if isinstance(argument.value, VariableNode):
                given = self.variables.get(argument.value.name.value)
                return given if isinstance(given, int) and given >= 0 else default
        return default


def check(query: str, variables: Mapping[str, Any]) -> None:
    """Raises InvalidQueryError for a document that is none, or asks for too much."""
    try:
        document: DocumentNode = parse(query, max_tokens=MAX_TOKENS)
    except GraphQLError as error:
        raise InvalidQueryError(f"no GraphQL: {error.message}"[:300], hint="/graphql answers introspection") from error
    except RecursionError as error:
        raise InvalidQueryError("the document nests too deeply", hint="ask in several documents") from error
    fragments = {d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)}
    for operation in document.definitions:
        if not isinstance(operation, OperationDefinitionNode):
            continue
        size = _Measure(fragments, {**_defaults(operation), **variables}).of(operation.selection_set)
        if size.depth > MAX_DEPTH:
            raise InvalidQueryError(f"the document is {size.depth} fields deep", hint=f"at most {MAX_DEPTH}")
        if size.cost > MAX_COST:
            raise InvalidQueryError(f"the document costs {size.cost}", hint=f"at most {MAX_COST}: give first, ask for less")


def _defaults(operation: OperationDefinitionNode) -> dict[str, int]:
    """What variables are where nobody gives them: `query ($n: Int = 1000)`."""
    given = {v.variable.name.value: v.default_value for v in operation.variable_definitions or ()}
    return {name: int(value.value[:9]) for name, value in given.items() if isinstance(value, IntValueNode)}
