"""Placing whole arrays of faulting pages: one compiled loop, run as a plan and then as the deed.

The loop goes through the faults in order and settles what can be settled by a look at one entry: a page whose entry is
free gets the next frame, by one store; a page that allows the access is there. At anything else it stops, and the
caller settles that one fault by itself. So the end is the same as with one fault after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..formats.outcome import MAPPED, NONE, TABLE, WRITE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .assembly import assemble_stage_2, check, compiled_descent, compiled_lookup, locating
from .compiled import HostMemory, inlined, keep_marks_back, kernel, load, store
from .descent import visit_nothing
from .edit import DONE, NEEDS_ROOM
from .map_kernel import reaching
from .mapping import U64Array
from .regime import Regime

ASK = 16
"""The table knows whether the page is there; it is not to be placed."""
PLACE = 17
"""The same, and where its entry is free it is placed."""
SLOW = 18
"""The caller settles it."""
RULE = 8
"""Bits of one access's rule in a row."""
ROW_START, ROW_END, ROW_BITS, ROW_RULES = range(4)
"""Columns of a row, which says of a range of addresses: its bounds, the leaf of its pages without the address, and a
rule for each access, read in bits 7:0: ASK, PLACE, SLOW, or a smaller number that is the answer itself."""
_STOPPED, _RUN, _FRAME, _PLACED, _PREFIXES = range(5)
_STATE = 5
_WAYS = 512
"""Entries of the cache of tables of pages."""
_ROOM = 4096
"""Missing tables that there is room for at first."""
_MISSING, _OTHER = MASK_64, MASK_64 - 1
"""In that cache: nothing is where the table would be linked; something else is. No table is at these addresses."""


@dataclass(slots=True)
class Answers:
    """Where answers go.

    Args:
        none: the answer where no row is.
        placed: the answer for a page that was placed.
        there: the answer for a page that allows the access.
        numbers: the answers, one for each fault.
        counts: how often each was given.
    """

    none: int
    placed: int
    there: int
    numbers: npt.NDArray[np.uint8]
    counts: U64Array


class Placing:
    """The faults of one array, being settled under the locks of their space and table.

    Args:
        host, regime: the table.
        gpas, accesses: the faults; accesses by number.
        rows: sorted and disjoint, see `ROW_START`.
        answers: where the answers go.
    """

    def __init__(
        self,
        host: HostMemory,
        regime: Regime,
        gpas: U64Array,
        accesses: npt.NDArray[np.uint8],
        rows: U64Array,
        answers: Answers,
    ) -> None:
        self._table = (host, np.uint64(regime.root), np.uint64(regime.controls))
        self._kernel = placing_kernel(regime.format)
        self._shift = regime.format.level_shift(1)
        self._faults, self._rows, self._answers = (gpas, accesses), rows, answers
        self._state = np.zeros(_STATE, np.uint64)
        self._prefixes: U64Array = np.empty(0, np.uint64)
        self._frames: U64Array = np.empty((0, 2), np.uint64)

    def plan(self) -> tuple[int, U64Array]:
        """How many pages are to be placed at most, and addresses in order, one for each table of pages they lack."""
        self._prefixes = np.empty(_ROOM, np.uint64)
        self._run(0, commit=False)
        noted = int(self._state[_PREFIXES])
        if noted > _ROOM:
            self._prefixes = np.empty(noted, np.uint64)
            self._run(0, commit=False)
        missing = np.unique(self._prefixes[:noted])
        self._prefixes = np.empty(0, np.uint64)
        return int(self._state[_PLACED]), missing << np.uint64(self._shift)

    def supply(self, frames: U64Array) -> None:
        """Give it frames as runs of [start, end), to be used in this order."""
        self._frames = frames
        self._state[_RUN] = 0
        self._state[_FRAME] = frames[0, 0] if len(frames) else 0

    def go(self, first: int) -> int:
        """Settle the faults from `first` on; returns the one that the caller is to settle, or their number."""
        self._run(first, commit=True)
        return int(self._state[_STOPPED])

    def left_over(self) -> U64Array:
        """The frames that were not used, as runs of [start, end)."""
        left = self._frames[int(self._state[_RUN]) :].copy()
        if len(left):
            left[0, 0] = self._state[_FRAME]
        return left[left[:, 0] < left[:, 1]]

    def _run(self, first: int, *, commit: bool) -> None:
        answers = self._answers
        numbers = (np.uint64(answers.none), np.uint64(answers.placed), np.uint64(answers.there))
        self._kernel(
            self._table, *self._faults, self._rows, self._frames, self._state, self._prefixes, numbers,
            answers.numbers, answers.counts, np.uint64(first), np.uint64(commit),
        )  # fmt: skip


