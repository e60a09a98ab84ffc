"""Leaves of other sizes that mean the same: blocks split and merged, groups marked and unmarked.

None of it changes what an address translates to. Where the architecture demands it (Arm: "break-before-make", DDI 0487
D8.16), a live entry is made invalid and flushed before another takes its place; elsewhere the new entry is published
over the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..address import Range, align_down, align_up
from ..formats.change import Change, ChangeKind
from ..formats.record import Format
from ..formats.u64 import MASK_64
from . import coalesce
from .compiled import Fixed, HostMemory
from .mapping import U64Array

Pay = Callable[[Sequence[Change]], None]
"""Called with changes between break and make; TLBs must then drop what they hold of it."""
_FEW = 16
"""Room for rows at the first try."""
_NONE: U64Array = np.zeros(0, np.uint64)
Refuse = Callable[[int, int], None]
"""Called with a kernel's result and the address it concerns; raises."""


@dataclass(frozen=True, slots=True)
class Block:
    """A leaf that a range cuts.

    Args:
        slot: address of its entry.
        entry: the entry.
        level: where it stands.
        start: first input address.
        output: its output address.
    """

    slot: int
    entry: int
    level: int
    start: int
    output: int


class Reshaper:
    """Rewrites leaves of one table; called under the table's lock.

    Args:
        fmt: the format.
        table: (host, root, controls), the table as kernels see it.
        refuse: raises for a table that is damaged.
    """

    def __init__(self, fmt: Format, table: tuple[HostMemory, np.uint64, np.uint64], refuse: Refuse) -> None:
        self._format, self._table, self._refuse = fmt, table, refuse
        self._host, _, self._controls = table

    @property
    def has_groups(self) -> bool:
        return any(self._format.group_bits)

    def split(self, block: Block, table: int, pay: Pay) -> None:
        """Replace a block by a table of leaves one level down, with break-before-make.

        Args:
            block: what to split.
            table: a zeroed frame for the table.
        """
        fmt = self._format
        child_bits = fmt.resize(block.entry, block.level, block.level - 1) & MASK_64
        shift = fmt.level_shift(block.level - 1)
        coalesce.fill_kernel(fmt).for_work(lambda: 1 << fmt.bits)(self._host, table, block.output, shift, child_bits)
        row = np.array([[block.slot, 0, fmt.table_entry(table, int(self._controls)), 0]], np.uint64)
        self._publish(row, make=False)
        pay([Change(Range.sized(block.start, fmt.leaf_size(block.level)), ChangeKind.REMOVED)])
        self._publish(row, make=True)

    def merge(self, start: int, end: int, top: int, pay: Pay) -> U64Array:
        """Make blocks of tables whose leaves are equal and continue each other, upwards as far as that goes.

        Args:
            start, end: the range, as kernels take it.
            top: the highest level that may hold a leaf.
            pay: does what the edit owes.

        Returns:
            The tables that are linked from nowhere now; flushed.
        """
        fmt = self._format
        freed: list[U64Array] = []
        for level in range(1, top + 1):
            size = fmt.leaf_size(level)
            if align_up(start, size) + size > end:
                break
            found = self._rows_of(coalesce.merge_kernel(fmt), 4, start, end, level)
            if not len(found):
                continue
            span = Range(int(found[0, 3]), int(found[-1, 3]) + size)
            changes = [Change(span, ChangeKind.MERGED), Change(span, ChangeKind.TABLE_FREED)]
            if fmt.break_before_make:
                self._publish(found, make=False)
                pay(changes)
            self._publish(found, make=True)
            if not fmt.break_before_make:
                pay(changes)
            freed.append(found[:, 1])
        return freed[0] if len(freed) == 1 else np.concatenate([_NONE, *freed])

    def _rows_of(self, kernel: Fixed, width: int, start: int, end: int, argument: int) -> U64Array:
        """What a kernel lists, asked again with more room until it all fits."""
        room = _FEW
        find = kernel.for_work(lambda: (end - start) >> self._format.page_shift)
        while True:
            rows = np.empty((room, width), np.uint64)
            result, where, found = find(self._table, start, end, argument, rows)
            if result:
                self._refuse(int(result), int(where))
            if found <= room:
                return rows[:found]
            room = int(found)

    def group(self, start: int, end: int, pay: Pay) -> int:
        """Mark leaves that could be a group as one; how many groups there are more."""
        return self._regroup(start, end, coalesce.GROUP, pay)

    def ungroup_edges(self, start: int, end: int, pay: Pay) -> int:
        """Take the mark from the groups that a boundary of [start, end) cuts; how many groups there are fewer."""
        fewer = 0
        for boundary in (start, end):
            for level, bits in enumerate(self._format.group_bits):
                size = self._format.leaf_size(level) << bits
                if bits and boundary % size:
                    page = self._format.page_size
                    inside = align_down(boundary, page) if boundary == start else boundary - page
                    fewer += self._regroup(inside, inside + page, coalesce.UNGROUP, pay)
                    break
        return fewer

    def _regroup(self, start: int, end: int, operation: int, pay: Pay) -> int:
        fmt = self._format
        rows = self._rows_of(coalesce.group_kernel(fmt), 2, start, end, operation)
        count = len(rows)
        if not count:
            return 0
        rewrite = coalesce.regroup_kernel(fmt).for_work(lambda: count << max(fmt.group_bits))
        largest = max(fmt.leaf_size(level) << bits for level, bits in enumerate(fmt.group_bits) if bits)
        span = Range(align_down(start, largest), align_up(end, largest))
        if fmt.break_before_make:
            rewrite(self._host, rows, coalesce.HIDE, self._controls)
            pay([Change(span, ChangeKind.GROUPED)])
        done = coalesce.MARK if operation == coalesce.GROUP else coalesce.UNMARK
        rewrite(self._host, rows, done, self._controls)
        if not fmt.break_before_make:
            pay([Change(span, ChangeKind.GROUPED)])
        return count

    def _publish(self, rows: U64Array, *, make: bool) -> None:
        coalesce.poke_kernel().for_work(lambda: len(rows))(self._host, rows, int(make))
