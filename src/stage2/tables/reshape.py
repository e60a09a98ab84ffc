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
from .compiled import HostMemory, Kernel
from .mapping import U64Array

Pay = Callable[[Sequence[Change]], None]
"""Called with changes between break and make; TLBs must then drop what they hold of it."""
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
        coalesce.fill_kernel(fmt).for_work(lambda: 1 << fmt.bits)(
            self._host, np.uint64(table), np.uint64(block.output), np.uint64(shift), np.uint64(child_bits)
        )
        slot = np.array([block.slot], np.uint64)
        self._publish(slot, np.zeros(1, np.uint64))
        pay([Change(Range.sized(block.start, fmt.leaf_size(block.level)), ChangeKind.REMOVED)])
        self._publish(slot, np.array([fmt.table_entry(table, int(self._controls))], np.uint64))

    def merge(self, start: int, end: int, top: int, pay: Pay) -> U64Array:
        """Make blocks of tables whose leaves are equal and continue each other, upwards as far as that goes.

        Args:
            start, end: the range, as kernels take it.
            top: the highest level that may hold a leaf.
            pay: does what the edit owes.

        Returns:
            (table, input address, size) of each table that is linked from nowhere now, shape (n, 3); flushed.
        """
        fmt = self._format
        freed = [np.zeros((0, 3), np.uint64)]
        for level in range(1, top + 1):
            found = self._merge_at(level, start, end)
            if not len(found):
                continue
            slots = np.ascontiguousarray(found[:, 0])
            span = Range(int(found[0, 3]), int(found[-1, 3]) + fmt.leaf_size(level))
            changes = [Change(span, ChangeKind.MERGED), Change(span, ChangeKind.TABLE_FREED)]
            if fmt.break_before_make:
                self._publish(slots, np.zeros(len(found), np.uint64))
                pay(changes)
            self._publish(slots, np.ascontiguousarray(found[:, 2]))
            if not fmt.break_before_make:
                pay(changes)
            sizes = np.full(len(found), fmt.leaf_size(level), np.uint64)
            freed.append(np.column_stack((found[:, 1], found[:, 3], sizes)))
        return np.concatenate(freed)

    def _merge_at(self, level: int, start: int, end: int) -> U64Array:
        return self._rows_of(coalesce.merge_kernel(self._format), 4, start, end, level)

    def _rows_of(self, kernel: Kernel, width: int, start: int, end: int, argument: int) -> U64Array:
        """What a kernel lists, asked again with more room until it all fits."""
        count = 0
        find = kernel.for_work(lambda: (end - start) >> self._format.page_shift)
        while True:
            rows = np.empty((count, width), np.uint64)
            result, where, found = find(self._table, np.uint64(start), np.uint64(end), np.uint64(argument), rows)
            if result:
                self._refuse(int(result), int(where))
            if int(found) <= count:
                return rows
            count = int(found)

    def group(self, start: int, end: int, pay: Pay) -> int:
        """Mark leaves that could be a group as one; how many groups there are more."""
        return self._regroup(start, end, coalesce.GROUP, pay)

    def ungroup_edges(self, start: int, end: int, pay: Pay) -> None:
        """Take the mark from the groups that a boundary of [start, end) cuts."""
        for boundary in (start, end):
            for level, bits in enumerate(self._format.group_bits):
                size = self._format.leaf_size(level) << bits
                if bits and boundary % size:
                    page = self._format.page_size
                    inside = align_down(boundary, page) if boundary == start else boundary - page
                    self._regroup(inside, inside + page, coalesce.UNGROUP, pay)
                    break

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
            rewrite(self._host, rows, np.uint64(coalesce.HIDE), self._controls)
            pay([Change(span, ChangeKind.GROUPED)])
        done = coalesce.MARK if operation == coalesce.GROUP else coalesce.UNMARK
        rewrite(self._host, rows, np.uint64(done), self._controls)
        if not fmt.break_before_make:
            pay([Change(span, ChangeKind.GROUPED)])
        return count

    def _publish(self, slots: U64Array, entries: U64Array) -> None:
        coalesce.poke_kernel().for_work(lambda: len(slots))(self._host, slots, entries)
