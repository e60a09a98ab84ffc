"""The machine that upstream puts around a guest: how wide its addresses are, where its devices go.

Facts: rcore-os/tgoskits, its pages on machine and resource planning, and `axvm`'s planner.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..address import SIZE_4K, Range
from ..config.vm import VmConfig
from ..images.host_parts import ControllerKind, HostCpu, InterruptController, TreePlace
from ..images.host_tree import HostTree
from ..processor import named

POOLS = {
    "aarch64": Range(0x0B00_0000, 0x1000_0000),
    "riscv64": Range(0x1100_0000, 0x2000_0000),
    "x86_64": Range(0x8000_0000, 0xC000_0000),
}
"""Where registers of virtual devices go, by architecture."""
DEVICE_SIZE = SIZE_4K
"""Bytes of a virtual device's registers: each of the known models has at most a page of them."""
_LEVELS = {"aarch64": (39, 48), "riscv64": (41, 50), "x86_64": (39, 48)}
"""Bits of guest physical addresses with tables of 3 and of 4 levels."""
_FOUR_LEVELS_FROM = 44
"""Bits of physical addresses from which on an Arm CPU gets 4 levels."""
_MMU_TYPES = {"riscv,sv39": 3, "riscv,sv48": 4, "riscv,sv57": 4}
_REDISTRIBUTOR = 0x2_0000
_CONSOLES = {
    "aarch64": ("PL011", Range.sized(0x0900_0000, 0x1000)),
    "riscv64": ("16550", Range.sized(0x1000_0000, 0x100)),
}
_KEPT = ("GICH", "GICV")
"""Regions of a GICv2 that the hypervisor itself needs."""


@dataclass(frozen=True, slots=True)
class Fixed:
    """Registers that the hypervisor plays at an address that is given.

    Args:
        name: `GICD`, `console PL011`.
        span: where the guest finds them.
        reason: where that address is from, a clause.
        place: the host's node; None for a default.
    """

    name: str
    span: Range
    reason: str
    place: TreePlace | None = None


def window(arch: str, cpus: Sequence[HostCpu]) -> tuple[Range, str, bool]:
    """The guest physical addresses that a VM can have: what its tables translate, and the weakest of its CPUs reaches.

    Args:
        arch: the VM's architecture.
        cpus: those that it may run on; none where they are not known.

    Returns:
        The addresses, why they end there, and whether that is assumed.
    """
    found = [bits for bits in (_reach(arch, cpu) for cpu in cpus) if bits is not None]
    if not found:
        bits = _LEVELS[arch][1]
        return Range(0, 1 << bits), f"tables of 4 levels translate {bits} bits, and nothing says what the CPU has", True
    bits, reason = min(found, key=lambda pair: pair[0])
    return Range(0, 1 << bits), reason, len(found) < len(cpus)


def _reach(arch: str, cpu: HostCpu) -> tuple[int, str] | None:
    """How many bits of guest physical addresses a CPU has, and why; None where it is not known."""
    three, four = _LEVELS[arch]
    if arch == "riscv64":
        levels = _MMU_TYPES.get(cpu.mmu_type or "")
        if levels is None:
            return None
        bits = four if levels == 4 else three
        return bits, f"{cpu.place.path} has {cpu.mmu_type}, with which a guest's addresses have {bits} bits"
    known = named(arch)
    name = next((part for part in (one.rpartition(",")[2] for one in cpu.compatible) if part in known), None)
    if name is None:
        return None
    reach = known[name].pa_bits
    bits = four if reach >= _FOUR_LEVELS_FROM else three
    if reach < bits:
        return reach, f"{cpu.place.path} is a {name}, which has {reach} bits of physical addresses"
    return bits, f"{cpu.place.path} is a {name}, for which tables of {4 if bits == four else 3} levels are made"


def cpus_of(vm: VmConfig, tree: HostTree) -> list[HostCpu]:
    """The host's CPUs that a VM may run on: those of its masks, else of its ids, else all."""
    enabled = [cpu for cpu in tree.cpus if cpu.enabled]
    if vm.phys_cpu_sets:
        mask = 0
        for one in vm.phys_cpu_sets:
            mask |= one
        chosen = [cpu for number, cpu in enumerate(enabled) if mask >> number & 1]
    elif vm.phys_cpu_ids:
        chosen = [cpu for cpu in enabled if set(cpu.ids) & set(vm.phys_cpu_ids)]
    else:
        chosen = enabled
    return chosen or enabled


def console(arch: str, tree: HostTree | None) -> Fixed | None:
    """The machine's console; None on x86, where it is on I/O ports."""
    if arch not in _CONSOLES:
        return None
    model, span = _CONSOLES[arch]
    found = None if tree is None else tree.console
    if found is None:
        why = "nothing is known of the host" if tree is None else "the host's tree names no console"
        return Fixed(f"console {model}", span, f"upstream's default address: {why}")
    if not found.ranges:
        raise found.place.error("is the console of /chosen and has no registers on the CPU's bus")
    return Fixed(
        f"console {model}", found.ranges[0], f"where the host's console {found.place.path} is, which /chosen names",
        found.place,
    )  # fmt: skip


def controllers(arch: str, tree: HostTree | None, vcpus: int) -> Iterator[Fixed]:
    """The interrupt controllers that the hypervisor plays: where the host has its own, else at upstream's defaults."""
    wanted = {"aarch64": (ControllerKind.GICV3, ControllerKind.GICV2), "riscv64": (ControllerKind.PLIC,)}.get(arch, ())
    found = [] if tree is None else [one for one in tree.controllers if one.kind in wanted]
    for controller in found:
        for name, span in controller.regions:
            if name not in _KEPT:
                reason = f"where the host's {controller.kind} {controller.place.path} is"
                yield Fixed(name, span, reason, controller.place)
    if found:
        return
    why = "nothing is known of the host" if tree is None else "the host's tree has none"
    reason = f"upstream's default address: {why}"
    if arch == "aarch64":
        yield Fixed("GICD", Range.sized(0x0800_0000, 0x1_0000), reason)
        yield Fixed("GICR", Range.sized(0x080A_0000, _REDISTRIBUTOR * vcpus), reason)
    elif arch == "riscv64":
        yield Fixed("PLIC", Range(0x0C00_0000, 0x0C60_0000), reason)
    else:
        yield Fixed("I/O APIC", Range.sized(0xFEC0_0000, 0x1000), reason)


def kept(tree: HostTree) -> Iterator[tuple[str, Range, InterruptController]]:
    """Registers that the hypervisor needs for itself and gives to no guest."""
    for controller in tree.controllers:
        for name in _KEPT:
            for span in controller.named(name):
                yield name, span, controller
