"""What commands print is held against its schema, whichever test makes them print it."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from stage2.schemas import load_schema, schema_names


@cache
def validator(name: str) -> Draft202012Validator:
    """The validator of one kind of answer."""
    schemas = [load_schema(found) for found in schema_names()]
    registry: Registry[Any] = Registry().with_resources(
        [(schema["$id"], Resource.from_contents(schema)) for schema in schemas]
    )
    return Draft202012Validator(load_schema(name), registry=registry)


def require_schema(kind: str, text: str) -> None:
    """Fail where an answer is not as its schema says.

    Raises:
        AssertionError: it is not; where, and what is wrong there.
    """
    errors = [f"{error.json_path}: {error.message[:300]}" for error in validator(kind).iter_errors(json.loads(text))]
    assert not errors, f"the JSON of {kind} is not as its schema says: {errors}"
