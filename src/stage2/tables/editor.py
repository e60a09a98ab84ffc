"""The edits of one table: kernels run as a plan and then as a commit, and what each owes to the TLBs.

Whatever an edit owes is done before it returns, in the order of the architecture: between break and make where an
entry must be broken first (Arm), and before a table that was unlinked is given back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..address import Range, align_down
from ..errors import MappingError, OverlapError
from ..flags import RWX
from ..formats import family_of
from ..formats.change import Change, ChangeKind
from ..formats.invalidation import FEW, Operation
from ..formats.outcome import GLOBAL, GROUPED, LEAF, MEMORY_TYPE_MASK, SHAREABILITY_MASK
from . import edit, sweep
from .compiled import HostMemory
from .explain import explain_stage
from .extent import Extent
from .listing import list_kernel
from .map_kernel import map_kernel
from .mapping import ATTRIBUTES, NO_ROWS, Edit, U64Array
from .placing import tables_kernel
from .regime import Regime
from .reshape import Block, Reshaper
from .store import NO_FRAMES, TableStore

if TYPE_CHECKING:
    from ..memory.physical import PhysicalMemory

Flush = Callable[[tuple[Operation, ...]], None]
"""Does operations: on the CPUs that run the guest, or on a model of them."""
_FEW_RUNS = 16
"""Room for runs at the first try; most edits touch fewer."""
DISTINGUISHING = MEMORY_TYPE_MASK | SHAREABILITY_MASK | GROUPED
"""Attributes in which a leaf differs so much from another that one is not simply written over the other."""
_CHANGES = {
    sweep.CLEAR: ChangeKind.REMOVED,
    sweep.BREAK: ChangeKind.REMOVED,
    sweep.HARVEST: ChangeKind.HARVESTED,
}


class Watcher(Protocol):
    """Who looks over an editor's shoulder, as the checker of `tlb_checker` does."""

    def before(self) -> None:
        """An edit begins; nothing has changed yet."""

    def between(self) -> None:
        """The edit is half-way: what it made so far is live, and the rest comes now."""

    def after(self, done: Edit) -> None:
        """The edit is done, and what it owed was handed to `flush`."""


