"""Upstream's own Linux files for QEMU's boards boot Debian's kernels with nothing but the images named.

The files are data beside the repository; without them this is skipped.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import effort
from linux_guest import require_linux
from stage2.cli.main import call
from waiting import HANG_S

SHARED = Path(__file__).parents[2].parent / "shared"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="upstream's files are not beside the repository")
FILES = {
    # Its serial port is one that the board does not have: it gets a model.
    "axvisor-configs/seed/vms/linux-qemu-aarch64-vm2.toml": ("aarch64", 1),
    "axvisor-configs/head/vms/linux-aarch64-qemu-smp1.toml": ("aarch64", 1),
    "axvisor-guest-configs/qemu-x86_64-linux-smp1.toml": ("x86_64", 1),
    "axvisor-guest-configs/qemu-aarch64-linux-smp2-dedicated.toml": ("aarch64", 2),
    "axvisor-configs/seed/vms/linux-qemu-aarch64.toml": ("aarch64", 1),
    "axvisor-configs/seed/vms/linux-qemu-aarch64-smp2.toml": ("aarch64", 2),
    "axvisor-guest-configs/qemu-aarch64-linux-smp1.toml": ("aarch64", 1),
}


@pytest.mark.parametrize("name", list(FILES)[: None if effort.FACTOR > 1 else 3])
def test_a_file_of_upstreams_boots_with_only_its_images_named(name: str, tmp_path: Path) -> None:
    arch, cpus = FILES[name]
    if shutil.which(f"qemu-system-{arch}") is None:
        pytest.skip(f"qemu-system-{arch} is not installed")
    guest = f"linux-{arch}"
    require_linux(guest)
    report = tmp_path / "report.json"
    images = ["--kernel", f"fetched:{guest}", "--ramdisk", f"fetched:{guest}"]
    bounds = ["--max-seconds", str(HANG_S), "--quiet", "--json", str(report)]
    # Its files name no architecture, and its kernels none of x86.
    code = call(["run", str(SHARED / name), "--arch", arch, *images, *bounds])
    (vm,) = json.loads(report.read_text())["vms"]
    assert (code, vm["exit"]) == (0, "off"), vm["reason"] + vm["console"][-1500:]
    assert vm["engine"] == "qemu"
    assert f", {cpus} cpu, " in vm["console"]
    assert "memory work ok" in vm["console"]
