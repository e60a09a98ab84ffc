"""The device tree that a guest gets when its configuration names none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..address import Range
from .fdt import Node, flatten

RISCV_ISA = "rv64imafdc"
"""What Unicorn's RV64 CPU executes."""


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A serial port that the guest may print to: a 16550, or a PL011 on Arm.

    Args:
        name: as in the file.
        registers: where it is.
        irq: its interrupt; 0 for none.
    """

    name: str
    registers: Range
    irq: int = 0


@dataclass(frozen=True, slots=True)
class Description:
    """What a device tree tells a guest of its machine.

    Args:
        model: a name for people.
        memory: RAM, in GPA.
        cpus: number of harts.
        timer_hz: frequency of the `time` CSR.
        bootargs: kernel command line.
        ramdisk: where the ramdisk lies, if there is one.
        serial: emulated serial ports.
        reserved: parts of RAM the guest must leave alone.
        plic: where its interrupt controller is, and the highest source of that; None where it has none.
    """

    model: str
    memory: Sequence[Range]
    cpus: int
    timer_hz: int
    bootargs: str = ""
    ramdisk: Range | None = None
    serial: Sequence[SerialPort] = ()
    reserved: Sequence[Range] = ()
    plic: tuple[Range, int] | None = None


_EXTERNAL = 9
"""The supervisor's external interrupt (Privileged, "Supervisor Cause (scause) Register")."""


def riscv_tree(machine: Description) -> Node:
    """The tree of a RISC-V guest: memory, harts with their interrupt controllers, chosen."""
    root = Node("")
    root.set("#address-cells", 2).set("#size-cells", 2)
    root.set("compatible", "riscv-virtio").set("model", machine.model)
    chosen = root.child("chosen").set("bootargs", machine.bootargs)
    if machine.ramdisk is not None:
        chosen.set_u64("linux,initrd-start", machine.ramdisk.start)
        chosen.set_u64("linux,initrd-end", machine.ramdisk.end)
    for span in machine.memory:
        node = root.child(f"memory@{span.start:x}").set("device_type", "memory")
        node.set_u64("reg", span.start, span.size)
    cpus = root.child("cpus").set("#address-cells", 1).set("#size-cells", 0)
    cpus.set("timebase-frequency", machine.timer_hz)
    for hart in range(machine.cpus):
        cpu = cpus.child(f"cpu@{hart:x}").set("device_type", "cpu").set("reg", hart).set("status", "okay")
        cpu.set("compatible", "riscv").set("riscv,isa", RISCV_ISA).set("mmu-type", "riscv,sv57")
        controller = cpu.child("interrupt-controller").set("#interrupt-cells", 1).set("interrupt-controller")
        controller.set("compatible", "riscv,cpu-intc").set("phandle", hart + 1)
    if machine.reserved:
        node = root.child("reserved-memory").set("#address-cells", 2).set("#size-cells", 2).set("ranges")
        for span in machine.reserved:
            node.child(f"reserved@{span.start:x}").set_u64("reg", span.start, span.size).set("no-map")
    if machine.serial or machine.plic:
        bus = root.child("soc").set("#address-cells", 2).set("#size-cells", 2)
        bus.set("compatible", "simple-bus").set("ranges")
        if machine.plic is not None:
            _plic(bus, machine.cpus, *machine.plic)
        for port in machine.serial:
            node = bus.child(f"serial@{port.registers.start:x}").set("compatible", "ns16550a")
            node.set_u64("reg", port.registers.start, port.registers.size).set("clock-frequency", 3_686_400)
            if machine.plic is not None and port.irq:
                node.set("interrupt-parent", machine.cpus + 1).set("interrupts", port.irq)
    return root


def _plic(bus: Node, harts: int, registers: Range, sources: int) -> None:
    """The interrupt controller (Linux, bindings, sifive,plic-1.0.0): a context for each hart."""
    node = bus.child(f"interrupt-controller@{registers.start:x}").set(
        "compatible", ["sifive,plic-1.0.0", "riscv,plic0"]
    )
    node.set_u64("reg", registers.start, registers.size).set("interrupt-controller").set("riscv,ndev", sources)
    node.set("#interrupt-cells", 1).set("#address-cells", 0).set("phandle", harts + 1)
    node.set("interrupts-extended", [cell for hart in range(harts) for cell in (hart + 1, _EXTERNAL)])


def riscv_blob(machine: Description) -> bytes:
    """The flattened tree of a RISC-V guest."""
    return flatten(riscv_tree(machine))
