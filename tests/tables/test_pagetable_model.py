"""The page table against a plain model of pages, in every format: random edits, refused ones included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from effort import examples
from format_lists import KINDS
from stage2.address import ADDRESS_LIMIT, SIZE_1G, SIZE_4K, Hpa, Range
from stage2.errors import AddressError, EncodingError, MisalignedError, OutOfMemoryError, OutOfRangeError, OverlapError
from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.formats.record import Format
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.mapping import Edit
from stage2.tables.pagetable import PageTable

# Room for a part of the tables that the window can need, in two pieces, so that some edits find no frame.
HOST = [Range(0x8000_0000, 0x8000_0000 + 0xC_0000), Range(0x9000_0000, 0x9000_0000 + 0x8_0000)]
TABLES = Owner(OwnerKind.TABLES, "model")
MARGIN = 2
"""Blocks of the window below and above its inner part."""
R, RW, RX = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE, MappingFlags.READ | MappingFlags.EXECUTE
FLAGS = st.sampled_from([R, RW, RX, RWX])
Number = tuple[int, int, int]
"""Inner parts, blocks and pages that make up a number of pages, in whatever format."""
SIZES: st.SearchStrategy[Number] = st.one_of(
    st.integers(1, 6).map(lambda pages: (0, 0, pages)),
    st.sampled_from([(0, 0, 64), (0, 1, -1), (0, 1, 0), (0, 1, 1), (0, 2, 0), (0, 2, -1), (0, 3, 0), (1, 0, 0),
                     (1, -1, 0), (1, 4, 0)]),
)  # fmt: skip
PLACES: st.SearchStrategy[Number] = st.one_of(
    st.integers(0, 1 << 18).map(lambda pages: (0, 0, pages)),
    st.sampled_from([(0, 0, 0), (0, 0, 1), (0, 1, -1), (0, 1, 0), (0, 1, 1), (0, 2, -1), (0, 2, 0), (0, 2, 1),
                     (1, 2, -1), (1, 2, 0), (1, 4, -1)]),
)  # fmt: skip
LEVELS = st.sampled_from([0, 1, 2])
UNMAPPED = np.uint64((1 << 64) - 1)


def inner_size(fmt: Format) -> int:
    """Bytes of the window's aligned inner part: a leaf of level 2, or where that is too large, many blocks."""
    return SIZE_1G if fmt.page_size == SIZE_4K else fmt.page_size << 17