class TableEditor:
    """Changes one table; the one place that does.

    Args:
        memory: where the table lies.
        host: the same, as kernels see it.
        regime: the table's.
        extent: which addresses it takes.
        store: its frames.
        flush: does what edits owe; None leaves it to the caller, who finds it in the `Edit`.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        host: HostMemory,
        regime: Regime,
        extent: Extent,
        store: TableStore,
        flush: Flush | None,
    ) -> None:
        self.lock = threading.RLock()
        self.flush = flush
        self.watcher: Watcher | None = None
        self.gone = False
        self._format, self._memory, self.regime = regime.format, memory, regime
        self._extent, self._store = extent, store
        self._table = (host, np.uint64(regime.root), np.uint64(regime.controls))
        self._seen = np.zeros(self._format.levels, np.uint64)
        self._reshaper = Reshaper(self._format, self._table, self._refuse)
        self._done: list[Operation] = []

    # --- edits -------------------------------------------------------------------------------------------

    def map(self, extents: Sequence[tuple[int, int, int]], columns: U64Array, templates: U64Array, top: int) -> Edit:
        """Map (start, HPA, size) extents.

        Args:
            extents: as given, for the record.
            columns: the same as a (3, n) array, starts without sign extension.
            templates: leaf bits without address, by level.
            top: highest level at which a leaf may be made.
        """
        kernel = map_kernel(self._format)

        def run(frames: U64Array) -> tuple[int, int, int]:
            result: tuple[int, int, int] = kernel(self._table, columns, templates, np.uint64(top), frames, self._seen)
            return result

        with self._editing():
            result, where, needed = run(NO_FRAMES)
            if result == edit.NEEDS_ROOM:
                tables = self._store.take(int(needed))
                result, where, _ = run(tables)
                if result:
                    self._store.give(tables)
            if result:
                self._refuse(result, int(where))
            return self._finish(Edit(int(needed)), _changes(ChangeKind.ADDED, extents))

    def sweep(self, start: int, size: int, operation: int, templates: U64Array) -> Edit:
        """Run an operation of the sweep kernel but PROTECT over a range."""
        with self._editing():
            return self._finish(*self._sweep(start, size, operation, templates))

    def protect(self, start: int, size: int, templates: U64Array) -> Edit:
        """Give everything mapped in a range other leaf bits."""
        with self._editing():
            kind = self._protection_change(start, size, templates)
            broken = kind is ChangeKind.REMAPPED and self._format.break_before_make
            if broken:
                # Another memory type, or a group's mark taken away: invalid and flushed in between.
                self._sweep(start, size, sweep.BREAK, np.zeros_like(templates))
            return self._finish(*self._sweep(start, size, sweep.PROTECT, templates, kind, owes=not broken))

    def coalesce(self, start: int, size: int, *, blocks: bool, groups: bool) -> Edit:
        """Merge equal neighbours into blocks, and mark what is left as groups."""
        first, end = self._extent.range(start, size)
        span = Range.sized(start, size)
        kinds = []
        with self._editing():
            top = len(self._extent.leaf_sizes) - 1
            freed = self._reshaper.merge(first, end, top, self._pay_inside) if blocks else NO_ROWS
            if len(freed):
                kinds += [ChangeKind.MERGED, ChangeKind.TABLE_FREED]
                self._store.give(np.ascontiguousarray(freed[:, 0]))
            if groups and self._knows_groups and self._reshaper.group(first, end, self._pay_inside):
                kinds.append(ChangeKind.GROUPED)
            return self._finish(Edit(0, len(freed)), [Change(span, kind) for kind in kinds])

    def relax(self, spans: Sequence[Range]) -> None:
        """Do what it takes for a TLB to see that ranges allow more than before."""
        with self.lock:
            _words = self.require_alive()
            self._pay([Change(span, ChangeKind.RELAXED) for span in spans])

    def make_tables(self, addresses: U64Array) -> None:
        """Make the tables of smallest pages that addresses lack.

        Args:
            addresses: in order, without sign extension; each lacks a table, or has one already.

        Raises:
            OutOfMemoryError: there are not so many frames; nothing changed.
        """
        kernel = tables_kernel(self._format)
        with self.lock:
            _words = self.require_alive()
            result, where, needed = kernel(self._table, addresses, NO_FRAMES, self._seen)
            if result == edit.NEEDS_ROOM:
                tables = self._store.take(int(needed))
                result, where, _ = kernel(self._table, addresses, tables, self._seen)
                if result:
                    self._store.give(tables)
            if result:
                self._refuse(result, int(where))

    # --- reading -----------------------------------------------------------------------------------------

    def leaves(self, start: int, size: int | None, merge: bool) -> tuple[U64Array, U64Array]:
        """The leaves of a range as rows of (start, HPA, size, attributes with the level in bits 31:24), and totals."""
        fmt = self._format
        first, end = (0, 1 << fmt.input_bits) if size is None else self._extent.range(start, size)
        kernel = list_kernel(fmt)

        def run(rows: U64Array) -> tuple[int, U64Array]:
            totals = np.empty(2 * fmt.levels, np.uint64)
            result, where, count = kernel(
                self._table, np.uint64(first), np.uint64(end), np.uint64(merge), rows, totals, self._seen
            )
            if result:
                self._refuse(result, int(where))
            return int(count), totals

        with self.lock:
            _words = self.require_alive()
            count, _ = run(np.empty((0, 4), np.uint64))
            rows = np.empty((count, 4), np.uint64)
            _, totals = run(rows)
        self._extent.outward_all(rows[:, 0])
        return rows, totals

    def require_alive(self) -> U64Array:
        """Refuse to work on tables that are gone; whoever holds the answer keeps the memory mapped meanwhile."""
        if self.gone:
            raise MappingError("the page table was destroyed")
        return self._memory.words

    # --- what is owed ------------------------------------------------------------------------------------

    @contextmanager
    def _editing(self) -> Iterator[None]:
        with self.lock:
            _words = self.require_alive()
            if self.watcher is not None:
                self.watcher.before()
            self._done = []
            yield

    def _finish(self, done: Edit, changes: Sequence[Change]) -> Edit:
        done = Edit(done.tables_added, done.tables_freed, done.removed, tuple(self._done), tuple(changes))
        if self.watcher is not None:
            self.watcher.after(done)
        return done

    def _pay(self, changes: Sequence[Change]) -> None:
        """Do what changes owe, now."""
        operations = family_of(self._format).owed(self._format, self.regime.context, changes, self.regime.controls)
        self._done += operations
        if operations and self.flush is not None:
            self.flush(operations)

    def _pay_inside(self, changes: Sequence[Change]) -> None:
        """The same for changes whose addresses are without sign extension, as kernels take them."""
        outward = self._extent.outward
        self._pay([Change(Range(outward(c.span.start), outward(c.span.end - 1) + 1), c.kind) for c in changes])

    # --- inside ------------------------------------------------------------------------------------------

    def _sweep(
        self,
        start: int,
        size: int,
        operation: int,
        templates: U64Array,
        change: ChangeKind | None = None,
        *,
        owes: bool = True,
    ) -> tuple[Edit, list[Change]]:
        fmt = self._format
        by_steps = fmt.break_before_make or self._reshaper.has_groups
        first, end = self._extent.range(start, size)
        kernel = sweep.sweep_kernel(fmt)

        def run(frames: U64Array, runs: U64Array, freed: U64Array) -> tuple[int, ...]:
            result: tuple[int, ...] = kernel(
                self._table, np.uint64(first), np.uint64(end), np.uint64(operation), templates, frames, runs, freed
            )
            return result

        # Every table that can become empty: one for each table span the range touches, on each level.
        spans = sum((size >> fmt.level_shift(level + 1)) + 2 for level in range(fmt.levels - 1))
        freed = np.empty(min(spans, self._store.count) if operation == sweep.CLEAR else 0, np.uint64)
        # Without room for a single run the kernel only plans.
        runs = np.empty((0 if by_steps else _FEW_RUNS, 3), np.uint64)
        result, where, needed, count, unlinked, leaves = run(NO_FRAMES, runs, freed)
        if result == edit.NEEDS_ROOM:
            runs = np.empty((int(count), 3), np.uint64)
            tables = self._store.take(int(needed))
            if by_steps:
                tables = self._make_room(first, end, operation, templates, tables)
            result, where, _, count, unlinked, leaves = run(tables, runs, freed)
            if result:
                self._store.give(tables)
        if result:
            self._refuse(result, int(where))
        if not leaves:
            return Edit(), []
        runs = runs[: int(count)]
        self._extent.outward_all(runs[:, 0])
        changes = []
        kind = _CHANGES.get(operation, change)
        if kind is not None:
            changes += _changes(kind, [(run[0], 0, run[2]) for run in runs[: FEW + 1].tolist()], start, size)
            changes += [Change(Range.sized(start, size), ChangeKind.SPLIT)] * bool(needed)
            if unlinked:
                changes += [Change(c.span, ChangeKind.TABLE_FREED) for c in changes if c.kind is kind]
            if owes:
                self._pay(changes)
        self._store.give(freed[: int(unlinked)])
        removed = runs if operation in (sweep.CLEAR, sweep.HARVEST) else NO_ROWS
        return Edit(int(needed), int(unlinked), removed), changes

    @property
    def _knows_groups(self) -> bool:
        """Whether a marked group is legal under these controls."""
        fmt, controls = self._format, self.regime.controls
        if not self._reshaper.has_groups:
            return False
        leaf = fmt.group(fmt.leaf_entry(0, 0, RWX, controls=controls), 0)
        kind, _, attributes = fmt.decode(leaf, 0, controls)
        return kind == LEAF and bool(attributes & GROUPED)

    def _protection_change(self, start: int, size: int, templates: U64Array) -> ChangeKind | None:
        """What new leaf bits mean for what is mapped in a range; None when nothing is mapped."""
        fmt, controls = self._format, self.regime.controls
        attributes = np.unique(self.leaves(start, size, True)[0][:, 3] & np.uint64(ATTRIBUTES)).tolist()
        if not attributes:
            return None
        wanted = fmt.decode(int(templates[0]), 0, controls)[2]
        if any((old ^ wanted) & DISTINGUISHING for old in attributes):
            return ChangeKind.REMAPPED
        if fmt.break_before_make and any(wanted & ~old & GLOBAL for old in attributes):
            # A TLB must not hold the page for one ASID and for all (DDI 0487 D8.16.1).
            return ChangeKind.REMAPPED
        granted = fmt.permissions(wanted, controls)
        lost = any(fmt.permissions(old, controls) & ~granted for old in attributes)
        return ChangeKind.RESTRICTED if lost else ChangeKind.RELAXED

    def _cut_block(self, boundary: int, operation: int, templates: U64Array) -> Block | None:
        """The block that a boundary cuts and that the operation will change."""
        fmt = self._format
        if boundary >> fmt.input_bits:
            return None
        steps = explain_stage(self._memory, self.regime, self._extent.outward(boundary)).steps
        if not steps or steps[-1].kind != LEAF:
            return None
        leaf = steps[-1]
        start = align_down(boundary, fmt.leaf_size(leaf.level))
        changes = operation != sweep.HARVEST or fmt.decode(leaf.entry, leaf.level, self.regime.controls)[2] & int(
            templates[0]
        )
        return Block(leaf.slot, leaf.entry, leaf.level, start, leaf.output) if start < boundary and changes else None

    def _make_room(self, first: int, end: int, operation: int, templates: U64Array, tables: U64Array) -> U64Array:
        """Split and unmark what a range cuts, where the kernel must not do it in one go; the tables left over."""
        fmt, used = self._format, 0
        if self._reshaper.has_groups:
            self._reshaper.ungroup_edges(first, end, self._pay_inside)
        for boundary in (first, end) if fmt.break_before_make else ():
            while (block := self._cut_block(boundary, operation, templates)) is not None:
                self._reshaper.split(block, int(tables[used]), self._pay_inside)
                used += 1
        if self.watcher is not None:
            self.watcher.between()
        return tables[used:]

    def _refuse(self, result: int, where: int) -> None:
        address = self._extent.outward(where)
        found = explain_stage(self._memory, self.regime, address).result
        if result == edit.CONFLICT:
            raise OverlapError(f"{address:#x} is mapped already: {found}")
        raise MappingError(f"the table itself is damaged at {address:#x}: {found}")


def _changes(
    kind: ChangeKind, extents: Sequence[tuple[int, int, int]], start: int | None = None, size: int = 0
) -> list[Change]:
    """One change for each of a few extents; else one for all of them together, or for [start, start + size)."""
    if len(extents) <= FEW:
        return [Change(Range.sized(first, length), kind) for first, _, length in extents]
    if start is None:
        last, _, length = extents[-1]
        return [Change(Range(extents[0][0], last + length), kind)]
    return [Change(Range.sized(start, size), kind)]
