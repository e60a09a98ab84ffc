"""What a host's device tree says there is: records, each with the node it comes from.

Devicetree Specification 0.4: 3.4 (memory), 3.5 (reserved-memory), 3.8 (cpus). Linux's bindings for Arm's GIC (arm,gic,
arm,gic-v3), sifive,plic-1.0.0 and host-generic-pci; the RISC-V binding of CPUs for mmu-type.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ..address import Range
from ..errors import ImageError
from .fdt_walk import BusWindow


@dataclass(frozen=True, slots=True)
class TreePlace:
    """A node of a device tree in a file; `str()` gives `board.dtb:/soc/serial@10000000`."""

    file: str
    path: str

    def __str__(self) -> str:
        return f"{self.file}:{self.path}"

    def error(self, problem: str) -> ImageError:
        """An error about this node, to be raised."""
        return ImageError(problem, file=self.file, key=self.path)


@dataclass(frozen=True, slots=True)
class RamBank:
    """Memory that a memory node gives."""

    span: Range
    place: TreePlace


@dataclass(frozen=True, slots=True)
class Reservation:
    """Memory that firmware, another core or a device keeps.

    Args:
        span: where; None where the system that boots chooses the place.
        size: bytes.
        no_map: the system must not even map it.
        reusable: the system may use it as long as its owner does not want it.
        place: the node; `/memreserve/` for the memory reservation block.
    """

    span: Range | None
    size: int
    no_map: bool
    reusable: bool
    place: TreePlace


@dataclass(frozen=True, slots=True)
class HostCpu:
    """A CPU of the host.

    Args:
        ids: hart ids, or MPIDR_EL1's affinity fields; several for a CPU with threads.
        mmu_type: RISC-V's widest translation (`riscv,sv48`); None where it is not told.
        compatible: what it is (`arm,cortex-a72`), the most specific name first.
        enabled: it runs, or can be started.
        place: the node.
    """

    ids: tuple[int, ...]
    mmu_type: str | None
    compatible: tuple[str, ...]
    enabled: bool
    place: TreePlace


@dataclass(frozen=True, slots=True)
class PciHost:
    """A PCI host bridge.

    Args:
        config: its registers: configuration space where it is an ECAM.
        windows: addresses of the CPU's bus that it hands on to its devices.
        place: the node.
    """

    config: tuple[Range, ...]
    windows: tuple[BusWindow, ...]
    place: TreePlace


class ControllerKind(StrEnum):
    """Kinds of interrupt controllers that hypervisors play for their guests."""

    GICV2 = "GICv2"
    GICV3 = "GICv3"
    PLIC = "PLIC"
    APLIC = "APLIC"
    IMSIC = "IMSIC"


@dataclass(frozen=True, slots=True)
class InterruptController:
    """An interrupt controller with registers in memory.

    Args:
        kind: what it is.
        regions: its register regions by their names (`GICD`, `GICR`, `GICC`, `GICH`, `GICV`, `ITS`, `V2M`, `PLIC`), in
            the tree's order; several may have one name.
        place: the node.
    """

    kind: ControllerKind
    regions: tuple[tuple[str, Range], ...]
    place: TreePlace

    def named(self, name: str) -> tuple[Range, ...]:
        """The regions of a name."""
        return tuple(span for called, span in self.regions if called == name)


@dataclass(frozen=True, slots=True)
class HostConsole:
    """What /chosen names as the console.

    Args:
        ranges: its registers.
        compatible: what it is (`arm,pl011`).
        options: what follows the path (`115200n8`).
        place: the node.
    """

    ranges: tuple[Range, ...]
    compatible: tuple[str, ...]
    options: str
    place: TreePlace
    written: str = field(default="", compare=False)
    """As /chosen writes it: a path or an alias."""
