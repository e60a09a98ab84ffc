"""Running a bundled demo guest in memory of every kind, whatever the stage-2 format, and what it must have seen."""

from __future__ import annotations

from pathlib import Path

import stage2.vm
from stage2.address import GIB, MIB, Gpa, Range
from stage2.engines.run import machine_for
from stage2.flags import RWX, MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, ViolationPolicy
from stage2.vm.pl011 import Pl011
from stage2.vm.report import VmReport
from stage2.vm.uart16550 import Uart
from stage2.vm.vm import Boot, Vm

GUESTS = Path(stage2.vm.__file__).parent / "guests"
BASE, IDENTICAL, ROM, UART = (Gpa(at) for at in (0x8000_0000, 0x9000_0000, 0x2000_0000, 0x1000_0000))


def run_demo(arch: str, fmt: str) -> VmReport:
    """The report of the guest, run in the memory that its TOML file describes."""
    memory = PhysicalMemory([Range.sized(BASE, GIB)])
    frames = FrameAllocator(memory)
    space = AddressSpace.create(fmt, frames, name="demo", violation=ViolationPolicy.INJECT)
    discard = ViolationPolicy.DISCARD
    for region in (
        MemoryRegion(IDENTICAL, 2 * MIB, RWX, MapType.MAP_IDENTICAL),
        MemoryRegion(BASE, 8 * MIB, RWX, MapType.MAP_ALLOC),
        MemoryRegion(ROM, 4096, MappingFlags.READ, MapType.ROM, name="rom", violation=discard),
        MemoryRegion(UART, 4096, MappingFlags(0), MapType.EMULATED, name="uart"),
    ):
        space.map(region)
    vm = Vm("demo", 1, arch, space)
    vm.bus.attach(Range.sized(UART, 0x1000), (Pl011 if arch == "aarch64" else Uart)("uart", vm.console))
    vm.boot = Boot(BASE)
    vm.memory.write(BASE, (GUESTS / f"demo-{arch}.bin").read_bytes())
    vm.memory.write(ROM, (GUESTS / "demo-rom.bin").read_bytes())
    machine = machine_for(vm)
    try:
        result = machine.run()
    finally:
        machine.close()
    report = vm.report("unicorn", result)
    assert int.from_bytes(vm.memory.read(IDENTICAL, 8), "little") == 0x600D600D
    vm.close()
    memory.close()
    return report


def require_demo(report: VmReport, verdicts: int) -> None:
    """The guest found everything in order, in so many lines, and the host refused what it had to."""
    assert report.exit == "off", report.reason
    lines = report.console.splitlines()
    assert lines[0].startswith("demo guest")
    assert lines[-1] == "demo guest: done"
    assert [line.rsplit(" ", 1)[1] for line in lines[1:-1]] == ["ok"] * verdicts
    assert report.resolutions["populated"] >= 64
    assert [(v.region, v.access, v.action) for v in report.violations] == [
        ("rom", "write", "discarded"),
        ("hole", "read", "injected"),
        ("uart", "fetch", "injected"),
    ]
