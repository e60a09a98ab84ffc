"""ELF cores of machines: QEMU's `dump-guest-memory`, Linux's vmcore, and what is like /proc/kcore.

The segments' physical addresses are what counts (`p_paddr`: gABI, "Program Header"). For a program that is loaded, what
`p_memsz` has more than `p_filesz` is zeros; a core leaves out in this way what was not dumped (Linux for pages that a
filter excludes, makedumpfile, QEMU for memory out of range), so it is a hole here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SourceError
from ..prove.packing import U64Array
from .elf_notes import CoreNotes, read_notes
from .file_bytes import FileBytes
from .pieces import MOST_PIECES, FileSource, Pieces, laid_out
from .source import Cpu

MAGIC = b"\x7fELF"
_HEADER = struct.Struct("<16xHHIQQQIHHHHHH")
_CORE = 4
_KINDS = {1: "an object file", 2: "a program", 3: "a program or library"}
_MACHINES = {62: "x86_64", 183: "aarch64", 243: "riscv64", 3: "x86_64"}
"""QEMU says EM_386 for an x86 machine that is not in long mode."""
_LOAD, _NOTE = 1, 4
_PROGRAM_HEADER = 56
_PN_XNUM = 0xFFFF
_SH_INFO_AT = 44
_MOST_NOTES = 16 << 20
_MOST_SECTIONS_OF_NOTES = 64
_UNKNOWN = (1 << 64) - 1
_FIELDS = ("p_type", "p_offset", "p_vaddr", "p_paddr", "p_filesz", "p_memsz")


class ElfCore(FileSource):
    """An ELF core.

    Args:
        file, pieces, arch, cpus, notices: as every file source has them.
        vmcoreinfo: what the Linux kernel in it says of itself, by its keys (`KERNELOFFSET`, `SYMBOL(init_mm)`).
    """

    def __init__(
        self,
        file: FileBytes,
        pieces: Pieces,
        *,
        arch: str | None,
        cpus: Sequence[Cpu],
        notices: Sequence[str],
        vmcoreinfo: Mapping[str, str],
    ) -> None:
        super().__init__(file, pieces, arch=arch, cpus=cpus, notices=notices)
        self.vmcoreinfo = vmcoreinfo


def read_elf_core(file: FileBytes) -> ElfCore:
    """An ELF core of a machine.

    Raises:
        SourceError: it is none that is read, or nothing of it is there.
    """
    fail = partial(_refusal, file)
    head = file.part(0, 64)
    if head[:4] != MAGIC:
        raise fail("is no ELF file")
    if len(head) < 64:
        raise fail("was cut off in its ELF header")
    if head[4] == 1:
        raise fail(
            "is a 32-bit ELF file: 64-bit machines are looked at. QEMU writes one where an x86 machine is not in long "
            "mode: dump it later"
        )
    if head[5] == 2:
        raise fail("is a big-endian ELF file: little-endian machines are looked at")
    kind, machine, _, _, table, sections, _, _, entry, count, *_ = _HEADER.unpack(head)
    if kind != _CORE:
        what = _KINDS.get(kind, f"of ELF type {kind}")
        raise fail(f"is {what} (a kernel's image?), and no core: the memory of a machine is looked at")
    if machine not in _MACHINES:
        raise fail(f"is a core of ELF machine {machine}; {', '.join(sorted(set(_MACHINES.values())))} are looked at")
    notices = list(file.notices)
    headers = _headers(file, table, entry, _count(file, count, sections), notices)
    arch = _MACHINES[machine]
    notes = _core_notes(file, headers, arch, notices)
    rows = _segments(headers, notes.of_machine, notices, file)
    pieces = laid_out(rows, file.size, file.name, notices)
    return ElfCore(file, pieces, arch=arch, cpus=notes.cpus, notices=notices, vmcoreinfo=notes.vmcoreinfo)


def _refusal(file: FileBytes, problem: str) -> SourceError:
    return SourceError(f"{file.name} {problem}")


def _count(file: FileBytes, count: int, sections: int) -> int:
    """How many program headers there are; where the field is too narrow, the first section's sh_info says it."""
    if count != _PN_XNUM:
        return count
    info = file.part(sections + _SH_INFO_AT, 4)
    if not sections or len(info) < 4:
        raise _refusal(file, "has more segments than its header can count, and no section that says how many")
    return int.from_bytes(info, "little")


