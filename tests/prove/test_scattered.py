"""Leaves told by kind are the leaves that rows tell one by one, and refute the same."""

from __future__ import annotations

import numpy as np
import pytest
from by_kind import all_by_kind
from hypothesis import given, settings
from hypothesis import strategies as st
from test_seeded_faults import PAIR_FAULTS, RAM, RW, TABLE_FAULTS, Bench, Edit, confirmed, few, host_of, hosts

from stage2 import AddressSpace, FrameAllocator, MappingFlags, MapType, MemoryRegion, PhysicalMemory, Populate
from stage2.address import Gpa, Hpa, Range
from stage2.prove.packing import packing_of
from stage2.prove.prover import prove_world
from stage2.prove.scan import Scan, scan
from stage2.prove.scattered import joined_spans
from stage2.prove.source import HostTables
from stage2.prove.subject import Space, Subject
from stage2.prove.theorem import Theorem
from stage2.prove.world import World
from stage2.vm.isolation import subject_of

FORMATS = ("sv39x4", "ept4", "npt4", "arm-s2-4k-40", "arm-s2-16k-40")
FLAGS = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.USER


def every_leaf(space: AddressSpace, found: Scan) -> np.ndarray:
    """Rows and kinds as one row for each leaf, in order."""
    regime, source = space.regime, HostTables(space.frames.memory)
    pieces = [found.rows]
    for kind in found.scattered:
        pieces += kind.rows(regime, source, packing_of(regime.format))
    rows = np.concatenate(pieces)
    return rows[np.argsort(rows[:, 0], kind="stable")]


def shuffle(space: AddressSpace, gpas: range, data: st.DataObject) -> bool:
    """Let leaves lead where others did; some become empty, and one may lead where another does: the answer."""
    memory = space.frames.memory
    slots = [space.page_table.explain(gpa).steps[-1].slot for gpa in gpas]
    words = [memory.load_u64(Hpa(slot)) for slot in slots]
    mixed = data.draw(st.permutations(words))
    empty = data.draw(st.sets(st.integers(0, len(words) - 1), max_size=3))
    twice = data.draw(st.booleans())
    left = [number for number in range(len(words)) if number not in empty]
    for number, (slot, word) in enumerate(zip(slots, mixed, strict=True)):
        memory.store_u64(Hpa(slot), 0 if number in empty else word)
    if twice:
        memory.store_u64(Hpa(slots[left[0]]), mixed[left[-1]])
    return twice


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("window", [1 << 28, 8], ids=["marked", "sorted"])
@settings(deadline=None, max_examples=few(13))
@given(data=st.data())
def test_leaves_by_kind_are_those_by_row(name: str, window: int, data: st.DataObject) -> None:
    with PhysicalMemory([Range(0x8000_0000, 0x9000_0000)]) as memory:
        space = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER, largest=4096)
        page = space.format.page_size
        counts = data.draw(st.lists(st.integers(6, 40), min_size=1, max_size=3))
        start, edges, twice = 0x4000_0000, set(), False
        for number, count in enumerate(counts):
            flags = data.draw(st.sampled_from([FLAGS, FLAGS | MappingFlags.EXECUTE, FLAGS ^ MappingFlags.WRITE]))
            space.map(MemoryRegion(Gpa(start), count * page, flags, MapType.MAP_ALLOC, name=f"ram{number}"))
            twice |= shuffle(space, range(start, start + count * page, page), data)
            edges |= {start, start + count * page}
            # In a table of its own: one that lies in two regions is told by row.
            start += space.format.leaf_size(1) if data.draw(st.booleans()) else count * page
        cuts = [0x4000_0000, *(edge for edge in sorted(edges) if edge % space.format.leaf_size(1) == 0)]
        with all_by_kind(window):
            found = scan(space.regime, HostTables(memory), cuts)
        plain = scan(space.regime, HostTables(memory))
        assert found.scattered
        assert (found.leaves, found.size, found.wrong) == (plain.leaves, plain.size, [])
        rows = every_leaf(space, plain)
        leaf = [
            (gpa + at, hpa + at, page, attributes)
            for gpa, hpa, size, attributes in rows.tolist()
            for at in range(0, size, page)
        ]
        assert every_leaf(space, found).tolist() == [list(one) for one in leaf]
        reach = np.concatenate([found.rows[:, 1:3], *(kind.reach for kind in found.scattered)])
        spans = [np.stack([one[:, 0], one[:, 0] + one[:, 1]], axis=1) for one in (reach, plain.rows[:, 1:3])]
        np.testing.assert_array_equal(joined_spans(spans[0]), joined_spans(spans[1]))
        if len(found.scattered) == 1 and not len(found.rows):
            assert found.scattered[0].repeats == twice


