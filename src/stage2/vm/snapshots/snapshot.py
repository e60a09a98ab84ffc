"""A snapshot: what one VM was at one moment, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...flags import MappingFlags, MapType
from ...space.region import MemoryRegion
from .pages import PAGE

if TYPE_CHECKING:
    from pathlib import Path

    from ...tables.mapping import U64Array
    from .machine import MachineState
    from .pages import Pages


@dataclass(frozen=True, slots=True)
class RegionShape:
    """What of a region must be the same where a snapshot is put back.

    Args:
        name: what reports call it.
        start, size: of its GPAs.
        flags, map_type: as declared.
    """

    name: str
    start: int
    size: int
    flags: MappingFlags
    map_type: MapType

    @classmethod
    def of(cls, region: MemoryRegion) -> RegionShape:
        """That of a region."""
        return cls(region.label, int(region.start), region.size, region.flags, region.map_type)

    def __str__(self) -> str:
        return f"{self.name} [{self.start:#x}, {self.start + self.size:#x}) {self.flags.short} {self.map_type.value}"


@dataclass(frozen=True, slots=True)
class VmState:
    """One VM at one moment, but for the bytes of its memory.

    Args:
        vm: its name.
        arch: its architecture.
        format: name of its stage-2 format.
        regions: what was declared.
        leaves: (start, size) of each leaf of memory in its tables, in order, shape (n, 2).
        machine: CPUs, clock, timers.
        devices: state of each emulated device, by its name.
        console_position: bytes that the guest had printed.
        console: what was kept of them.
    """

    vm: str
    arch: str
    format: str
    regions: tuple[RegionShape, ...]
    leaves: U64Array
    machine: MachineState
    devices: Mapping[str, Mapping[str, Any]]
    console_position: int
    console: bytes


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One VM at one moment.

    Args:
        state: all but the bytes of its memory.
        pages: the populated pages.
        copied: how many of them were copied for it; the others are shared with the snapshot before.
    """

    state: VmState
    pages: Pages
    copied: int

    @property
    def size(self) -> int:
        """Bytes of its pages."""
        return len(self.pages) * PAGE

    def read(self, gpa: int, size: int) -> bytes:
        """The guest's memory at a GPA, zero where nothing was populated."""
        return self.pages.read(gpa, size)

    def save(self, path: Path) -> None:
        """Write it to a file, whole or not at all; `snapshots.file` says the format.

        Raises:
            ConfigError: it cannot be written.
        """
        from .file import write_snapshot

        write_snapshot(self, path)

    @staticmethod
    def open(path: Path) -> Snapshot:
        """Read one from a file.

        Raises:
            SnapshotError: it is not there, no snapshot, of another version, or damaged.
        """
        from .file import read_snapshot

        return read_snapshot(path)

    def __repr__(self) -> str:
        return f"Snapshot({self.state.vm!r}, {len(self.pages)} pages, {self.copied} of them copied)"
