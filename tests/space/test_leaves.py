"""Leaves of memory listed as arrays, and a space made to have other ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import MIB, Gpa, Range
from stage2.errors import MappingError, OutOfMemoryError
from stage2.flags import RWX, MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.tables.mapping import U64Array

RAM, SAME, ROM = 0, 0x8000_0000, 0x1000_0000
BLOCKS = 3
PAGE, BLOCK = 4096, 2 * MIB


class Bench:
    """A space with RAM of some blocks, a ROM, and memory at its own HPA."""

    def __init__(self, limit: int | None = None, size: int = 64 * MIB) -> None:
        self.memory = PhysicalMemory([Range.sized(SAME, size)])
        self.frames = FrameAllocator(self.memory)
        self.space = AddressSpace.create("sv39x4", self.frames, limit=limit, largest=PAGE)
        self.space.map(MemoryRegion(Gpa(SAME), BLOCK, RWX, MapType.MAP_IDENTICAL))
        self.space.map(MemoryRegion(Gpa(RAM), BLOCKS * BLOCK, RWX, MapType.MAP_ALLOC))
        self.space.map(MemoryRegion(Gpa(ROM), 2 * PAGE, MappingFlags.READ, MapType.ROM))

    def fixed(self) -> list[tuple[int, int]]:
        """The leaves outside RAM."""
        return [(start, size) for start, size in self.leaves() if start >= ROM]

    def leaves(self) -> list[tuple[int, int]]:
        return [(start, size) for start, _, size in self.space.leaves_of_memory().tolist()]

    def close(self) -> None:
        self.space.destroy()
        assert self.frames.used_bytes == 0
        self.memory.close()


def array(leaves: list[tuple[int, int]]) -> U64Array:
    return np.array(sorted(leaves), np.uint64).reshape(-1, 2)


def ram_leaves(blocks: list[set[int] | None]) -> list[tuple[int, int]]:
    """The leaves of RAM, of whose blocks each is one leaf (None) or has some pages."""
    found: list[tuple[int, int]] = []
    for number, pages in enumerate(blocks):
        start = RAM + number * BLOCK
        found += [(start, BLOCK)] if pages is None else [(start + page * PAGE, PAGE) for page in sorted(pages)]
    return found


PAGES_OF_BLOCK = BLOCK // PAGE
block_leaves = st.one_of(
    st.none(), st.sets(st.integers(0, PAGES_OF_BLOCK - 1), max_size=6), st.just(set(range(PAGES_OF_BLOCK)))
)
some_leaves = st.lists(block_leaves, min_size=BLOCKS, max_size=BLOCKS).map(ram_leaves)


@given(steps=st.lists(some_leaves, min_size=2, max_size=4), tracked=st.booleans())
def test_a_space_gets_the_leaves_that_are_wanted_and_keeps_the_bytes_that_stay(
    steps: list[list[tuple[int, int]]], tracked: bool
) -> None:
    bench = Bench()
    space = bench.space
    if tracked:
        space.track_writes(RAM, BLOCKS * BLOCK)
    bytes_of: dict[int, int] = {}
    for wanted in steps:
        leaves = array([*wanted, *bench.fixed()])
        new = space.set_leaves_of_memory(leaves)
        assert bench.leaves() == [tuple(leaf) for leaf in leaves.tolist()]
        assert space._backing.held == sum(size for _, size in wanted) + 2 * PAGE
        fresh = {page for start, size in new.tolist() for page in range(start, start + size, PAGE)}
        pages = [page for start, size in wanted for page in range(start, start + size, PAGE)]
        for page in pages[:: max(len(pages) // 50, 1)]:
            mapped = space.page_table.translate(page)
            found = int.from_bytes(space.frames.memory.read(mapped.hpa, 8), "little")  # type: ignore[union-attr]
            assert found == (0 if page in fresh else bytes_of.get(page, 0))
            assert bool(mapped.permissions & 2) is not tracked  # type: ignore[union-attr]
        bytes_of = {page: page + 1 for page in pages[:: max(len(pages) // 20, 1)]}
        for page in pages:
            value = bytes_of.get(page, 0)
            hpa = space.hpa_of(page)
            assert hpa is not None
            space.frames.memory.write(hpa, value.to_bytes(8, "little"))
    bench.close()


def test_memory_at_a_fixed_address_is_cut_and_joined_where_it_is() -> None:
    bench = Bench()
    space = bench.space
    rest = [leaf for leaf in bench.leaves() if leaf[0] < SAME]
    assert not len(space.set_leaves_of_memory(array([*rest, (SAME, BLOCK)])))
    assert space.page_table.statistics().leaves == {BLOCK: 1, PAGE: 2}
    assert not len(space.set_leaves_of_memory(array([*rest, *((SAME + at, PAGE) for at in range(0, BLOCK, PAGE))])))
    assert space.page_table.statistics().leaves == {PAGE: 514}
    assert space.hpa_of(SAME + 5 * PAGE) == SAME + 5 * PAGE
    bench.close()


@pytest.mark.parametrize(
    ("leaves", "problem"),
    [
        ([(RAM + PAGE, BLOCK)], "a leaf of 0x200000 bytes at 0x1000 is none of sv39x4"),
        ([(RAM, 3 * PAGE)], "a leaf of 0x3000 bytes at 0x0 is none of sv39x4"),
        ([(RAM, BLOCK), (RAM + PAGE, PAGE)], "the leaves overlap, or are out of order"),
        ([(BLOCKS * BLOCK, PAGE)], r"no memory is declared in \[0x600000, 0x601000\)"),
    ],
)
def test_leaves_that_cannot_be_are_refused_and_nothing_changes(leaves: list[tuple[int, int]], problem: str) -> None:
    bench = Bench()
    bench.space.populate_range(Range.sized(RAM, 3 * PAGE))
    before = bench.space.leaves_of_memory()
    with pytest.raises(MappingError, match=problem):
        bench.space.set_leaves_of_memory(np.array(leaves, np.uint64))
    assert np.array_equal(bench.space.leaves_of_memory(), before)
    bench.close()


def test_without_memory_nothing_changes() -> None:
    for bench in (Bench(limit=BLOCK), Bench(size=4 * MIB)):
        bench.space.populate_range(Range.sized(RAM, 3 * PAGE))
        before, used = bench.space.leaves_of_memory(), bench.frames.used_bytes
        with pytest.raises(OutOfMemoryError):
            bench.space.set_leaves_of_memory(array([(RAM, BLOCK), (RAM + BLOCK, BLOCK), *bench.fixed()]))
        assert np.array_equal(bench.space.leaves_of_memory(), before)
        assert bench.frames.used_bytes == used
        bench.close()


def test_what_fits_the_limit_in_the_end_is_possible_even_if_it_did_not_on_the_way() -> None:
    bench = Bench(limit=BLOCK + 2 * PAGE)
    bench.space.populate_range(Range.sized(RAM + BLOCK, BLOCK))
    bench.space.set_leaves_of_memory(array([(RAM, BLOCK), *bench.fixed()]))
    assert bench.leaves()[0] == (RAM, BLOCK)
    bench.close()
