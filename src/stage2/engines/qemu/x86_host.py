"""QEMU's q35 as a host: where RAM is, what of it is the hypervisor's, and the machines of its VMs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...config.platform import PlatformConfig, ReservedMemory, default_platform
from ...config.regions import PlannedVm
from ...errors import ConfigError, EngineError
from ...images.acpi import HPET, IO_APIC, LOCAL_APIC, is_pc
from ...images.fdt import Node
from ...images.host_tree import HostTree
from ...images.tree_file import TreeFile
from ...machines.board import Board
from ...machines.x86_board import LEGACY_HOLE, OWN, X86Board
from ...vm.host import Host
from .board import machines_on
from .machine import QemuVm
from .x86 import X86Qemu

_COMPATIBLE = {
    IO_APIC: "intel,ce4100-ioapic",
    HPET: "intel,ce4100-hpet",
    LOCAL_APIC: "intel,ce4100-lapic",
}


def x86_platform(configs: Sequence[PlannedVm]) -> PlatformConfig:
    """The host that VMs get on the board, when no platform file names one.

    Raises:
        ConfigError: they want more than the board has.
    """
    ram = X86Board.RAM
    wanted = sum(region.size for config in configs for region in config.plan.regions if region.map_type.is_ram)
    if wanted > ram.size - OWN.size:
        default_platform(configs, "x86_64")
        raise ConfigError(
            f"the VMs want {wanted:#x} bytes of memory; QEMU's q35 has {ram.size - OWN.size:#x} for them",
            file=configs[0].file,
        )
    return PlatformConfig(
        file=None,
        arch="x86_64",
        platform="qemu-q35",
        family="qemu-q35",
        memory=(ram,),
        takes_no_interrupts=True,
        reserved=(
            ReservedMemory(LEGACY_HOLE, "the window of a display adapter, where QEMU's q35 has no RAM"),
            ReservedMemory(OWN, "the hypervisor's monitor on QEMU's q35"),
        ),
    )


def x86_tree() -> HostTree:
    """What of the board a guest may be given, as a device tree: a PC has none of its own.

    Names of devices are those of Linux, Documentation/devicetree/bindings/x86. PCI and DMA are nobody's, for they lead
    to all of memory.
    """
    root = Node("").set("model", "QEMU q35").set("#address-cells", 2).set("#size-cells", 2)
    root.child("memory@0").set("device_type", "memory").set_u64("reg", X86Board.RAM.start, X86Board.RAM.size)
    for name, span in (("interrupt-controller", IO_APIC), ("timer", HPET), ("interrupt-controller", LOCAL_APIC)):
        node = root.child(f"{name}@{span.start:x}").set("compatible", _COMPATIBLE[span])
        node.set_u64("reg", span.start, span.size)
    return HostTree(TreeFile(f"the q35 of {X86Board.PROGRAM}", root, (OWN, LEGACY_HOLE)))


def open_x86(host: Host, cores: int) -> tuple[Board, list[QemuVm[Any]]]:
    """The board and a machine for each VM (`board.open_machines`).

    Raises:
        EngineError: it cannot run these VMs.
        EncodingError, MachineError: it does not start.
    """
    vms = host.vms
    owners = [vm for vm in vms if is_pc(vm.has_registers)]
    if owners and len(vms) > 1:
        other = next(vm for vm in vms if vm is not owners[0])
        raise EngineError(
            f"VM {owners[0].name} is given the cores' local APICs, by which it could stop those of VM {other.name}: "
            "run it alone"
        )
    board = X86Board(host.memory, cores=cores, sockets=host.sockets)
    return machines_on(board, host, lambda vm, given: X86Qemu(vm, board, given, console=vm in owners))
