"""The bytes of one table and the files that hold them: raw pieces, an ELF object, a C header."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..address import Hpa
from ..formats.duties import DUTIES
from ..memory.physical import PhysicalMemory
from ..tables.pagetable import PageTable
from ..vm.report import RegionReport
from .elf import elf_object
from .header import c_header


@dataclass(frozen=True, slots=True)
class Segment:
    """Tables that lie in one piece.

    Args:
        hpa: where.
        data: their bytes.
        file: path within the folder.
    """

    hpa: int
    data: bytes
    file: str


@dataclass(frozen=True, slots=True)
class TableFiles:
    """A root and all tables below it, copied out of the host's memory.

    Args:
        folder: the subfolder of its files.
        arch, format: what it is for.
        root: HPA of the root table; root_align its alignment in bytes.
        controls: the regime's control bits.
        segments: the tables, in order of HPA.
        leaves: number of leaves by size in bytes.
        tables: number of tables.
    """

    folder: str
    arch: str
    format: str
    root: int
    root_align: int
    controls: int
    segments: tuple[Segment, ...]
    leaves: Mapping[int, int]
    tables: int

    @property
    def size(self) -> int:
        """Bytes of all tables."""
        return sum(len(segment.data) for segment in self.segments)

    def manifest(self) -> dict[str, Any]:
        """What the manifest says of these files."""
        return {
            "format": self.format,
            "root": self.root,
            "controls": self.controls,
            "segments": [
                {
                    "hpa": segment.hpa,
                    "hpa_hex": f"{segment.hpa:#x}",
                    "size": len(segment.data),
                    "file": segment.file,
                    "sha256": hashlib.sha256(segment.data).hexdigest(),
                }
                for segment in self.segments
            ],
            "elf": f"{self.folder}/tables.o",
            "header": f"{self.folder}/tables.h",
            "tables": self.tables,
            "leaves": {str(size): count for size, count in sorted(self.leaves.items())},
            "mapped_bytes": sum(size * count for size, count in self.leaves.items()),
        }

    def files(self, title: str, registers: Mapping[str, int], regions: Sequence[RegionReport] = ()) -> dict[str, bytes]:
        """Every file, by its path within the folder.

        Args:
            title: what tables these are, for the header's comment.
            registers: to load, by the manual's names.
            regions: of the VM, whose host memory the header tells.
        """
        symbol = symbol_of(self.folder)
        pieces = [(segment.hpa, segment.data) for segment in self.segments]
        sizes = [(segment.hpa, len(segment.data)) for segment in self.segments]
        return {
            **{segment.file: segment.data for segment in self.segments},
            f"{self.folder}/tables.o": elf_object(self.arch, symbol, pieces, self.root, self.root_align),
            f"{self.folder}/tables.h": c_header(
                f"{title} ({self.format})", symbol, registers, self.root, sizes, regions
            ).encode(),
        }  # fmt: skip


def copy_table(table: PageTable, memory: PhysicalMemory, arch: str, folder: str) -> TableFiles:
    """The bytes of a table as they are now.

    Args:
        table: the table.
        memory: where it lies.
        arch: the architecture as files name it.
        folder: the subfolder for its files.
    """
    regime, statistics = table.regime, table.statistics()
    return TableFiles(
        folder=folder,
        arch=arch,
        format=regime.format.name,
        root=regime.root,
        root_align=regime.format.root_size,
        controls=regime.controls,
        segments=tuple(
            Segment(span.start, memory.read(Hpa(span.start), span.size), f"{folder}/tables-{span.start:#x}.bin")
            for span in table.table_ranges
        ),
        leaves=statistics.leaves,
        tables=statistics.tables,
    )


def registers_json(registers: Mapping[str, int]) -> dict[str, Any]:
    """Registers in the manifest: numbers, and hexadecimal text beside them."""
    return {
        "registers": dict(registers),
        "registers_hex": {name: f"{value:#x}" for name, value in registers.items()},
        "register_duties": {name: DUTIES[name] for name in registers},
    }


def symbol_of(folder: str) -> str:
    """The folder's name as part of a C identifier."""
    return re.sub(r"[^A-Za-z0-9_]", "_", folder)
