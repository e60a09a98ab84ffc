"""The page tables on the way to an address, as Linux dumps them: show_pte of arch/arm64/mm/fault.c and
arch/riscv/mm/fault.c, dump_pagetable of arch/x86/mm/fault.c.

Linux has five names for levels everywhere. Where a CPU's tables have fewer, the names above the root are folded into
it: they repeat the root's entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from ..errors import EncodingError
from ..formats import by_name
from ..formats.record import Format
from .numbers import NUMBER, parse_register

_FROM_LEAF = ("pte", "pmd", "pud", "p4d", "pgd")
"""Linux's names, by level, of tables that have all five."""
_NARROW = ("pdpt", "pde")
"""Names of 32-bit x86."""
_PRESENT = 1
"""Bit 0 of an entry, of all three architectures: without it the walk ends there."""
_GEOMETRY = re.compile(
    r"\bpgtable: (?P<KIB>\d{1,3})[kK] page(?:s|size), (?P<BITS>\d{1,2})-bit VAs(?:, pgdp? ?= ?(?:0x)?[0-9a-f]+)?"
)
_ROOT = re.compile(r"^\s*pgd = [0-9a-f]{8,16}\s*$")
"""In older kernels the root's address has a line of its own."""
_ADDRESS = re.compile(r"\[([0-9a-f]{8,16})\]\s+(?=\*?pgd ?=)")
_ENTRY = re.compile(rf"(?<![\w.])\*?\b({'|'.join((*_FROM_LEAF, *_NARROW))}) ?= ?({NUMBER})\b,?")
_X86 = re.compile(r"^\s*(?:PGD|P4D|PUD|PMD|PTE) [0-9a-f]+(?: (?:P4D|PUD|PMD|PTE) [0-9a-f]+)*")


@dataclass(slots=True)
class Dump:
    """What a text says of page tables.

    Args:
        entries: by Linux's name, from the root on.
        address: whose entries they are, None where that is not told.
        kib: size of a page in KiB, None where that is not told.
        bits: width of addresses, None where that is not told.
    """

    entries: dict[str, int] = field(default_factory=dict)
    address: int | None = None
    kib: int | None = None
    bits: int | None = None


@dataclass(frozen=True, slots=True)
class DumpedEntry:
    """One entry of a dump.

    Args:
        name: Linux's, in lower case.
        value: its 64 bits.
        level: counted from 0 = smallest page, None where the format is not known.
        present: bit 0 is set.
    """

    name: str
    value: int
    level: int | None
    present: bool


@dataclass(frozen=True, slots=True)
class PageTables:
    """A dump, understood.

    Args:
        address: whose entries they are, None where that is not told.
        fmt: the tables' format, None where the text does not tell it.
        unknown: why the format is not known; empty where it is.
        entries: from the root on, those of folded names left out.
    """

    address: int | None
    fmt: Format | None
    unknown: str
    entries: tuple[DumpedEntry, ...]

    @property
    def last(self) -> DumpedEntry | None:
        """The last entry that is present, None where none is."""
        return next((entry for entry in reversed(self.entries) if entry.present), None)

    @property
    def absent(self) -> DumpedEntry | None:
        """The entry that is not present and ends the walk, None where all are."""
        return next((entry for entry in self.entries if not entry.present), None)


def take_dump(line: str, dump: Callable[[], Dump]) -> str:
    """Read what a line says of page tables.

    Args:
        line: without its prefixes.
        dump: gives the dump to write into, when there is something to write.

    Returns:
        The rest of the line.
    """
    if match := _GEOMETRY.search(line):
        found = dump()
        found.kib, found.bits = int(match["KIB"]), int(match["BITS"])
        return line[: match.start()] + line[match.end() :]
    if _ROOT.match(line):
        return ""
    if match := _ADDRESS.search(line):
        dump().address = parse_register("address", match[1])
    pairs = list(_ENTRY.finditer(line))
    if pairs:
        for pair in pairs:
            _put(dump(), pair[1], pair[2])
        start = pairs[0].start() if match is None else match.start()
        return line[:start] + line[pairs[-1].end() :]
    if match := _X86.match(line):
        words = match[0].split()
        for name, value in zip(words[::2], words[1::2], strict=True):
            _put(dump(), name.lower(), value)
        return line[match.end() :]
    return line


def _put(dump: Dump, name: str, value: str) -> None:
    if name in dump.entries:
        # Another dump begins, of which the line above already told the geometry.
        dump.entries.clear()
    dump.entries[name] = parse_register(name, value)


def understand(dump: Dump, arch: str, address: int | None) -> PageTables:
    """The format of a dump's tables, and its entries by level.

    Args:
        dump: what the text says.
        arch: of the fault beside it: "riscv64", "aarch64" or "x86_64".
        address: the faulting address, for dumps that do not repeat it.
    """
    where = address if dump.address is None else dump.address
    fmt, unknown = _FORMATS[arch](dump, where)
    entries: list[DumpedEntry] = []
    for name, value in dump.entries.items():
        level = None if fmt is None or name in _NARROW else min(_FROM_LEAF.index(name), fmt.levels - 1)
        if level is not None and entries and entries[-1].level == level:
            if entries[-1].value == value:
                continue
            unknown = f"{name} does not repeat {entries[-1].name}, as it does in {fmt.name if fmt else ''}"
            fmt = None
            break
        entries.append(DumpedEntry(name, value, level, bool(value & _PRESENT)))
    if fmt is None:
        entries = [DumpedEntry(name, value, None, bool(value & _PRESENT)) for name, value in dump.entries.items()]
    return PageTables(where, fmt, unknown, tuple(entries))


def _arm(dump: Dump, address: int | None) -> tuple[Format | None, str]:
    if dump.kib is None or dump.bits is None:
        return None, _untold("4k pages, 48-bit VAs")
    # With 4 and 16 KiB pages only LPA2 has more than 48 bits (DDI 0487, D8.2).
    wide = "-lpa2" if dump.bits > 48 and dump.kib < 64 else ""
    high = "-high" if address is not None and address >> 63 else ""
    return _named(f"arm-s1-{dump.kib}k-{dump.bits}{wide}{high}", dump)


def _riscv(dump: Dump, address: int | None) -> tuple[Format | None, str]:
    if dump.kib is None or dump.bits is None:
        return None, _untold("4K pagesize, 39-bit VAs")
    return _named(f"sv{dump.bits}", dump)


def _x86(dump: Dump, address: int | None) -> tuple[Format | None, str]:
    names = dump.entries
    if any(name in names for name in _NARROW):
        return None, "these are tables of 32-bit paging, of which there is no format here"
    if "pgd" in names and "p4d" in names:
        return by_name("x86-4level" if names["pgd"] == names["p4d"] else "x86-5level"), ""
    if "pud" in names:
        # Kernels that know four levels only print no P4D.
        return by_name("x86-4level"), ""
    return None, "the dump ends before it tells whether there are four levels or five"


def _untold(line: str) -> str:
    return f"the text does not tell the size of pages and the width of addresses (Linux prints them as `{line}`)"


def _named(name: str, dump: Dump) -> tuple[Format | None, str]:
    try:
        return by_name(name), ""
    except EncodingError:
        return None, f"there is no format here of {dump.kib} KiB pages and {dump.bits}-bit addresses"


_FORMATS: dict[str, Callable[[Dump, int | None], tuple[Format | None, str]]] = {
    "aarch64": _arm,
    "riscv64": _riscv,
    "x86_64": _x86,
}
