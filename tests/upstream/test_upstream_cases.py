"""The table of upstream's cases is true: every test it names exists, and every test written for it is named."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
TABLE = TESTS.parent / "docs" / "upstream-cases.md"
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")
REASONS = ("not applicable: ", "open: ")
SECTIONS = [f"4.{n}" for n in range(1, 7)] + [f"5.{n}" for n in range(1, 8)]


def rows() -> list[tuple[str, str, str]]:
    """(section, upstream's case, what is here) of every row."""
    found, section = [], ""
    for line in TABLE.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.split()[1]
        elif line.startswith("|") and not line.startswith(("| upstream", "|---")):
            case, here = (cell.strip() for cell in line.strip("|").split("|"))
            found.append((section, case, here))
    return found


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name[:5] == "test_")


def test_every_section_has_rows() -> None:
    assert sorted({section for section, _, _ in rows()}) == SECTIONS
    assert len({(section, case) for section, case, _ in rows()}) == len(rows())


@pytest.mark.parametrize(("section", "case", "here"), rows())
def test_every_case_has_a_test_that_exists_or_a_reason(section: str, case: str, here: str) -> None:
    named = NAMED.findall(here)
    assert here.count("::") == len(named), "a name is not written as `file.py::test_name`"
    assert named or here.startswith(REASONS)
    for path, name in named:
        assert (TESTS / path).is_file(), path
        assert name in names_in(path), f"{path} has no {name}"


def test_every_test_of_a_defect_is_named_in_the_table() -> None:
    named = {name for _, _, here in rows() for _, name in NAMED.findall(here)}
    files = sorted(path.relative_to(TESTS).as_posix() for path in Path(__file__).parent.glob("test_*_defects.py"))
    assert len(files) == 5
    assert {name for path in files for name in names_in(path)} - named == set()
