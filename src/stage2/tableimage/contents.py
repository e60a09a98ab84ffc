"""What a folder of tables holds: the manifest and the bytes it names, made from VMs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from ..formats import family_of
from ..vm.report import RegionReport, region_report_json
from ..vm.vm import Vm
from . import own
from .pieces import TableFiles, copy_table, registers_json, symbol_of

MANIFEST = "manifest.json"
VERSION = 1
VERSION_KEY = "stage2_tables"


@dataclass(frozen=True, slots=True)
class TableContents:
    """The tables of one VM.

    Args:
        files: their bytes, and where they go.
        name, id, vmid: the VM.
        registers: what to load, by the manual's names.
        regions: what the VM declares, with the HPAs behind it.
        write_xor_execute: its file forbids memory that is writable and executable.
    """

    files: TableFiles
    name: str
    id: int
    vmid: int
    registers: dict[str, int]
    regions: tuple[RegionReport, ...]
    write_xor_execute: bool

    def manifest(self) -> dict[str, Any]:
        """This VM's part of the manifest."""
        return {
            "name": self.name,
            "id": self.id,
            "arch": self.files.arch,
            "vmid": self.vmid,
            "write_xor_execute": self.write_xor_execute,
            **registers_json(self.registers),
            **self.files.manifest(),
            "regions": [region_report_json(region) for region in self.regions],
        }


def collect(vms: Sequence[Vm]) -> list[TableContents]:
    """The tables of VMs, copied out of their host's memory."""
    found: list[TableContents] = []
    taken = {_key(name) for name in (MANIFEST, *own.FOLDERS)}
    for vm in vms:
        folder = _folder_of(vm, taken)
        taken.add(_key(folder))
        regime = vm.space.regime
        found.append(
            TableContents(
                files=copy_table(vm.space.page_table, vm.space.frames.memory, vm.arch, folder),
                name=vm.name,
                id=vm.id,
                vmid=regime.identifier,
                registers=family_of(regime.format).stage_2_registers(
                    regime.format, regime.root, regime.controls, regime.identifier
                ),
                regions=vm.region_reports(),
                write_xor_execute=vm.write_xor_execute,
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


def parts_of(contents: Sequence[TableContents], hypervisor: own.OwnTables | None = None) -> dict[str, Any]:
    """What the manifest of a folder says of its tables."""
    found: dict[str, Any] = {"vms": [vm.manifest() for vm in contents]}
    if hypervisor is not None:
        found[own.KEY] = hypervisor.manifest()
    return found


def files_of(contents: Sequence[TableContents], hypervisor: own.OwnTables | None = None) -> dict[str, bytes]:
    """Every file of a folder, by its path within it; the same tables give the same bytes.

    Args:
        contents: the tables of VMs.
        hypervisor: its own tables, if they are to be there.
    """
    files: dict[str, bytes] = {}
    for vm in contents:
        files |= vm.files.files(f"Stage-2 tables of VM {vm.name}", vm.registers, vm.regions)
    if hypervisor is not None:
        files |= hypervisor.files()
    files[MANIFEST] = (json.dumps({VERSION_KEY: VERSION} | parts_of(contents, hypervisor), indent=2) + "\n").encode()
    return files
