"""Guest memory by GVA: what a program of the guest sees, through its own tables and ours.

All pages of an access are translated at once, few of them by the kernel that is compiled sooner. Stage 1 is judged by
what that says, stage 2 by the regions, since a page that is not there yet, or whose writes are tracked, is the guest's
all the same. No accessed or dirty bit of the guest's tables is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from ..address import SIZE_4K, Range, align_offset
from ..errors import GuestAccessError, GuestDeniedError, GuestUnmappedError
from ..flags import Access
from ..formats.outcome import FaultKind
from ..tables.batch import TwoStageBatch
from ..tables.regime import Regime
from ..tables.result import Fault
from ..tables.walk import AT_STAGE_2, KIND_MASK, ON_MARK, ON_TABLE
from .accessor import Actor, MemoryAccessor, refusal, refusal_text
from .runs import I64Array, Runs, starts_of_runs

if TYPE_CHECKING:
    from ..space.address_space import AddressSpace

U64Array = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
_CHUNK = 1 << 20
"""Pages translated at a time, which bounds the memory that an access of absurd size costs before it is refused."""
_MANY = 1 << 14
"""Pages from which on it pays to look ahead: for fewer, what it saves is over before its kernel would be compiled."""
_UNDECLARED = 1
_TABLE_WAITS = AT_STAGE_2 | ON_TABLE | int(FaultKind.ACCESS_FLAG)
_WRITE_WAITS = np.array(
    [AT_STAGE_2 | ON_TABLE | ON_MARK | int(kind) for kind in (FaultKind.PERMISSION, FaultKind.ACCESS_FLAG)]
)
"""Stage 2 wants the accessed bit of a page set that holds a stage-1 table."""


class GuestVirtualMemory(MemoryAccessor):
    """The memory of an address space by GVA; `MemoryAccessor` has what can be done with it.

    Errors carry the `Fault` that a CPU would have taken. A stage-1 table in memory that is not there yet is all
    zeros, so nothing is mapped by it.

    Args:
        space: whose memory.
        stage_1: the guest's regime; its root is a GPA.
        actor: whose permissions count: as GUEST and USER those of both stages.
    """

    kind: ClassVar[str] = "GVA"

    def __init__(self, space: AddressSpace, stage_1: Regime, actor: Actor = Actor.HOST) -> None:
        super().__init__(space, actor)
        self.stage_1 = stage_1

    def acting_as(self, actor: Actor) -> GuestVirtualMemory:
        """The same memory, accessed in another's name."""
        return GuestVirtualMemory(self.space, self.stage_1, actor)

    def _resolve(self, address: int, size: int, access: Access) -> Runs:
        Range.sized(address, size)
        lead = align_offset(address, SIZE_4K)
        pages = (lead + size + SIZE_4K - 1) // SIZE_4K
        found = [
            self._judge(address, size, first, min(pages - first, _CHUNK), access) for first in range(0, pages, _CHUNK)
        ]
        gpas, hpas = (np.concatenate(column) for column in zip(*found, strict=True))
        # Offsets of the pages within the access; the first and the last page may be cut.
        offsets = np.arange(pages, dtype=np.int64) * SIZE_4K - lead
        starts = np.maximum(offsets, 0)
        sizes = np.minimum(offsets + SIZE_4K, size) - starts
        gpas += starts - offsets
        first = starts_of_runs(sizes, gpas)
        touched = zip(gpas[first].tolist(), np.add.reduceat(sizes, first).tolist(), strict=True)
        there = hpas >= 0
        hpas += starts - offsets
        return Runs.joined(
            starts[there], hpas[there], sizes[there], size, tuple(Range.sized(gpa, length) for gpa, length in touched)
        )

    def _judge(self, address: int, size: int, first: int, pages: int, access: Access) -> tuple[I64Array, I64Array]:
        """GPA and HPA (-1 where it is not there yet) of some pages of an access; raises for the first refused."""
        gvas = self._gvas(address, first, pages)
        looked = self._translate(gvas, None)
        refused = _by_stage_1(looked)
        told = looked
        if self.actor is not Actor.HOST:
            told = self._translate(gvas, access)
            refused |= self._denied_by_stage_1(told)
        reasons = self._region_refusals(looked.gpa, access)
        bad = refused | (reasons != 0)
        if bad.any():
            index = int(np.argmax(bad))
            offset = max((first + index) * SIZE_4K - align_offset(address, SIZE_4K), 0)
            fault = told.fault(index)
            if refused[index] and fault is not None:
                raise self._refused(_error_of(fault), address, size, offset, str(fault), fault)
            raise self._refuse_by_region(address, size, offset, int(looked.gpa[index]), access, fault)
        # UNMAPPED is all ones, hence -1.
        return looked.gpa.view(np.int64), looked.hpa.view(np.int64)

    def _writable_parts(self, address: int, size: int) -> list[tuple[int, int, bool]]:
        if self.actor is Actor.HOST:
            return [(0, size, True)]
        lead = align_offset(address, SIZE_4K)
        pages = (lead + size + SIZE_4K - 1) // SIZE_4K
        gvas = self._gvas(address, 0, pages)
        gpas = self._translate(gvas, None).gpa
        refused = self._denied_by_stage_1(self._translate(gvas, Access.WRITE))
        may = ~refused & (self._region_refusals(gpas, Access.WRITE) == 0)
        edges = np.flatnonzero(np.concatenate(([True], may[1:] != may[:-1])))
        starts = np.maximum(edges * SIZE_4K - lead, 0)
        sizes = np.diff(np.append(starts, size))
        return list(zip(starts.tolist(), sizes.tolist(), may[edges].tolist(), strict=True))

    # --- stage 1 -----------------------------------------------------------------------------------------

    def _gvas(self, address: int, first: int, pages: int) -> U64Array:
        start = address - align_offset(address, SIZE_4K) + first * SIZE_4K
        return np.uint64(start) + np.arange(pages, dtype=np.uint64) * np.uint64(SIZE_4K)

    def _translate(self, gvas: U64Array, access: Access | None) -> TwoStageBatch:
        """Translate pages; what the walk of the guest's tables waits for at stage 2 is settled meanwhile.

        That is an accessed bit; and where such reads count as writes, a dirty bit or a tracked page's first write.
        """
        table = self.space.page_table
        counts_as_write = bool(table.format.walk_write(table.regime.controls))
        user = self.actor is Actor.USER
        for _ in range(2 * self.stage_1.format.levels + 1):
            found = table.translate_gva_many(gvas, self.stage_1, access, user=user, ahead=len(gvas) >= _MANY)
            flags = found.status & np.uint32(KIND_MASK | AT_STAGE_2 | ON_TABLE | ON_MARK)
            waits = flags == np.uint32(_TABLE_WAITS)
            if counts_as_write:
                waits = np.isin(flags, _WRITE_WAITS)
            settled = False
            for frame in np.unique(found.gpa[waits] >> np.uint64(12)).tolist():
                if counts_as_write:
                    settled |= self.space.handle_page_fault(frame << 12, Access.WRITE).retry
                else:
                    table.mark(frame << 12, write=False)
                    settled = True
            if not settled:
                break
        return found

    def _denied_by_stage_1(self, asked: TwoStageBatch) -> Mask:
        """Which pages stage 1 refuses, its tables included; not those of which only the marks wait for stage 2."""
        refused = _by_stage_1(asked)
        marks = np.flatnonzero(asked.status & np.uint32(ON_MARK))
        if len(marks):
            refused[marks] = self._region_refusals(asked.gpa[marks], Access.WRITE) != 0
        return refused

    # --- stage 2 -----------------------------------------------------------------------------------------

    def _region_refusals(self, gpas: U64Array, access: Access) -> npt.NDArray[np.int8]:
        """0 for each GPA whose region allows the access."""
        span = Range(int(gpas.min()), int(gpas.max()) + 1)
        regions = self.space.regions_in(span)
        if not regions:
            return np.ones(len(gpas), np.int8)
        starts = np.array([region.start for region in regions], np.uint64)
        ends = np.array([region.end for region in regions], np.uint64)
        codes = np.array([refusal(region, access, self.actor) is not None for region in regions], np.int8)
        index = np.searchsorted(starts, gpas, side="right") - 1
        inside = (index >= 0) & (gpas < ends[index])
        return np.where(inside, codes[index], np.int8(_UNDECLARED))

    def _refuse_by_region(
        self, address: int, size: int, offset: int, gpa: int, access: Access, fault: Fault | None
    ) -> GuestAccessError:
        region = self.space.region_at(gpa)
        error = GuestUnmappedError if region is None else refusal(region, access, self.actor)
        if region is None or error is None:
            why = f"it leads to GPA {gpa:#x}, where nothing is declared"
            return self._refused(GuestUnmappedError, address, size, offset, why, fault)
        why = f"it leads to GPA {gpa:#x}: {refusal_text(region, error, access)}"
        return self._refused(error, address, size, offset, why, fault)


def _by_stage_1(batch: TwoStageBatch) -> Mask:
    """Which pages stage 1, or stage 2 on the way to a stage-1 table, refused."""
    status = batch.status
    refused: Mask = (status != 0) & ((status & np.uint32(AT_STAGE_2) == 0) | (status & np.uint32(ON_TABLE) != 0))
    return refused


def _error_of(fault: Fault) -> type[GuestAccessError]:
    """What a fault of stage 1 is as an error: something is mapped but not so, or nothing is."""
    there = (fault.on_mark and fault.kind is not FaultKind.TRANSLATION) or (
        not fault.on_table and fault.kind in (FaultKind.PERMISSION, FaultKind.ACCESS_FLAG)
    )
    return GuestDeniedError if there else GuestUnmappedError
