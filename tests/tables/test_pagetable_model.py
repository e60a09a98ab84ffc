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

import format_lists
from stage2.address import ADDRESS_LIMIT, SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from stage2.errors import AddressError, EncodingError, MisalignedError, OutOfMemoryError, OutOfRangeError, OverlapError
from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.mapping import Edit
from stage2.tables.pagetable import PageTable

# Room for the tables of about 600 MiB in 4 KiB pages, in two pieces, so that some edits find no frame.
HOST = [Range(0x8000_0000, 0x8000_0000 + 0xC_0000), Range(0x9000_0000, 0x9000_0000 + 0x8_0000)]
TABLES = Owner(OwnerKind.TABLES, "model")
WINDOW = SIZE_1G + 4 * SIZE_2M
PAGES = WINDOW // SIZE_4K
R, RW, RX = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE, MappingFlags.READ | MappingFlags.EXECUTE
FLAGS = st.sampled_from([R, RW, RX, RWX])
SIZES = st.one_of(
    st.integers(1, 6),
    st.sampled_from([64, 511, 512, 513, 1024, 1023, 1536, 512 * 512, 512 * 511, PAGES]),
)
PLACES = st.one_of(
    st.integers(0, PAGES - 1),
    st.sampled_from([0, 1, 511, 512, 513, 1023, 1024, 1025, 1024 + 512 * 512 - 1, 1024 + 512 * 512, PAGES - 1]),
)
UNMAPPED = np.uint64((1 << 64) - 1)


