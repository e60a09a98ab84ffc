"""The folders of tests/check/faults: files with one mistake each, and what is said of them."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from guest_files import CODE, arm64, riscv64, tree
from stage2.images.fdt import Node
from trees import bus, need_dtc, small_tree, write_tree


def _plic(root: Node) -> None:
    bus(root).child("plic@c000000").set("compatible", "sifive,plic-1.0.0").set("interrupt-controller").set_u64(
        "reg", 0xC00_0000, 0x60_0000
    )


def _console(root: Node) -> None:
    bus(root).child("serial@10000000").set("compatible", "ns16550a").set_u64("reg", 0x1000_0000, 0x1000)
    root.child("chosen").set("stdout-path", "/soc/serial@10000000:115200n8")


def _pci(root: Node) -> None:
    bridge = bus(root).child("pci@30000000").set("compatible", "pci-host-ecam-generic").set("device_type", "pci")
    bridge.set("#address-cells", 3).set("#size-cells", 2).set_u64("reg", 0x3000_0000, 0x1000_0000)
    bridge.set("ranges", [0x0200_0000, 0, 0x4000_0000, 0, 0x4000_0000, 0, 0x1000_0000])


def _firmware(root: Node) -> None:
    kept = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
    kept.child("firmware@80000000").set_u64("reg", 0x8000_0000, 0x8_0000).set("no-map")


TREES = {"plain": lambda root: root, "plic": _plic, "console": _console, "pci": _pci, "firmware": _firmware}
"""What a fault's host has, by the `tree` of its expected.toml."""
IMAGES = {
    "arm64": arm64(flags=8),
    "arm64-of-4.5": arm64(),
    "arm64-of-3-MiB": arm64(image_size=0x30_0000, flags=8),
    "riscv64": riscv64(),
    "raw": CODE,
    "lz4": b"\x04\x22\x4d\x18" + bytes(64),
    "ramdisk": b"070701" + bytes(0x1FFA),
    "tree": tree(),
}
"""The bytes of a fault's image files, by the `images` of its expected.toml."""
FAULTS = sorted((Path(__file__).parent / "check" / "faults").iterdir())


def expected_of(fault: Path) -> dict[str, Any]:
    """What is to be said of a fault: its expected.toml."""
    return tomllib.loads((fault / "expected.toml").read_text())


def stand_in(fault: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Go to a copy of a fault, with the host's tree and the images that it asks for.

    Args:
        fault: the folder, one of `FAULTS`.
        folder: where the copy goes.

    Returns:
        What `stage2 check` is told: options and files.
    """
    here = shutil.copytree(fault, folder / "fault")
    monkeypatch.chdir(here)
    expected = expected_of(fault)
    if "host.dts" in expected["arguments"]:
        need_dtc()
    if "tree" in expected:
        root = small_tree()
        TREES[expected["tree"]](root)
        write_tree(here, root)
    for name, kind in expected.get("images", {}).items():
        (here / name).write_bytes(IMAGES[kind])
    return [*expected["arguments"], *expected["files"]]
