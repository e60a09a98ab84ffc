"""What QEMU's human monitor prints, read: where memory is, where it is in QEMU's process, registers, words.

There is no other way to ask for these. Lines are matched as a whole, and what does not match is left out or refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ...address import Range
from ...errors import SourceError
from ..source import Cpu

_SPACE = re.compile(r' AS "([^"]*)", root: .*')
_SECTION = re.compile(
    r"  ([0-9a-f]{16})-([0-9a-f]{16}) \(prio -?\d+, (nv-)?(ram|rom|romd|ramd|i/o|container)\): ([^\n]*)"
)
_MEMORY = {"ram", "rom", "romd"}
"""Kinds that are read without an effect. `ramd` is a device's registers that QEMU passes through."""
_MOST_SECTIONS = 1 << 16
_HVA = re.compile(r"Host virtual address for 0x[0-9a-f]+ \([^\n]*\) is 0x([0-9a-f]{1,16})\s*")
_WORDS = re.compile(r"[0-9a-f]{8,16}:((?: 0x[0-9a-f]{16})+)")
_CPU = re.compile(r"\s*CPU#(\d{1,6})\s*")
_X86 = re.compile(r"\b(CR[0-48]|EFER|RIP|EIP|RFL|EFL|CPL|SMM)\s*=([0-9a-fA-F]{1,16})\b")
_ARM = re.compile(r"\b(PC|PSTATE)=([0-9a-f]{8,16})\b")
_RISCV = re.compile(r"\s(V|pc|satp|vsatp|hgatp|[mhs]status|vsstatus|mhartid)\s+(?:=\s+)?([0-9a-f]{1,16})\s*")
_MANUALS = {"RIP": "pc", "EIP": "pc", "RFL": "RFLAGS", "EFL": "RFLAGS", "PC": "pc", "PSTATE": "cpsr", "V": "virt"}
"""The names that registers have with us, where QEMU prints others."""


@dataclass(frozen=True, slots=True)
class Section:
    """A piece of the machine's physical memory.

    Args:
        range: where it is, in HPAs.
        name: what QEMU calls the memory behind it.
        writable: RAM; else ROM.
    """

    range: Range
    name: str
    writable: bool


def memory_of(printed: str, name: str) -> tuple[Section, ...]:
    """Where a machine has memory, by `info mtree -f`: as its CPUs and devices see it without SMM's own.

    Args:
        printed: what the monitor printed.
        name: of the connection, for errors.

    Raises:
        SourceError: it shows no memory.
    """
    spaces: set[str] = set()
    found: list[Section] = []
    for line in printed.splitlines():
        if line.startswith("FlatView "):
            if found and "memory" in spaces:
                break
            spaces, found = set(), []
        elif (space := _SPACE.fullmatch(line)) is not None:
            spaces.add(space[1])
        elif (section := _SECTION.fullmatch(line)) is not None and section[4] in _MEMORY:
            start, last = int(section[1], 16), int(section[2], 16)
            if start > last or (found and start < found[-1].range.end) or len(found) == _MOST_SECTIONS:
                raise SourceError(f"{name}: QEMU's memory tree is not in order at {start:#x}")
            found.append(Section(Range(start, last + 1), section[5], section[4] == "ram"))
    if not found or "memory" not in spaces:
        raise SourceError(f"{name}: `info mtree -f` shows no memory")
    return tuple(found)


def host_address(printed: str) -> int | None:
    """The HVA that `gpa2hva` prints; None where it prints that there is none."""
    found = _HVA.fullmatch(printed)
    return None if found is None else int(found[1], 16)


def words(printed: str, count: int) -> bytes | None:
    """The 64-bit words that `xp /COUNTgx` prints, as they lie in memory; None if they are not all there."""
    found: list[str] = []
    for line in printed.splitlines():
        row = _WORDS.fullmatch(line)
        if row is None:
            return None
        found += row[1].split()
    return b"".join(int(word, 16).to_bytes(8, "little") for word in found) if len(found) == count else None


def registers(printed: str) -> tuple[Cpu, ...]:
    """The registers that `info registers -a` prints of those that matter for translation."""
    return tuple(Cpu(number, dict(_values(lines))) for number, lines in _by_cpu(printed))


def _by_cpu(printed: str) -> Iterator[tuple[int, list[str]]]:
    number = -1
    lines: list[str] = []
    for line in printed.splitlines():
        if (cpu := _CPU.fullmatch(line)) is not None:
            if number >= 0:
                yield number, lines
            number, lines = int(cpu[1]), []
        else:
            lines.append(line)
    if number >= 0:
        yield number, lines


def _values(lines: list[str]) -> Iterator[tuple[str, int]]:
    for line in lines:
        found = [(one[1], one[2]) for pattern in (_X86, _ARM) for one in pattern.finditer(line)]
        if (riscv := _RISCV.fullmatch(line)) is not None:
            found.append((riscv[1], riscv[2]))
        yield from ((_MANUALS.get(name, name), int(value, 16)) for name, value in found)
