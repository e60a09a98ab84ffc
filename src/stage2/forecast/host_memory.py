"""Where on a host a VM's RAM lies: at a fixed place, or where upstream's allocator is assumed to put it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..address import SIZE_4K, Range
from ..config.placement import first_fit
from ..images.host_tree import HostTree
from ..ranges import RangeMap


class HostMemory:
    """Host RAM, given out.

    Args:
        tree: the host's.
        taken: what no VM gets, besides what the tree reserves.
    """

    def __init__(self, tree: HostTree, taken: Iterable[Range]) -> None:
        self._banks = [bank.span for bank in tree.ram]
        self._ram: RangeMap[None] = RangeMap()
        for span in self._banks:
            self._ram.set(span, None)
        self._held: RangeMap[None] = RangeMap()
        for span in (*reserved(tree), *taken):
            self._held.set(span.widened(SIZE_4K), None)

    def take(self, size: int) -> Range | None:
        """Memory of so many bytes in one piece; None where there is no room."""
        start = first_fit(size, self._banks, [self._held])
        if start is None:
            return None
        found = Range.sized(start, size)
        self._held.set(found, None)
        return found

    def claim(self, span: Range) -> Iterator[Range]:
        """Take a stretch at a fixed place; what of it is no RAM, or not free."""
        yield from self._ram.gaps(span)
        for held, _ in self._held.overlapping(span):
            part = held.intersection(span)
            assert part is not None, "only what overlaps"
            yield part
        self._held.set(span, None)


def reserved(tree: HostTree) -> list[Range]:
    """What a host's tree reserves at a fixed place, apart from what its system may use (`reusable`)."""
    return [one.span for one in tree.reservations if one.span is not None and not one.reusable]
