"""Addresses of x86 that are known to stop guests: the rules S2611 and S2612. They need no tree.

Facts: rcore-os/tgoskits, its page on machine planning (the local APIC) and its issue 2390 (the FCH).
"""

from __future__ import annotations

from collections.abc import Iterator

from ..address import Range
from ..config.load import choose_arch
from ..config.vm import VmConfig, VmType
from ..errors import ConfigError
from ..flags import MapType
from ..images.acpi import LOCAL_APIC as APIC
from .finding import Finding, Location, Party, Rule, Severity, found_at
from .given import spans_of
from .setup import Setup

LOCAL_APIC = Rule(
    "S2611", Severity.WARNING, "the CPU's own local APIC is given to a VM",
    "The guest programs the timer and sends interrupts of the CPU that the hypervisor runs on: it is not isolated, and "
    "the hypervisor's own timer is lost.",
)  # fmt: skip
FCH = Rule(
    "S2612", Severity.WARNING, "a Linux guest on an AMD CPU has a hole at the FCH's registers",
    "Linux and its drivers read AMD's southbridge at 0xfed8_0000 without asking whether it is there: the nested page "
    "fault stops the VM.",
)  # fmt: skip
RULES = (LOCAL_APIC, FCH)

_FCH = Range.sized(0xFED8_0000, 0x1000)
_AMD = "zen"
"""How the names of AMD's processors begin (`--cpu list`)."""
_NPT = "npt"
"""The same of AMD's table formats."""


def check_x86_holes(setup: Setup) -> Iterator[Finding]:
    """The local APIC in a passed-through range; the FCH in none, where the CPU is AMD's."""
    plans = {vm.file: vm for vm in setup.vms}
    for vm in setup.files:
        planned = plans.get(vm.file)
        try:
            arch = vm.arch if planned is None else choose_arch(planned, setup.arch, setup.platform)
        except ConfigError:
            continue
        spans = list(spans_of(vm))
        if arch in ("x86_64", None):
            for name, span, place in spans:
                shared = span.intersection(APIC)
                # Without an architecture only an entry that is this page alone is taken for it.
                if shared is not None and (arch is not None or span == APIC):
                    who, apic = Party(f"device {name!r} of {vm.label}", span), Party("the local APIC", APIC)
                    yield Finding(
                        LOCAL_APIC, f"{who} covers {apic}", (who, apic), shared, (Location.of(place, who.name),),
                        "take it out: the hypervisor plays the local APIC",
                    )  # fmt: skip
        if arch == "x86_64" and planned is not None and _is_linux(vm) and _is_amd(vm, setup):
            covered = any(
                one.range.overlaps(_FCH) for one in planned.plan.regions if one.map_type is not MapType.EMULATED
            )
            if not covered:
                text = f"{vm.label} has nothing at {Party('the FCH', _FCH, 'GPA')}"
                fix = f'pass the page through: ["FCH", {_FCH.start:#x}, {_FCH.start:#x}, 0x1000, 0]'
                yield found_at(FCH, text, vm.place, (Party(vm.label), Party("the FCH", _FCH, "GPA")), fix)


def _is_linux(vm: VmConfig) -> bool:
    return vm.vm_type is VmType.LINUX or "linux" in vm.name.lower()


def _is_amd(vm: VmConfig, setup: Setup) -> bool:
    """Whether the tables are for a CPU of AMD, by what the file or the command line names."""
    named = vm.options.format
    cpu = setup.cpu or vm.options.cpu
    return (named is not None and named.format.name.startswith(_NPT)) or (cpu is not None and cpu.text.startswith(_AMD))
