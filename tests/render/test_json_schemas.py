"""The schemas of what commands print, and the page that tells of them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from json_schemas import require_schema, validator
from stage2.render.json_text import ADDRESS_KEYS, schema_name, with_hex
from stage2.schemas import COMMON, load_schema, schema_names

ROOT = Path(__file__).resolve().parent.parent.parent


def properties_in(schema: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of a schema, at any depth."""
    if isinstance(schema, list):
        for item in schema:
            yield from properties_in(item)
    if isinstance(schema, dict):
        yield from schema.get("properties", {}).items()
        for value in schema.values():
            yield from properties_in(value)


@pytest.mark.parametrize("name", schema_names())
def test_a_schema_is_sound_closed_and_describes_every_key(name: str) -> None:
    schema = load_schema(name)
    validator(name).check_schema(schema)
    assert schema["$id"] == f"stage2/{name}"
    assert all(found.get("description") for _, found in properties_in(schema))
    assert '"additionalProperties": true' not in json.dumps(schema)


@pytest.mark.parametrize("name", schema_names())
def test_addresses_have_hexadecimal_twins_in_every_schema(name: str) -> None:
    def objects(schema: Any) -> Iterator[dict[str, Any]]:
        if isinstance(schema, dict):
            if "properties" in schema:
                yield schema["properties"]
            for value in schema.values():
                yield from objects(value)
        elif isinstance(schema, list):
            for item in schema:
                yield from objects(item)

    for found in objects(load_schema(name)):
        for key in ADDRESS_KEYS & found.keys():
            kinds = found[key].get("type", "")
            if "integer" in ([kinds] if isinstance(kinds, str) else kinds):
                assert f"{key}_hex" in found, f"{name}: {key}"


def test_an_answer_names_its_schema_and_a_wrong_one_is_refused() -> None:
    assert schema_name("walk") == "stage2/walk/1"
    with pytest.raises(AssertionError, match="unexpected"):
        require_schema("register", json.dumps({"colour": "green"}))


def test_twins_are_made_of_integers_and_null_and_never_over_a_key_that_is_there() -> None:
    assert with_hex({"gpa": 16, "hpa": None, "start": True, "size": 1, "root": [1], "end": 2, "end_hex": "kept"}) == {
        "gpa": 16, "gpa_hex": "0x10", "hpa": None, "hpa_hex": None, "start": True, "size": 1, "root": [1], "end": 2,
        "end_hex": "kept",
    }  # fmt: skip


def test_the_page_about_json_is_what_the_schemas_say() -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "scripts/json_docs.py"), "--check"], capture_output=True, text=True, timeout=120
    )
    assert made.returncode == 0, made.stderr
    assert COMMON in schema_names()
