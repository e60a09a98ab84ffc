"""The theorem `wx`: nothing of the hypervisor is writable and executable, through any pair of its mappings."""

from __future__ import annotations

from ..address import Range
from ..formats.outcome import EXECUTE, USER_SHIFT, WRITE
from ..ranges import RangeMap
from ..tables.mapping import ATTRIBUTES
from .theorem import Seat, Theorem, Witness
from .world import World

_STATEMENT = "no host memory is writable and executable through any pair of the hypervisor's own mappings"
_EVERYONE = 1 | 1 << USER_SHIFT


def wx(world: World) -> Theorem:
    """The hypervisor's own mappings; guests' memory is theirs to execute."""
    if not world.own:
        return Theorem("wx", _STATEMENT, None, why_not="the hypervisor has no tables of its own here")
    rows = [
        (one, *row, one.space.regime.format.permissions(row[3] & ATTRIBUTES, one.space.regime.controls))
        for one in world.own
        for row in one.scan.rows.tolist()
    ]
    covered = {"mappings": len(rows), "bytes": sum(one.scan.size for one in world.own)}
    writable: RangeMap[int] = RangeMap()
    for _, hva, hpa, size, _, permissions in rows:
        if permissions & _EVERYONE * WRITE:
            for gap in writable.gaps(Range.sized(hpa, size)):
                writable.add(gap, hva - hpa)
    for one, hva, hpa, size, _, permissions in rows:
        span = Range.sized(hpa, size)
        for met, delta in writable.overlapping(span) if permissions & _EVERYONE * EXECUTE else ():
            both = met.intersection(span)
            assert both is not None, "they overlap"
            witness = Witness(
                f"{both} is writable at HVA {both.start + delta:#x} and executable at HVA {hva + both.start - hpa:#x}",
                Seat(one.space.who, hva + both.start - hpa), both.start, Seat(one.space.who, both.start + delta),
                world.owner_of(both.start), span=both, remedy="take one of the two rights away",
            )  # fmt: skip
            return Theorem("wx", _STATEMENT, False, covered, witness=witness)
    return Theorem("wx", _STATEMENT, True, covered)