def windows(name: str) -> list[int]:
    """First addresses of windows of 1 GiB and a bit, whose inner gigabyte is aligned: where errors would be."""
    fmt = by_name(name)
    low = SIZE_1G - 2 * SIZE_2M
    if not fmt.sign_extended:
        return [low, (1 << fmt.input_bits) - WINDOW, (1 << fmt.input_bits - 1) - WINDOW // 2 & -SIZE_2M]
    half = 1 << fmt.input_bits - 1
    return [low, half - WINDOW, ADDRESS_LIMIT - half, ADDRESS_LIMIT - half + low, ADDRESS_LIMIT - WINDOW]


class TableMachine(RuleBasedStateMachine):
    """`hpas` and `flags` say for every page of the window where it leads, or UNMAPPED."""

    name = ""

    @initialize(data=st.data())
    def begin(self, data: Any) -> None:
        self.fmt = by_name(self.name)
        self.base: int = data.draw(st.sampled_from(windows(self.name)))
        self.memory = PhysicalMemory(HOST)
        self.frames = FrameAllocator(self.memory)
        self.flushed: list[Operation] = []
        self.table = PageTable(self.fmt, self.frames, owner=TABLES, flush=self.flushed.extend)
        self.hpas = np.full(PAGES, UNMAPPED, np.uint64)
        self.flags = np.zeros(PAGES, np.uint8)

    def teardown(self) -> None:
        if hasattr(self, "table"):
            self.table.destroy()
            self.table.destroy()
            assert self.frames.used_bytes == 0, "tables leaked"
            assert not self.memory.words[: HOST[0].size >> 3].any(), "a table was not zeroed"
            self.memory.close()

    # --- edits, each predicted by the model -------------------------------------------------------------

    def clip(self, place: int, count: int) -> tuple[int, int, int, int]:
        count = min(count, PAGES - place)
        return place, place + count, self.base + place * SIZE_4K, count * SIZE_4K

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

    @rule(place=PLACES, count=SIZES, phase=st.sampled_from([0, 0, 0, SIZE_2M, SIZE_4K]), flags=FLAGS,
          largest=st.sampled_from([None, SIZE_4K, SIZE_2M, SIZE_1G]))  # fmt: skip
    def map_range(self, place: int, count: int, phase: int, flags: MappingFlags, largest: int | None) -> None:
        first, last, start, size = self.clip(place, count)
        # Congruent to the address modulo 1 GiB, so that large leaves fit, or off by a block or a page.
        hpa = Hpa((start + phase & SIZE_1G - 1) + 5 * SIZE_1G)

        def edit() -> Edit:
            return self.table.map_range(start, hpa, size, flags, largest=largest)

        if (self.hpas[first:last] != UNMAPPED).any():
            self.refused(OverlapError, edit)
        elif self.attempt(edit) is not None:
            self.hpas[first:last] = hpa + np.arange(last - first, dtype=np.uint64) * np.uint64(SIZE_4K)
            self.flags[first:last] = flags

    @rule(
        place=PLACES, flags=FLAGS, hpa=st.integers(0, (1 << 40) - 1), size=st.sampled_from([SIZE_4K, SIZE_2M, SIZE_1G])
    )
    def map_page(self, place: int, flags: MappingFlags, hpa: int, size: int) -> None:
        start = self.base + place * SIZE_4K & -size
        first = (start - self.base) // SIZE_4K
        last = first + size // SIZE_4K
        if first < 0 or last > PAGES:
            return
        hpa = hpa * SIZE_4K & -size & (1 << self.fmt.output_bits) - 1

        def edit() -> Edit:
            return self.table.map_page(start, Hpa(hpa), flags, size)

        if (self.hpas[first:last] != UNMAPPED).any():
            self.refused(OverlapError, edit)
        elif self.attempt(edit) is not None:
            self.hpas[first:last] = hpa + np.arange(last - first, dtype=np.uint64) * np.uint64(SIZE_4K)
            self.flags[first:last] = flags
            found = self.table.query(start + size - 1)
            assert found is not None
            assert (found.start, found.hpa, found.leaf_size) == (start, hpa, size)

    @rule(place=PLACES, count=SIZES)
    def unmap_range(self, place: int, count: int) -> None:
        first, last, start, size = self.clip(place, count)
        done = self.attempt(lambda: self.table.unmap_range(start, size))
        if done is None:
            return
        gone = np.full(PAGES, UNMAPPED, np.uint64)
        for address, hpa, length in done.removed.tolist():
            page = (address - self.base) // SIZE_4K
            assert first <= page
            assert page + length // SIZE_4K <= last
            gone[page : page + length // SIZE_4K] = hpa + np.arange(length // SIZE_4K, dtype=np.uint64) * np.uint64(
                SIZE_4K
            )
        assert np.array_equal(gone[first:last], self.hpas[first:last]), "the edit lists other pages than it removed"
        if len(done.removed):
            assert done.owed
            assert tuple(self.flushed[-len(done.owed) :]) == done.owed
        self.hpas[first:last] = UNMAPPED

    @rule(place=PLACES)
    def unmap_page(self, place: int) -> None:
        address = self.base + place * SIZE_4K + 7
        found = self.table.query(address)
        assert (found is None) is bool(self.hpas[place] == UNMAPPED)
        if found is None:
            return
        assert self.table.unmap_page(address) == found
        first = (found.start - self.base) // SIZE_4K
        self.hpas[first : first + found.leaf_size // SIZE_4K] = UNMAPPED

    @rule(place=PLACES, count=SIZES, flags=FLAGS)
    def protect_range(self, place: int, count: int, flags: MappingFlags) -> None:
        first, last, start, size = self.clip(place, count)
        if self.attempt(lambda: self.table.protect_range(start, size, flags)) is not None:
            self.flags[first:last] = flags

    @rule(place=PLACES, count=SIZES)
    def impossible_edits(self, place: int, count: int) -> None:
        _, _, start, size = self.clip(place, count)
        hpa = Hpa(start & SIZE_1G - 1)
        table = self.table
        self.refused(AddressError, lambda: table.map_range(start + 1, hpa, size, RW))
        self.refused(MisalignedError, lambda: table.map_range(start, Hpa(hpa + 8), size, RW))
        self.refused(AddressError, lambda: table.unmap_range(start, size + 1))
        if self.fmt.family != "arm":
            self.refused(EncodingError, lambda: table.map_range(start, hpa, size, MappingFlags.WRITE))
        self.refused(EncodingError, lambda: table.protect_range(start, size, MappingFlags(0)))
        self.refused(OutOfRangeError, lambda: table.map_range(start, Hpa(1 << self.fmt.output_bits), size, RW))
        self.refused(OutOfRangeError, lambda: table.map_range(start, Hpa(-SIZE_4K), SIZE_4K, RW))
        self.refused(OutOfRangeError, lambda: table.map_page(start, hpa, RW, 3 * SIZE_4K))

    # --- what must hold after every edit ------------------------------------------------------------------

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def the_table_is_the_model(self) -> None:
        rows = self.table.rows(merge=False)
        counts = (rows[:, 2] >> np.uint64(12)).astype(np.int64)
        # Number of each page within its leaf.
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pages = np.repeat((rows[:, 0] - np.uint64(self.base)) >> np.uint64(12), counts).astype(np.int64) + within
        assert len(np.unique(pages)) == len(pages)
        assert ((pages >= 0) & (pages < PAGES)).all()
        hpas = np.full(PAGES, UNMAPPED, np.uint64)
        flags = np.zeros(PAGES, np.uint8)
        hpas[pages] = np.repeat(rows[:, 1], counts) + within.astype(np.uint64) * np.uint64(SIZE_4K)
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
        assert statistics.table_bytes == self.fmt.root_size + (len(needed) - 1) * SIZE_4K

    @precondition(lambda self: hasattr(self, "table"))
    @invariant()
    def translations_agree(self) -> None:
        pages = np.concatenate([np.arange(0, PAGES, 4097), np.array([0, 511, 512, 1023, 1024, PAGES - 1])])
        addresses = np.uint64(self.base) + pages.astype(np.uint64) * np.uint64(SIZE_4K) + np.uint64(0x123)
        batch = self.table.translate_many(addresses)
        expected = self.hpas[pages]
        mapped = expected != UNMAPPED
        assert np.array_equal(batch.status == 0, mapped)
        assert np.array_equal(batch.hpa[mapped], expected[mapped] + np.uint64(0x123))


@pytest.mark.parametrize("name", format_lists.SMALL_PAGES)
def test_random_edits_agree_with_a_model_of_pages(name: str) -> None:
    machine = type("Machine", (TableMachine,), {"name": name})
    run_state_machine_as_test(machine, settings=settings(max_examples=12, stateful_step_count=25))
