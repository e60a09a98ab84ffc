"""One fault at a time by one compiled call, arrays of faults, and the plan of old: three ways to one end."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import format_lists
from effort import examples
from stage2.address import MIB, SIZE_2M, Gpa, Range, align_up
from stage2.errors import OutOfRangeError, Stage2Error
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.faults import RESOLUTIONS, FaultResult, Resolution
from stage2.space.region import MemoryRegion, Populate, ViolationPolicy
from stage2.tables.mapping import U64Array

BASE = 0x8000_0000
R, W, X = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE
STAGE_2 = format_lists.COMPILED_SECOND_STAGES
PAGES = 1100
"""Pages that the random worlds are about: three tables of them in formats with 4 KiB pages."""


@dataclass
class World:
    """A space made at random, by a seed; the same seed makes the same one."""

    memory: PhysicalMemory
    space: AddressSpace
    tracked: list[Range]
    flushed: list[Operation]

    @property
    def page(self) -> int:
        return self.space.format.page_size

    def shape(self) -> tuple[object, ...]:
        """All there is to see, but which frame a page got."""
        space = self.space
        rows = space.page_table.rows(merge=False)
        frames = Counter(hpa + at for _, hpa, size, _ in rows.tolist() for at in range(0, size, self.page))
        assert max(frames.values(), default=1) == 1, "no frame behind two pages"
        for hpa in frames:
            assert space.frames.owners.at(hpa) == space.owner
        owners = (space.owner, Owner(OwnerKind.TABLES, space.name))
        held = (space._backing.held, *[space.frames.used_by(owner) for owner in owners])
        fixed = [row[1] for row in rows.tolist() if row[0] == row[1]]
        written = [space.harvest_writes(span.start, span.size).tolist() for span in self.tracked]
        table = space.page_table.statistics()
        return rows[:, [0, 2, 3]].tolist(), held, fixed, written, table, space.counters.faults, space.frames.free_bytes


def world(fmt: str, seed: int) -> World:
    """Regions of all kinds, some of their pages populated, old permissions, cleared accessed bits, tracked writes."""
    chance = random.Random(seed)
    page = by_name(fmt).page_size
    identical = Range.sized(align_up(BASE + PAGES * page, SIZE_2M), 16 * page)
    high = Range.sized(0x1_0000_0000, (PAGES * page // SIZE_2M + 4) * SIZE_2M)
    memory = PhysicalMemory([Range.sized(identical.start, 2 * SIZE_2M), high])
    frames = FrameAllocator(memory)
    flushed: list[Operation] = []
    space = AddressSpace.create(
        fmt,
        frames,
        name="linux",
        violation=chance.choice([None, ViolationPolicy.INJECT]),
        largest=chance.choice([None, None, None, page, space_block(fmt)]),
        limit=chance.choice([None, None, chance.randrange(5, 150) * page]),
        fault_around=chance.choice([None, None, None, 4 * page]),
        flush=flushed.extend if chance.random() < 0.5 else None,
    )
    space.map(MemoryRegion(Gpa(identical.start), identical.size, RWX, MapType.MAP_IDENTICAL))
    if chance.random() < 0.3:
        left = chance.randrange(30, 300) * page
        frames.allocate_extents(frames.free_bytes - left, owner=Owner(OwnerKind.RESERVED))
    at = chance.randrange(20)
    while at < PAGES - 40:
        size = min(chance.choice([1, 3, 30, 200, 600]), PAGES - at)
        kind = chance.choice([MapType.MAP_ALLOC] * 6 + [MapType.EMULATED, MapType.ROM])
        flags = R | X if kind is MapType.ROM else chance.choice([R | W, RWX, RWX, R])
        flags = R if kind is MapType.EMULATED else flags
        populate = chance.choice([Populate.LAZY] * 5 + [Populate.EAGER])
        with suppress(Stage2Error):
            space.map(MemoryRegion(Gpa(BASE + at * page), size * page, flags, kind, populate=populate))
        at += size + chance.choice([0, 0, 5])
    for _ in range(chance.randrange(60)):
        space.handle_page_fault(BASE + chance.randrange(PAGES) * page, chance.choice(list(Access)))
    if chance.random() < 0.5:
        space.harvest_accessed(BASE, PAGES * page)
    if chance.random() < 0.5:
        start = chance.randrange(PAGES)
        space.page_table.protect_range(BASE + start * page, chance.randrange(1, PAGES - start + 1) * page, R)
    tracked = []
    for region in space.memory_regions:
        if region.flags & W and chance.random() < 0.2:
            space.track_writes(region.start, region.size)
            tracked.append(region.range)
    space.counters.__init__()  # type: ignore[misc]  # counted from here on
    return World(memory, space, tracked, flushed)


def space_block(fmt: str) -> int:
    return by_name(fmt).leaf_size(1)


def faults(page: int, seed: int) -> tuple[list[int], list[Access]]:
    """Rows of pages, single ones, repetitions and what is nowhere declared."""
    chance = random.Random(seed ^ 0x5A5A)
    gpas: list[int] = []
    accesses: list[Access] = []
    while len(gpas) < 150:
        start, count = chance.randrange(PAGES + 30), chance.choice([1, 1, 2, 40])
        access = chance.choice(list(Access))
        for at in range(count):
            gpas += [BASE + (start + at) * page + chance.randrange(page)] * chance.choice([1, 1, 1, 2])
        if chance.random() < 0.2:
            identical = align_up(BASE + PAGES * page, SIZE_2M) + 5
            gpas.append(chance.choice([0, BASE - 1, identical, 1 << 45, (1 << 64) - 1, chance.choice(gpas)]))
        accesses += [access] * (len(gpas) - len(accesses))
    return gpas, accesses


@pytest.mark.parametrize("fmt", STAGE_2)
@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=examples(20))
def test_an_array_of_faults_and_single_ones_end_as_planned_ones_do(fmt: str, seed: int) -> None:
    one, many, planned = world(fmt, seed), world(fmt, seed), world(fmt, seed)
    gpas, accesses = faults(one.page, seed)
    for _ in range(100):
        one.space.page_table.hpa_of(0)
        many.space.page_table.hpa_of(0)
    planned.space.page_table.single = None
    planned.space.page_table._lookups = -(1 << 40)
    wanted = [planned.space.handle_page_fault(gpa, access) for gpa, access in zip(gpas, accesses, strict=True)]
    single = [one.space.handle_page_fault(gpa, access) for gpa, access in zip(gpas, accesses, strict=True)]
    batch = many.space.handle_page_faults(np.array(gpas, np.uint64), accesses)
    assert planned.space.page_table.single is None, "the reference is the plan"
    assert one.space.page_table.single is not None
    assert [told(result) for result in single] == [told(result) for result in wanted]
    assert [told(batch.result(at)) for at in range(len(gpas))] == [told(result) for result in wanted]
    assert batch.retry.tolist() == [result.retry for result in wanted]
    counted = Counter(result.resolution for result in wanted)
    assert [batch.count(resolution) for resolution in RESOLUTIONS] == [counted[kind] for kind in RESOLUTIONS]
    assert bool(one.flushed) == bool(planned.flushed) == bool(many.flushed)
    shape = planned.shape()
    assert one.shape() == shape
    assert many.shape() == shape
    for made in (one, many, planned):
        made.space.destroy()
        assert made.space.frames.used_by(made.space.owner) == 0
        made.memory.close()


def told(result: FaultResult) -> tuple[object, ...]:
    return result.resolution, result.region, result.policy, result.reason


def test_the_random_worlds_meet_every_way_a_fault_can_end() -> None:
    """The property above is only worth something if its faults end in every way."""
    met: Counter[Resolution] = Counter()
    for seed in range(60):
        made = world("arm-s2-4k-40", seed)
        gpas, accesses = faults(made.page, seed)
        batch = made.space.handle_page_faults(np.array(gpas, np.uint64), accesses)
        met.update({kind: batch.count(kind) for kind in RESOLUTIONS})
    assert min(met[kind] for kind in RESOLUTIONS) > 20, met


@dataclass
class Plain:
    space: AddressSpace
    flushed: list[Operation]


@pytest.fixture
def plain() -> Iterator[Plain]:
    """64 MiB of lazy RAM."""
    flushed: list[Operation] = []
    with PhysicalMemory([Range.sized(0x1_0000_0000, 128 * MIB)]) as memory:
        space = AddressSpace.create("sv39x4", FrameAllocator(memory), name="linux", flush=flushed.extend)
        space.map(MemoryRegion(Gpa(BASE), 64 * MIB, RWX, MapType.MAP_ALLOC, populate=Populate.LAZY))
        yield Plain(space, flushed)
        space.destroy()


def pages(count: int, first: int = 0) -> U64Array:
    return np.uint64(BASE) + np.arange(first, first + count, dtype=np.uint64) * np.uint64(4096)


def test_a_page_that_comes_twice_is_populated_and_then_present(plain: Plain) -> None:
    gpas = np.concatenate([pages(300), pages(300), np.repeat(pages(30, 400), 3)])
    batch = plain.space.handle_page_faults(gpas, Access.WRITE)
    assert batch.count(Resolution.POPULATED) == 330
    assert batch.count(Resolution.PRESENT) == 360
    assert batch.result(0).resolution is Resolution.POPULATED
    assert batch.result(-1).resolution is Resolution.PRESENT
    assert plain.space.frames.used_by(plain.space.owner) == 330 * 4096
    assert plain.space.counters.total == len(gpas)
    assert sum(plain.space.counters.histogram().values()) == len(gpas)


def test_an_array_keeps_its_shape_and_names_regions(plain: Plain) -> None:
    plain.space.map(MemoryRegion(Gpa(0x1000), 0x1000, R | W, MapType.EMULATED, name="uart"))
    gpas = np.array([[BASE, 0x1000], [0x5000, BASE + 7]] * 10, np.uint64)
    batch = plain.space.handle_page_faults(gpas, Access.READ)
    assert batch.resolutions.shape == batch.retry.shape == gpas.shape
    assert [batch.result(at) for at in range(4)] == [
        FaultResult(Resolution.POPULATED, plain.space.region_at(BASE)),
        FaultResult(Resolution.DEVICE, plain.space.region_at(0x1000)),
        FaultResult(Resolution.HOLE, None, ViolationPolicy.STOP),
        FaultResult(Resolution.PRESENT, plain.space.region_at(BASE)),
    ]
    with pytest.raises(IndexError):
        batch.result(40)


def test_no_faults_are_no_trouble(plain: Plain) -> None:
    batch = plain.space.handle_page_faults([], Access.READ)
    assert batch.resolutions.shape == (0,)
    assert plain.space.counters.total == 0


def test_accesses_that_are_none_or_too_few_are_refused(plain: Plain) -> None:
    with pytest.raises(OutOfRangeError, match="from 0 to 2"):
        plain.space.handle_page_faults(pages(3), [0, 1, 3])
    with pytest.raises(OutOfRangeError, match="3 accesses"):
        plain.space.handle_page_faults(pages(4), [Access.READ] * 3)
    assert plain.space.counters.total == 0


def test_pages_that_are_there_are_flushed_together(plain: Plain) -> None:
    plain.space.handle_page_faults(pages(100), Access.WRITE)
    assert plain.flushed == []
    plain.space.handle_page_faults(pages(20, 10), Access.WRITE)
    named = [operation.gpa for operation in plain.flushed if operation.gpa is not None]
    assert all(any(span.contains(gpa) for span in named) for gpa in pages(20, 10).tolist())
    plain.flushed.clear()
    plain.space.handle_page_faults(pages(100)[::2], Access.WRITE)
    assert [operation.gpa for operation in plain.flushed] == [None], "beyond a few, all of the VMID at once"


def test_arrays_continue_where_single_faults_got_their_frames(plain: Plain) -> None:
    for gpa in pages(10).tolist():
        plain.space.handle_page_fault(gpa, Access.WRITE)
    plain.space.handle_page_faults(pages(200, 10), Access.WRITE)
    assert plain.space.handle_page_fault(BASE + 210 * 4096, Access.WRITE).retry
    run = plain.space.page_table.rows(BASE + 9 * 4096, 202 * 4096)
    assert len(run) == 1, "one run of frames, from the last single fault before to the first behind"


def test_threads_with_arrays_and_single_faults_get_each_page_once(plain: Plain) -> None:
    barrier = threading.Barrier(4)

    def vcpu(number: int) -> None:
        barrier.wait()
        for at in range(20):
            if number % 2:
                plain.space.handle_page_faults(pages(64, 32 * at), Access.WRITE)
            else:
                for gpa in pages(64, 32 * at).tolist():
                    plain.space.handle_page_fault(gpa, Access.READ)

    threads = [threading.Thread(target=vcpu, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    populated = 32 * 19 + 64
    assert plain.space.counters.faults[Resolution.POPULATED] == populated
    assert plain.space.counters.faults[Resolution.PRESENT] == 4 * 20 * 64 - populated
    assert plain.space.frames.used_by(plain.space.owner) == populated * 4096


def test_a_fault_with_a_frame_set_aside_keeps_to_the_limit() -> None:
    with PhysicalMemory([Range.sized(0x1_0000_0000, 16 * MIB)]) as memory:
        space = AddressSpace.create("ept4", FrameAllocator(memory), name="linux", limit=150 * 4096)
        space.map(MemoryRegion(Gpa(BASE), 4 * MIB, RWX, MapType.MAP_ALLOC))
        for gpa in pages(100).tolist():
            assert space.handle_page_fault(gpa, Access.WRITE).resolution is Resolution.POPULATED
        batch = space.handle_page_faults(pages(60, 100), Access.WRITE)
        assert batch.count(Resolution.POPULATED) == 50
        assert [batch.result(at).resolution for at in range(50, 60)] == [Resolution.OUT_OF_MEMORY] * 10
        assert "may hold" in batch.result(55).reason
        assert space.handle_page_fault(BASE + 200 * 4096, Access.WRITE).resolution is Resolution.OUT_OF_MEMORY
        assert space.handle_page_fault(BASE + 100 * 4096, Access.WRITE).resolution is Resolution.PRESENT
        space.destroy()
