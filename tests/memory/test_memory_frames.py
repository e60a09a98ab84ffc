"""The frame allocator, case by case."""

import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from stage2.address import GIB, MIB, SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from stage2.errors import (
    EmptyRangeError,
    FrameError,
    MisalignedError,
    OutOfMemoryError,
    OutOfRangeError,
    OwnerConflictError,
)
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory

LINUX = Owner(OwnerKind.VM, "linux")
RTOS = Owner(OwnerKind.VM, "rtos")
TABLES = Owner(OwnerKind.TABLES, "linux")


def make(*ranges: Range) -> FrameAllocator:
    return FrameAllocator(PhysicalMemory(ranges))


@pytest.fixture
def small() -> Iterator[FrameAllocator]:
    """8 MiB in four blocks."""
    allocator = make(Range.sized(0x8000_0000, 8 * MIB))
    yield allocator
    allocator.memory.close()


def state(allocator: FrameAllocator) -> tuple[Any, ...]:
    return list(allocator.owners), allocator.free_bytes, allocator.used_bytes


def exhaust(allocator: FrameAllocator, owner: Owner) -> list[Hpa]:
    """Take single frames until there is none."""
    frames: list[Hpa] = []
    for _ in range(allocator.total_bytes // SIZE_4K + 1):
        try:
            frames.append(allocator.allocate(owner=owner))
        except OutOfMemoryError:
            return frames
    raise AssertionError("more frames than there are")


def test_every_frame_is_handed_out_once_and_then_memory_is_out(small: FrameAllocator) -> None:
    frames = exhaust(small, LINUX)
    assert len(frames) == len(set(frames)) == 2048
    assert all(small.memory.contains(frame, SIZE_4K) and frame % SIZE_4K == 0 for frame in frames)
    assert small.free_bytes == 0
    assert small.used_by(LINUX) == small.used_bytes == small.total_bytes == 8 * MIB
    with pytest.raises(OutOfMemoryError, match=r"^no frame of memory left for VM rtos: 0 B of 8 MiB are free$"):
        small.allocate(owner=RTOS)


def test_single_frames_of_each_owner_lie_together_in_rising_order() -> None:
    allocator = make(Range.sized(0, GIB))
    frames: dict[Owner, list[Hpa]] = {LINUX: [], RTOS: [], TABLES: []}
    for _ in range(512):
        for owner, mine in frames.items():
            mine.append(allocator.allocate(owner=owner))
    for mine in frames.values():
        assert mine[0] % SIZE_2M == 0
        assert all(high - low == SIZE_4K for low, high in pairwise(mine))
    assert len(allocator.owners) == 3


@pytest.mark.parametrize(
    "size", [SIZE_4K, 2 * SIZE_4K, 4 * SIZE_4K, 64 * SIZE_4K, MIB, SIZE_2M, 4 * MIB, SIZE_1G, 2 * SIZE_1G]
)
def test_a_power_of_two_is_aligned_to_itself(size: int) -> None:
    allocator = make(Range(GIB - 3 * SIZE_4K, 6 * GIB + 5 * SIZE_4K))
    allocator.allocate(owner=TABLES)
    hpa = allocator.allocate(size, owner=LINUX)
    assert hpa % size == 0
    assert allocator.owners.of(LINUX) == [Range.sized(hpa, size)]
    assert allocator.used_by(LINUX) == size


@pytest.mark.parametrize(
    ("size", "align", "multiple"),
    [
        (3 * SIZE_4K, None, 4 * SIZE_4K),
        (3 * MIB, None, 4 * MIB),
        (SIZE_4K, 16 * SIZE_4K, 16 * SIZE_4K),
        (5 * MIB, SIZE_4K, SIZE_4K),
        (SIZE_4K, SIZE_1G, SIZE_1G),
        (3 * SIZE_1G, SIZE_2M, SIZE_2M),
    ],
)
def test_alignment_follows_the_size_or_the_caller(size: int, align: int | None, multiple: int) -> None:
    allocator = make(Range(SIZE_1G, 5 * SIZE_1G))
    hpa = allocator.allocate(size, align=align, owner=LINUX)
    assert hpa % multiple == 0
    assert allocator.used_by(LINUX) == size


@pytest.mark.parametrize(
    ("size", "align", "error"),
    [
        (0, None, EmptyRangeError),
        (-SIZE_4K, None, EmptyRangeError),
        (1, None, MisalignedError),
        (SIZE_4K + 1, None, MisalignedError),
        (SIZE_4K, 3 * SIZE_4K, MisalignedError),
        (SIZE_4K, 2048, MisalignedError),
        (SIZE_4K, 0, MisalignedError),
        (16 * MIB, None, OutOfMemoryError),
        (1 << 62, None, OutOfMemoryError),
        (SIZE_4K, 1 << 63, OutOfMemoryError),
        (SIZE_4K, 1 << 90, OutOfMemoryError),
    ],
)
def test_an_allocation_that_cannot_be_changes_nothing(
    small: FrameAllocator, size: int, align: int | None, error: type[Exception]
) -> None:
    small.allocate(owner=LINUX)
    before = state(small)
    with pytest.raises(error):
        small.allocate(size, align=align, owner=LINUX)
    if align is None:
        with pytest.raises(error):
            small.allocate_extents(size, owner=LINUX)
    assert state(small) == before


def test_an_impossible_run_is_refused_in_one_clear_line(small: FrameAllocator) -> None:
    small.claim(Range.sized(0x8020_0000, SIZE_4K), owner=RTOS)
    with pytest.raises(OutOfMemoryError) as caught:
        small.allocate(8 * MIB, owner=LINUX)
    assert str(caught.value) == (
        "no 8 MiB of memory in a row, aligned to 8 MiB, for VM linux: 8188 KiB of 8 MiB are free"
    )


def test_the_last_fragments_can_be_had_whoever_set_them_aside(small: FrameAllocator) -> None:
    """Each of four owners has a block of its own; the fifth gets what they have not used."""
    owners = [Owner(OwnerKind.VM, str(number)) for number in range(4)]
    for owner in owners:
        small.allocate(owner=owner)
    assert len(exhaust(small, LINUX)) == 2044
    assert all(small.used_by(owner) == SIZE_4K for owner in owners)


def test_frames_set_aside_do_not_stand_in_the_way_of_large_requests(small: FrameAllocator) -> None:
    first = small.allocate(owner=LINUX)
    small.free(Range.sized(first, SIZE_4K), owner=LINUX)
    assert small.allocate(8 * MIB, owner=RTOS) == 0x8000_0000


def test_a_run_across_block_borders_is_found_when_no_aligned_one_is_left(small: FrameAllocator) -> None:
    base = 0x8000_0000
    small.claim(Range(base, base + SIZE_2M - 3 * SIZE_4K), owner=RTOS)
    small.claim(Range(base + SIZE_2M + 2 * SIZE_4K, base + 8 * MIB), owner=RTOS)
    assert small.allocate(5 * SIZE_4K, align=SIZE_4K, owner=LINUX) == base + SIZE_2M - 3 * SIZE_4K


@pytest.mark.parametrize("frames", [1, 2, 3, 5, 7, 31, 200])
@pytest.mark.parametrize("first", [1, 3, 5, 129])
def test_a_run_that_begins_anywhere_is_found_and_taken_as_one_piece(
    small: FrameAllocator, first: int, frames: int
) -> None:
    hole = Range.sized(0x8020_0000 + first * SIZE_4K, frames * SIZE_4K)
    small.claim(Range(0x8000_0000, hole.start), owner=RTOS)
    small.claim(Range(hole.end, 0x8080_0000), owner=RTOS)
    assert small.allocate(hole.size, align=SIZE_4K, owner=LINUX) == hole.start
    small.free(hole, owner=LINUX)
    assert small.allocate_extents(hole.size, owner=LINUX) == [hole]


def test_large_requests_in_between_do_not_break_a_run_of_single_frames() -> None:
    allocator = make(Range.sized(0, GIB))
    first = allocator.allocate(owner=LINUX)
    allocator.allocate_extents(SIZE_2M, owner=RTOS)
    allocator.allocate(4 * MIB, owner=RTOS)
    assert allocator.allocate(owner=LINUX) == first + SIZE_4K


def test_frames_read_as_zero_also_after_they_were_used(small: FrameAllocator) -> None:
    for size in (SIZE_4K, 4 * SIZE_4K, SIZE_2M, 8 * MIB):
        hpa = small.allocate(size, owner=LINUX)
        assert not any(small.memory.read(hpa, size))
        small.memory.write(hpa, np.full(size, 0xEE, dtype=np.uint8))
        small.free(Range.sized(hpa, size), owner=LINUX)
        assert small.free_bytes == small.total_bytes
    whole = small.allocate(8 * MIB, owner=RTOS)
    assert not any(small.memory.read(whole, 8 * MIB))


def test_fresh_memory_is_not_touched_to_hand_it_out() -> None:
    with PhysicalMemory([Range.sized(0, 64 * GIB)]) as memory:
        allocator = FrameAllocator(memory)
        for _ in range(1000):
            allocator.allocate(owner=LINUX)
        allocator.allocate_extents(60 * GIB, owner=LINUX)
        assert memory.resident_bytes() == 0
        memory.store_u64(Hpa(10 * GIB), 1)
        assert allocator.free_owner(LINUX) == 60 * GIB + 1000 * SIZE_4K
        assert allocator.free_bytes == 64 * GIB
        assert memory.resident_bytes() <= 2 * MIB + SIZE_4K


def test_a_freed_frame_cannot_be_freed_again(small: FrameAllocator) -> None:
    hpa = small.allocate(owner=LINUX)
    kept = small.allocate(owner=LINUX)
    small.memory.store_u64(kept, 7)
    small.free(Range.sized(hpa, SIZE_4K), owner=LINUX)
    before = state(small)
    with pytest.raises(OwnerConflictError, match="nobody holds"):
        small.free(Range.sized(hpa, SIZE_4K), owner=LINUX)
    with pytest.raises(OwnerConflictError):
        small.free(Range(hpa, kept + SIZE_4K), owner=LINUX)
    assert state(small) == before
    assert small.memory.load_u64(kept) == 7, "a refused free must not zero"


def test_nobody_frees_the_frames_of_another(small: FrameAllocator) -> None:
    hpa = small.allocate(SIZE_2M, owner=LINUX)
    with pytest.raises(OwnerConflictError, match="VM linux holds"):
        small.free(Range.sized(hpa, SIZE_4K), owner=RTOS)
    assert small.used_by(LINUX) == SIZE_2M


def test_a_host_that_refuses_pages_leaves_frames_with_their_owner(
    small: FrameAllocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    span = Range.sized(small.allocate(SIZE_2M, owner=LINUX), SIZE_2M)

    def refuse(_: Range) -> None:
        raise FrameError("the host does not take back")

    monkeypatch.setattr(small.memory, "zero", refuse)
    before = state(small)
    with pytest.raises(FrameError):
        small.free(span, owner=LINUX)
    with pytest.raises(FrameError):
        small.free_owner(LINUX)
    assert state(small) == before


@pytest.mark.parametrize("call", ["claim", "free"])
@pytest.mark.parametrize(
    ("span", "error"),
    [
        (Range(0x8000_0800, 0x8000_2000), MisalignedError),
        (Range(0x8000_0000, 0x8000_2001), MisalignedError),
        (Range(0x7FFF_F000, 0x8000_1000), OutOfRangeError),
        (Range(0x807F_F000, 0x8080_1000), OutOfRangeError),
        (Range(0x0, 0x1000), OutOfRangeError),
        (Range(0x8000_0000, 1 << 62), OutOfRangeError),
    ],
)
def test_only_whole_frames_of_host_memory_are_claimed_and_freed(
    small: FrameAllocator, call: str, span: Range, error: type[Exception]
) -> None:
    before = state(small)
    with pytest.raises(error):
        getattr(small, call)(span, owner=LINUX)
    assert state(small) == before


def test_a_claim_takes_exactly_the_frames_named_and_conflicts_name_the_holder(small: FrameAllocator) -> None:
    span = Range(0x8010_3000, 0x8050_1000)
    small.claim(span, owner=LINUX)
    assert small.owners.of(LINUX) == [span]
    before = state(small)
    with pytest.raises(OwnerConflictError, match=r"VM linux holds \[0x80500000, 0x80501000\)"):
        small.claim(Range(0x8050_0000, 0x8060_0000), owner=RTOS)
    assert state(small) == before
    taken = {frame for frame in exhaust(small, RTOS) if span.contains(frame)}
    assert not taken


def test_frames_set_aside_but_not_given_can_be_claimed(small: FrameAllocator) -> None:
    first = small.allocate(owner=LINUX)
    small.claim(Range.sized(first + 2 * SIZE_4K, SIZE_4K), owner=RTOS)
    mine = [first, *exhaust(small, LINUX)]
    assert len(mine) == len(set(mine)) == 2047
    assert first + 2 * SIZE_4K not in mine


def test_low_addresses_are_left_for_identity_mapped_guests() -> None:
    allocator = make(Range.sized(0x8000_0000, GIB))
    for _ in range(2000):
        allocator.allocate(owner=TABLES)
    allocator.allocate_extents(512 * MIB + 3 * SIZE_4K, owner=RTOS)
    allocator.claim(Range.sized(0x8000_0000, 256 * MIB), owner=LINUX)


def test_devices_are_recorded_and_never_handed_out(small: FrameAllocator) -> None:
    uart = Owner(OwnerKind.DEVICE, "uart")
    registers = Range(0x1000_0000, 0x1000_0100)
    small.claim_device(registers, owner=uart)
    assert small.owners.at(0x1000_0000) == uart
    assert small.used_bytes == small.used_by(uart) == 0
    with pytest.raises(OwnerConflictError, match="device uart holds"):
        small.claim_device(Range(0x1000_0000, 0x1000_1000), owner=LINUX)
    with pytest.raises(OutOfRangeError, match="is host memory"):
        small.claim_device(Range(0x7000_0000, 0x8000_1000), owner=LINUX)
    with pytest.raises(OutOfRangeError, match="is host memory"):
        small.release_device(Range(0x8000_0000, 0x8000_1000), owner=LINUX)
    small.release_device(registers, owner=uart)
    assert len(small.owners) == 0


def test_everything_of_an_owner_is_freed_devices_next_to_memory_included(small: FrameAllocator) -> None:
    small.claim_device(Range(0x8080_0000, 0x8080_1000), owner=LINUX)
    small.claim(Range(0x807F_F000, 0x8080_0000), owner=LINUX)
    small.allocate(owner=LINUX)
    small.allocate(SIZE_2M, owner=LINUX)
    small.allocate(owner=RTOS)
    assert small.used_by(LINUX) == SIZE_2M + 2 * SIZE_4K
    assert small.free_owner(LINUX) == SIZE_2M + 2 * SIZE_4K
    assert small.used_bytes == small.used_by(RTOS) == SIZE_4K
    assert small.owners.of(LINUX) == []
    assert small.free_owner(LINUX) == 0


def test_extents_are_whole_gigabytes_then_blocks_then_frames() -> None:
    allocator = make(Range(GIB - 2 * SIZE_2M, 4 * GIB + 2 * SIZE_2M))
    size = 2 * GIB + 3 * SIZE_2M + 5 * SIZE_4K
    extents = allocator.allocate_extents(size, owner=LINUX)
    assert sum(span.size for span in extents) == size
    assert extents[0] == Range(2 * GIB, 4 * GIB)
    assert [span.size for span in extents[1:]] == [SIZE_2M, 2 * SIZE_2M, 5 * SIZE_4K]
    assert all(span.start % SIZE_2M == 0 for span in extents[1:3])
    assert allocator.used_by(LINUX) == size


def test_extents_spare_gigabytes_that_the_caller_cannot_map_at_once() -> None:
    allocator = make(Range(0, 4 * GIB))
    allocator.claim(Range(0, SIZE_4K), owner=RTOS)
    extents = allocator.allocate_extents(512 * MIB, owner=LINUX, largest=SIZE_2M)
    assert extents == [Range(512 * MIB, GIB)]


def test_extents_gather_every_last_fragment(small: FrameAllocator) -> None:
    base = 0x8000_0000
    for frame in range(0, 2048, 3):
        small.claim(Range.sized(base + frame * SIZE_4K, SIZE_4K), owner=RTOS)
    small.allocate(owner=TABLES)
    left = small.free_bytes
    before = state(small)
    with pytest.raises(OutOfMemoryError):
        small.allocate_extents(left + SIZE_4K, owner=LINUX)
    assert state(small) == before
    extents = small.allocate_extents(left, owner=LINUX)
    assert sum(span.size for span in extents) == left
    assert small.free_bytes == 0
    assert sorted(extents) == small.owners.of(LINUX)


def test_several_ranges_are_used_to_the_last_frame() -> None:
    ranges = [Range(0x1000, 0x4000), Range(0x20_1000, 0x60_0000), Range(1 << 40, (1 << 40) + 3 * SIZE_4K)]
    allocator = make(*ranges)
    frames = exhaust(allocator, LINUX)
    assert sorted(frames) == [hpa for span in ranges for hpa in range(span.start, span.end, SIZE_4K)]
    assert allocator.owners.of(LINUX) == ranges
    allocator.free_owner(LINUX)
    extents = allocator.allocate_extents(allocator.total_bytes, owner=RTOS)
    assert sum(span.size for span in extents) == allocator.total_bytes
    assert extents[0] == Range(0x40_0000, 0x60_0000)


def test_the_frame_freed_last_comes_next_again(small: FrameAllocator) -> None:
    first = small.allocate(owner=TABLES)
    for _ in range(3):
        hpa = small.allocate(owner=TABLES)
        assert hpa == first + SIZE_4K
        small.memory.store_u64(hpa, 1)
        small.free(Range.sized(hpa, SIZE_4K), owner=TABLES)
        assert small.free_bytes == small.total_bytes - SIZE_4K
    assert small.memory.load_u64(Hpa(first + SIZE_4K)) == 0


def test_freed_frames_are_used_again_before_a_new_block_is_begun() -> None:
    allocator = make(Range.sized(0, 16 * MIB))
    for _ in range(5):
        frames = [allocator.allocate(owner=TABLES) for _ in range(500)]
        for hpa in frames[1:]:
            allocator.free(Range.sized(hpa, SIZE_4K), owner=TABLES)
    assert {span.start // SIZE_2M for span in allocator.owners.of(TABLES)} == {7}


def test_the_books_for_64_gib_in_single_frames_stay_under_one_percent_of_the_tables() -> None:
    """64 GiB in 4 KiB leaves need 128 MiB of tables; interleaved with the tables' own frames, like lazy faults."""
    tracemalloc.start()
    try:
        allocator = make(Range.sized(0, 80 * GIB))
        allocator.allocate_extents(40 * GIB, owner=LINUX, largest=SIZE_4K)
        for _ in range(200):
            allocator.allocate(owner=TABLES)
            for _ in range(512):
                allocator.allocate(owner=LINUX)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used < 1_300_000
    assert len(allocator.owners) < 20


def test_threads_never_share_a_frame() -> None:
    allocator = make(Range.sized(0, 64 * MIB), Range.sized(GIB, 64 * MIB))

    def work(number: int) -> tuple[Owner, list[Range]]:
        owner = Owner(OwnerKind.VM, str(number % 4))
        mine: list[Range] = []
        for step in range(1500):
            size = SIZE_4K if step % 3 else 4 * SIZE_4K
            span = Range.sized(allocator.allocate(size, owner=owner), size)
            assert allocator.memory.load_u64(Hpa(span.start)) == 0, f"{span} is in use"
            allocator.memory.store_u64(Hpa(span.start), number + 1)
            mine.append(span)
            if step % 2:
                old = mine.pop(step % len(mine))
                assert allocator.memory.load_u64(Hpa(old.start)) == number + 1, f"{old} was changed by another"
                allocator.free(old, owner=owner)
            if step % 100 == 0:
                for span in allocator.allocate_extents(3 * SIZE_4K, owner=owner):
                    allocator.memory.store_u64(Hpa(span.start), number + 1)
                    mine.append(span)
        return owner, mine

    with ThreadPoolExecutor(8) as pool:
        kept = list(pool.map(work, range(8)))
    spans = [span for _, mine in kept for span in mine]
    frames = [hpa for span in spans for hpa in range(span.start, span.end, SIZE_4K)]
    assert len(frames) == len(set(frames))
    assert len(frames) * SIZE_4K == allocator.used_bytes
    for owner, mine in kept:
        assert all(allocator.owners.at(span.start) == owner for span in mine)


@pytest.mark.slow
def test_a_hundred_thousand_fragments_are_freed_and_filled_again() -> None:
    allocator = make(Range.sized(0, 4 * GIB))
    frames = [allocator.allocate(owner=LINUX) for _ in range(100_000)]
    for hpa in frames[::2]:
        allocator.free(Range.sized(hpa, SIZE_4K), owner=LINUX)
    assert allocator.used_by(LINUX) == 50_000 * SIZE_4K
    held = set(frames[1::2])
    again = [allocator.allocate(2 * SIZE_4K, owner=RTOS) for _ in range(50_000)]
    assert not held & {hpa + offset for hpa in again for offset in (0, SIZE_4K)}
    assert allocator.free_owner(RTOS) == 100_000 * SIZE_4K
    assert allocator.free_owner(LINUX) == 50_000 * SIZE_4K
    assert allocator.allocate(4 * GIB, owner=RTOS) == 0


@pytest.mark.parametrize("page", [SIZE_4K, 4 * SIZE_4K, 16 * SIZE_4K])
def test_single_pages_of_one_size_follow_each_other_until_memory_is_out(small: FrameAllocator, page: int) -> None:
    first = [small.allocate_page(page, owner=LINUX) for _ in range(20)]
    assert all(later - earlier == page for earlier, later in pairwise(first))
    small.free(Range.sized(first[-1], page), owner=LINUX)
    assert small.allocate_page(page, owner=LINUX) == first[-1], "the page given last comes next again"
    other = small.allocate_page(page, owner=RTOS)
    taken = {*first, other}
    # What is set aside for one owner goes to another before memory is out.
    while len(taken) < 8 * MIB // page:
        found = small.allocate_page(page, owner=LINUX)
        assert found % page == 0
        assert found not in taken
        taken.add(found)
    with pytest.raises(OutOfMemoryError, match="of memory left for VM linux"):
        small.allocate_page(page, owner=LINUX)
    assert small.used_by(LINUX) == 8 * MIB - page


def test_an_owner_of_large_pages_gets_other_sizes_too(small: FrameAllocator) -> None:
    large = small.allocate_page(4 * SIZE_4K, owner=LINUX)
    frames = [small.allocate(owner=LINUX) for _ in range(3)]
    pages = [small.allocate_page(16 * SIZE_4K, owner=LINUX) for _ in range(3)]
    held = [Range.sized(large, 4 * SIZE_4K), *[Range.sized(frame, SIZE_4K) for frame in frames]]
    held += [Range.sized(found, 16 * SIZE_4K) for found in pages]
    assert not any(one.overlaps(other) for at, one in enumerate(held) for other in held[:at])
    assert small.used_by(LINUX) == sum(span.size for span in held)
    for span in held:
        small.free(span, owner=LINUX)
    assert small.free_bytes == 8 * MIB
