"""Keys that AxVisor needs, or counts on, and a file leaves out: the rules S2614 and S2924.

Facts: AxVisor's image loader and `axvmconfig` (its `InterruptMode`), of the seed and of head.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..config.devices import InterruptMode
from ..config.generation import Generation
from ..config.vm import VmConfig
from .finding import Finding, Party, Rule, Severity, found_at
from .setup import Setup

NO_INTERRUPTS = Rule(
    "S2614", Severity.NOTE, "devices are passed through, and their interrupts are not",
    'interrupt_mode is "no_irq" where the file leaves it out: the guest reaches the registers, and has to poll them.',
)  # fmt: skip
NO_IMAGE_LOCATION = Rule(
    "S2924", Severity.WARNING, "a file does not say where AxVisor finds its images",
    "Without image_location AxVisor panics when it loads the VM.",
)  # fmt: skip
RULES = (NO_INTERRUPTS, NO_IMAGE_LOCATION)


def check_left_out(setup: Setup) -> Iterator[Finding]:
    """Keys without which the file does less than it seems to."""
    for vm in setup.files:
        if vm.generation is Generation.PRESENT:
            continue
        yield from _interrupts(vm)
        path = vm.kernel.kernel.path
        if path is not None and path.fetched is None and vm.kernel.image_location is None:
            message = f"{vm.label} names a kernel and no image_location"
            fix = 'say image_location = "fs" (a file of AxVisor\'s) or "memory" (built into it)'
            yield found_at(NO_IMAGE_LOCATION, message, path.place, (Party(vm.label),), fix)


def _interrupts(vm: VmConfig) -> Iterator[Finding]:
    """The seed has no such key, and a file that may be the seed's is left alone."""
    devices = vm.devices
    given = [one.place for one in (*devices.passthrough, *devices.addresses)] + [one.place for one in devices.nodes]
    if Generation.SEED in vm.generations or vm.devices.interrupt_mode is not InterruptMode.NO_IRQ or not given:
        return
    message = f"{vm.label} is given devices, and its interrupt_mode is no_irq"
    fix = 'interrupt_mode = "passthrough" lets their interrupts through, for a guest that drives the controller itself'
    yield found_at(NO_INTERRUPTS, message, given[0], (Party(vm.label),), fix)
