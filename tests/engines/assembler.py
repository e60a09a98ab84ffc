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
    require_assembler(prefix)
    with TemporaryDirectory() as folder:
        source, obj, elf, binary = (Path(folder) / name for name in ("a.S", "a.o", "a.elf", "a.bin"))
        source.write_text(text)
        for command in (
            ["as", *as_options, "-o", obj, source],
            ["ld", *ld_options, f"-Ttext={base:#x}", "-o", elf, obj],
            ["objcopy", "-O", "binary", "-j", ".text", elf, binary],
        ):
            subprocess.run([prefix + str(command[0]), *map(str, command[1:])], check=True, timeout=HANG_S)
        return binary.read_bytes()
