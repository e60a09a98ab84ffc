"""The monitors' bytes are what their sources say."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MONITORS = ROOT / "src" / "stage2" / "machines" / "monitors"
TOOLS = ("riscv64-linux-gnu-as", "aarch64-linux-gnu-as", "x86_64-linux-gnu-as")


def test_every_monitor_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing and not os.environ.get("CI"):
        pytest.skip(f"{', '.join(missing)} not installed")
    subprocess.run(["sh", "scripts/monitors.sh", str(tmp_path)], cwd=ROOT, check=True, timeout=60)
    sources = {path.stem for path in MONITORS.glob("*.S")}
    assert {path.stem for path in MONITORS.glob("*.bin")} == sources == {path.stem for path in tmp_path.iterdir()}
    for name in sources:
        assert (tmp_path / f"{name}.bin").read_bytes() == (MONITORS / f"{name}.bin").read_bytes(), name
