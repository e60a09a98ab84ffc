"""The tables as an ELF64 object, to be linked into a hypervisor (System V ABI, "Object Files")."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_WRITE, _ALLOC = 1, 2
_FLAGS = {"riscv64": 4}
"""RISC-V's double-float ABI, as Rust's riscv64gc: lld refuses to mix float ABIs even for data; GNU ld does not care."""
_HEADER, _SECTION_HEADER, _SYMBOL = 64, 64, 24
_ANY_ALIGN = 8


class _Strings:
    """A string table."""

    def __init__(self) -> None:
        self.data = bytearray(1)

    def add(self, text: str) -> int:
        at = len(self.data)
        self.data += text.encode() + b"\0"
        return at


@dataclass(slots=True)
class _Section:
    name: int
    kind: int
    flags: int
    address: int
    data: bytes
    link: int = 0
    info: int = 0
    align: int = 1
    entry_size: int = 0


def elf_object(
    arch: str, symbol: str, pieces: Sequence[tuple[int, bytes]], root: int, root_align: int, *, page: int = 0x1000
) -> bytes:
    """A relocatable object with a section for each piece.

    The sections are named `.stage2.tables.0xHPA` and carry the HPA as their address, because the entries in them
    hold HPAs: a linker script must place each at its own. Symbols: `stage2_NAME_tables_N` for the pieces and
    `stage2_NAME_root`.

    Args:
        arch: "riscv64", "aarch64" or "x86_64".
        symbol: NAME.
        pieces: (HPA, bytes), in order.
        root: HPA of the root table, in one of the pieces.
        root_align: alignment of the root; pieces that do not hold it are aligned to `page`.
    """
    section_names, symbol_names = _Strings(), _Strings()
    sections = [_Section(0, 0, 0, 0, b"", align=0)]
    symbols = [(0, 0, 0, 0, 0)]
    for number, (hpa, data) in enumerate(pieces):
        index = len(sections)
        inside = hpa <= root < hpa + len(data)
        align = root_align if inside and root == hpa else page
        sections.append(
            _Section(section_names.add(f".stage2.tables.{hpa:#x}"), _PROGBITS, _WRITE | _ALLOC, hpa, data, align=align)
        )
        symbols.append((symbol_names.add(f"stage2_{symbol}_tables_{number}"), index, 0, len(data), 1))
        if inside:
            symbols.append((symbol_names.add(f"stage2_{symbol}_root"), index, root - hpa, root_align, 1))
    # Without it GNU ld takes the object to need an executable stack, and warns.
    sections.append(_Section(section_names.add(".note.GNU-stack"), _PROGBITS, 0, 0, b""))
    # Global (1 << 4) data objects (1).
    table = b"".join(
        struct.pack("<IBBHQQ", name, (1 << 4 | kind) if kind else 0, 0, index, value, size)
        for name, index, value, size, kind in symbols
    )
    names = section_names.add(".symtab"), section_names.add(".strtab"), section_names.add(".shstrtab")
    strings = len(sections) + 1
    sections.append(_Section(names[0], _SYMTAB, 0, 0, table, strings, 1, _ANY_ALIGN, _SYMBOL))
    sections.append(_Section(names[1], _STRTAB, 0, 0, bytes(symbol_names.data)))
    sections.append(_Section(names[2], _STRTAB, 0, 0, bytes(section_names.data)))
    return _write(_MACHINES[arch], _FLAGS.get(arch, 0), sections)


def _write(machine: int, flags: int, sections: Sequence[_Section]) -> bytes:
    """Header, contents, section headers."""
    body = bytearray(_HEADER)
    headers = bytearray()
    for section in sections:
        # A file offset need not be aligned as the memory is.
        body += bytes(-len(body) % _ANY_ALIGN)
        offset = len(body) if section.kind else 0
        body += section.data
        headers += struct.pack(
            "<IIQQQQIIQQ", section.name, section.kind, section.flags, section.address, offset, len(section.data),
            section.link, section.info, section.align, section.entry_size,
        )  # fmt: skip
    body += bytes(-len(body) % _ANY_ALIGN)
    at = len(body)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)
    count = len(sections)
    body[:_HEADER] = identity + struct.pack(
        "<HHIQQQIHHHHHH", 1, machine, 1, 0, 0, at, flags, _HEADER, 0, 0, _SECTION_HEADER, count, count - 1
    )
    return bytes(body + headers)
