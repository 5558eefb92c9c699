"""The policy file: YAML, checked as a whole before anything runs; what is wrong is told with its line and the rule's name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from emporter_contracts.policy import Outcome, Point
from emporter_runtime.policy.errors import PolicyFileError
from emporter_runtime.policy.expressions import compiled
from emporter_runtime.policy.facts import VARIABLES

MAX_BYTES = 1 << 20
"""Of a policy file."""
MAX_RULES = 200
_HINT = "docs/policy.md says what a rule may be, deploy/policy.yaml is an example; emporter policy test FILE checks one"

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Kept = Literal["raw", "uploads", "volumes"]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    when: str = "true"

    @field_validator("when", mode="before")
    @classmethod
    def _text(cls, value: object) -> object:
        """YAML reads `when: true` as a truth value."""
        return str(value).lower() if isinstance(value, bool) else value

    @field_validator("when")
    @classmethod
    def _sound(cls, value: str) -> str:
        compiled(value, VARIABLES)
        return value


class Rule(_Entry):
    """Where `when` is true, `then` follows: `deny` refuses, `hold` keeps a revision from becoming current, `warn` is told."""

    at: Annotated[tuple[Point, ...], Field(min_length=1)]
    then: Outcome
    message: Annotated[str, Field(max_length=500, pattern=r"^[^\r\n]*$")] = ""
    status: Literal[403, 451] = 403
    """Of the HTTP answer, at access: 403 Forbidden, or 451 Unavailable For Legal Reasons."""
    on_error: Literal["deny", "warn"] = "deny"
    """What follows where `when` can't be evaluated; at publication `deny` holds."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.then == "hold" and set(self.at) != {"publication"}:
            raise ValueError("hold is for publication alone; elsewhere a rule denies: write two rules")
        if self.on_error == "warn" and self.then != "warn":
            raise ValueError("on_error: warn would turn an error into an allow; only a rule that warns may say it")
        return self


class RetentionRule(_Entry):
    """What `emporter gc` may take away `days` after its run ended (raw, uploads) or it was committed (volumes)."""

    what: Kept
    days: Annotated[float, Field(ge=1, allow_inf_nan=False)]


class PolicyDocument(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name = "none"
    rules: Annotated[tuple[Rule, ...], Field(max_length=MAX_RULES)] = ()
    retention: Annotated[tuple[RetentionRule, ...], Field(max_length=MAX_RULES)] = ()

    @field_validator("rules", "retention", mode="before")
    @classmethod
    def _none_left(cls, value: object) -> object:
        """What YAML makes of a list whose every entry was commented out."""
        return () if value is None else value

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [entry.name for entry in (*self.rules, *self.retention)]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two rules are named {twice[0]}")
        return self


def read_document(path: Path) -> PolicyDocument:
    """The policy in a file. Raises PolicyFileError with the line and the name of the rule that is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise PolicyFileError(f"{path}: {error}"[:300], hint="EMPORTER_POLICY names the policy file") from error
    return parse_document(text, str(path))


def parse_document(text: str, where: str = "policy") -> PolicyDocument:
    """The policy in `text`. Raises PolicyFileError."""
    if len(text) > MAX_BYTES:
        raise PolicyFileError(f"{where}: more than {MAX_BYTES} characters", hint=_HINT)
    try:
        tree = yaml.compose(text, yaml.SafeLoader)
        body = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = f":{error.problem_mark.line + 1}" if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else ""
        said = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        raise PolicyFileError(f"{where}{line}: no YAML: {said}"[:300], hint=_HINT) from error
    try:
        return PolicyDocument.model_validate({} if body is None else body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = tuple(first["loc"])
        field = ".".join(str(part) for part in path[2:])
        named = _rule_at(body, path)
        parts = (f"{where}:{_line(tree, path)}", named, field or (".".join(map(str, path)) if not named else ""))
        said = first["msg"].removeprefix("Value error, ")
        raise PolicyFileError(": ".join([*filter(None, parts), said])[:800], hint=_HINT) from error


def _rule_at(body: Any, path: Sequence[int | str]) -> str:
    """`rule NAME`, where the fault lies in one."""
    if len(path) < 2 or not isinstance(path[1], int):
        return ""
    rule = body[path[0]][path[1]]
    name = rule.get("name") if isinstance(rule, dict) else None
    return f"rule {name}" if isinstance(name, str) else f"rule number {path[1] + 1}"


def _line(node: yaml.Node | None, path: Sequence[int | str]) -> int:
    """The line, from 1, where what `path` leads to stands; that of the nearest thing there is around it."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                return line
            line, node = found[0].start_mark.line + 1, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            return line
    return line
