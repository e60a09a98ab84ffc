"""Assembling small guests for tests with Debian's binutils."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from waiting import HANG_S

PREFIX = "riscv64-linux-gnu-"
PACKAGES = {
    PREFIX: "binutils-riscv64-linux-gnu",
    "aarch64-linux-gnu-": "binutils-aarch64-linux-gnu",
    "x86_64-linux-gnu-": "binutils-x86-64-linux-gnu",
}
"""Debian packages by the prefix of their tools."""
BASE = 0x8000_0000

HEADER = """
        .option norvc
        .macro off
        li a7, 0x53525354
        li a6, 0
        li a0, 0
        li a1, 0
        ecall
        .endm
        .globl _start
_start:
"""


def require_assembler(prefix: str = PREFIX) -> None:
    """Skip on a user's machine without binutils; fail in CI, which must have it."""
    if shutil.which(prefix + "as"):
        return
    if os.environ.get("CI"):
        pytest.fail(f"CI needs the Debian package {PACKAGES[prefix]}")
    pytest.skip(f"needs the Debian package {PACKAGES[prefix]}")


def assemble(body: str) -> bytes:
    """The bytes of a RISC-V guest that starts at BASE; `off` in it powers off."""
    return build(PREFIX, HEADER + body, BASE, ["-march=rv64g_zifencei"], ["--no-relax"])


def build(prefix: str, text: str, base: int, as_options: Sequence[str] = (), ld_options: Sequence[str] = ()) -> bytes:
    """The bytes that a source assembles to, linked to run at `base`; `prefix` is that of the tools."""
    with TemporaryDirectory() as folder:
        elf, binary = _link(Path(folder), prefix, text, base, as_options, ld_options), Path(folder) / "a.bin"
        _tool(prefix, "objcopy", "-O", "binary", "-j", ".text", elf, binary)
        return binary.read_bytes()


def program(text: str) -> bytes:
    """The static ELF of a RISC-V Linux program that begins at `_start`."""
    with TemporaryDirectory() as folder:
        return _link(Path(folder), PREFIX, text, 0x10000, ["-march=rv64g"], ["--no-relax"]).read_bytes()


def _link(
    folder: Path, prefix: str, text: str, base: int, as_options: Sequence[str], ld_options: Sequence[str]
) -> Path:
    require_assembler(prefix)
    source, obj, elf = (folder / name for name in ("a.S", "a.o", "a.elf"))
    source.write_text(text)
    _tool(prefix, "as", *as_options, "-o", obj, source)
    _tool(prefix, "ld", *ld_options, f"-Ttext={base:#x}", "-o", elf, obj)
    return elf


def _tool(prefix: str, name: str, *arguments: str | Path) -> None:
    subprocess.run([prefix + name, *map(str, arguments)], check=True, timeout=HANG_S)
