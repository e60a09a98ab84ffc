"""Arrays of faults: what many can have at once is taken at once, and the rest goes one after the other, in order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ..address import Range
from ..errors import OutOfMemoryError, OutOfRangeError
from ..flags import Access
from ..tables.mapping import U64Array
from ..tables.pagetable import PageTable
from ..tables.placing import ASK, PLACE, RULE, SLOW, Answers, Placing
from .backing import Backing
from .fault_batch import FaultBatch
from .faults import RESOLUTIONS, FaultResult, Resolution
from .policy import Policy
from .region import MemoryRegion
from .region_map import RegionMap
from .resolver import FaultResolver
from .tracking import Tracking

_FEW = 16
"""So many faults are sooner resolved one by one."""


class BulkResolver:
    """Resolves arrays of faults of one address space; called under its lock.

    Args:
        resolver: resolves one.
        regions, table, backing, tracking: the space's own.
        policy: the space's settings.
    """

    def __init__(
        self,
        resolver: FaultResolver,
        regions: RegionMap,
        table: PageTable,
        backing: Backing,
        tracking: Tracking,
        policy: Policy,
    ) -> None:
        self._resolver, self._regions, self._table = resolver, regions, table
        self._backing, self._tracking, self._policy = backing, tracking, policy
        self._page = table.format.page_size

    def resolve(self, gpas: npt.ArrayLike, accesses: npt.ArrayLike) -> FaultBatch:
        """Resolve faults in order; see `AddressSpace.handle_page_faults`."""
        addresses = np.ascontiguousarray(gpas, np.uint64)
        flat, kinds = addresses.reshape(-1), _access_numbers(accesses, addresses.shape)
        answers = Answers(
            Resolution.HOLE.number, Resolution.POPULATED.number, Resolution.PRESENT.number,
            np.empty(len(flat), np.uint8), np.zeros(len(RESOLUTIONS), np.uint64),
        )  # fmt: skip
        regions: tuple[MemoryRegion, ...] = ()
        if len(flat):
            regions = tuple(self._regions.overlapping(Range(int(flat.min()), int(flat.max()) + 1)))
        told: dict[int, FaultResult] = {}
        table = self._table
        if len(flat) <= _FEW or table.editor.watcher is not None or not table.plain_end:
            for at in range(len(flat)):
                self._one(at, flat, kinds, answers, told)
        else:
            with table.editor.lock:
                _words = table.editor.require_alive()
                self._together(flat, kinds, self._rows(regions), answers, told)
            if answers.counts[answers.there] and table.flush is not None:
                table.refresh_many(flat[answers.numbers == answers.there])
        return FaultBatch(
            answers.numbers.reshape(addresses.shape), tuple(answers.counts.tolist()), addresses, regions, told,
            self._policy,
        )  # fmt: skip

    def _together(
        self, gpas: U64Array, accesses: npt.NDArray[np.uint8], rows: U64Array, answers: Answers,
        told: dict[int, FaultResult],
    ) -> None:  # fmt: skip
        placing = self._table.placing(gpas, accesses, rows, answers)
        absent, lacking = placing.plan()
        slow = int(np.count_nonzero(rows[:, 3] >> np.uint64(RULE * Access.WRITE) & np.uint64(0xFF) == SLOW))
        supplied = self._supply(placing, absent, lacking, len(gpas) if slow else 0)
        at = 0
        try:
            while (at := placing.go(at)) < len(gpas):
                self._one(at, gpas, accesses, answers, told)
                at += 1
        finally:
            if supplied:
                self._backing.undo([Range(start, end) for start, end in placing.left_over().tolist()])

    def _supply(self, placing: Placing, absent: int, lacking: U64Array, others: int) -> bool:
        """Take frames and tables for all pages that are to be placed, if there is enough for each and all.

        Otherwise nothing is taken, and the faults find out one by one who gets the last frames.

        Args:
            others: pages that may be wanted meanwhile besides.
        """
        if not absent:
            return False
        page, fmt = self._page, self._table.format
        tables = (len(lacking) + others) * fmt.levels * max(fmt.table_size, page)
        if (absent + others) * page + tables > self._backing.room():
            return False
        try:
            spans = self._backing.singles(absent)
        except OutOfMemoryError:
            return False
        try:
            if len(lacking):
                self._table.editor.make_tables(lacking)
        except BaseException as error:
            self._backing.undo(spans)
            if isinstance(error, OutOfMemoryError):
                return False
            raise
        placing.supply(np.array([(span.start, span.end) for span in spans], np.uint64))
        return True

    def _one(
        self, at: int, gpas: U64Array, accesses: npt.NDArray[np.uint8], answers: Answers, told: dict[int, FaultResult]
    ) -> None:
        result = self._resolver.resolve(int(gpas[at]), Access(int(accesses[at])))
        answers.numbers[at] = result.resolution.number
        answers.counts[result.resolution.number : result.resolution.number + 1] += np.uint64(1)
        if result.reason:
            told[at] = result

    def _rows(self, regions: Sequence[MemoryRegion]) -> U64Array:
        """What regions, policy and tracking say of the faults, see `tables.placing.ROW_START`."""
        places = self._policy.gives_pages(self._page)
        rows: list[tuple[int, int, int, int]] = []
        for region in regions:
            known = self._resolver.know(region.start)
            assert known is not None
            rest = int(region.start)
            tracked = self._tracking.tracker.parts(region.range)
            for part in [*tracked, Range(region.end, region.end + 1)]:
                if rest < part.start:
                    rows.append((rest, part.start, known.page_bits, known.rules(PLACE if places else ASK)))
                if part.start < region.end:
                    rows.append((part.start, part.end, 0, known.rules(SLOW)))
                rest = part.end
        return np.array(rows, np.uint64).reshape(-1, 4)


def _access_numbers(accesses: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """One access for all faults, or one for each, as numbers.

    Raises:
        OutOfRangeError: there is no such access, or they are not as many as the faults.
    """
    given = np.asarray(accesses)
    if not given.ndim and given in tuple(Access):
        return np.full(math.prod(shape), given, np.uint8)
    if given.size and (given.min() < 0 or given.max() > max(Access)):
        raise OutOfRangeError(f"accesses are numbers from 0 to {max(Access)}: read, write, fetch")
    if given.ndim and given.shape != shape:
        raise OutOfRangeError(f"{given.size} accesses do not belong to {math.prod(shape)} addresses of shape {shape}")
    return np.ascontiguousarray(np.broadcast_to(given, shape), np.uint8).reshape(-1)
