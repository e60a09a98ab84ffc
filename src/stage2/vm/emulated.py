"""The models behind a VM's emulated devices, as its file names them (`emu_devices`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..address import Range
from ..config.devices import EmulatedDevice
from ..config.vm import VmConfig
from ..images.devicetree import SerialPort
from ..images.guest_tree import GicPlace
from . import plic
from .devices import Device, Silent, TestDevice
from .gic import v2, v3
from .gic.bank import PRIVATE
from .gic.v2 import GicV2
from .gic.v3 import GicV3, affinities_of
from .pl011 import Pl011
from .plic import Plic
from .uart16550 import Uart
from .vm import Vm

CONSOLES = ("Console", "VirtioConsole")
V2_DISTRIBUTORS = ("GicdV2", "InterruptController")
V3_DISTRIBUTORS = ("GPPTDistributor",)
PLICS = ("InterruptController", "PPPTGlobal")
V3_REDISTRIBUTORS = ("GPPTRedistributor", "GICR")
_TESTS = ("Dummy", "Meta")
CPU_INTERFACE_AT = 0x1_0000
"""Where a GICv2 that is declared in one piece has its CPU interface."""


def attach_devices(vm: Vm, config: VmConfig) -> None:
    """Put a model behind each emulated device; what has none reads as zero.

    On AArch64 a console is a PL011 and interrupt controllers are GICs; elsewhere a console is a 16550. RISC-V's
    interrupt controller is a PLIC.

    Raises:
        ConfigError: an interrupt controller lacks a part, or room for the VM's CPUs.
    """
    devices = [device for device in config.devices.emulated if device.size and not device.on_ports]
    if vm.arch == "aarch64":
        _attach_gic(vm, devices)
    elif vm.arch == "riscv64":
        _attach_plic(vm, devices)
    for device in devices:
        span = Range.sized(device.gpa, device.size)
        if not vm.bus.answers(span):
            vm.bus.attach(span, _model(vm, device))
            if "Console" in device.type_names:
                vm.serial.append(SerialPort(device.name, span, device.irq))


def is_one_of(device: EmulatedDevice, names: tuple[str, ...]) -> bool:
    """Whether a device's type is of these; of a file whose generation nothing tells, one meaning is enough."""
    return any(name in names for name in device.type_names)


def _model(vm: Vm, device: EmulatedDevice) -> Device:
    if is_one_of(device, CONSOLES):
        model = Pl011 if vm.arch == "aarch64" else Uart
        return model(device.name, vm.console, _line(vm, device.irq))
    return TestDevice(device.name) if is_one_of(device, _TESTS) else Silent(device.name)


def _line(vm: Vm, irq: int) -> Callable[[bool], None] | None:
    """The line of a shared interrupt; None where there is nobody that it would go to."""
    if vm.plic is not None and 0 < irq <= plic.SOURCES:
        return partial(vm.plic.set_level, irq)
    if vm.gic is not None and PRIVATE <= irq < PRIVATE + vm.gic.spis:
        return partial(vm.gic.set_level, 0, irq)
    return None


def _attach_plic(vm: Vm, devices: list[EmulatedDevice]) -> None:
    device = next((one for one in devices if is_one_of(one, PLICS)), None)
    if device is None:
        return
    needed = plic.size_of(vm.cpu_count)
    if device.size < needed:
        raise device.place.error(
            f"{device.name} has {device.size:#x} bytes; the PLIC of {vm.cpu_count} harts needs {needed:#x}"
        )
    vm.plic, vm.plic_place = Plic(device.name, vm.cpu_count), Range.sized(device.gpa, device.size)
    vm.bus.attach(vm.plic_place, vm.plic)


def _attach_gic(vm: Vm, devices: list[EmulatedDevice]) -> None:
    for device in devices:
        if is_one_of(device, V2_DISTRIBUTORS):
            _attach_v2(vm, device)
            return
    distributor = next((one for one in devices if is_one_of(one, V3_DISTRIBUTORS)), None)
    redistributor = next((one for one in devices if is_one_of(one, V3_REDISTRIBUTORS)), None)
    if distributor is None or redistributor is None:
        # One without the other belongs to a controller that is passed through in part.
        return
    vm.gic = gic = GicV3(affinities_of(vm.cpu_count))
    for device, bytes_, part in (
        (distributor, v3.DISTRIBUTOR_BYTES, gic.distributor),
        (redistributor, gic.redistributors_bytes, gic.redistributors),
    ):
        if device.size < bytes_:
            raise device.place.error(
                f"{device.name} has {device.size:#x} bytes; the GICv3 of {vm.cpu_count} CPUs needs {bytes_:#x} there"
            )
        vm.bus.attach(Range.sized(device.gpa, device.size), part)
    spans = (
        Range.sized(one.gpa, size)
        for one, size in ((distributor, v3.DISTRIBUTOR_BYTES), (redistributor, gic.redistributors_bytes))
    )
    vm.gic_place = GicPlace(3, *spans)


def _attach_v2(vm: Vm, device: EmulatedDevice) -> None:
    """A distributor, and the CPU interfaces behind it where the declared range reaches so far."""
    if device.size < v2.DISTRIBUTOR_BYTES:
        raise device.place.error(
            f"{device.name} has {device.size:#x} bytes; the distributor of a GICv2 has {v2.DISTRIBUTOR_BYTES:#x}"
        )
    if vm.cpu_count > v2.MOST_CPUS:
        raise device.place.error(f"a GICv2 is for {v2.MOST_CPUS} CPUs; VM {vm.name} has {vm.cpu_count}: give a GICv3")
    vm.gic = gic = GicV2(vm.cpu_count)
    distributor, interface = Range.sized(device.gpa, min(device.size, CPU_INTERFACE_AT)), None
    vm.bus.attach(distributor, gic.distributor)
    if device.size >= CPU_INTERFACE_AT + v2.CPU_INTERFACE_BYTES:
        interface = Range.sized(device.gpa + CPU_INTERFACE_AT, device.size - CPU_INTERFACE_AT)
        vm.bus.attach(interface, gic.cpu_interface)
    vm.gic_place = GicPlace(2, distributor, interface)
