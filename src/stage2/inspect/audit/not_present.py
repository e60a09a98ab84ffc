"""Entries that are not present and name memory all the same: S3010."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...address import Range
from ...check.finding import Finding, Party, Severity
from ...prove.packing import packing_of
from .scene import Looked, Scene
from .telling import MOST_TOLD, places, rule

TERMINAL_FAULT = rule(
    "S3010", Severity.WARNING, "an entry that is not present names memory",
    "Intel processors without RDCL_NO read what the address of such an entry names from the L1 cache before they "
    'fault (Intel, "L1 Terminal Fault", CVE-2018-3615, -3620, -3646). Linux inverts the address bits of its own, so '
    "that they name no memory. Of a guest it is a note: what it writes is its affair, and its host guards against it. "
    "The first page of memory does not count: it is what entries without an address name.",
)  # fmt: skip
RULES = (TERMINAL_FAULT,)
_AMD = "npt"


def check_not_present(scene: Scene) -> Iterator[Finding]:
    """Entries of long mode and of EPT; AMD's processors, which nested tables tell, do not do it."""
    if any(one.root.regime.format.name.startswith(_AMD) for one in scene.looked):
        return
    for one in scene.looked:
        if len(one.survey.vacant):
            yield from _of_root(scene, one)


def _of_root(scene: Scene, one: Looked) -> Iterator[Finding]:
    fmt, vacant = one.root.regime.format, one.survey.vacant
    named = packing_of(fmt).outputs(vacant[:, 2])
    inside = np.searchsorted(scene.memory[:, 1], named, "right")
    known = inside < len(scene.memory)
    known[known] &= named[known] >= scene.memory[inside[known], 0]
    found = np.flatnonzero(known & (named >= np.uint64(fmt.page_size)))
    if not len(found):
        return
    slot, entry = (int(number) for number in vacant[found[0], 1:])
    text = (
        f"{one.party.name}: {len(found):,} of {len(vacant):,} entries that are not present and not zero name memory: "
        f"the first is {entry:#x} at {slot:#x}, which names HPA {int(named[found[0]]):#x}"
    )
    parties = tuple(
        Party(f"what the entry {int(vacant[number, 2]):#x} at {int(vacant[number, 1]):#x} names",
              Range.sized(int(named[number]), fmt.page_size))
        for number in found[:MOST_TOLD]
    )  # fmt: skip
    severity = Severity.NOTE if one.root.under is not None else None
    yield Finding(TERMINAL_FAULT, text, parties, locations=places(scene.source, [one.root]), severity=severity)
