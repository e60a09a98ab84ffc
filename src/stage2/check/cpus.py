"""Which host CPUs a VM may run on: the rules S2802 to S2804."""

from __future__ import annotations

from collections.abc import Iterator

from ..config.vm import VmConfig
from ..images.host_parts import HostCpu
from .finding import Finding, Location, Party, Rule, Severity, found_at
from .given import in_tree
from .setup import Setup

NO_CPU = Rule(
    "S2802", Severity.ERROR, "a mask names no host CPU",
    "The vCPU is allowed to run nowhere: the VM never gets its turn.",
)  # fmt: skip
UNKNOWN_ID = Rule(
    "S2803", Severity.WARNING, "an id of a CPU that the host's device tree does not have",
    "It becomes the vCPU's own id (MPIDR_EL1, hart id): no CPU node of the host's tree is for it, and a guest with "
    "that tree does not start its other CPUs.",
)  # fmt: skip
BEYOND_HOST = Rule(
    "S2804", Severity.WARNING, "a mask names CPUs beyond those of the host's device tree",
    "The vCPU runs on fewer CPUs than was meant; where the mask has no other, it is allowed to run nowhere.",
)  # fmt: skip
RULES = (NO_CPU, UNKNOWN_ID, BEYOND_HOST)

_MOST_IDS = 8
"""Limit: ids of the host that a message names."""


def check_cpus(setup: Setup) -> Iterator[Finding]:
    """Masks of host CPUs, and ids of CPUs against the host's tree."""
    cpus = [] if setup.tree is None else [cpu for cpu in setup.tree.cpus if cpu.enabled]
    for vm in setup.files:
        for number, mask in enumerate(vm.phys_cpu_sets or ()):
            if not mask:
                message = f"phys_cpu_sets[{number}] of {vm.label} is 0: vCPU {number} may run on no host CPU"
                yield found_at(NO_CPU, message, vm.place, (Party(vm.label),), "set the bit of a host CPU")
        if cpus:
            yield from _ids(setup, vm, cpus)
            yield from _masks(setup, vm, cpus)


def _ids(setup: Setup, vm: VmConfig, cpus: list[HostCpu]) -> Iterator[Finding]:
    known = [number for cpu in cpus for number in cpu.ids]
    unknown = [number for number in dict.fromkeys(vm.phys_cpu_ids or ()) if number not in known]
    if unknown:
        named = ", ".join(f"{number:#x}" for number in unknown[:_MOST_IDS])
        there = ", ".join(f"{number:#x}" for number in known[:_MOST_IDS]) + (", ..." if len(known) > _MOST_IDS else "")
        text = f"phys_cpu_ids of {vm.label} has {named}, and the host's CPUs are {there}"
        yield _told(setup, UNKNOWN_ID, vm, text, "write the reg of the CPU's node")


def _masks(setup: Setup, vm: VmConfig, cpus: list[HostCpu]) -> Iterator[Finding]:
    count = sum(len(cpu.ids) for cpu in cpus)
    for number, mask in enumerate(vm.phys_cpu_sets or ()):
        if not mask >> count:
            continue
        there = mask & (1 << count) - 1
        beyond = ", ".join(str(bit) for bit in range(count, mask.bit_length()) if mask >> bit & 1)
        text = f"phys_cpu_sets[{number}] of {vm.label}, {mask:#x}, names CPU {beyond}, and the host has {count} CPUs"
        if not there:
            text += f": vCPU {number} may run on none of them"
        yield _told(setup, BEYOND_HOST, vm, text, f"set bits 0 to {count - 1} only", None if there else Severity.ERROR)


def _told(setup: Setup, rule: Rule, vm: VmConfig, text: str, fix: str, severity: Severity | None = None) -> Finding:
    places = (Location.of(vm.place), in_tree(setup, "/cpus"))
    return Finding(rule, text, (Party(vm.label),), locations=places, fix=fix, severity=severity)