def windows(fmt: Format, size: int) -> list[int]:
    """First addresses of windows whose inner part is aligned: where errors would be."""
    block = fmt.leaf_size(1)
    low, width = inner_size(fmt) - MARGIN * block, 1 << fmt.input_bits
    if fmt.sign_extended:
        half = width >> 1
        return [low, half - size, ADDRESS_LIMIT - half, ADDRESS_LIMIT - half + low, ADDRESS_LIMIT - size]
    found = [low, width - size, (width >> 1) - size // 2 & -block]
    return [ADDRESS_LIMIT - width + base for base in found] if fmt.high_half else found


class TableMachine(RuleBasedStateMachine):
    """`hpas` and `flags` say for every page of the window where it leads, or UNMAPPED."""

    name = ""

    @initialize(data=st.data())
    def begin(self, data: Any) -> None:
        self.fmt = by_name(self.name)
        self.page, self.inner = self.fmt.page_size, inner_size(self.fmt)
        self.window = self.inner + 2 * MARGIN * self.fmt.leaf_size(1)
        self.pages = self.window // self.page
        self.base: int = data.draw(st.sampled_from(windows(self.fmt, self.window)))
        self.memory = PhysicalMemory(HOST)
        self.frames = FrameAllocator(self.memory)
        self.flushed: list[Operation] = []
        self.table = PageTable(self.fmt, self.frames, owner=TABLES, flush=self.flushed.extend)
        self.hpas = np.full(self.pages, UNMAPPED, np.uint64)
        self.flags = np.zeros(self.pages, np.uint8)

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.table.destroy()
            self.table.destroy()
            assert self.frames.used_bytes == 0, "tables leaked"
            assert not self.memory.words[: HOST[0].size >> 3].any(), "a table was not zeroed"
            self.memory.close()

    # --- edits, each predicted by the model -------------------------------------------------------------

    def number(self, parts: Number) -> int:
        """How many pages that is."""
        inner, blocks, pages = parts
        return inner * (self.inner // self.page) + (blocks << self.fmt.bits) + pages

    def at(self, place: Number) -> int:
        """The page of the window that is meant."""
        return self.number(place) % self.pages

    def clip(self, where: Number, size: Number) -> tuple[int, int, int, int]:
        place = self.at(where)
        count = min(self.number(size), self.pages - place)
        return place, place + count, self.base + place * self.page, count * self.page

    def image(self) -> tuple[bytes, int, list[Any]]:
        parts = [self.memory.read(Hpa(span.start), span.size) for span in HOST]
        return b"".join(parts), self.frames.free_bytes, list(self.frames.owners)

    def refused(self, error: type[Exception] | tuple[type[Exception], ...], edit: Any) -> None:
        before, flushed = self.image(), len(self.flushed)
        with pytest.raises(error):
            edit()
        assert self.image() == before, "a refused edit changed memory, frames or owners"
        assert len(self.flushed) == flushed

    def attempt(self, edit: Any) -> Edit | None:
        """Do an edit that is right, but for which there may be no frame: then it must have changed nothing."""
        before = self.image()
        try:
            done: Edit = edit()
        except OutOfMemoryError:
            assert self.image() == before, "an edit without frames changed memory, frames or owners"
            return None
        return done

    @rule(place=PLACES, count=SIZES, phase=st.sampled_from([0, 0, 0, 1, 2]), flags=FLAGS,
          largest=st.one_of(st.none(), LEVELS))  # fmt: skip
    def map_range(self, place: Number, count: Number, phase: int, flags: MappingFlags, largest: int | None) -> None:
        first, last, start, size = self.clip(place, count)
        # Congruent to the address modulo the inner part, so that large leaves fit, or off by a page or a block.
        off = (0, self.page, self.fmt.leaf_size(1))[phase]
        hpa = Hpa((start + off & self.inner - 1) + 5 * self.inner)
        top = None if largest is None else self.fmt.leaf_size(min(largest, self.fmt.top_leaf_level))

        def edit() -> Edit:
            return self.table.map_range(start, hpa, size, flags, largest=top)

        if (self.hpas[first:last] != UNMAPPED).any():
            self.refused(OverlapError, edit)
        elif self.attempt(edit) is not None:
            self.hpas[first:last] = hpa + np.arange(last - first, dtype=np.uint64) * np.uint64(self.page)
            self.flags[first:last] = flags

    @rule(place=PLACES, flags=FLAGS, hpa=st.integers(0, (1 << 40) - 1), level=LEVELS)
    def map_page(self, place: Number, flags: MappingFlags, hpa: int, level: int) -> None:
        size = self.fmt.leaf_size(min(level, self.fmt.top_leaf_level))
        start = self.base + self.at(place) * self.page & -size
        first = (start - self.base) // self.page
        last = first + size // self.page
        if first < 0 or last > self.pages:
            return
        hpa = hpa * self.page & -size & (1 << self.fmt.output_bits) - 1

        def edit() -> Edit:
            return self.table.map_page(start, Hpa(hpa), flags, size)

        if (self.hpas[first:last] != UNMAPPED).any():
            self.refused(OverlapError, edit)
        elif self.attempt(edit) is not None:
            self.hpas[first:last] = hpa + np.arange(last - first, dtype=np.uint64) * np.uint64(self.page)
            self.flags[first:last] = flags
            found = self.table.query(start + size - 1)
            assert found is not None
            assert (found.start, found.hpa, found.leaf_size) == (start, hpa, size)

    @rule(place=PLACES, count=SIZES)
    def unmap_range(self, place: Number, count: Number) -> None:
        first, last, start, size = self.clip(place, count)
        done = self.attempt(lambda: self.table.unmap_range(start, size))
        if done is None:
            return
        gone = np.full(self.pages, UNMAPPED, np.uint64)
        for address, hpa, length in done.removed.tolist():
            page = (address - self.base) // self.page
            assert first <= page
            assert page + length // self.page <= last
            gone[page : page + length // self.page] = hpa + np.arange(length // self.page, dtype=np.uint64) * np.uint64(
                self.page
            )
        assert np.array_equal(gone[first:last], self.hpas[first:last]), "the edit lists other pages than it removed"
        if len(done.removed):
            assert done.owed
            assert tuple(self.flushed[-len(done.owed) :]) == done.owed
        self.hpas[first:last] = UNMAPPED

    @rule(where=PLACES)
    def unmap_page(self, where: Number) -> None:
        place = self.at(where)
        address = self.base + place * self.page + 7
        found = self.table.query(address)
        assert (found is None) is bool(self.hpas[place] == UNMAPPED)
        if found is None:
            return
        assert self.table.unmap_page(address) == found
        first = (found.start - self.base) // self.page
        self.hpas[first : first + found.leaf_size // self.page] = UNMAPPED

    @rule(place=PLACES, count=SIZES, flags=FLAGS)
    def protect_range(self, place: Number, count: Number, flags: MappingFlags) -> None:
        first, last, start, size = self.clip(place, count)
        if self.attempt(lambda: self.table.protect_range(start, size, flags)) is not None:
            self.flags[first:last] = flags

    @rule(place=PLACES, count=SIZES)
    def impossible_edits(self, place: Number, count: Number) -> None:
        _, _, start, size = self.clip(place, count)
        hpa = Hpa(start & self.inner - 1)
        table = self.table
        self.refused(AddressError, lambda: table.map_range(start + 1, hpa, size, RW))
        self.refused(MisalignedError, lambda: table.map_range(start, Hpa(hpa + 8), size, RW))
        self.refused(AddressError, lambda: table.unmap_range(start, size + 1))
        if self.fmt.family != "arm":
            self.refused(EncodingError, lambda: table.map_range(start, hpa, size, MappingFlags.WRITE))
        self.refused(EncodingError, lambda: table.protect_range(start, size, MappingFlags(0)))
        self.refused(OutOfRangeError, lambda: table.map_range(start, Hpa(1 << self.fmt.output_bits), size, RW))
        self.refused(OutOfRangeError, lambda: table.map_range(start, Hpa(-self.page), self.page, RW))
        self.refused(OutOfRangeError, lambda: table.map_page(start, hpa, RW, 3 * self.page))

    # --- what must hold after every edit ------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def the_table_is_the_model(self) -> None:
        rows = self.table.rows(merge=False)
        counts = (rows[:, 2] >> np.uint64(self.fmt.page_shift)).astype(np.int64)
        # Number of each page within its leaf.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pages = (
            np.repeat((rows[:, 0] - np.uint64(self.base)) >> np.uint64(self.fmt.page_shift), counts).astype(np.int64)
            + within
        )
        assert len(np.unique(pages)) == len(pages)
        assert ((pages >= 0) & (pages < self.pages)).all()
        hpas = np.full(self.pages, UNMAPPED, np.uint64)
        flags = np.zeros(self.pages, np.uint8)
        hpas[pages] = np.repeat(rows[:, 1], counts) + within.astype(np.uint64) * np.uint64(self.page)
        flags[pages] = np.repeat(rows[:, 3] & np.uint64(7), counts)
        assert np.array_equal(hpas, self.hpas)
        assert np.array_equal(flags[hpas != UNMAPPED], self.flags[hpas != UNMAPPED])
        merged = self.table.rows()
        assert int(merged[:, 2].sum()) == int(rows[:, 2].sum())
        for before, after in zip(merged.tolist(), merged.tolist()[1:], strict=False):
            assert before[0] + before[2] <= after[0]
            continues = before[0] + before[2] == after[0] and before[1] + before[2] == after[1]
            assert not continues or before[3] & 0xFF_FFFF != after[3] & 0xFF_FFFF, "neighbours were not joined"
        self.statistics_agree(rows)

    def statistics_agree(self, rows: Any) -> None:
        statistics = self.table.statistics()
        sizes, counts = np.unique(rows[:, 2], return_counts=True)
        assert statistics.leaves == dict(zip(sizes.tolist(), counts.tolist(), strict=True))
        # Exactly the tables that some leaf needs, and the root: none is empty, none is lost.
        needed = {(self.fmt.levels - 1, 0)}
        levels = rows[:, 3] >> np.uint64(24)
        for level in range(self.fmt.levels - 1):
            prefixes = rows[levels <= level, 0] >> np.uint64(self.fmt.level_shift(level + 1))
            needed |= {(level, prefix) for prefix in np.unique(prefixes).tolist()}
        assert statistics.tables == len(needed)
        assert statistics.table_bytes == self.frames.used_by(TABLES) == self.frames.used_bytes
        assert statistics.table_bytes == self.fmt.root_size + (len(needed) - 1) * self.fmt.table_size

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def translations_agree(self) -> None:
        pages = np.concatenate([np.arange(0, self.pages, 4097), np.array([0, 511, 512, 1023, 1024, self.pages - 1])])
        addresses = np.uint64(self.base) + pages.astype(np.uint64) * np.uint64(self.page) + np.uint64(0x123)
        batch = self.table.translate_many(addresses)
        expected = self.hpas[pages]
        mapped = expected != UNMAPPED
        assert np.array_equal(batch.status == 0, mapped)
        assert np.array_equal(batch.hpa[mapped], expected[mapped] + np.uint64(0x123))


@pytest.mark.parametrize("name", KINDS)
def test_random_edits_agree_with_a_model_of_pages(name: str) -> None:
    machine = type("Machine", (TableMachine,), {"name": name})
    # Stage 2 is what this package is for; the formats of stage 1 go through the same kernels.
    count = examples(10 if by_name(name).stage == 2 else 5)
    run_state_machine_as_test(machine, settings=settings(max_examples=count, stateful_step_count=25))
