"""Hosts' device trees for tests: QEMU's own, and small ones that tests put together."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from opening import or_skip
from stage2.images.apt import TRIXIE, Release, updated
from stage2.images.fdt import Node, flatten
from stage2.images.host_tree import HostTree
from stage2.images.store import keep
from stage2.machines.emulator import OWN_QEMU
from stage2.user_cache import user_cache
from waiting import HANG_S

PACKAGES = {"aarch64": "qemu-system-arm", "riscv64": "qemu-system-misc"}
MACHINES = {"aarch64": "virt,gic-version=3", "riscv64": "virt"}
CPUS = {"aarch64": "cortex-a72", "riscv64": "rv64"}


def qemu_tree(arch: str, folder: Path, machine: str | None = None) -> Path:
    """The tree of QEMU's virt machine with 1 GiB and two CPUs; without QEMU the test is skipped, in CI it fails."""
    program = or_skip(lambda: OWN_QEMU.program(f"qemu-system-{arch}", PACKAGES[arch]))
    file = folder / f"{arch}.dtb"
    subprocess.run(
        [
            *program.command, "-machine", f"{machine or MACHINES[arch]},dumpdtb={file}", "-cpu", CPUS[arch], "-m", "1G",
            "-smp", "2", "-display", "none",
        ],
        check=True, capture_output=True, timeout=HANG_S,
    )  # fmt: skip
    return file


def small_tree(arch: str = "riscv64") -> Node:
    """A machine with two CPUs, 1 GiB of RAM from 0x8000_0000 and an empty bus /soc."""
    root = Node("").set("#address-cells", 2).set("#size-cells", 2).set("model", "small")
    root.child("memory@80000000").set("device_type", "memory").set_u64("reg", 0x8000_0000, 0x4000_0000)
    cpus = root.child("cpus").set("#address-cells", 1).set("#size-cells", 0)
    for number in range(2):
        cpu = cpus.child(f"cpu@{number}").set("device_type", "cpu").set("reg", number)
        if arch == "riscv64":
            cpu.set("compatible", "riscv").set("mmu-type", "riscv,sv39")
        else:
            cpu.set("compatible", "arm,cortex-a53")
    root.child("soc").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
    return root


def bus(root: Node) -> Node:
    """The bus of `small_tree`."""
    found = root.find("soc")
    assert found is not None
    return found


def write_tree(folder: Path, root: Node, reserved: Sequence[tuple[int, int]] = (), name: str = "host.dtb") -> Path:
    """The file of a tree."""
    file = folder / name
    file.write_bytes(flatten(root, reserved))
    return file


def host_tree(folder: Path, root: Node, reserved: Sequence[tuple[int, int]] = ()) -> HostTree:
    """A tree as it is read from a file."""
    return HostTree.read(write_tree(folder, root, reserved))


def need_dtc() -> None:
    """Skip the test where there is no dtc; in CI it fails."""
    if shutil.which("dtc") is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs the Debian package device-tree-compiler")
        pytest.skip("needs the Debian package device-tree-compiler")


BOARD = "rk3568-roc-pc"
"""A board that AxVisor is built for, and whose tree Debian's kernel package has."""


def board_tree() -> Path:
    """The device tree of `BOARD` from Debian 13's kernel for arm64; kept. Without network the test is skipped."""
    name = f"debian-13-{BOARD}"
    folder = user_cache("trees")

    def make(work: Path) -> Path | None:
        if (folder / name / "board.dtb").is_file():
            return None
        apt = updated(work, Release(*TRIXIE, "arm64"))
        _, deb = apt.download(apt.kernel_package("linux-image-arm64"), work, lambda *_: None)
        made = work / "made"
        made.mkdir()
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE) as unpacking:
            assert unpacking.stdout is not None
            with tarfile.open(fileobj=unpacking.stdout, mode="r|") as files:
                for member in files:
                    if member.name.endswith(f"/rockchip/{BOARD}.dtb"):
                        found = files.extractfile(member)
                        assert found is not None
                        (made / "board.dtb").write_bytes(found.read())
        return made

    or_skip(lambda: keep(name, folder, make))
    return folder / name / "board.dtb"
