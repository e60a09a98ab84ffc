"""A page table in host physical memory: built, edited and read through one format record.

Every edit is planned and checked before a byte changes; a refused edit leaves the table and the frames as they
were. What an edit owes to the TLB is returned, and flushed before a table it unlinked is given back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, overload

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range, align_down, align_up, require_aligned
from ..errors import NotMappedError, OutOfRangeError, OverlapError
from ..flags import RWX, Access, MappingFlags, MemoryType
from ..formats import by_name, family_of
from ..formats.change import Change, ChangeKind
from ..formats.invalidation import FEW
from ..formats.outcome import DIRTY
from ..formats.record import Format
from ..formats.u64 import MASK_64
from ..self_drawn import SelfDrawn
from . import sweep
from .batch import Batch, TwoStageBatch, translate_batch, translate_two_stage_batch
from .compiled import HostMemory, host_memory
from .editor import Flush, TableEditor
from .explain import Walk, explain_stage
from .extent import Extent
from .mapping import ATTRIBUTES, LEVEL_FIELD, Edit, LeafBits, Mapping, Statistics, U64Array
from .outward import outward
from .placing import Answers, Placing
from .regime import Regime
from .result import Fault, Mapped, need_mask
from .single import Single, single
from .store import TableStore

if TYPE_CHECKING:
    from ..memory.owners import Owner
    from ..memory.window import TableFrames


_FEW = 64
"""Lookups that are made by the explained walk before the compiled one is made ready."""


class PageTable(SelfDrawn):
    """A table of one format.

    Args:
        fmt: the format.
        frames: where tables come from; it knows the physical memory they lie in.
        owner: who the tables belong to.
        controls: the regime's controls; None takes the format's defaults.
        identifier: VMID or ASID that its TLB entries are tagged with.
        flush: does the operations that edits owe; it is called before unlinked tables are freed.

    Raises:
        OutOfMemoryError: there is no room for the root.
        OutOfRangeError: host memory reaches beyond the addresses that entries can hold.
    """

    def __init__(
        self,
        fmt: Format | str,
        frames: TableFrames,
        *,
        owner: Owner,
        controls: int | None = None,
        identifier: int = 0,
        flush: Flush | None = None,
    ) -> None:
        fmt = by_name(fmt) if isinstance(fmt, str) else fmt
        self.format = fmt
        self.memory = frames.memory
        self.owner = owner
        self._extent = Extent(fmt, fmt.default_controls if controls is None else controls)
        if self.memory.ranges[-1].end > self._extent.output_end:
            raise OutOfRangeError(
                f"host memory {self.memory.ranges[-1]} reaches beyond {self._extent.output_end:#x}, "
                f"where the addresses end that {fmt.name} can hold under these controls"
            )
        self._store = TableStore(fmt, frames, owner)
        self.root = self._store.root
        regime = Regime.of(fmt, self.root, controls=controls, identifier=identifier)
        self._host: HostMemory = host_memory(self.memory)
        self._leaf_bits: dict[tuple[int, MemoryType | None], LeafBits] = {}
        self._no_templates: U64Array = np.zeros(fmt.top_leaf_level + 2, np.uint64)
        self.single: Single | None = None
        """The compiled lookup of one address, once there were a few."""
        self._page = fmt.page_size
        self.plain_end = 0 if fmt.sign_extended or fmt.high_half else 1 << fmt.input_bits
        """Addresses below it are as kernels take them; 0 where they may have a sign."""
        self._page_bits: dict[int, int] = {}
        self._lookups = 0
        self.editor = TableEditor(self.memory, self._host, regime, self._extent, self._store, flush)

    @property
    def regime(self) -> Regime:
        """What hardware runs it with."""
        return self.editor.regime

    @property
    def flush(self) -> Flush | None:
        """Does the operations that edits owe; without one they are the caller's to do."""
        return self.editor.flush

    @flush.setter
    def flush(self, flush: Flush | None) -> None:
        self.editor.flush = flush

    @property
    def leaf_sizes(self) -> tuple[int, ...]:
        """Size in bytes of the leaf at each level that may hold one under its controls."""
        return self._extent.leaf_sizes

    def identify(self, identifier: int) -> None:
        """Tag its TLB entries with another VMID from now on; those with the old one are the caller's to drop."""
        with self.editor.lock:
            self.editor.regime = replace(self.editor.regime, identifier=identifier)

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
        if (size is None or size == self._page) and (done := self._place(address, hpa, flags)) is not None:
            return done
        size = self._page if size is None else size
        level = self._extent.level_of(size)
        require_aligned("address", address, size)
        require_aligned("HPA", hpa, size)
        return self._map([(address, hpa, size)], flags, None, level)

    def unmap_page(self, address: int) -> Mapping:
        """Unmap the leaf that holds `address`, whatever its size; returns what it was.

        Raises:
            NotMappedError: nothing is mapped there.
        """
        with self.editor.lock:
            mapping = self.query(address)
            if mapping is None:
                raise NotMappedError(f"nothing is mapped at {address:#x}")
            self.unmap_range(mapping.start, mapping.leaf_size)
            return mapping

    def translate(self, address: int, access: Access | None = None, *, user: bool = False) -> Mapped | Fault:
        """Where `address` leads, for an access or for a mere lookup. Sets no accessed or dirty bit."""
        single = self.single or self._warm_up()
        if single is None:
            return self.explain(address, access, user=user).result
        _words = self.memory.mapped
        if _words is None or self.editor.gone:
            self.editor.require_alive()
        try:
            return single.translate(address, access, 0 if access is None else need_mask(access, user=user))
        except OverflowError:
            return self.explain(address, access, user=user).result

    def hpa_of(self, address: int) -> Hpa | None:
        """The HPA that `address` leads to, None where nothing is mapped; the shortest way to ask."""
        single = self.single or self._warm_up()
        if single is not None:
            _words = self.memory.mapped
            if _words is None or self.editor.gone:
                self.editor.require_alive()
            try:
                return single.hpa_of(address)
            except OverflowError:
                pass
        found = self.explain(address).result
        return found.hpa if isinstance(found, Mapped) else None

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
        level = self._extent.level_of(self.leaf_sizes[-1] if largest is None else largest)
        return self._map(extents, flags, memory_type, level)

    def unmap_range(self, start: int, size: int) -> Edit:
        """Unmap everything in a range; holes are skipped, blocks that reach beyond it are split.

        Raises:
            MisalignedError, OutOfRangeError: the range does not fit the format.
            OutOfMemoryError: no frame for the table that a split needs; nothing changed.
        """
        return self.editor.sweep(start, size, sweep.CLEAR, self._no_templates)

    def protect_range(
        self, start: int, size: int, flags: MappingFlags, *, memory_type: MemoryType | None = None
    ) -> Edit:
        """Give everything mapped in a range new permissions; accessed and dirty bits stay.

        Raises: as `unmap_range`, and EncodingError.
        """
        return self.editor.protect(start, size, self._leaves(flags, memory_type))

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
        return self.editor.coalesce(start, size, blocks=blocks, groups=groups)

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
        return self.editor.sweep(start, size, sweep.HARVEST, np.array([what, 0], np.uint64)).removed

    def mark(self, start: int, size: int = 1, *, write: bool) -> None:
        """Set the accessed (and dirty) bit of every leaf that a range touches, as hardware does by itself."""
        first, last = self.query(start), self.query(start + size - 1)
        page = self.format.page_size
        begin = align_down(start, page) if first is None else first.start
        end = align_up(start + size, page) if last is None else last.start + last.leaf_size
        controls = self.regime.controls | self.format.hardware_ad
        self.editor.sweep(begin, end - begin, sweep.MARK, np.array([controls, int(write)], np.uint64))

    def refresh(self, address: int) -> None:
        """Let TLBs forget that the page at `address` was absent or forbade more than it does now."""
        if self.editor.flush is not None:
            self.editor.relax([Range.sized(align_down(address, self._page), self._page)])

    def refresh_many(self, addresses: U64Array) -> None:
        """The same for many pages, as one."""
        if self.editor.flush is not None and len(addresses):
            pages = np.unique(addresses & np.uint64(~(self._page - 1) & MASK_64)).tolist()
            if len(pages) > FEW:
                self.editor.relax([Range(pages[0], pages[-1] + self._page)])
            else:
                self.editor.relax([Range.sized(page, self._page) for page in pages])

    def placing(
        self, addresses: U64Array, accesses: npt.NDArray[np.uint8], rows: U64Array, answers: Answers
    ) -> Placing:
        """Faults to be settled together, see `Placing`; whoever does it holds the editor's lock."""
        return Placing(self._host, self.regime, addresses, accesses, rows, answers)

    @property
    def tracks_writes(self) -> bool:
        """Whether a leaf of this regime can be present and not dirty."""
        fmt, controls = self.format, self.regime.controls
        clean = fmt.forget(fmt.leaf_entry(0, 0, RWX, controls=controls), DIRTY)
        return not fmt.decode(clean, 0, controls)[2] & DIRTY

    # --- reading -----------------------------------------------------------------------------------------

    def explain(self, address: int, access: Access | None = None, *, user: bool = False) -> Walk:
        """The walk of `address` with all its steps."""
        self.editor.require_alive()
        return explain_stage(self.memory, self.regime, address, access, user=user)

    def query(self, address: int) -> Mapping | None:
        """The leaf that holds `address`, or None."""
        found = self.translate(address)
        if isinstance(found, Fault):
            return None
        start = align_down(address, found.size)
        return Mapping(start, Hpa(align_down(found.hpa, found.size)), found.size, found.permissions, found.size)

    @overload
    def translate_many(
        self, addresses: npt.ArrayLike, *, out: Batch | None = None, threads: int | None = None
    ) -> Batch: ...

    @overload
    def translate_many(
        self,
        addresses: npt.ArrayLike,
        *,
        out: Batch | None = None,
        hpa_only: Literal[True],
        threads: int | None = None,
    ) -> U64Array: ...

    def translate_many(
        self,
        addresses: npt.ArrayLike,
        *,
        out: Batch | None = None,
        hpa_only: bool = False,
        threads: int | None = None,
    ) -> Batch | U64Array:
        """Translate an array of addresses with the compiled kernel.

        Args:
            addresses: of any shape.
            out: a result whose arrays are written to.
            hpa_only: answer with the HPAs alone, 2^64-1 where nothing is mapped.
            threads: how many work on it; None for every CPU once the array is large. The results are the same.
        """
        _words = self.editor.require_alive()
        found = translate_batch(self._host, self.regime, addresses, out, threads=threads)
        return found.hpa if hpa_only else found

    def translate_gva_many(
        self,
        gvas: npt.ArrayLike,
        stage_1: Regime,
        access: Access | None = None,
        *,
        user: bool = False,
        out: TwoStageBatch | None = None,
        ahead: bool = True,
        threads: int | None = None,
    ) -> TwoStageBatch:
        """Translate an array of GVAs by both stages, this table being stage 2.

        Args:
            stage_1: the guest's own regime; its root is a GPA.
            access: what is attempted; None only looks up.
            user: the access is made from user mode.
            out: a result whose arrays are written to.
            ahead, threads: as `batch.translate_two_stage_batch` takes them. The results are the same.
        """
        _words = self.editor.require_alive()
        return translate_two_stage_batch(
            self._host, stage_1, self.regime, gvas, access, out, user=user, ahead=ahead, threads=threads
        )

    def rows(self, start: int = 0, size: int | None = None, *, merge: bool = True) -> U64Array:
        """All leaves in a range as an array of (start, HPA, size, attributes with the level in bits 31:24).

        Args:
            merge: join neighbours that continue each other with equal attributes.
        """
        return self.editor.leaves(start, size, merge)

    def mappings(self, start: int = 0, size: int | None = None, *, merge: bool = True) -> list[Mapping]:
        """All leaves in a range, neighbours joined unless `merge` is False."""
        permissions, controls = self.format.permissions, self.regime.controls
        return [
            Mapping(
                first,
                Hpa(hpa),
                length,
                permissions(attributes & ATTRIBUTES, controls),
                0 if merge else self.format.leaf_size(attributes >> LEVEL_FIELD),
            )
            for first, hpa, length, attributes in self.rows(start, size, merge=merge).tolist()
        ]

    def statistics(self) -> Statistics:
        """Leaves by size and tables, counted on the table itself."""
        totals = self.editor.totals()
        levels = self.format.levels
        leaves = {self.format.leaf_size(level): int(totals[level]) for level in range(levels) if totals[level]}
        tables = totals[levels:]
        table_bytes = self.format.root_size + int(tables[: levels - 1].sum()) * self.format.table_size
        return Statistics(leaves, int(tables.sum()), table_bytes)

    def outward(self, address: int) -> int:
        """An address as the format's input has it, from one without sign extension."""
        return outward(self.format, address)

    @property
    def table_ranges(self) -> list[Range]:
        """The HPA ranges that hold the tables, in order."""
        return self._store.ranges

    def destroy(self) -> None:
        """Give all tables back, after the TLBs have forgotten them. What the leaves point to is the caller's.

        Harmless when repeated.
        """
        with self.editor.lock:
            if self.editor.gone:
                return
            if self.flush is not None:
                self.flush(family_of(self.format).retire(self.format, self.regime.context))
            self.editor.gone = True
            self._store.clear()

    # --- inside ------------------------------------------------------------------------------------------

    def _place(self, address: int, hpa: int, flags: MappingFlags) -> Edit | None:
        """Map one page by one store, which is what nearly every fault takes; None where it takes more or is refused."""
        single = self.single
        if single is None or (address | hpa) & (self._page - 1) or not 0 <= address < self.plain_end:
            return None
        if self.editor.watcher is not None or not 0 <= hpa < self._extent.output_end:
            return None
        bits = self.page_bits(flags)
        with self.editor.lock:
            _words = self.editor.require_alive()
            if not single.place(address, hpa, bits):
                return None
            return Edit(changes=(Change(Range(address, address + self._page), ChangeKind.ADDED),))

    def page_bits(self, flags: MappingFlags) -> int:
        """A leaf of the smallest page without its address.

        Raises:
            EncodingError: the format cannot express the flags.
        """
        bits = self._page_bits.get(flags.value)
        if bits is None:
            bits = self._page_bits[flags.value] = int(self._leaves(flags, None).templates[0])
        return bits

    def _warm_up(self) -> Single | None:
        """The compiled translation once it pays: a few lookups are made sooner than it is compiled."""
        self._lookups += 1
        if self._lookups > _FEW and not self.format.is_bare and single(self.format).pays(self._lookups):
            self.single = Single(self._host, self.regime)
        return self.single

    def _leaves(self, flags: MappingFlags, memory_type: MemoryType | None) -> LeafBits:
        key = flags._value_, memory_type
        found = self._leaf_bits.get(key)
        if found is None:
            found = self._leaf_bits[key] = self._make_leaves(flags, memory_type or flags.memory_type)
        return found

    def _make_leaves(self, flags: MappingFlags, memory_type: MemoryType) -> LeafBits:
        fmt, controls = self.format, self.regime.controls
        templates = np.zeros_like(self._no_templates)
        for level in range(len(self.leaf_sizes)):
            templates[level] = fmt.encode_leaf(level, flags, memory_type, controls)
        attributes = fmt.decode(int(templates[0]), 0, controls)[2]
        templates[-1] = fmt.permissions(attributes, controls)
        return LeafBits(templates, attributes)

    def _map(
        self,
        extents: Sequence[tuple[int, int, int]],
        flags: MappingFlags,
        memory_type: MemoryType | None,
        top: int,
    ) -> Edit:
        page, output_end = self._page, self._extent.output_end
        columns = np.empty((3, len(extents)), np.uint64)
        previous_end = 0
        for column, (start, hpa, size) in enumerate(extents):
            first, end = self._extent.range(start, size)
            if hpa & (page - 1) or hpa < 0 or hpa + size > output_end:
                require_aligned("HPA", hpa, page)
                raise OutOfRangeError(
                    f"HPA {Range.sized(hpa, size)} reaches beyond {output_end:#x}, where {self.format.name}'s HPAs end"
                )
            if first < previous_end:
                raise OverlapError(f"extents overlap or are out of order at {start:#x}")
            previous_end = end
            columns[0, column], columns[1, column], columns[2, column] = first, hpa, size
        return self.editor.map(extents, columns, self._leaves(flags, memory_type).templates, top)

    def __repr__(self) -> str:
        return f"PageTable({self.format.name}, root {self.root:#x}, {self._store.count} tables)"