@cache
def placing_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(table, gpas, accesses, rows, frames, state, prefixes, numbers, answers, counts, first, commit).

    Args of the kernel:
        table: (host, root, controls).
        state: where it stopped; the run and the address of the next frame; pages placed; missing tables noted.
        prefixes: room for the numbers of missing tables of pages, not each one once; used by a plan.
        numbers: the answers `none`, `placed` and `there`.
    """
    descend, locate, look_up = compiled_descent(fmt), locating(fmt, inlined), compiled_lookup(fmt)
    translate = assemble_stage_2(fmt, load, keep_marks_back, visit_nothing, inlined)
    row_of, judge = _row_of(), check(fmt, inlined)
    levels, root_bits, pack_address, page = fmt.levels, fmt.root_bits, inlined(fmt.pack_address), fmt.page_size
    page_shift = fmt.page_shift
    table_shift, last_bits = fmt.level_shift(1), fmt.bits if levels > 1 else root_bits
    inlined(store)

    def place(
        table: Any, gpas: Any, accesses: Any, rows: Any, frames: Any, state: Any, prefixes: Any, numbers: Any,
        answers: Any, counts: Any, first: int, commit: int,
    ) -> None:  # fmt: skip
        host, root, controls = table
        none, placed, there = numbers
        keys = np.zeros(_WAYS, np.uint64)
        tables = np.zeros(_WAYS, np.uint64)
        allows = np.zeros(_WAYS, np.uint64)
        total, runs = u64(gpas.shape[0]), u64(frames.shape[0])
        run, frame, frames_end, noted = state[_RUN], state[_FRAME], u64(0), u64(0)
        if run != runs:
            frames_end = frames[run, 1]
        start, end, leaf_bits, rules = u64(0), u64(0), u64(0), u64(0)
        pages, found, before = u64(0), u64(0), u64(MASK_64)
        i = first
        while i != total:
            gpa, access = gpas[i], u64(accesses[i])
            if gpa - start >= end - start:
                row = row_of(rows, gpa)
                if row == u64(rows.shape[0]):
                    answers[i] = none
                    counts[none] += u64(1)
                    i += u64(1)
                    continue
                start, end, leaf_bits, rules = (
                    rows[row, ROW_START], rows[row, ROW_END], rows[row, ROW_BITS], rows[row, ROW_RULES]
                )  # fmt: skip
            rule = (rules >> (access * u64(RULE))) & u64((1 << RULE) - 1)
            if rule < u64(ASK):
                answers[i] = rule
                counts[rule] += u64(1)
                i += u64(1)
                continue
            if rule == u64(SLOW):
                if commit != u64(0):
                    break
                i += u64(1)
                continue
            # The table of pages: from the cache, or by the way down; none where something else is in its place.
            prefix = gpa >> u64(table_shift)
            way = prefix & u64(_WAYS - 1)
            if keys[way] != prefix + u64(1):
                (status, _, _, entry), (kind, _, _), (held, _, allowed) = descend(
                    host, (root, u64(root_bits), u64(MASK_64)), gpa, u64(levels), u64(1), controls
                )
                keys[way], tables[way], allows[way] = prefix + u64(1), u64(_OTHER), allowed
                if status == u64(0) and kind == u64(TABLE):
                    tables[way] = held
                elif status == u64(0) and kind == u64(NONE) and entry == u64(0):
                    tables[way] = u64(_MISSING)
                    if commit == u64(0) and rule == u64(PLACE):
                        if noted < u64(prefixes.shape[0]):
                            prefixes[noted] = prefix
                        noted += u64(1)
            held, allowed = tables[way], allows[way]
            places = u64(1) if rule == u64(PLACE) else u64(0)
            need = u64(1) << access
            write = u64(1) if need == u64(WRITE) else u64(0)
            if held == u64(_OTHER) or (held == u64(_MISSING) and places == u64(0)):
                if commit != u64(0):
                    regime = (root, u64(levels), u64(root_bits), controls)
                    status, _output, _granted, _level = translate(host, regime, gpa, need, write)
                    if status != u64(MAPPED):
                        break
                    answers[i] = there
                    found += u64(1)
                i += u64(1)
                continue
            # A row of faults in one table, which is what arrays are made of.
            base = max(start, prefix << u64(table_shift))
            size = min(end, (prefix + u64(1)) << u64(table_shift)) - base
            if commit == u64(0):
                while True:
                    entry = u64(0)
                    if held != u64(_MISSING):
                        slot, _rest = locate(held, gpa, u64(0), u64(last_bits))
                        status, entry = load(host, slot)
                        entry |= status
                    # A page that comes again, but not at once, counts as one more.
                    page_number = gpa >> u64(page_shift)
                    pages += places if entry == u64(0) and page_number != before else u64(0)
                    before = page_number
                    i += u64(1)
                    if i == total:
                        break
                    gpa = gpas[i]
                    if gpa - base >= size or u64(accesses[i]) != access:
                        break
                continue
            if held == u64(_MISSING):
                break
            stuck = u64(0)
            while True:
                slot, _rest = locate(held, gpa, u64(0), u64(last_bits))
                stuck, entry = load(host, slot)
                if stuck != u64(0):
                    break
                if entry == u64(0):
                    if places == u64(0) or run == runs:
                        stuck = u64(1)
                        break
                    store(host, slot, pack_address(frame) | leaf_bits)
                    answers[i] = placed
                    pages += u64(1)
                    frame += u64(page)
                    if frame == frames_end:
                        run += u64(1)
                        if run != runs:
                            frame, frames_end = frames[run, 0], frames[run, 1]
                else:
                    stuck, _output, attributes, _level, _slot, entry = look_up(
                        host, (held, u64(last_bits), allowed), gpa, u64(1), u64(0), controls
                    )
                    if stuck == u64(MAPPED):
                        stuck, _entry, _granted = judge(attributes, entry, u64(levels), need, write, controls)
                    if stuck != u64(MAPPED):
                        break
                    answers[i] = there
                    found += u64(1)
                i += u64(1)
                if i == total:
                    break
                gpa = gpas[i]
                if gpa - base >= size or u64(accesses[i]) != access:
                    break
            if stuck != u64(0):
                break
        if commit == u64(0):
            counts[:] = u64(0)
        else:
            counts[placed] += pages
            counts[there] += found
        state[_STOPPED], state[_RUN], state[_FRAME], state[_PLACED], state[_PREFIXES] = i, run, frame, pages, noted

    return kernel(place, fmt)


def _row_of() -> Callable[..., Any]:
    def row_of(rows: Any, gpa: int) -> int:
        """The row that holds an address; their number where none does."""
        low, high = u64(0), u64(rows.shape[0])
        while low != high:
            middle = (low + high) >> u64(1)
            if rows[middle, ROW_END] <= gpa:
                low = middle + u64(1)
            else:
                high = middle
        if low != u64(rows.shape[0]) and rows[low, ROW_START] > gpa:
            return u64(rows.shape[0])
        return low

    return inlined(row_of)


@cache
def tables_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(table, addresses, frames, seen) -> (result, address, tables): make the tables of pages that are missing.

    Args of the kernel: as `map_kernel`'s; the addresses are in order.
    """
    reach = reaching(fmt)

    def make_tables(table: Any, addresses: Any, frames: Any, seen: Any) -> tuple[int, int, int]:
        host, root, controls = table
        commit = u64(0)
        while True:
            used = u64(0)
            seen[:] = u64(0)
            for i in range(addresses.shape[0]):
                result, _held, _bits, used = reach(
                    host, root, controls, addresses[i], u64(0), frames, seen, used, commit
                )
                if result != u64(DONE):
                    return result, addresses[i], used
            if commit != u64(0):
                return u64(DONE), u64(0), used
            if used > u64(frames.shape[0]):
                return u64(NEEDS_ROOM), u64(0), used
            commit = u64(1)

    return kernel(make_tables, fmt)
