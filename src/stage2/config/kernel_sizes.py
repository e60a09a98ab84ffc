"""`[hypervisor]` of a platform file, an own table: how large the hypervisor's kernel is, where no image says so."""

from __future__ import annotations

from dataclasses import dataclass

from ..address import KIB, MIB
from ..errors import ConfigError
from .document import Table

MAX_PART = 256 * MIB
"""Limit: bytes of one part of a kernel."""
MAX_CPUS = 512
"""Limit: CPUs of a host."""


@dataclass(frozen=True, slots=True)
class KernelSizes:
    """Sizes of a kernel's parts in bytes; the defaults are those of a typical AxVisor build.

    Args:
        smp: CPUs that have a copy of `.percpu`.
        text, rodata, data, tdata, tbss, boot_stack, bss: bytes of a part.
        percpu: bytes of one CPU's copy.
        given: names of the fields that a file says; all others are assumed.
    """

    smp: int = 1
    text: int = 1 * MIB
    rodata: int = 256 * KIB
    data: int = 64 * KIB
    tdata: int = 0
    tbss: int = 0
    percpu: int = 4 * KIB
    boot_stack: int = 256 * KIB
    bss: int = 1 * MIB
    given: frozenset[str] = frozenset()


def require_cpus(smp: int) -> int:
    """The number of CPUs that `--smp` says.

    Raises:
        ConfigError: no host has so many.
    """
    if not 1 <= smp <= MAX_CPUS:
        raise ConfigError(f"--smp {smp}: 1 to {MAX_CPUS} CPUs are possible")
    return smp


ASSUMED = KernelSizes()
"""What is taken where a file says nothing."""
_PARTS = ("text", "rodata", "data", "tdata", "tbss", "percpu", "boot_stack", "bss")


def read_kernel_sizes(table: Table) -> KernelSizes:
    """Read the sizes in `[hypervisor]`; what it does not say is assumed.

    Raises:
        ConfigError: a value is no number, or out of bounds.
    """
    keys = {name: f"{name.replace('_', '-')}-size" for name in _PARTS}
    sizes = {name: table.integer(key, getattr(ASSUMED, name), 0, MAX_PART) for name, key in keys.items()}
    given = {name for name, key in keys.items() if table.find(key) is not None}
    smp = table.integer("smp", ASSUMED.smp, 1, MAX_CPUS)
    if table.find("smp") is not None:
        given.add("smp")
    table.note_unknown()
    return KernelSizes(smp, **sizes, given=frozenset(given))
