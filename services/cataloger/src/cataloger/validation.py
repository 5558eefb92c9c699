"""What the published JSON Schema of the metadata record has against a record."""

from __future__ import annotations

import functools
from typing import Any

from jsonschema import Draft202012Validator

from emporter_contracts.export import schema_of
from emporter_contracts.records import MetadataRecord

MAX_PROBLEMS = 20
"""Of one record; one that is wrong in more places is wrong altogether."""


@functools.cache
def validator() -> Draft202012Validator:
    """Of `contracts/schemas/metadata-record-2.0.json`, formats (date-time, uuid) included."""
    schema = schema_of(MetadataRecord)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def schema_id() -> str:
    """The `$id` of the schema records are held against."""
    return str(schema_of(MetadataRecord)["$id"])


def problems(record: dict[str, Any]) -> list[str]:
    """One line a violation, with its place; empty where the record is valid."""
    found = sorted(validator().iter_errors(record), key=lambda error: error.json_path)
    return [f"{error.json_path}: {error.message[:200]}" for error in found[:MAX_PROBLEMS]]
