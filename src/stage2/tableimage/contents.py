"""What a folder of tables holds: the manifest and the bytes it names, made from VMs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from ..address import Hpa
from ..formats import family_of
from ..vm.report import RegionReport
from ..vm.vm import Vm
from .elf import elf_object
from .header import c_header

MANIFEST = "manifest.json"
VERSION = 1
VERSION_KEY = "stage2_tables"


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
class TableContents:
    """The tables of one VM.

    Args:
        folder: its subfolder, made of its name.
        name, id, arch, format, vmid: the VM.
        root: HPA of the root table; root_align its alignment in bytes.
        controls: the regime's control bits.
        registers: what to load, by the manual's names.
        segments: the tables, in order of HPA.
        regions: what the VM declares, with the HPAs behind it.
        leaves: number of leaves by size in bytes.
        tables: number of tables.
    """

    folder: str
    name: str
    id: int
    arch: str
    format: str
    vmid: int
    root: int
    root_align: int
    controls: int
    registers: dict[str, int]
    segments: tuple[Segment, ...]
    regions: tuple[RegionReport, ...]
    leaves: dict[int, int]
    tables: int

    def manifest(self) -> dict[str, Any]:
        """This VM's part of the manifest."""
        return {
            "name": self.name,
            "id": self.id,
            "arch": self.arch,
            "format": self.format,
            "vmid": self.vmid,
            "root": self.root,
            "controls": self.controls,
            "registers": self.registers,
            "registers_hex": {name: f"{value:#x}" for name, value in self.registers.items()},
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
            "regions": [_region(region) for region in self.regions],
        }


def _region(region: RegionReport) -> dict[str, Any]:
    """A region in the manifest: upstream's number of its type where it has one, and the names beside the numbers."""
    number = region.map_type.number
    return {
        "name": region.name,
        "start": region.start,
        "size": region.size,
        "flags": int(region.flags),
        "flags_text": region.flags.short,
        "map_type": region.map_type.value if number is None else number,
        "type": region.map_type.value,
        "populated_bytes": region.populated_bytes,
        "hpa": [list(span) for span in region.hpa],
    }


def collect(vms: Sequence[Vm]) -> list[TableContents]:
    """The tables of VMs, copied out of their host's memory."""
    found: list[TableContents] = []
    taken = {_key(MANIFEST)}
    for vm in vms:
        folder = _folder_of(vm, taken)
        taken.add(_key(folder))
        table, regime = vm.space.page_table, vm.space.regime
        statistics = table.statistics()
        memory = vm.space.frames.memory
        found.append(
            TableContents(
                folder=folder,
                name=vm.name,
                id=vm.id,
                arch=vm.arch,
                format=regime.format.name,
                vmid=regime.identifier,
                root=regime.root,
                root_align=regime.format.root_size,
                controls=regime.controls,
                registers=family_of(regime.format).stage_2_registers(
                    regime.format, regime.root, regime.controls, regime.identifier
                ),
                segments=tuple(
                    Segment(span.start, memory.read(Hpa(span.start), span.size), f"{folder}/tables-{span.start:#x}.bin")
                    for span in table.table_ranges
                ),
                regions=vm.region_reports(),
                leaves=statistics.leaves,
                tables=statistics.tables,
            )
        )
    return found


def _folder_of(vm: Vm, taken: Set[str]) -> str:
    """A folder for a VM whose key nobody has yet."""
    slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", vm.name).strip("._") or "vm"
    names = chain((slug, f"{slug}-{vm.id}"), (f"{slug}-{vm.id}-{number}" for number in count(2)))
    return next(name for name in names if _key(name) not in taken)


def _key(folder: str) -> str:
    """What must differ between VMs: symbols and header guards are made of it, and some file systems ignore case."""
    return symbol_of(folder).lower()


def files_of(contents: Sequence[TableContents]) -> dict[str, bytes]:
    """Every file of a folder, by its path within it; the same tables give the same bytes."""
    files: dict[str, bytes] = {}
    for vm in contents:
        files |= {segment.file: segment.data for segment in vm.segments}
        pieces = [(segment.hpa, segment.data) for segment in vm.segments]
        files[f"{vm.folder}/tables.o"] = elf_object(vm.arch, symbol_of(vm.folder), pieces, vm.root, vm.root_align)
        sizes = [(segment.hpa, len(segment.data)) for segment in vm.segments]
        files[f"{vm.folder}/tables.h"] = c_header(
            vm.name, symbol_of(vm.folder), vm.format, vm.registers, vm.root, sizes
        ).encode()
    manifest = {VERSION_KEY: VERSION, "vms": [vm.manifest() for vm in contents]}
    files[MANIFEST] = (json.dumps(manifest, indent=2) + "\n").encode()
    return files


def symbol_of(folder: str) -> str:
    """The folder's name as part of a C identifier."""
    return re.sub(r"[^A-Za-z0-9_]", "_", folder)
