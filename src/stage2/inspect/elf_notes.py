"""Notes of an ELF core: the registers of CPUs, and what a kernel says of itself.

A core has a note NT_PRSTATUS for each CPU in order: `struct elf_prstatus` of Linux, whose general registers begin at
byte 112 on every 64-bit architecture. QEMU adds on x86 a note of its own, named QEMU, in the same order: `QEMUCPUState`
of its target/i386/arch_dump.c, version 1, with the control registers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from .source import Cpu

_MOST_NOTES = 1 << 16
_NT_PRSTATUS = 1
_REGISTERS_AT = 112
_PRSTATUS = {
    "x86_64": (
        "R15", "R14", "R13", "R12", "RBP", "RBX", "R11", "R10", "R9", "R8", "RAX", "RCX", "RDX", "RSI", "RDI", None,
        "pc", "CS", "RFLAGS", "RSP", "SS", "IA32_FS_BASE", "IA32_GS_BASE",
    ),
    "aarch64": (*(f"X{number}" for number in range(31)), "SP", "pc", "cpsr"),
    "riscv64": ("pc", *(f"x{number}" for number in range(1, 32))),
}  # fmt: skip
"""The 64-bit registers of `elf_prstatus` as they stand there; x86's orig_rax is Linux's own."""
_QEMU_GENERAL = (
    "RAX", "RBX", "RCX", "RDX", "RSI", "RDI", "RSP", "RBP", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
    "pc", "RFLAGS",
)  # fmt: skip
_QEMU_CONTROL_AT = 8 + 8 * len(_QEMU_GENERAL) + 10 * 24
_QEMU_CONTROL = ("CR0", None, "CR2", "CR3", "CR4", "IA32_KERNEL_GS_BASE")
_VMCOREINFO = "VMCOREINFO"


@dataclass(frozen=True, slots=True)
class CoreNotes:
    """What the notes say.

    Args:
        cpus: in their order in the file.
        vmcoreinfo: of a Linux kernel, by its keys; empty where there is none.
        of_machine: there is a note that only cores of machines have.
    """

    cpus: tuple[Cpu, ...]
    vmcoreinfo: Mapping[str, str]
    of_machine: bool


def read_notes(data: bytes, arch: str | None) -> CoreNotes:
    """What notes say; those that are damaged or of another kind say nothing.

    Args:
        data: the notes, one after the other.
        arch: whose registers they are.
    """
    status: list[dict[str, int]] = []
    qemu: list[dict[str, int]] = []
    vmcoreinfo: dict[str, str] = {}
    names = _PRSTATUS.get(arch or "", ())
    for name, kind, text in _notes(data):
        if name == "CORE" and kind == _NT_PRSTATUS:
            status.append(_named(names, text, _REGISTERS_AT))
        elif name == "QEMU" and kind == 0 and arch == "x86_64" and text[:4] == b"\1\0\0\0":
            qemu.append(_named(_QEMU_GENERAL, text, 8) | _named(_QEMU_CONTROL, text, _QEMU_CONTROL_AT))
        elif name == _VMCOREINFO:
            vmcoreinfo |= _keys(text)
    count = max(len(status), len(qemu))
    empty: list[dict[str, int]] = [{}] * count
    pairs = zip((*status, *empty), (*qemu, *empty), range(count), strict=False)
    cpus = tuple(Cpu(number, ours | theirs) for ours, theirs, number in pairs)
    return CoreNotes(tuple(cpu for cpu in cpus if cpu.values), vmcoreinfo, bool(qemu or vmcoreinfo))


def _notes(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Name, type and text of each note: gABI, "Note Section"; cores pad both to 4 bytes."""
    at = 0
    for _ in range(_MOST_NOTES):
        if at + 12 > len(data):
            return
        name_size, size, kind = struct.unpack_from("<III", data, at)
        name_at = at + 12
        text_at = name_at + (name_size + 3 & ~3)
        if text_at + size > len(data):
            return
        name = data[name_at : name_at + min(name_size, 32)].split(b"\0", 1)[0].decode("ascii", "replace")
        yield name, kind, data[text_at : text_at + size]
        at = text_at + (size + 3 & ~3)


def _named(names: tuple[str | None, ...], text: bytes, at: int) -> dict[str, int]:
    """64-bit registers that stand one after the other, as far as there are any."""
    count = min(len(names), max(len(text) - at, 0) // 8)
    values = struct.unpack_from(f"<{count}Q", text, at) if count else ()
    return {name: value for name, value in zip(names, values, strict=False) if name is not None}


def _keys(text: bytes) -> dict[str, str]:
    """Lines of KEY=VALUE."""
    lines = text.split(b"\0", 1)[0].decode("ascii", "replace").splitlines()
    return {key: value for line in lines for key, equals, value in [line.partition("=")] if equals}