@pytest.mark.parametrize("name", FORMATS)
def test_blocks_by_kind_are_those_by_row(name: str) -> None:
    with PhysicalMemory([Range(0x8000_0000, 0xC000_0000)]) as memory:
        space = AddressSpace(name, FrameAllocator(memory), populate=Populate.EAGER)
        block = space.format.leaf_size(1)
        space.map(MemoryRegion(Gpa(8 * block), 8 * block, FLAGS, MapType.MAP_ALLOC, name="ram"))
        slots = [Hpa(space.page_table.explain(at * block).steps[-1].slot) for at in range(8, 16)]
        words = [memory.load_u64(slot) for slot in slots]
        for slot, number in zip(slots, (3, 1, 7, 5, 0, 2, 6, 4), strict=True):
            memory.store_u64(slot, words[number])
        with all_by_kind():
            found = scan(space.regime, HostTables(memory), [])
        (kind,) = found.scattered
        assert (kind.level, kind.leaf_size, kind.leaves, kind.repeats) == (1, block, 8, False)
        assert every_leaf(space, found).tolist() == scan(space.regime, HostTables(memory)).rows.tolist()


@pytest.mark.parametrize("name", ["sv39x4", "ept4", "npt4", "arm-s2-4k-40"])
@pytest.mark.parametrize("beyond", [0, 1 << 30], ids=["one to one", "elsewhere"])
def test_every_leaf_of_a_region_that_says_where_it_leads_is_held_against_that(name: str, beyond: int) -> None:
    """A whole table of a device's pages, two of which change places: nothing else is wrong with them."""
    with PhysicalMemory([Range(0x8000_0000, 0x9000_0000)]) as memory:
        frames = FrameAllocator(memory)
        space = AddressSpace(name, frames, name="vm", populate=Populate.EAGER, largest=1)
        page, block = space.format.page_size, space.format.leaf_size(1)
        device = MemoryRegion(
            Gpa(16 * block), block, FLAGS | MappingFlags.DEVICE, MapType.MMIO, Hpa(16 * block + beyond), name="disk"
        )
        space.map(device)

        def theorem() -> Theorem:
            mine = Space("vm", space.regime, space.memory_regions, tuple(space.page_table.table_ranges))
            with all_by_kind():
                world = World.of(Subject(HostTables(memory), (mine,), owners=tuple(frames.owners)))
            assert len(world.vms[0].scan.scattered) == 1
            return prove_world(world)["declared"]

        assert theorem().holds
        gpas = [device.start + number * page for number in (5, 9)]
        slots = [Hpa(space.page_table.explain(gpa).steps[-1].slot) for gpa in gpas]
        words = [memory.load_u64(slot) for slot in slots]
        for slot, word in zip(slots, reversed(words), strict=True):
            memory.store_u64(slot, word)
        witness = theorem().witness
        assert witness is not None
        assert witness.problem == (
            f"VM vm: GPA {gpas[0]:#x} of passed-through device disk leads to HPA {gpas[1] + beyond:#x}, and the region "
            f"says {gpas[0] + beyond:#x}"
        )


def own_page_twice(bench: Bench) -> None:
    bench.point(RAM + 0x1_0000, bench.at(RAM + 0x10_0000), RW | MappingFlags.EXECUTE)


FAULTS: dict[str, Edit] = TABLE_FAULTS | PAIR_FAULTS | {"two pages of RAM lead to one frame": own_page_twice}


@pytest.mark.parametrize("fault", FAULTS)
@settings(deadline=None, max_examples=few(13))
@given(drawn=hosts)
def test_faults_are_refuted_alike_by_kind_and_by_row(fault: str, drawn: tuple[str, int, int]) -> None:
    name, count, which = drawn
    count = max(count, 2) if fault in PAIR_FAULTS else count
    with host_of(name, count, page_size=4096) as host:
        bench = Bench(host, which % count)
        frames = {span.start: host.memory.read(Hpa(span.start), span.size) for vm in host.vms
                  for span in vm.space.page_table.table_ranges}  # fmt: skip
        with all_by_kind():
            assert prove_world(World.of(subject_of(host))).proved
        FAULTS[fault](bench)
        subject = subject_of(host)
        by_row = prove_world(World.of(subject, by_row=True))
        with all_by_kind():
            world = World.of(subject)
            by_kind = prove_world(world)
            confirmed(subject, world)
        for start, data in frames.items():  # a host with damaged tables cannot be taken apart
            host.memory.write(Hpa(start), data)
        assert not by_row.proved
        assert [one.holds for one in by_kind.theorems] == [one.holds for one in by_row.theorems]
