"""The theorem `wx`: nothing is writable and executable through any pair of mappings of one party that forbids it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..address import Range
from ..formats.outcome import EXECUTE, USER_SHIFT, WRITE
from ..tables.mapping import ATTRIBUTES
from .packing import U64Array
from .scattered import joined_spans
from .theorem import Seat, Theorem, Witness
from .world import Scanned, World

_STATEMENT = "no host memory is writable and executable through any pair of the mappings of {}"
_EVERYONE = 1 | 1 << USER_SHIFT


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
    writable, executable = _reach(party, WRITE), _reach(party, EXECUTE)
    if not len(writable):
        return
    last = np.searchsorted(writable[:, 0], executable[:, 0] + executable[:, 1]) - 1
    meets = (last >= 0) & (writable[last, 0] + writable[last, 1] > executable[:, 0])
    for start, size in executable[meets].tolist():
        span = Range.sized(start, size)
        first = int(np.searchsorted(writable[:, 0] + writable[:, 1], np.uint64(span.start), "right"))
        both = Range.sized(int(writable[first, 0]), int(writable[first, 1])).intersection(span)
        assert both is not None, "the first that ends behind its start meets it, for one does"
        seats = [_seat(party, both.start, right) for right in (EXECUTE, WRITE)]
        who, word = (f"{seats[0].who}: ", "GPA") if party[0].space.name else ("", "HVA")
        text = f"{who}{both} is writable at {word} {seats[1].address:#x} and executable at {word} {seats[0].address:#x}"
        yield Witness(
            text, seats[0], both.start, seats[1], world.owner_of(both.start), span=both,
            remedy="take one of the two rights away",
        )  # fmt: skip


def _reach(party: Sequence[Scanned], right: int) -> U64Array:
    """(n, 2) start and size of the host memory that somebody may access so, in order and joined."""
    reach = [np.zeros((0, 2), np.uint64)]
    for one in party:
        rows = one.scan.rows
        granting = [value for value in np.unique(rows[:, 3]).tolist() if _grants(one, value, right)]
        reach.append(rows[np.isin(rows[:, 3], np.array(granting, np.uint64)), 1:3])
        reach += [kind.reach for kind in one.scan.scattered if _grants(one, kind.attributes, right)]
    spans = np.concatenate(reach)
    return joined_spans(np.stack([spans[:, 0], spans[:, 0] + spans[:, 1]], axis=1))


def _grants(one: Scanned, attributes: int, right: int) -> bool:
    regime = one.space.regime
    return bool(regime.format.permissions(attributes & ATTRIBUTES, regime.controls) & _EVERYONE * right)


def _seat(party: Sequence[Scanned], hpa: int, right: int) -> Seat:
    """The first address that gives a right to an HPA."""
    return next(
        Seat(one.space.who, one.gpa_in(part, hpa))
        for one in party
        for part in one.parts(Range.sized(hpa, 1))
        if _grants(one, part.attributes, right)
    )
