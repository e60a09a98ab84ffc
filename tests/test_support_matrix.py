"""`docs/support-matrix.md` says nothing that no test says."""

import re
from pathlib import Path

from stage2.formats import names

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "support-matrix.md").read_text(encoding="utf-8")
KEYS = dict(re.findall(r"^\* ([A-Z]\d): `(.+)`$", TEXT, re.MULTILINE))
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| ")]
FORMAT_ROWS = {row[0].strip("`"): row[1:] for row in ROWS if row[0].startswith("`")}


def cells() -> list[str]:
    header = next(row for row in ROWS if row[0] == "format")
    assert all(len(row) == len(header) - 1 for row in FORMAT_ROWS.values())
    subjects = [row[1] for row in ROWS if len(row) == 2 and row[0] != "subject"]
    return [cell for row in FORMAT_ROWS.values() for cell in row] + subjects


def test_every_format_has_its_row() -> None:
    assert sorted(FORMAT_ROWS) == sorted(names())


def test_every_cell_names_tests_that_the_page_lists() -> None:
    used = set()
    for cell in cells():
        if cell not in ("-", "no"):
            used |= set(cell.split(", "))
    assert used == set(KEYS)


def test_every_test_that_is_named_exists() -> None:
    assert len(KEYS) > 30
    for key, test in KEYS.items():
        path, name = test.split("::")
        text = (ROOT / path).read_text(encoding="utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE), f"{key}: {test}"
