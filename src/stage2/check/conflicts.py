"""Declarations that contradict each other, as readers and planners found them."""

from __future__ import annotations

from collections.abc import Iterator

from ..config.conflict import ConflictError
from ..errors import ConfigError
from .finding import Finding, FixIt, Location, Party, Rule, Severity
from .setup import Setup

OVERLAP = Rule(
    "S2301", Severity.ERROR, "two stretches of a VM's memory overlap",
    "AxVisor maps them one after the other and refuses the second, or the guest finds another's bytes where its own "
    "should be: the VM does not start.",
)  # fmt: skip
DEVICE_OVER_MEMORY = Rule(
    "S2302", Severity.ERROR, "a device lies in a VM's memory",
    "The guest sees either RAM or the device there, whichever is mapped last.",
)  # fmt: skip
TWO_TARGETS = Rule(
    "S2303", Severity.ERROR, "one GPA would lead to two HPAs",
    "The tables hold one HPA for each GPA: one of the devices is not reached.",
)  # fmt: skip
PAGE_OFFSET = Rule(
    "S2304", Severity.ERROR, "GPA and HPA of a device differ within their page",
    "Tables map whole pages: the guest would reach other registers than those it was given.",
)  # fmt: skip
ENTRY_POINT = Rule(
    "S2305", Severity.ERROR, "the entry point is no executable memory",
    "The first instruction faults at stage 2 before the guest has printed anything.",
)  # fmt: skip
LOAD_ADDRESS = Rule(
    "S2306", Severity.ERROR, "an image is to be loaded where there is no RAM",
    "AxVisor cannot copy it there: the VM does not start.",
)  # fmt: skip
WRITABLE_ROM = Rule(
    "S2307", Severity.ERROR, "a ROM is writable",
    "It would be RAM: what the guest writes there stays until the VM is built anew.",
)  # fmt: skip
EXECUTABLE_DEVICE = Rule(
    "S2308", Severity.ERROR, "a device is executable",
    "Instruction fetches read its registers, and reading them may change what it does.",
)  # fmt: skip
NO_ROOM = Rule(
    "S2507", Severity.ERROR, "the host has no room for memory that a VM has one to one",
    "AxVisor's allocator finds no such piece of RAM: the VM does not start.",
)  # fmt: skip
SAME_ID = Rule(
    "S2401", Severity.ERROR, "two VMs have one id",
    "AxVisor registers VMs by their ids and refuses the second.",
)  # fmt: skip
DEDICATED_CPU = Rule(
    "S2402", Severity.ERROR, "a host CPU is dedicated to two VMs",
    "AxVisor refuses the second VM.",
)  # fmt: skip
HOST_MEMORY = Rule(
    "S2403", Severity.ERROR, "one VM would reach another's memory",
    "What one guest writes the other reads: they are not isolated, and both may crash.",
)  # fmt: skip
SHARE = Rule(
    "S2404", Severity.ERROR, "VMs do not agree on a share",
    "Memory is shared by declaration of all who take part: this one is mapped for nobody.",
)  # fmt: skip
OTHER = Rule(
    "S2300", Severity.ERROR, "a VM's declarations do not fit together",
    "The VM is refused before it starts.",
)  # fmt: skip

_RULES = {
    "overlap": OVERLAP,
    "device-over-memory": DEVICE_OVER_MEMORY,
    "two-targets": TWO_TARGETS,
    "page-offset": PAGE_OFFSET,
    "entry-point": ENTRY_POINT,
    "load-address": LOAD_ADDRESS,
    "writable-rom": WRITABLE_ROM,
    "executable-device": EXECUTABLE_DEVICE,
    "no-room": NO_ROOM,
    "same-id": SAME_ID,
    "dedicated-cpu": DEDICATED_CPU,
    "host-memory": HOST_MEMORY,
    "share": SHARE,
}
RULES = (OTHER, *_RULES.values())


def check_conflicts(setup: Setup) -> Iterator[Finding]:
    """Every conflict as a finding."""
    for error in setup.conflicts:
        yield _finding(error)


def _finding(error: ConfigError) -> Finding:
    if not isinstance(error, ConflictError):
        where = () if error.file is None else (Location(error.file, error.line),)
        return Finding(OTHER, error.problem, locations=where)
    parties = tuple(Party(claim.name, claim.span, claim.space) for claim in error.claims)
    locations = tuple(Location.of(claim.place, claim.name) for claim in error.claims)
    return Finding(_RULES[error.kind], error.problem, parties, error.shared, locations, edit=FixIt.of(error.rewrite))
