"""Our own rules for the code, which mypy checks with the plugins of `lints/`, find what they are for, and no more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADER = """
import numpy as np
import numpy.typing as npt

def rule(rows: npt.NDArray[np.uint64], at: int, several: npt.NDArray[np.intp], first: np.uint64,
         entries: npt.NDArray[np.void], counts: npt.NDArray[np.uint16]) -> None:
"""
WRAPS = [
    "rows[at, 1] - rows[at, 0]",
    "rows[several[0], 1] + np.uint64(1)",
    "first + np.uint64(1)",
    "first << np.uint64(3)",
    "rows[at] * 2",
    "[start - 1 for start in rows[:, 0]]",
    "rows[:, 0].min() - first",
    "counts.max() + 1",
    "counts[at] + 1",
    "counts.__setitem__(at, counts[at] - 1)",
    "entries[at]['start'] + 1",
    "[entry['start'] - 1 for entry in entries]",
    "-first",
]
SOUND = [
    "rows[several, 1] - rows[several, 0]",
    "rows[:, 0] + first",
    "first - rows[:, 0]",
    "int(rows[at, 1]) - int(rows[at, 0])",
    "[start - 1 for start in rows[:, 0].tolist()]",
    "rows[at, :] + rows[at, :]",
    "rows[at, 0] & np.uint64(7) | first >> np.uint64(3)",
    "int(entries[at]['start']) + 1",
    "rows[at, 1] < first",
]


@pytest.fixture(scope="module")
def complaints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What mypy says of each line, with the project's own settings."""
    file = tmp_path_factory.mktemp("lints") / "rule.py"
    lines = [*WRAPS, *SOUND]
    file.write_text(HEADER + "".join(f"    {line}\n" for line in lines))
    # A cache of its own: mypy repeats what it said before under the path of that time.
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(file.parent / "cache"), str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, list[str]] = {line: [] for line in lines}
    first = HEADER.count("\n")
    for said in done.stdout.splitlines():
        if said.startswith(str(file)):
            found[lines[int(said.removeprefix(f"{file}:").partition(":")[0]) - first - 1]].append(said)
    return found


@pytest.mark.parametrize("line", WRAPS)
def test_arithmetic_on_a_single_numpy_integer_is_refused(complaints: dict[str, list[str]], line: str) -> None:
    assert [said for said in complaints[line] if said.endswith("[numpy-scalar]")]


@pytest.mark.parametrize("line", SOUND)
def test_arithmetic_on_arrays_and_ints_is_not(complaints: dict[str, list[str]], line: str) -> None:
    assert complaints[line] == []
