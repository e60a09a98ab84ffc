"""Writes docs/json.md from the schemas; --check says whether it is as they are."""

from __future__ import annotations

from typing import Any

from made_page import write_or_check

from stage2.schemas import COMMON, load_schema, schema_names

OPENING = """\
# JSON

Every command that answers has `--json`. This page is made from the JSON Schemas (2020-12) in `stage2/schemas` of the
package by `python scripts/json_docs.py`; the tests hold whatever any command prints in them against its schema.

## Conventions

* An object names its schema and the version: `"schema": "stage2/walk/1"`. Within a version keys are added, never taken
  away, renamed or changed in type.
* An address is an integer and has hexadecimal text beside it, under its key with `_hex`: `"gpa": 4096, "gpa_hex":
  "0x1000"`. Where an address is null its twin is, too.
* A range is `{"space", "start", "end"}`, with `end` the first address behind it and `space` one of `GPA`, `HPA`, `HVA`
  and `GVA`.
* Permissions are text: `rwx`, with `-` for what is not allowed; `rwx/r-x` where privileged and user accesses differ.
* Sizes are bytes, times say their unit in the key. What is not known is null; what there is none of is an empty list.
* Levels count from 0, the smallest page, on every architecture.
* `translate`, `map` and `rmap` print an object a line, since there may be millions; those name no schema.
* Standard output has the JSON and nothing else; notices and errors are lines on standard error. Exit codes are the same
  with and without `--json`.

```python
from made_page import write_or_check
from stage2.schemas import load_schema, schema_names
```
"""


def kinds(schema: dict[str, Any]) -> str:
    """The type of a value, in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "anyOf" in schema:
        return " or ".join(kinds(part) for part in schema["anyOf"])
    found = schema.get("type", "anything")
    names = [found] if isinstance(found, str) else list(found)
    if "array" in names and "items" in schema:
        names[names.index("array")] = f"array of {kinds(schema['items'])}"
    return " or ".join(names)


def rows(schema: dict[str, Any], before: str = "") -> list[str]:
    """The table rows of an object and of what it holds. Hexadecimal twins go without saying."""
    found = []
    for name, value in schema.get("properties", {}).items():
        if name.endswith("_hex") and name != "registers_hex":
            continue
        path = before + name
        found.append(f"| `{path}` | {kinds(value)} | {value['description']} |")
        inner, mark = value, "."
        while "items" in inner:
            inner, mark = inner["items"], "[]" + mark
        found += rows(inner, path + mark)
    return found


def page() -> str:
    """The whole text."""
    parts = [OPENING]
    names = [name for name in schema_names() if name != COMMON]
    for name in [*names, COMMON]:
        schema = load_schema(name)
        parts += [f"## {name}", "", f"{schema['title']}.", ""]
        heads = [("", schema), *((part, found) for part, found in schema.get("$defs", {}).items())]
        for part, found in heads:
            table = rows(found.get("items", found))
            if table:
                parts += [
                    *([f"### {part}", ""] if part else []),
                    "| key | type | meaning |",
                    "|---|---|---|",
                    *table,
                    "",
                ]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    raise SystemExit(write_or_check("json.md", page(), "json_docs.py", "the schemas"))
