"""The monitors' bytes are what their sources say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from stage2.machines import mailbox
from stage2.machines.mailbox import Command, Event
from waiting import HANG_S

ROOT = Path(__file__).parents[2]
MONITORS = ROOT / "src" / "stage2" / "machines" / "monitors"
TOOLS = ("riscv64-linux-gnu-as", "aarch64-linux-gnu-as", "x86_64-linux-gnu-as")


def test_every_monitor_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{', '.join(missing)} not installed")
    subprocess.run(["sh", "scripts/monitors.sh", str(tmp_path)], cwd=ROOT, check=True, timeout=HANG_S)
    sources = {path.stem for path in MONITORS.glob("*.S")}
    assert {path.stem for path in MONITORS.glob("*.bin")} == sources == {path.stem for path in tmp_path.iterdir()}
    for name in sources:
        assert (tmp_path / f"{name}.bin").read_bytes() == (MONITORS / f"{name}.bin").read_bytes(), name


def test_the_monitors_mailbox_is_that_of_python() -> None:
    named = re.findall(r"\.equ (\w+), +(?:MAILBOX_AT \+ )?(\w+)", (MONITORS / "mailbox.inc").read_text())
    python = {name: int(getattr(mailbox, name)) for name in ("MAGIC", "SEQUENCE", "ACKNOWLEDGE", "EVENT", "COMMAND",
              "LIST", "COUNT", "RESULTS", "FLAGS", "INFO", "REGISTERS")}  # fmt: skip
    python |= {name: int(Event[name]) for name in ("READY", "FAILED")}
    python |= {name: int(Command[name]) for name in ("LOAD", "PROBE", "INVALIDATE")}
    python |= {"PROBE_SIZE": mailbox.PROBE_ENTRY.itemsize, "RESULT_SIZE": mailbox.RESULT_ENTRY.itemsize}
    assert {name: int(value, 0) for name, value in named} == python
