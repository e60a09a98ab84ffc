"""Kernels that the tests link themselves, from one source and one linker script, with what a test wants changed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "hypervisor" / "kernel"
PACKAGES = {
    "x86_64": "binutils-x86-64-linux-gnu",
    "aarch64": "binutils-aarch64-linux-gnu",
    "riscv64": "binutils-riscv64-linux-gnu",
}
BASES = {
    "x86_64": (0xFFFF_8000_0020_0000, 0xFFFF_8000_0000_0000),
    "aarch64": (0x4008_0000, 0),
    "riscv64": (0xFFFF_FFC0_8020_0000, 0xFFFF_FFC0_0000_0000),
}
"""Address of the kernel and offset of the linear map, as AxVisor's platforms for QEMU have them."""
SMP = 4


def require_binutils(arch: str) -> None:
    """Skip on a user's machine without binutils; fail in CI, which must have it."""
    if shutil.which(f"{arch}-linux-gnu-ld"):
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI needs the Debian package {PACKAGES[arch]}")
    pytest.skip(f"needs the Debian package {PACKAGES[arch]}")


def link(
    folder: Path,
    arch: str = "x86_64",
    *,
    script: Mapping[str, str] | None = None,
    source: Mapping[str, str] | None = None,
    options: tuple[str, ...] = (),
    smp: int = SMP,
) -> Path:
    """A kernel of an architecture.

    Args:
        folder: where it is made.
        arch: its architecture.
        script: pieces of the linker script and what stands there instead; each must occur.
        source: the same for the source.
        options: more for the linker.
        smp: copies of `.percpu` that the script makes room for.
    """
    require_binutils(arch)
    base, offset = BASES[arch]
    given = {"%BASE%": f"{base:#x}", "%OFFSET%": f"{offset:#x}", "%SMP%": str(smp)} | dict(script or {})
    lds = _changed((HERE / "kernel.lds").read_text(), given)
    text = _changed((HERE / "kernel.S").read_text(), dict(source or {}))
    (folder / "kernel.lds").write_text(lds)
    (folder / "kernel.S").write_text(text)
    tools = f"{arch}-linux-gnu-"
    made = folder / "kernel.elf"
    for command in (
        [f"{tools}as", "-o", "kernel.o", "kernel.S"],
        [f"{tools}ld", "-static", "-nostdlib", *options, "-T", "kernel.lds", "-o", made.name, "kernel.o"],
    ):
        subprocess.run(command, cwd=folder, check=True, timeout=60, capture_output=True)
    return made


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text
