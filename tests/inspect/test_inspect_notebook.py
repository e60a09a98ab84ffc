"""The notebook that looks into a dump runs on one that is made here: of Debian's Linux, by QEMU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from linux_machines import started

from notebooks import shown
from waiting import HANG_S

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "examples" / "inspect.ipynb"


@pytest.fixture(scope="module")
def looked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What the notebook shows of a dump."""
    made = tmp_path_factory.mktemp("inspect") / "inspect.ipynb"
    dump = started("x86_64", request).core
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "inspect_notebook.py"), str(made)],
        env={**os.environ, "STAGE2_DUMP": str(dump)}, capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return shown(made)


def told(looked: list[tuple[str, str]]) -> str:
    return "\n".join(text for _, text in looked)


def test_the_notebook_walks_to_the_banner_of_the_kernel_and_reads_it(looked: list[tuple[str, str]]) -> None:
    text = told(looked)
    assert "CR3 of CPU 0" in text
    assert "stage 1 level 3" in text
    assert "b'Linux version 6." in text


def test_the_notebook_maps_translates_and_audits(looked: list[tuple[str, str]]) -> None:
    text = told(looked)
    assert "write-back" in text
    assert "addresses, 0 faults" in text
    assert "No difference" in text
    assert "S3006" in text


def test_the_notebook_is_kept_with_its_results() -> None:
    """Whoever looks at it without running it sees them."""
    found = told(shown(NOTEBOOK))
    assert "b'Linux version 6." in found
    assert str(ROOT) not in NOTEBOOK.read_text()
    assert "/tmp" not in NOTEBOOK.read_text()
