"""The edits of one table: kernels run as a plan and then as a commit, and what each owes to the TLBs.

Whatever an edit owes is done before it returns, in the order of the architecture: between break and make where an
entry must be broken first (Arm), and before a table that was unlinked is given back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from ..address import Range, align_down
from ..errors import MappingError, OverlapError
from ..flags import RWX
from ..formats import family_of
from ..formats.change import Change, ChangeKind
from ..formats.invalidation import FEW, Operation
from ..formats.outcome import GLOBAL, GROUPED, LEAF, MEMORY_TYPE_MASK, SHAREABILITY_MASK
from . import coalesce, edit, sweep
from .compiled import HostMemory
from .explain import explain_stage
from .extent import Extent
from .listing import list_kernel
from .map_kernel import map_kernel, map_work
from .mapping import NO_ROWS, Edit, LeafBits, OwingEdit, U64Array
from .outward import outward, outward_all
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
_FEW_ROWS = 64
"""The same for rows of a listing."""
_PLAN, _COMMIT = 0, 1
"""What a kernel is told: to plan, or that the plan was made."""
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
        self._owed = family_of(self._format).owed
        self._table = (host, np.uint64(regime.root), np.uint64(regime.controls))
        self._seen = np.zeros(self._format.levels, np.uint64)
        self._reshaper = Reshaper(self._format, self._table, self._refuse)
        self._done: tuple[Operation, ...] = ()

    @property
    def regime(self) -> Regime:
        """What hardware runs the table with."""
        return self._regime

    @regime.setter
    def regime(self, regime: Regime) -> None:
        self._regime, self._context = regime, regime.context

    # --- edits -------------------------------------------------------------------------------------------

    def map(self, extents: Sequence[tuple[int, int, int]], columns: U64Array, templates: U64Array, top: int) -> Edit:
        """Map (start, HPA, size) extents.

        Args:
            extents: as given, for the record.
            columns: the same as a (3, n) array, starts without sign extension.
            templates: leaf bits without address, by level.
            top: highest level at which a leaf may be made.
        """
        kernel = map_kernel(self._format).for_work(lambda: map_work(self._format, columns, top))
        with self.lock:
            _words = self._begin()
            result, where, needed = kernel(self._table, columns, templates, top, NO_FRAMES, self._seen, _PLAN)
            if result == edit.NEEDS_ROOM:
                tables = self._store.take(needed)
                result, where, _ = kernel(self._table, columns, templates, top, tables, self._seen, _COMMIT)
                if result:
                    self._store.give(tables)
            if result:
                self._refuse(result, where)
            return self._finish(needed, 0, NO_ROWS, _changes(ChangeKind.ADDED, extents))

    def sweep(self, start: int, size: int, operation: int, templates: U64Array) -> Edit:
        """Run an operation of the sweep kernel but PROTECT over a range."""
        with self.lock:
            _words = self._begin()
            return self._sweep(start, size, operation, templates)

    def protect(self, start: int, size: int, leaves: LeafBits) -> Edit:
        """Give everything mapped in a range other leaf bits."""
        with self.lock:
            _words = self._begin()
            return self._sweep(start, size, sweep.PROTECT, leaves.templates, leaves)

    def coalesce(self, start: int, size: int, *, blocks: bool, groups: bool) -> Edit:
        """Merge equal neighbours into blocks, and mark what is left as groups."""
        first, end = self._extent.range(start, size)
        kinds = []
        with self.lock:
            _words = self._begin()
            top = len(self._extent.leaf_sizes) - 1
            freed = self._reshaper.merge(first, end, top, self._pay_inside) if blocks else NO_FRAMES
            if len(freed):
                kinds += [ChangeKind.MERGED, ChangeKind.TABLE_FREED]
                self._store.give(freed)
            if groups and self._knows_groups and self._reshaper.group(first, end, self._pay_inside):
                kinds.append(ChangeKind.GROUPED)
            span = Range.sized(start, size)
            return self._finish(0, len(freed), NO_ROWS, [Change(span, kind) for kind in kinds])

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

    def leaves(self, start: int, size: int | None, merge: bool) -> U64Array:
        """The leaves of a range as rows of (start, HPA, size, attributes with the level in bits 31:24)."""
        first, end = (0, 1 << self._format.input_bits) if size is None else self._extent.range(start, size)
        rows: U64Array = np.empty((_FEW_ROWS, 4), np.uint64)
        with self.lock:
            _words = self.require_alive()
            count, _ = self._list(first, end, merge, rows)
            if count > _FEW_ROWS:
                rows = np.empty((count, 4), np.uint64)
                count, _ = self._list(first, end, merge, rows)
        rows = rows[:count]
        if self._extent.has_sign:
            outward_all(self._format, rows[:, 0])
        return rows

    def hasten(self) -> None:
        """Have the compiled form of the listing, since somebody will stand still for as long as one takes."""
        rows: U64Array = np.empty((0, 4), np.uint64)
        totals = np.empty(2 * self._format.levels, np.uint64)
        with self.lock:
            _words = self.require_alive()
            list_kernel(self._format).compiled(self._table, 0, 0, 1, rows, totals, self._seen)

    def totals(self) -> U64Array:
        """Leaves by level, then tables by level."""
        with self.lock:
            _words = self.require_alive()
            return self._list(0, 1 << self._format.input_bits, True, np.empty((0, 4), np.uint64))[1]

    def _list(self, first: int, end: int, merge: bool, rows: U64Array) -> tuple[int, U64Array]:
        """How many rows there are, and the totals; the rows are all there if there is room for them."""
        totals = np.empty(2 * self._format.levels, np.uint64)
        kernel = list_kernel(self._format).for_work(lambda: self._entries(first, end))
        result, where, count = kernel(self._table, first, end, int(merge), rows, totals, self._seen)
        if result:
            self._refuse(result, where)
        return int(count), totals

    def require_alive(self) -> U64Array:
        """Refuse to work on tables that are gone; whoever holds the answer keeps the memory mapped meanwhile."""
        if self.gone:
            raise MappingError("the page table was destroyed")
        return self._memory.words

    # --- what is owed ------------------------------------------------------------------------------------

    def _begin(self) -> U64Array:
        """An edit begins, under the lock; the answer as `require_alive`'s."""
        words = self.require_alive()
        if self.watcher is not None:
            self.watcher.before()
        self._done = ()
        return words

    def _finish(self, added: int, freed: int, removed: U64Array, changes: Sequence[Change]) -> Edit:
        kind = OwingEdit if self._done and self.flush is None else Edit
        done = kind(added, freed, removed, self._done, tuple(changes))
        if self.watcher is not None:
            self.watcher.after(done)
        return done

    def _pay(self, changes: Sequence[Change]) -> None:
        """Do what changes owe, now."""
        operations = self._owed(self._format, self._context, changes, self._regime.controls)
        if operations:
            self._done += operations
            if self.flush is not None:
                self.flush(operations)

    def _pay_inside(self, changes: Sequence[Change]) -> None:
        """The same for changes whose addresses are without sign extension, as kernels take them."""
        if self._extent.has_sign:
            changes = [Change(self._outward(change.span), change.kind) for change in changes]
        self._pay(changes)

    def _outward(self, span: Range) -> Range:
        return Range(outward(self._format, span.start), outward(self._format, span.end - 1) + 1)

    # --- inside ------------------------------------------------------------------------------------------

    def _sweep(
        self,
        start: int,
        size: int,
        operation: int,
        templates: U64Array,
        leaves: LeafBits | None = None,
        *,
        broken: bool = False,
    ) -> Edit:
        """Run an operation of the sweep kernel over a range.

        Args:
            leaves: for PROTECT, what the leaves become.
            broken: they were invalid and flushed, which is all that their change owes.
        """
        fmt, store = self._format, self._store
        first, end = self._extent.range(start, size)
        kernel = sweep.sweep_kernel(fmt).for_work(lambda: self._entries(first, end))
        request = self._table, first, end, operation, templates
        # Every table that can become empty: one for each table span the range touches, on each level.
        spans = ((size >> fmt.level_shift(1)) + fmt.levels) << 1
        freed = np.empty(min(spans, store.count), np.uint64) if operation == sweep.CLEAR else NO_FRAMES
        # Without room for a single run the kernel only plans.
        only_plan = leaves is not None and fmt.break_before_make and not broken
        runs: U64Array = np.empty((0 if only_plan else _FEW_RUNS, 3), np.uint64)
        result, where, needed, count, unlinked, touched, *met = kernel(*request, NO_FRAMES, runs, freed, _PLAN)
        kind = _CHANGES.get(operation) if leaves is None else self._protection_change(leaves, *met)
        if result == edit.NEEDS_ROOM:
            if only_plan and kind is ChangeKind.REMAPPED:
                # Another memory type, or a group's mark taken away: invalid and flushed in between.
                self._sweep(start, size, sweep.BREAK, np.zeros_like(templates))
                return self._sweep(start, size, operation, templates, leaves, broken=True)
            if count > _FEW_RUNS or only_plan:
                runs = np.empty((count, 3), np.uint64)
            tables = store.take(needed)
            if fmt.break_before_make or met[0] & GROUPED:
                tables = self._make_room(first, end, operation, templates, tables, grouped=bool(met[0] & GROUPED))
            result, where, _, count, unlinked, touched, *_ = kernel(*request, tables, runs, freed, _COMMIT)
            if result:
                store.give(tables)
        if result:
            self._refuse(result, where)
        if not touched:
            return self._finish(0, 0, NO_ROWS, ())
        runs = runs[:count]
        if self._extent.has_sign:
            outward_all(self._format, runs[:, 0])
        changes = []
        if broken:
            kind = ChangeKind.REMAPPED
        if kind is not None:
            changes = _changes(kind, (runs if count <= FEW else runs[: FEW + 1]).tolist(), start, size)
            if needed:
                changes.append(Change(Range.sized(start, size), ChangeKind.SPLIT))
            if unlinked:
                changes += [Change(change.span, ChangeKind.TABLE_FREED) for change in changes if change.kind is kind]
            if not broken:
                self._pay(changes)
        if unlinked:
            store.give(freed[:unlinked])
        if operation == sweep.BREAK:
            return Edit()
        removed = runs if operation in (sweep.CLEAR, sweep.HARVEST) else NO_ROWS
        return self._finish(needed, unlinked, removed, changes)

    def _entries(self, first: int, end: int) -> int:
        """How many entries there are at most that a kernel goes over for [first, end)."""
        return min((end - first) >> self._format.page_shift, self._store.count << self._format.bits)

    @property
    def _knows_groups(self) -> bool:
        """Whether a marked group is legal under these controls."""
        fmt, controls = self._format, self.regime.controls
        if not self._reshaper.has_groups:
            return False
        leaf = fmt.group(fmt.leaf_entry(0, 0, RWX, controls=controls), 0)
        kind, _, attributes = fmt.decode(leaf, 0, controls)
        return kind == LEAF and bool(attributes & GROUPED)

    def _protection_change(self, leaves: LeafBits, any_of: int, all_of: int, lost: int) -> ChangeKind:
        """What new leaf bits mean for leaves of which the sweep kernel met these attributes."""
        wanted, missed = leaves.attributes, leaves.attributes & ~all_of
        if (any_of & ~wanted | missed) & DISTINGUISHING:
            return ChangeKind.REMAPPED
        if self._format.break_before_make and missed & GLOBAL:
            # A TLB must not hold the page for one ASID and for all (DDI 0487 D8.16.1).
            return ChangeKind.REMAPPED
        return ChangeKind.RESTRICTED if lost else ChangeKind.RELAXED

    def _cut_block(self, boundary: int, operation: int, templates: U64Array) -> Block | None:
        """The block that a boundary cuts and that the operation will change."""
        fmt = self._format
        if boundary >> fmt.input_bits:
            return None
        kind, level, slot, entry, output, attributes = coalesce.leaf_kernel(fmt).for_work(lambda: fmt.levels)(
            self._table, boundary
        )
        start = align_down(boundary, fmt.leaf_size(level))
        if kind != LEAF or start == boundary:
            return None
        if operation == sweep.HARVEST and not attributes & int(templates[0]):
            return None
        return Block(slot, entry, level, start, output)

    def _make_room(
        self, first: int, end: int, operation: int, templates: U64Array, tables: U64Array, *, grouped: bool
    ) -> U64Array:
        """Split and unmark what a range cuts, where the kernel must not do it in one go; the tables left over."""
        fmt, used, unmarked = self._format, 0, 0
        if grouped:
            unmarked = self._reshaper.ungroup_edges(first, end, self._pay_inside)
        for boundary in (first, end) if fmt.break_before_make and len(tables) else ():
            while (block := self._cut_block(boundary, operation, templates)) is not None:
                self._reshaper.split(block, int(tables[used]), self._pay_inside)
                used += 1
        if self.watcher is not None and (used or unmarked):
            self.watcher.between()
        return tables[used:]

    def _refuse(self, result: int, where: int) -> None:
        address = outward(self._format, where)
        found = explain_stage(self._memory, self.regime, address).result
        if result == edit.CONFLICT:
            raise OverlapError(f"{address:#x} is mapped already: {found}")
        raise MappingError(f"the table itself is damaged at {address:#x}: {found}")


def _changes(
    kind: ChangeKind, extents: Sequence[tuple[int, int, int]], start: int | None = None, size: int = 0
) -> list[Change]:
    """One change for each of a few extents; else one for all of them together, or for [start, start + size)."""
    if len(extents) <= FEW:
        return [Change(Range(first, first + length), kind) for first, _, length in extents]
    if start is None:
        last, _, length = extents[-1]
        return [Change(Range(extents[0][0], last + length), kind)]
    return [Change(Range.sized(start, size), kind)]
