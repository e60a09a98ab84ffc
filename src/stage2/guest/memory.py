"""Guest memory by GPA, as the hypervisor reaches it: images in, console buffers out, a device's rings."""

from __future__ import annotations

import numpy as np

from ..address import Range, align_down, align_up
from ..errors import GuestUnmappedError
from ..flags import Access
from ..tables.regime import Regime
from .accessor import Actor, MemoryAccessor, refusal, refusal_text
from .runs import I64Array, Runs
from .virtual import GuestVirtualMemory


class GuestMemory(MemoryAccessor):
    """The memory of an address space by GPA; `MemoryAccessor` has what can be done with it.

    As the guest, the flags of the regions count: a page that is not there yet, or whose writes are tracked, may be
    accessed if its region says so.

    Args:
        space: whose memory.
        actor: whose permissions count; the host's by default.
    """

    kind = "GPA"

    def acting_as(self, actor: Actor) -> GuestMemory:
        """The same memory, accessed in another's name."""
        return GuestMemory(self.space, actor)

    def virtual(self, stage_1: Regime, actor: Actor | None = None) -> GuestVirtualMemory:
        """The same memory by GVA, under one of the guest's own regimes.

        Args:
            stage_1: its root is a GPA.
            actor: whose permissions count; as here by default.
        """
        return GuestVirtualMemory(self.space, stage_1, self.actor if actor is None else actor)

    def _resolve(self, address: int, size: int, access: Access) -> Runs:
        span = Range.sized(address, size)
        cursor = span.start
        for region in self.space.regions_in(span):
            if region.start > cursor:
                break
            error = refusal(region, access, self.actor)
            if error is not None:
                why = refusal_text(region, error, access)
                raise self._refused(error, address, size, cursor - address, why)
            cursor = region.end
        if cursor < span.end:
            raise self._refused(GuestUnmappedError, address, size, cursor - address, "nothing is declared there")
        page = self.space.format.page_size
        first, end = align_down(span.start, page), align_up(span.end, page)
        rows: I64Array = self.space.page_table.rows(first, end - first).astype(np.int64)
        starts: I64Array = np.maximum(rows[:, 0], span.start)
        sizes: I64Array = np.minimum(rows[:, 0] + rows[:, 2], span.end) - starts
        hpas: I64Array = rows[:, 1] + (starts - rows[:, 0])
        return Runs.joined(starts - span.start, hpas, sizes, size, (span,))

    def _writable_parts(self, address: int, size: int) -> list[tuple[int, int, bool]]:
        span = Range.sized(address, size)
        parts: list[tuple[int, int, bool]] = []
        for region in self.space.regions_in(span):
            may = refusal(region, Access.WRITE, self.actor) is None
            offset = max(region.start - address, 0)
            length = min(region.end - address, size) - offset
            if parts and parts[-1][2] is may:
                parts[-1] = (parts[-1][0], parts[-1][1] + length, may)
            else:
                parts.append((offset, length, may))
        return parts