def _headers(
    file: FileBytes, table: int, entry: int, count: int, notices: list[str]
) -> dict[str, npt.NDArray[np.unsignedinteger[Any]]]:
    """The fields of all program headers that are there."""
    if not count:
        raise _refusal(
            file,
            "is a core without segments: what Xen's `xl dump-core` writes so is not read, QEMU's dump-guest-memory is",
        )
    if entry < _PROGRAM_HEADER:
        raise _refusal(file, f"says that its program headers have {entry} bytes; they have {_PROGRAM_HEADER}")
    there = min(count, max(file.size - table, 0) // entry)
    if there < count:
        notices.append(f"{file.name} was cut off in its program headers: {there} of {count} are there")
    if there > MOST_PIECES:
        raise _refusal(file, f"has {there} segments; {MOST_PIECES} are the most that are read")
    if not there:
        raise _refusal(file, "was cut off before its program headers")
    layout = np.dtype(
        {
            "names": _FIELDS,
            "formats": ["<u4", "<u8", "<u8", "<u8", "<u8", "<u8"],
            "offsets": [0, 8, 16, 24, 32, 40],
            "itemsize": entry,
        }
    )
    found = file.octets[table : table + there * entry].view(layout)
    return {name: np.ascontiguousarray(found[name]) for name in _FIELDS}


def _core_notes(file: FileBytes, headers: Mapping[str, npt.NDArray[Any]], arch: str, notices: list[str]) -> CoreNotes:
    data = b""
    for index in np.flatnonzero(headers["p_type"] == _NOTE)[:_MOST_SECTIONS_OF_NOTES].tolist():
        size, offset = int(headers["p_filesz"][index]), int(headers["p_offset"][index])
        part = file.part(offset, min(size, _MOST_NOTES - len(data)))
        if len(part) < size:
            notices.append(f"{file.name} has {size:#x} bytes of notes, of which {len(part):#x} were read")
        data += part
    return read_notes(data, arch)


def _segments(
    headers: Mapping[str, npt.NDArray[Any]], of_machine: bool, notices: list[str], file: FileBytes
) -> U64Array:
    """HPA, size and offset of what was dumped.

    A physical address of -1 says that there is none. One of 0 says it too where several segments have it that do not
    show the same bytes: it was not filled in (old /proc/kcore, the core of a process). So does a lone one that has a
    virtual address, if no other segment tells a physical one. Where a note says that the core is a machine's, 0 is 0.
    """
    load = headers["p_type"] == _LOAD
    offset, virtual, physical, size, memory = (headers[name][load] for name in _FIELDS[1:])
    if not len(size):
        raise _refusal(file, "is a core without memory: none of its segments is one")
    unknown = physical == np.uint64(_UNKNOWN)
    zero = (physical == 0) & (size > 0)
    unfilled = zero & (virtual != 0)
    if not of_machine and (len(np.unique(offset[zero])) > 1 or not np.any(physical[~unknown])):
        unknown |= unfilled
    left_out = int(np.count_nonzero(unknown & (size > 0)))
    if left_out and not np.any(size[~unknown]):
        raise _refusal(
            file, "says of no segment at which physical address it is: it is the core of a process, or of /proc/kcore"
        )
    if left_out:
        notices.append(f"{file.name} says of {left_out} segments no physical address: they were left out")
    kept = ~unknown
    partly = int(np.count_nonzero(kept & (size < memory)))
    if partly:
        notices.append(f"{file.name} holds {partly} segments in part or not at all: what was not dumped is a hole")
    kept &= size > 0
    found: U64Array = np.stack([physical[kept], size[kept], offset[kept]], axis=1).astype(np.uint64)
    return found
