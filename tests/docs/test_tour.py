"""The notebook runs, and its results show themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pages import ROOT

from notebooks import shown
from waiting import HANG_S

pytestmark = pytest.mark.slow
NOTEBOOK = ROOT / "examples" / "tour.ipynb"


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tour") / "tour.ipynb"
    command = [sys.executable, str(ROOT / "scripts" / "tour.py"), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.returncode == 0, done.stderr
    return made


def test_the_notebook_runs_and_shows_pictures_walks_tables_and_a_crash(tour: Path) -> None:
    found = shown(tour)
    pictures = [text for kind, text in found if kind == "image/svg+xml"]
    rich = "".join(text for kind, text in found if kind == "text/html")
    assert pictures
    assert "page tables of VM guest" in pictures[0]
    for told in ("stage 2 level 0", "L0[0..15]", "HFENCE.GVMA", "store/AMO guest-page fault"):
        assert told in rich


def test_each_cell_shows_its_result_once(tour: Path) -> None:
    texts = [text for kind, text in shown(tour) if kind != "text/plain"]
    assert len(texts) == len(set(texts))
    assert all(text.strip() for text in texts)


def test_the_notebook_is_kept_with_its_results() -> None:
    """Whoever looks at it without running it sees them."""
    assert [kind for kind, _ in shown(NOTEBOOK)].count("image/svg+xml") == 1
    assert str(ROOT) not in NOTEBOOK.read_text()


def test_the_command_line_loads_no_notebook() -> None:
    code = (
        "import sys\nfrom stage2.cli.main import call\nassert call(['explain', 'register', 'satp', '0']) == 0\n"
        "assert not {'IPython', 'stage2.notebook'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANG_S, check=True)
