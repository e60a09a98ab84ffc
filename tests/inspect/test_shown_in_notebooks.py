"""What is found in a memory, as a notebook shows it: short, whatever there is of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stage2 import notebook
from stage2.cli.main import call
from stage2.inspect.inspection import Inspection, open_memory
from stage2.render.audit import render_audit
from stage2.render.tables import render_text

VM = """\
[base]
id = 1
name = "vm"
vm_type = 1
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8000_0000
kernel_load_addr = 0x8000_0000
memory_regions = [[0x8000_0000, 0x40_0000, 0x7, 0]]
[devices]
"""


@pytest.fixture
def found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Inspection:
    (tmp_path / "vm.toml").write_text(VM)
    assert call(["build", str(tmp_path / "vm.toml"), "-o", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    return open_memory(str(tmp_path / "out"))


def test_a_memory_shows_its_roots_and_a_map_its_ranges(found: Inspection) -> None:
    told = render_text(notebook.inspection(found), width=100)
    assert f"{len(found.roots)} root" in told
    assert f"{found.roots[0].regime.root:#x}" in told
    (part,) = found.map_parts("gpa")
    assert repr(part).startswith(f"MapPart({len(part)} ranges, ")
    assert "0x0000000080000000-" in render_text(notebook.map_part(part), width=120)


def test_of_many_addresses_the_first_are_shown_and_the_rest_is_counted(found: Inspection) -> None:
    asked = np.uint64(0x8000_0000) + np.arange(1000, dtype=np.uint64)
    told = render_text(notebook.translations(found.translate_many(asked, "gpa")), width=100)
    assert told.count(" -> HPA ") == notebook.MOST_LINES
    assert f"and {1000 - notebook.MOST_LINES} more, of 1,000 addresses" in told


def test_an_audit_looks_at_the_roots_that_were_given_and_shows_its_findings(found: Inspection, tmp_path: Path) -> None:
    name = found.roots[0].name
    with open_memory(str(tmp_path / "out"), name) as given:
        assert [str(one.root) for one in given.audit().looked] == [f"{name} (--root)"]
    assert [str(one.root) for one in found.audit([name]).looked] == [f"{name} (--root)"]
    told = render_text(render_audit(found.audit()), width=120)
    assert "note S3001" in told
    assert "hgatp of CPU 0" in told
