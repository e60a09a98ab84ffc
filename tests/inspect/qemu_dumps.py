"""Machines of QEMU with no more than a few instructions in them, dumped by QEMU itself, and what QEMU says of them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from waiting import HANG_S, until

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from assembler import build

RAM = {"x86_64": 0, "aarch64": 0x4000_0000, "riscv64": 0x8000_0000}
SIZE = 64 << 20
MARK_AT = 0x12_3000
"""In RAM; where a program stores its mark."""
MARK = 0x1122_3344_5566_7788
_BEHIND_TREE = 0x20_0000
"""Where Arm's program begins: QEMU puts a device tree at the beginning of RAM."""
PACKAGES = {"x86_64": "qemu-system-x86", "aarch64": "qemu-system-arm", "riscv64": "qemu-system-misc"}

_ARM = f"""
        .globl _start
_start: ldr x1, ={MARK:#x}
        ldr x2, ={RAM["aarch64"] + MARK_AT:#x}
        str x1, [x2]
        mov x30, #30
        mov sp, x2
end:    b end
"""
_RISCV = f"""
        .globl _start
_start: li x6, {MARK:#x}
        li x7, {RAM["riscv64"] + MARK_AT:#x}
        sd x6, 0(x7)
        li x31, 31
end:    j end
"""
_X86 = f"""
        .code16
        .globl _start
_start: cli
        lgdtl %cs:(table - _start)
        movl $1, %eax
        movl %eax, %cr0
        ljmpl $8, $protected
        .code32
protected:
        movl $16, %eax
        movl %eax, %ds
        movl $0x2007, 0x1000
        movl $0x87, 0x2000
        movl $0xa0, %eax
        movl %eax, %cr4
        movl $0x1000, %eax
        movl %eax, %cr3
        movl $0xc0000080, %ecx
        rdmsr
        orl $0x900, %eax
        wrmsr
        movl $0x80010001, %eax
        movl %eax, %cr0
        ljmpl $24, $long
        .code64
long:   movabsq ${MARK:#x}, %r9
        movq %r9, {MARK_AT:#x}
        movq $15, %r15
end:    jmp end
        .balign 8
gdt:    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff, 0x00af9a000000ffff
table:  .word 31
        .long gdt
        .org 0xfff0
        .code16
        ljmpw $0xf000, $0
        .org 0x10000
"""
"""A ROM at the end of the first MiB: from the reset vector to long mode, with a table for the first GiB."""


class Machine:
    """A QEMU that runs.

    Args:
        qmp: the socket of its monitor, connected.
        folder: for its files.
    """

    def __init__(self, qmp: socket.socket, folder: Path) -> None:
        self.folder = folder
        self._socket, self._lines = qmp, qmp.makefile("rb")
        self._lines.readline()
        self.command("qmp_capabilities")

    def close(self) -> None:
        """Let its monitor go."""
        self._lines.close()

    def command(self, name: str, **arguments: object) -> Any:
        """What a command answers."""
        text = json.dumps({"execute": name, "arguments": {key.replace("_", "-"): v for key, v in arguments.items()}})
        self._socket.sendall(text.encode() + b"\n")
        while True:
            answer = json.loads(self._lines.readline())
            if "event" not in answer:
                assert "error" not in answer, answer
                return answer["return"]

    def told(self, line: str) -> str:
        """What a line of the human monitor prints."""
        text: str = self.command("human-monitor-command", command_line=line)
        return text

    def dump(self, path: Path, *, paging: bool = False) -> Path:
        """Stop it and write an ELF core."""
        self.command("stop")
        self.command("dump-guest-memory", paging=paging, protocol=f"file:{path}")
        return path

    def registers(self) -> dict[str, int]:
        """Every number that `info registers` prints behind a name."""
        pairs = re.findall(r"([A-Za-z][A-Za-z0-9/]*)\s*=?\s*([0-9a-f]{8,16})\b", self.told("info registers"))
        return {name.split("/")[0].upper(): int(value, 16) for name, value in pairs}


@contextmanager
def machine(arch: str, folder: Path) -> Iterator[Machine]:
    """A machine with 64 MiB of RAM whose program has stored its mark and goes round in a circle."""
    program = f"qemu-system-{arch}"
    if shutil.which(program) is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the Debian package {PACKAGES[arch]}")
        pytest.skip(f"{program} is not installed")
    image = folder / f"{arch}.bin"
    text, prefix, base = {
        "x86_64": (_X86, "x86_64-linux-gnu-", 0xF0000),
        "aarch64": (_ARM, "aarch64-linux-gnu-", RAM["aarch64"] + _BEHIND_TREE),
        "riscv64": (_RISCV, "riscv64-linux-gnu-", RAM["riscv64"]),
    }[arch]
    image.write_bytes(build(prefix, text, base))
    boards: dict[str, list[str | Path]] = {
        "x86_64": ["-machine", "pc", "-bios", image],
        "aarch64": ["-machine", "virt", "-cpu", "cortex-a57", "-device", f"loader,file={image},addr={base},cpu-num=0"],
        "riscv64": ["-machine", "virt", "-bios", image],
    }
    ours, theirs = socket.socketpair()
    ours.settimeout(HANG_S)
    with ours, ExitStack() as opened:
        child = subprocess.Popen(
            [program, *map(str, boards[arch]), "-m", "64M", "-accel", "tcg", "-display", "none", "-nodefaults",
             "-serial", "none", "-chardev", f"socket,id=qmp,fd={theirs.fileno()}", "-mon", "chardev=qmp,mode=control"],
            pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            theirs.close()
            found = Machine(ours, folder)
            opened.callback(found.close)
            at = RAM[arch] + MARK_AT
            until(lambda: f"{MARK:#018x}" in found.told(f"xp /1gx {at:#x}"), f"{program} did not run its program")
            yield found
        finally:
            child.kill()
            child.wait(HANG_S)
