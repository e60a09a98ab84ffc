"""The theorem `wx`: nothing is writable and executable through any pair of mappings of one party that forbids it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..address import Range
from ..flags import MappingFlags
from .packing import U64Array
from .scattered import joined_reach
from .theorem import Seat, Theorem, Witness
from .world import Scanned, World

_STATEMENT = "no host memory is writable and executable through any pair of the mappings of {}"
_WRITE, _EXECUTE = MappingFlags.WRITE, MappingFlags.EXECUTE


def wx(world: World) -> Theorem:
    """The hypervisor's own mappings, and those of each VM that forbids it; other guests may execute what they write."""
    parties = [world.own] if world.own else []
    parties += [(vm,) for vm in world.vms if vm.space.write_xor_execute]
    names = [party[0].space.who for party in parties]
    statement = _STATEMENT.format(" or of ".join(names) or "the hypervisor")
    if not parties:
        why_not = "the hypervisor has no tables of its own here, and no VM's file says write_xor_execute"
        return Theorem("wx", statement, None, why_not=why_not)
    everybody = [one for party in parties for one in party]
    covered = {
        "mappings": sum(len(one.scan.rows) + sum(kind.leaves for kind in one.scan.scattered) for one in everybody),
        "bytes": sum(one.scan.size for one in everybody),
    }
    witness = next((found for party in parties for found in _faults(world, party)), None)
    return Theorem("wx", statement, witness is None, covered, witness=witness)


def _faults(world: World, party: Sequence[Scanned]) -> Iterator[Witness]:
    """Host memory that one party may write at one address and execute at another, or the same."""
    writable, executable = _reach(party, _WRITE), _reach(party, _EXECUTE)
    if not len(writable):
        return
    last = np.searchsorted(writable[:, 0], executable[:, 0] + executable[:, 1]) - 1
    meets = (last >= 0) & (writable[last, 0] + writable[last, 1] > executable[:, 0])
    for start, size in executable[meets].tolist():
        span = Range.sized(start, size)
        first = int(np.searchsorted(writable[:, 0] + writable[:, 1], np.uint64(span.start), "right"))
        both = Range.sized(int(writable[first, 0]), int(writable[first, 1])).intersection(span)
        assert both is not None, "the first that ends behind its start meets it, for one does"
        seats = [_seat(party, both.start, right) for right in (_EXECUTE, _WRITE)]
        who, word = (f"{seats[0].who}: ", "GPA") if party[0].space.name else ("", "HVA")
        text = f"{who}{both} is writable at {word} {seats[1].address:#x} and executable at {word} {seats[0].address:#x}"
        yield Witness(
            text, seats[0], both.start, seats[1], world.owner_of(both.start), span=both,
            remedy="take one of the two rights away",
        )  # fmt: skip


def _reach(party: Sequence[Scanned], right: MappingFlags) -> U64Array:
    """(n, 2) start and size of the host memory that somebody may access so, in order and joined."""
    return joined_reach(np.concatenate([one.spans_with(right) for one in party]))


def _seat(party: Sequence[Scanned], hpa: int, right: MappingFlags) -> Seat:
    """The first address that gives a right to an HPA."""
    return next(
        Seat(one.space.who, one.gpa_in(part, hpa))
        for one in party
        for part in one.parts(Range.sized(hpa, 1))
        if one.granted(part.attributes) & right
    )
