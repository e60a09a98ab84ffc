"""Which host CPUs a VM may run on: the rule S2802."""

from __future__ import annotations

from collections.abc import Iterator

from .finding import Finding, Party, Rule, Severity, found_at
from .setup import Setup

NO_CPU = Rule(
    "S2802", Severity.ERROR, "a mask names no host CPU",
    "The vCPU is allowed to run nowhere: the VM never gets its turn.",
)  # fmt: skip
RULES = (NO_CPU,)


def check_cpus(setup: Setup) -> Iterator[Finding]:
    """Masks of host CPUs."""
    for vm in setup.files:
        for number, mask in enumerate(vm.phys_cpu_sets or ()):
            if not mask:
                message = f"phys_cpu_sets[{number}] of {vm.label} is 0: vCPU {number} may run on no host CPU"
                yield found_at(NO_CPU, message, vm.place, (Party(vm.label),), "set the bit of a host CPU")
