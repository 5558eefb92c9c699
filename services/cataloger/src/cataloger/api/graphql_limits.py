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
LISTS = {"volumes": 50, "jobs": 50, "events": 50, "labels": 20}
"""Fields of many items, and how many they are where `first` is not said."""
COSTS = {"record": 5, "lineage": 100, "facets": 500, "raw": 100}
"""Fields that cost more than reading a column."""


@dataclass(slots=True)
class _Measure:
    """Depth and cost of a document; each fragment is measured once, however often it is spread."""

    fragments: Mapping[str, FragmentDefinitionNode]
    variables: Mapping[str, Any]
    known: dict[str, tuple[int, int]] = field(default_factory=dict)
    open: set[str] = field(default_factory=set)

    def of(self, selections: SelectionSetNode | None) -> tuple[int, int]:
        depth, cost = 0, 0
        for node in selections.selections if selections else ():
            deeper, dearer = self._of_one(node)
            depth, cost = max(depth, deeper), cost + dearer
        return depth, cost

    def _of_one(self, node: Any) -> tuple[int, int]:
        if isinstance(node, FragmentSpreadNode):
            return self._fragment(node.name.value)
        if isinstance(node, InlineFragmentNode):
            return self.of(node.selection_set)
        name = node.name.value
        depth, cost = self.of(node.selection_set)
        if name.startswith("__"):
            return 1, 1
        if name in LISTS:
            return depth + 1, 1 + self._first(node, LISTS[name]) * max(1, cost)
        return depth + 1, COSTS.get(name, 1) + cost

    def _fragment(self, name: str) -> tuple[int, int]:
        if name in self.open:
            raise InvalidQueryError(f"fragment {name[:40]} holds itself", hint="leave the inner one out")
        if name not in self.known:
            fragment = self.fragments.get(name)
            self.open.add(name)
            self.known[name] = self.of(fragment.selection_set) if fragment else (0, 0)
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
        depth, cost = _Measure(fragments, variables).of(operation.selection_set)
        if depth > MAX_DEPTH:
            raise InvalidQueryError(f"the document is {depth} fields deep", hint=f"at most {MAX_DEPTH}")
        if cost > MAX_COST:
            raise InvalidQueryError(f"the document costs {cost}", hint=f"at most {MAX_COST}: give first, ask for less")
