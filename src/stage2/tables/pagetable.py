"""A page table in host physical memory: built, edited and read through one format record.

Every edit is planned and checked before a byte changes; a refused edit leaves the table and the frames as they
were. What an edit owes to the TLB is returned, and flushed before a table it unlinked is given back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range, align_down, align_up, require_aligned
from ..errors import MappingError, NotMappedError, OutOfRangeError, OverlapError
from ..flags import RWX, Access, MappingFlags, MemoryType
from ..formats.change import Change, ChangeKind
from ..formats.outcome import DIRTY, GROUPED, LEAF, MEMORY_TYPE_MASK, SHAREABILITY_MASK
from ..formats.record import Format
from . import edit
from .batch import Batch, TwoStageBatch, translate_batch, translate_two_stage_batch
from .compiled import HostMemory, host_memory
from .explain import Walk, explain_stage
from .extent import Extent
from .mapping import NO_ROWS, Edit, Mapping, Statistics, U64Array
from .regime import Regime
from .reshape import Block, Reshaper
from .result import Fault, Mapped
from .store import NO_FRAMES, TableStore

if TYPE_CHECKING:
    from ..memory.frames import FrameAllocator
    from ..memory.owners import Owner

_FEW_RUNS = 16
"""Room for runs at the first try; most edits touch fewer."""
_CHANGES = {edit.CLEAR: ChangeKind.REMOVED, edit.HARVEST: ChangeKind.HARVESTED}


class PageTable:
    """A table of one format.

    Args:
        fmt: the format.
        frames: where tables come from; it knows the physical memory they lie in.
        owner: who the tables belong to.
        controls: the regime's controls; None takes the format's defaults.
        identifier: VMID or ASID that its TLB entries are tagged with.
        flush: called with the ranges to invalidate before unlinked tables are freed.

    Raises:
        OutOfMemoryError: there is no room for the root.
        OutOfRangeError: host memory reaches beyond the addresses that entries can hold.
    """

    def __init__(
        self,
        fmt: Format,
        frames: FrameAllocator,
        *,
        owner: Owner,
        controls: int | None = None,
        identifier: int = 0,
        flush: Callable[[tuple[Range, ...]], None] | None = None,
    ) -> None:
        self.format = fmt
        self.memory = frames.memory
        self.owner = owner
        self.flush = flush
        self._lock = threading.RLock()
        self._extent = Extent(fmt, fmt.default_controls if controls is None else controls)
        if self.memory.ranges[-1].end > self._extent.output_end:
            raise OutOfRangeError(
                f"host memory {self.memory.ranges[-1]} reaches beyond {self._extent.output_end:#x}, "
                f"where the addresses end that {fmt.name} can hold under these controls"
            )
        self._store = TableStore(fmt, frames, owner)
        self.root = self._store.root
        self.regime = Regime.of(fmt, self.root, controls=controls, identifier=identifier)
        self._host: HostMemory = host_memory(self.memory)
        self._root, self._controls = np.uint64(self.root), np.uint64(self.regime.controls)
        self._seen = np.zeros(fmt.levels, np.uint64)
        self._path = np.zeros((fmt.levels, 2), np.uint64)
        self._templates = lru_cache(maxsize=64)(self._make_templates)
        self._reshaper = Reshaper(fmt, self._host, self.root, self.regime.controls, self._refuse)
        self._destroyed = False

    # --- the seed's names --------------------------------------------------------------------------------

    def map_page(self, address: int, hpa: Hpa, flags: MappingFlags, size: int | None = None) -> Edit:
        """Map one leaf.

        Args:
            address: input address, aligned to `size`.
            hpa: output address, aligned to `size`.
            flags: permissions and memory type.
            size: leaf size in bytes; the smallest page by default.

        Raises:
            MisalignedError, OutOfRangeError: address, HPA or size do not fit the format.
            OverlapError: something is mapped there.
            EncodingError: the format cannot express the flags.
            OutOfMemoryError: no frame for a table.
        """
        size = self.format.page_size if size is None else size
        level = self._extent.level_of(size)
        require_aligned("address", address, size)
        require_aligned("HPA", hpa, size)
        return self._map([(address, hpa, size)], flags, None, level)

    def unmap_page(self, address: int) -> Mapping:
        """Unmap the leaf that holds `address`, whatever its size; returns what it was.

        Raises:
            NotMappedError: nothing is mapped there.
        """
        with self._lock:
            mapping = self.query(address)
            if mapping is None:
                raise NotMappedError(f"nothing is mapped at {address:#x}")
            self.unmap_range(mapping.start, mapping.leaf_size)
            return mapping

    def translate(self, address: int, access: Access | None = None, *, user: bool = False) -> Mapped | Fault:
        """Where `address` leads, for an access or for a mere lookup. Sets no accessed or dirty bit."""
        return self.explain(address, access, user=user).result

    # --- ranges ------------------------------------------------------------------------------------------

    def map_range(
        self,
        start: int,
        hpa: Hpa,
        size: int,
        flags: MappingFlags,
        *,
        memory_type: MemoryType | None = None,
        largest: int | None = None,
    ) -> Edit:
        """Map `size` bytes linearly in the largest leaves that fit.

        Args:
            largest: size in bytes of the largest leaf to use; None for the format's largest.

        Raises: as `map_page`.
        """
        return self.map_extents([(start, hpa, size)], flags, memory_type=memory_type, largest=largest)

    def map_extents(
        self,
        extents: Sequence[tuple[int, int, int]],
        flags: MappingFlags,
        *,
        memory_type: MemoryType | None = None,
        largest: int | None = None,
    ) -> Edit:
        """Map several (start, HPA, size) runs, sorted and disjoint by start, as one edit: all or nothing."""
        level = self.format.top_leaf_level if largest is None else self._extent.level_of(largest)
        return self._map(extents, flags, memory_type, level)

    def unmap_range(self, start: int, size: int) -> Edit:
        """Unmap everything in a range; holes are skipped, blocks that reach beyond it are split.

        Raises:
            MisalignedError, OutOfRangeError: the range does not fit the format.
            OutOfMemoryError: no frame for the table that a split needs; nothing changed.
        """
        return self._sweep(start, size, edit.CLEAR, self._no_templates)

    def protect_range(
        self, start: int, size: int, flags: MappingFlags, *, memory_type: MemoryType | None = None
    ) -> Edit:
        """Give everything mapped in a range new permissions; accessed and dirty bits stay.

        Raises: as `unmap_range`, and EncodingError.
        """
        templates = self._templates(flags, memory_type or flags.memory_type)
        with self._lock:
            kind = self._protection_change(start, size, templates)
            if kind is ChangeKind.REMAPPED and self.format.break_before_make:
                # Another memory type, or a group's mark taken away: invalid and flushed in between.
                self._sweep(start, size, edit.BREAK, self._no_templates)
            return self._sweep(start, size, edit.PROTECT, templates, kind)

    def coalesce(self, start: int, size: int, *, blocks: bool = True, groups: bool = False) -> Edit:
        """Merge equal neighbours in a range into the largest blocks, and mark what is left as groups.

        Translations stay as they are; accessed and dirty bits are kept (a block has what any of its leaves had).

        Args:
            blocks: make blocks of whole tables.
            groups: mark aligned groups of equal leaves (Arm's contiguous hint, RISC-V NAPOT), where the format
                under these controls knows them.

        Raises:
            MisalignedError, OutOfRangeError: the range does not fit the format.
        """
        first, end = self._extent.range(start, size)
        span = Range.sized(start, size)
        changes: list[Change] = []
        with self._lock:
            _words = self._require_alive()
            freed = self._reshaper.merge(first, end, self._flush_span) if blocks else np.zeros((0, 3), np.uint64)
            if len(freed):
                changes += [Change(span, ChangeKind.MERGED), Change(span, ChangeKind.TABLE_FREED)]
                self._store.give(np.ascontiguousarray(freed[:, 0]))
            if groups and self._knows_groups and self._reshaper.group(first, end, self._flush_span):
                changes.append(Change(span, ChangeKind.GROUPED))
        return Edit(0, len(freed), NO_ROWS, (span,) if changes else (), tuple(changes))

    # --- accessed and dirty bits -------------------------------------------------------------------------

    def harvest(self, start: int, size: int, what: int) -> U64Array:
        """List and clear what was accessed or written since the last harvest.

        Args:
            what: ACCESSED or DIRTY of `formats.outcome`.

        Returns:
            (start, HPA, size) runs whose leaves had the bit set, shape (n, 3). A block that reaches beyond the
            range is split. The ranges were flushed, so that the next access sets the bit again.

        Raises: as `unmap_range`.
        """
        return self._sweep(start, size, edit.HARVEST, np.array([what, 0], np.uint64)).removed

    def mark(self, start: int, size: int = 1, *, write: bool) -> None:
        """Set the accessed (and dirty) bit of every leaf that a range touches, as hardware does by itself."""
        first, last = self.query(start), self.query(start + size - 1)
        page = self.format.page_size
        begin = align_down(start, page) if first is None else first.start
        end = align_up(start + size, page) if last is None else last.start + last.leaf_size
        controls = self.regime.controls | self.format.hardware_ad
        self._sweep(begin, end - begin, edit.MARK, np.array([controls, int(write)], np.uint64))

    @property
    def tracks_writes(self) -> bool:
        """Whether a leaf of this regime can be present and not dirty."""
        fmt, controls = self.format, self.regime.controls
        clean = fmt.forget(fmt.leaf_entry(0, 0, RWX, controls=controls), DIRTY)
        return not fmt.decode(clean, 0, controls)[2] & DIRTY

    # --- reading -----------------------------------------------------------------------------------------

    def explain(self, address: int, access: Access | None = None, *, user: bool = False) -> Walk:
        """The walk of `address` with all its steps."""
        self._require_alive()
        return explain_stage(self.memory, self.regime, address, access, user=user)

    def query(self, address: int) -> Mapping | None:
        """The leaf that holds `address`, or None."""
        found = self.translate(address)
        if isinstance(found, Fault):
            return None
        start = align_down(address, found.size)
        return Mapping(start, Hpa(align_down(found.hpa, found.size)), found.size, found.permissions, found.size)

    def translate_many(self, addresses: npt.ArrayLike, *, out: Batch | None = None) -> Batch:
        """Translate an array of addresses with the compiled kernel, into `out` where one is given."""
        _words = self._require_alive()
        return translate_batch(self._host, self.regime, addresses, out)

    def translate_gva_many(
        self, gvas: npt.ArrayLike, stage_1: Regime, access: Access | None = None, *, user: bool = False
    ) -> TwoStageBatch:
        """Translate an array of GVAs by both stages, this table being stage 2.

        Args:
            stage_1: the guest's own regime; its root is a GPA.
            access: what is attempted; None only looks up.
            user: the access is made from user mode.
        """
        _words = self._require_alive()
        return translate_two_stage_batch(self._host, stage_1, self.regime, gvas, access, user=user)

    def rows(self, start: int = 0, size: int | None = None, *, merge: bool = True) -> U64Array:
        """All leaves in a range as an array of (start, HPA, size, attributes with the level in bits 31:24).

        Args:
            merge: join neighbours that continue each other with equal attributes.
        """
        return self._list(start, size, merge)[0]

    def mappings(self, start: int = 0, size: int | None = None, *, merge: bool = True) -> list[Mapping]:
        """All leaves in a range, neighbours joined unless `merge` is False."""
        permissions, controls = self.format.permissions, self.regime.controls
        return [
            Mapping(
                first,
                Hpa(hpa),
                length,
                permissions(attributes & 0xFF_FFFF, controls),
                0 if merge else self.format.leaf_size(attributes >> 24),
            )
            for first, hpa, length, attributes in self.rows(start, size, merge=merge).tolist()
        ]

    def statistics(self) -> Statistics:
        """Leaves by size and tables, counted on the table itself."""
        totals = self._list(0, None, True)[1]
        levels = self.format.levels
        leaves = {self.format.leaf_size(level): int(totals[level]) for level in range(levels) if totals[level]}
        tables = totals[levels:]
        table_bytes = self.format.root_size + int(tables[: levels - 1].sum()) * self.format.table_size
        return Statistics(leaves, int(tables.sum()), table_bytes)

    @property
    def table_ranges(self) -> list[Range]:
        """The HPA ranges that hold the tables, in order."""
        return self._store.ranges

    def destroy(self) -> None:
        """Give all tables back. What the leaves point to is the caller's. Harmless when repeated."""
        with self._lock:
            if self._destroyed:
                return
            self._destroyed = True
            self._store.clear()

    # --- inside ------------------------------------------------------------------------------------------

    @property
    def _no_templates(self) -> U64Array:
        return np.zeros(self.format.top_leaf_level + 1, np.uint64)

    def _make_templates(self, flags: MappingFlags, memory_type: MemoryType) -> U64Array:
        encode, controls = self.format.encode_leaf, self.regime.controls
        levels = range(self.format.top_leaf_level + 1)
        return np.array([encode(level, flags, memory_type, controls) for level in levels], np.uint64)

    def _map(
        self,
        extents: Sequence[tuple[int, int, int]],
        flags: MappingFlags,
        memory_type: MemoryType | None,
        top: int,
    ) -> Edit:
        fmt = self.format
        table = np.empty((3, len(extents)), np.uint64)
        previous_end = 0
        for column, (start, hpa, size) in enumerate(extents):
            first, end = self._extent.range(start, size)
            require_aligned("HPA", hpa, fmt.page_size)
            behind = Range.sized(hpa, size)
            if behind.end > self._extent.output_end:
                raise OutOfRangeError(
                    f"HPA {behind} reaches beyond {self._extent.output_end:#x}, where {fmt.name}'s HPAs end"
                )
            if first < previous_end:
                raise OverlapError(f"extents overlap or are out of order at {start:#x}")
            previous_end = end
            table[0, column], table[1, column], table[2, column] = first, hpa, size
        templates = self._templates(flags, memory_type or flags.memory_type)
        kernel = edit.map_kernel(fmt)

        def run(frames: U64Array) -> tuple[int, int, int]:
            result: tuple[int, int, int] = kernel(
                self._host, self._root, self._controls, table[0], table[1], table[2],
                templates, np.uint64(top), frames, self._seen,
            )  # fmt: skip
            return result

        with self._lock:
            _words = self._require_alive()
            result, where, needed = run(NO_FRAMES)
            if result == edit.NEEDS_ROOM:
                tables = self._store.take(int(needed))
                result, where, _ = run(tables)
                if result:
                    self._store.give(tables)
            if result:
                self._refuse(result, int(where))
        changes = tuple(Change(Range.sized(start, size), ChangeKind.ADDED) for start, _, size in extents[:_FEW_RUNS])
        if len(extents) > _FEW_RUNS:
            last, _, length = extents[-1]
            changes = (Change(Range(extents[0][0], last + length), ChangeKind.ADDED),)
        return Edit(tables_added=int(needed), changes=changes)

    @property
    def _knows_groups(self) -> bool:
        """Whether a marked group is legal under these controls."""
        fmt, controls = self.format, self.regime.controls
        if not self._reshaper.has_groups:
            return False
        leaf = fmt.group(fmt.leaf_entry(0, 0, RWX, controls=controls), 0)
        kind, _, attributes = fmt.decode(leaf, 0, controls)
        return kind == LEAF and bool(attributes & GROUPED)

    def _protection_change(self, start: int, size: int, templates: U64Array) -> ChangeKind | None:
        """What new leaf bits mean for what is mapped in a range; None when nothing is mapped."""
        fmt, controls = self.format, self.regime.controls
        attributes = np.unique(self.rows(start, size)[:, 3] & np.uint64(0xFF_FFFF)).tolist()
        if not attributes:
            return None
        wanted = fmt.decode(int(templates[0]), 0, controls)[2]
        kept = MEMORY_TYPE_MASK | SHAREABILITY_MASK | GROUPED
        if any((old ^ wanted) & kept for old in attributes):
            return ChangeKind.REMAPPED
        granted = fmt.permissions(wanted, controls)
        lost = any(fmt.permissions(old, controls) & ~granted for old in attributes)
        return ChangeKind.RESTRICTED if lost else ChangeKind.RELAXED

    def _flush_span(self, span: Range) -> None:
        if self.flush is not None:
            self.flush((span,))

    def _cut_block(self, boundary: int, operation: int, templates: U64Array) -> Block | None:
        """The block that a boundary cuts and that the operation will change."""
        fmt = self.format
        if boundary >> fmt.input_bits:
            return None
        steps = self.explain(self._extent.outward(boundary)).steps
        if not steps or steps[-1].kind != LEAF:
            return None
        leaf = steps[-1]
        start = align_down(boundary, fmt.leaf_size(leaf.level))
        changes = operation != edit.HARVEST or fmt.decode(leaf.entry, leaf.level, self.regime.controls)[2] & int(
            templates[0]
        )
        return Block(leaf.slot, leaf.entry, leaf.level, start, leaf.output) if start < boundary and changes else None

    def _make_room(self, first: int, end: int, operation: int, templates: U64Array, tables: U64Array) -> U64Array:
        """Split and unmark what a range cuts, where the kernel must not do it in one go; the tables left over."""
        fmt, used = self.format, 0
        if self._reshaper.has_groups:
            self._reshaper.ungroup_edges(first, end, self._flush_span)
        for boundary in (first, end) if fmt.break_before_make else ():
            while (block := self._cut_block(boundary, operation, templates)) is not None:
                self._reshaper.split(block, int(tables[used]), self._flush_span)
                used += 1
        return tables[used:]

    def _sweep(
        self, start: int, size: int, operation: int, templates: U64Array, change: ChangeKind | None = None
    ) -> Edit:
        fmt = self.format
        by_steps = fmt.break_before_make or self._reshaper.has_groups
        first, end = self._extent.range(start, size)
        kernel = edit.sweep_kernel(fmt)

        def run(frames: U64Array, runs: U64Array, freed: U64Array) -> tuple[int, ...]:
            result: tuple[int, ...] = kernel(
                self._host, self._root, self._controls, np.uint64(first), np.uint64(end), np.uint64(operation),
                templates, frames, self._path, runs, freed,
            )  # fmt: skip
            return result

        with self._lock:
            _words = self._require_alive()
            # Every table that can become empty: one for each table span the range touches, on each level.
            spans = sum((size >> fmt.level_shift(level + 1)) + 2 for level in range(fmt.levels - 1))
            freed = np.empty(min(spans, self._store.count) if operation == edit.CLEAR else 0, np.uint64)
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
                return Edit()
            runs = runs[: int(count)]
            # A bit that is set, like an entry that becomes valid, is nothing a TLB could hold against us.
            owed = () if operation == edit.MARK else (Range.sized(start, size),)
            if owed and self.flush is not None:
                self.flush(owed)
            self._store.give(freed[: int(unlinked)])
        self._extent.outward_all(runs[:, 0])
        removed = runs if operation in (edit.CLEAR, edit.HARVEST) else NO_ROWS
        span = Range.sized(start, size)
        kinds = [_CHANGES.get(operation, change)]
        kinds += [ChangeKind.SPLIT] * bool(needed) + [ChangeKind.TABLE_FREED] * bool(unlinked)
        changes = tuple(Change(span, kind) for kind in kinds if kind is not None)
        return Edit(int(needed), int(unlinked), removed, owed, changes)

    def _list(self, start: int, size: int | None, merge: bool) -> tuple[U64Array, U64Array]:
        fmt = self.format
        first, end = (0, 1 << fmt.input_bits) if size is None else self._extent.range(start, size)
        kernel = edit.list_kernel(fmt)

        def run(rows: U64Array) -> tuple[int, U64Array]:
            totals = np.empty(2 * fmt.levels, np.uint64)
            result, where, count = kernel(
                self._host, self._root, self._controls, np.uint64(first), np.uint64(end), np.uint64(merge),
                rows, totals, self._seen,
            )  # fmt: skip
            if result:
                self._refuse(result, int(where))
            return int(count), totals

        with self._lock:
            _words = self._require_alive()
            count, _ = run(np.empty((0, 4), np.uint64))
            rows = np.empty((count, 4), np.uint64)
            _, totals = run(rows)
        self._extent.outward_all(rows[:, 0])
        return rows, totals

    def _refuse(self, result: int, where: int) -> None:
        address = self._extent.outward(where)
        if result == edit.CONFLICT:
            raise OverlapError(f"{address:#x} is mapped already: {self.translate(address)}")
        raise MappingError(f"the table itself is damaged at {address:#x}: {self.translate(address)}")

    def _require_alive(self) -> U64Array:
        """Refuse to work on tables that are gone; whoever holds the answer keeps the memory mapped meanwhile."""
        if self._destroyed:
            raise MappingError("the page table was destroyed")
        return self.memory.words
