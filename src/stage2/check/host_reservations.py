"""VMs' memory beside what the host's device tree reserves: the rules S2721 and S2722."""

from __future__ import annotations

from collections.abc import Iterator

from ..flags import MapType
from .finding import Finding, Party, Rule, Severity
from .given import in_tree
from .host_memory import fixed_memory
from .setup import Setup

NO_MAP = Rule(
    "S2721", Severity.ERROR, "a VM's memory covers memory that must not be mapped",
    "Firmware or another core lives there, often behind a bus firewall: the guest's first access, even a speculative "
    "one, is a bus error or stops the board.",
)  # fmt: skip
RESERVED = Rule(
    "S2722", Severity.ERROR, "a VM's memory covers memory that the host reserves",
    "Its owner (firmware, a device's buffer, a boot log) and the guest overwrite each other.",
)  # fmt: skip
RULES = (NO_MAP, RESERVED)


def check_reservations(setup: Setup) -> Iterator[Finding]:
    """RAM that a VM has one to one at its file's address; map_type 2 asks for reserved memory, and is left alone."""
    reservations = [] if setup.tree is None else setup.tree.reservations
    for vm in setup.vms:
        for each in fixed_memory(vm):
            if not each.region.map_type.is_ram or each.region.map_type is MapType.MAP_RESERVED:
                continue
            for held in reservations:
                shared = None if held.span is None else held.span.intersection(each.span)
                if shared is None or held.reusable:
                    continue
                party = Party(held.place.path, held.span)
                what = ", which must not be mapped (no-map)," if held.no_map else ""
                yield Finding(
                    NO_MAP if held.no_map else RESERVED, f"{each.party} overlaps {party}{what} in {shared}",
                    (each.party, party), shared, (each.location, in_tree(setup, held.place.path)),
                    "split the region around it, or map_type 2 where the guest is to have this very memory",
                )  # fmt: skip
