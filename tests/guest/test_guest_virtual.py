"""The accessor by GVA: through the guest's own tables and ours, as the host and as the guest."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import format_lists
from stage2.address import SIZE_2M, SIZE_4K, Gpa, Range
from stage2.errors import (
    GuestAccessError,
    GuestDeniedError,
    GuestEndOfRegionError,
    GuestNotContiguousError,
    GuestNotMemoryError,
    GuestUnmappedError,
    OutOfRangeError,
)
from stage2.flags import Access, MappingFlags, MapType
from stage2.formats import by_name
from stage2.formats.outcome import FaultKind
from stage2.formats.riscv import entry as riscv
from stage2.formats.riscv.formats import BARE_STAGE_1
from stage2.guest.accessor import Actor
from stage2.guest.memory import GuestMemory
from stage2.guest.virtual import GuestVirtualMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped

RAM = Range(0x8000_0000, 0x8080_0000)
READ = MappingFlags.READ
RW = READ | MappingFlags.WRITE
SV39 = by_name("sv39")
SECOND_STAGES = format_lists.SECOND_STAGES
TABLES = 0x4000_0000
ROOT, MIDDLE, LAST = (TABLES + i * SIZE_4K for i in range(3))
DATA = 0x5000_0000
"""GPA of 64 pages of RAM, then 4 of read-only memory, then a hole, then a device."""
READ_ONLY, HOLE, DEVICE = (DATA + page * SIZE_4K for page in (64, 68, 70))
GVA = 0xFFFF_FFC0_0020_0000
"""What the last table maps: 512 pages from here."""
V, R, W, X, U, A, D = riscv.V, riscv.R, riscv.W, riscv.X, riscv.U, riscv.A, riscv.D
USED = V | R | W | A | D


class Guest:
    """A guest whose last stage-1 table stands in lazily populated memory, under any stage 2."""

    def __init__(self, frames: FrameAllocator, second: str = "sv39x4", *, controls: int = riscv.SUM) -> None:
        self.space = AddressSpace(second, frames)
        self.space.map(MemoryRegion(Gpa(TABLES), 0x1_0000, RW, MapType.MAP_ALLOC))
        self.space.map(MemoryRegion(Gpa(DATA), 64 * SIZE_4K, RW, MapType.MAP_ALLOC))
        self.space.map(MemoryRegion(Gpa(READ_ONLY), 4 * SIZE_4K, READ, MapType.MAP_ALLOC))
        self.space.map(MemoryRegion(Gpa(DEVICE), SIZE_4K, RW, MapType.EMULATED, name="uart"))
        self.physical = GuestMemory(self.space)
        self.controls = controls
        top, middle, _ = (SV39.index(GVA, level) for level in (2, 1, 0))
        self.physical.write_u64(ROOT + 8 * top, SV39.table_entry(MIDDLE))
        self.physical.write_u64(MIDDLE + 8 * middle, SV39.table_entry(LAST))

    def leaf(self, page: int, gpa: int, bits: int = USED) -> None:
        self.physical.write_u64(LAST + 8 * page, SV39.pack_address(gpa) | bits)

    def linear(self, pages: int, gpa: int = DATA, bits: int = USED) -> None:
        for page in range(pages):
            self.leaf(page, gpa + page * SIZE_4K, bits)

    @property
    def regime(self) -> Regime:
        return Regime.of(SV39, ROOT, controls=self.controls)

    def memory(self, actor: Actor = Actor.HOST) -> GuestVirtualMemory:
        return self.physical.virtual(self.regime, actor)


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([RAM]) as memory:
        yield FrameAllocator(memory)


@pytest.fixture(params=SECOND_STAGES)
def guest(request: pytest.FixtureRequest, frames: FrameAllocator) -> Iterator[Guest]:
    made = Guest(frames, request.param)
    yield made
    made.space.destroy()
    assert frames.used_bytes == 0


@pytest.mark.parametrize("actor", list(Actor))
def test_bytes_numbers_and_structures_go_through_both_stages(guest: Guest, actor: Actor) -> None:
    bits = USED | (U if actor is Actor.USER else 0)
    for page, target in enumerate((7, 3, 9, 2)):
        guest.leaf(page, DATA + target * SIZE_4K, bits)
    memory = guest.memory(actor)
    data = bytes(i % 251 for i in range(3 * SIZE_4K))
    memory.write(GVA + 100, data)
    assert memory.read(GVA + 100, len(data)) == data
    assert guest.physical.read(DATA + 7 * SIZE_4K + 100, SIZE_4K - 100) == data[: SIZE_4K - 100]
    assert guest.physical.read(DATA + 3 * SIZE_4K, SIZE_4K) == data[SIZE_4K - 100 : 2 * SIZE_4K - 100]
    assert guest.physical.read(DATA + 2 * SIZE_4K, 100) == data[-100:]
    memory.write_u64(GVA + SIZE_4K - 3, 0x1122_3344_5566_7788)
    assert memory.read_u64(GVA + SIZE_4K - 3) == 0x1122_3344_5566_7788
    memory.write_struct(GVA + 2 * SIZE_4K - 5, (1, 2, 3), "HIQ")
    assert memory.read_struct(GVA + 2 * SIZE_4K - 5, "HIQ") == (1, 2, 3)


def test_memory_that_is_not_there_yet_reads_as_zero_and_a_write_populates_it(guest: Guest) -> None:
    guest.linear(8)
    for actor in (Actor.HOST, Actor.GUEST):
        used = guest.space.frames.used_bytes
        assert guest.memory(actor).read(GVA, 8 * SIZE_4K) == bytes(8 * SIZE_4K)
        assert guest.space.frames.used_bytes == used
    guest.memory(Actor.GUEST).write(GVA + SIZE_4K - 1, b"ab")
    assert [guest.space.query(DATA + page * SIZE_4K) is not None for page in range(3)] == [True, True, False]
    assert guest.memory().read(GVA + SIZE_4K - 2, 4) == b"\0ab\0"


def test_the_errors_of_stage_1_tell_unmapped_denied_and_the_end_apart(guest: Guest) -> None:
    guest.linear(2)
    guest.leaf(2, DATA + 2 * SIZE_4K, V | R | A | D)
    guest.leaf(4, DATA + 4 * SIZE_4K, USED | U)
    kernel, user, host = (guest.memory(actor) for actor in (Actor.GUEST, Actor.USER, Actor.HOST))
    cases: list[tuple[GuestVirtualMemory, int, int, bool, type[GuestAccessError], int, FaultKind]] = [
        (host, 0, 4 * SIZE_4K, True, GuestEndOfRegionError, 3 * SIZE_4K, FaultKind.TRANSLATION),
        (host, 3 * SIZE_4K + 5, SIZE_4K, False, GuestUnmappedError, 0, FaultKind.TRANSLATION),
        (kernel, 3 * SIZE_4K - 5, 8, False, GuestEndOfRegionError, 5, FaultKind.TRANSLATION),
        (kernel, 2 * SIZE_4K - 5, 8, True, GuestDeniedError, 5, FaultKind.PERMISSION),
        (kernel, 0, 4 * SIZE_4K, True, GuestDeniedError, 2 * SIZE_4K, FaultKind.PERMISSION),
        (user, 0, 8, False, GuestDeniedError, 0, FaultKind.PERMISSION),
        (user, 5 * SIZE_4K - 4, 8, False, GuestEndOfRegionError, 4, FaultKind.TRANSLATION),
    ]
    for memory, offset, size, write, error, available, kind in cases:
        with pytest.raises(error) as refused:
            memory.write(GVA + offset, b"x" * size) if write else memory.read(GVA + offset, size)
        assert type(refused.value) is error
        assert (refused.value.address, refused.value.available) == (GVA + offset + available, available)
        fault = refused.value.fault
        assert isinstance(fault, Fault)
        assert (fault.kind, fault.stage) == (kind, 1)
    assert host.read(GVA, 3 * SIZE_4K) == bytes(3 * SIZE_4K), "what was refused wrote nothing"
    host.write(GVA + 2 * SIZE_4K, b"the host may")
    assert user.read(GVA + 4 * SIZE_4K, 4) == kernel.read(GVA + 4 * SIZE_4K, 4), "SUM lets the kernel read it"


def test_the_errors_of_stage_2_name_the_gpa_and_what_is_declared_there(guest: Guest) -> None:
    for page, gpa in enumerate((READ_ONLY - SIZE_4K, READ_ONLY, HOLE, DEVICE)):
        guest.leaf(page, gpa)
    kernel, host = guest.memory(Actor.GUEST), guest.memory()
    with pytest.raises(GuestDeniedError, match=f"GPA {READ_ONLY:#x}: MAP_ALLOC .* does not allow to write"):
        kernel.write(GVA + SIZE_4K - 1, b"ab")
    host.write(GVA + SIZE_4K - 1, b"ab")
    assert kernel.read(GVA + SIZE_4K - 1, 2) == b"ab"
    with pytest.raises(GuestDeniedError):
        kernel.write(GVA + SIZE_4K, b"c")
    for memory in (kernel, host):
        with pytest.raises(GuestUnmappedError, match=f"GPA {HOLE:#x}, where nothing is declared"):
            memory.read(GVA + 2 * SIZE_4K, 1)
        with pytest.raises(GuestEndOfRegionError):
            memory.read(GVA + 2 * SIZE_4K - 1, 2)
        with pytest.raises(GuestNotMemoryError, match=r"uart .* is a device"):
            memory.read(GVA + 3 * SIZE_4K, 1)


def test_a_stage_1_table_that_is_absent_or_outside_memory_maps_nothing(guest: Guest) -> None:
    lost = Regime.of(SV39, HOLE, controls=guest.controls)
    empty = Regime.of(SV39, TABLES + 0xF000, controls=guest.controls)
    device = Regime.of(SV39, DEVICE, controls=guest.controls)
    for regime in (lost, empty, device):
        for actor in (Actor.HOST, Actor.GUEST):
            with pytest.raises(GuestUnmappedError) as refused:
                guest.physical.virtual(regime, actor).read(GVA, 1)
            fault = refused.value.fault
            assert isinstance(fault, Fault)
            assert fault.on_table
    assert guest.space.query(TABLES + 0xF000) is None, "looking for a table populates nothing"


def test_the_accessed_and_dirty_bits_of_the_guest_bind_the_guest_and_are_left_alone(guest: Guest) -> None:
    guest.leaf(0, DATA, V | R | W)
    guest.leaf(1, DATA + SIZE_4K, V | R | W | A)
    before = guest.physical.read(LAST, SIZE_4K)
    with pytest.raises(GuestDeniedError) as refused:
        guest.memory(Actor.GUEST).read(GVA, 1)
    assert isinstance(refused.value.fault, Fault)
    assert refused.value.fault.kind is FaultKind.ACCESS_FLAG
    guest.memory(Actor.GUEST).read(GVA + SIZE_4K, 1)
    with pytest.raises(GuestDeniedError):
        guest.memory(Actor.GUEST).write(GVA + SIZE_4K, b"x")
    guest.memory().write(GVA, b"host")
    guest.controls |= riscv.HARDWARE_AD
    guest.memory(Actor.GUEST).write(GVA, b"hardware would set the bits")
    assert guest.physical.read(LAST, SIZE_4K) == before


def test_stage_1_tables_are_read_though_their_stage_2_accessed_bits_were_harvested(guest: Guest) -> None:
    guest.linear(3)
    guest.memory().write(GVA, b"found again")
    guest.space.harvest_accessed(TABLES, 0x1_0000)
    guest.space.harvest_accessed(DATA, 64 * SIZE_4K)
    for actor in (Actor.HOST, Actor.GUEST):
        assert guest.memory(actor).read(GVA, 11) == b"found again"
    # Nested paging's hardware would set the bits by itself; the host's walk sets none in its place.
    by_itself = guest.space.format.name.startswith("npt")
    used = guest.space.harvest_accessed(TABLES, 0x1_0000)[:3]
    assert used.all() != by_itself, "the walk used the three tables"


def test_tracked_pages_are_the_guests_all_the_same_and_a_write_is_noted(guest: Guest) -> None:
    guest.controls |= riscv.HARDWARE_AD
    guest.linear(4, bits=V | R | W)
    kernel = guest.memory(Actor.GUEST)
    guest.physical.write(DATA, b"x" * 4 * SIZE_4K)
    guest.space.track_writes(TABLES, 0x1_0000)
    guest.space.track_writes(DATA, 64 * SIZE_4K)
    kernel.write(GVA + 2 * SIZE_4K - 1, b"ab")
    assert kernel.read(GVA + 2 * SIZE_4K - 1, 2) == b"ab"
    assert np.flatnonzero(guest.space.harvest_writes(DATA, 64 * SIZE_4K)).tolist() == [1, 2]
    # Nested paging counts the walk's reads of tables as writes.
    counted = bool(guest.space.format.walk_write(guest.space.regime.controls))
    assert guest.space.harvest_writes(TABLES, 0x1_0000).any() == counted


def test_hardware_could_not_mark_a_table_in_read_only_memory_so_the_guest_is_denied(frames: FrameAllocator) -> None:
    guest = Guest(frames, controls=riscv.HARDWARE_AD)
    guest.leaf(0, DATA, V | R | W)
    guest.space.protect(TABLES, 0x1_0000, READ)
    with pytest.raises(GuestDeniedError) as refused:
        guest.memory(Actor.GUEST).read(GVA, 1)
    assert isinstance(refused.value.fault, Fault)
    assert refused.value.fault.on_mark
    assert guest.memory().read(GVA, 1) == b"\0"
    guest.space.destroy()


def test_views_by_gva_follow_host_memory_and_both_stages_permissions(frames: FrameAllocator) -> None:
    guest = Guest(frames)
    guest.space.populate_range(Range.sized(DATA, 8 * SIZE_4K))
    for page, target in enumerate((0, 1, 2, 5, 4)):
        guest.leaf(page, DATA + target * SIZE_4K, V | R | A | D if page == 1 else USED)
    guest.leaf(5, READ_ONLY)
    host, kernel = guest.memory(), guest.memory(Actor.GUEST)
    view = host.view(GVA + 16, 3 * SIZE_4K - 16)
    view[:3] = b"abc"
    assert guest.physical.read(DATA + 16, 3) == b"abc"
    with pytest.raises(GuestNotContiguousError) as refused:
        host.view(GVA + 16, 4 * SIZE_4K)
    assert refused.value.available == 3 * SIZE_4K - 16
    assert kernel.contiguous(GVA + 16) == host.contiguous(GVA + 16)
    found = guest.space.query(DATA)
    assert found is not None
    assert host.contiguous(GVA + 16) == (found.hpa + 16, 3 * SIZE_4K - 16)

    def shapes(memory: GuestVirtualMemory) -> list[tuple[int, bool]]:
        return [(len(piece), piece.readonly) for piece in memory.views(GVA + 16, 6 * SIZE_4K - 32)]

    assert shapes(host) == [
        (3 * SIZE_4K - 16, False), (SIZE_4K, False), (SIZE_4K, False), (SIZE_4K - 16, False)
    ]  # fmt: skip
    assert shapes(kernel) == [
        (SIZE_4K - 16, False), (SIZE_4K, True), (SIZE_4K, False), (SIZE_4K, False), (SIZE_4K, False),
        (SIZE_4K - 16, True),
    ]  # fmt: skip
    assert kernel.view(GVA, 2 * SIZE_4K).readonly
    assert not kernel.view(GVA, SIZE_4K).readonly
    view.release()
    guest.space.destroy()


def test_addresses_that_the_guests_format_does_not_have_are_unmapped(guest: Guest) -> None:
    for gva in (1 << 40, 0x4000_0000_0000_0000):
        with pytest.raises(GuestUnmappedError) as refused:
            guest.memory().read(gva, 8)
        assert isinstance(refused.value.fault, Fault)
        assert refused.value.fault.kind is FaultKind.ADDRESS_SIZE
    with pytest.raises(OutOfRangeError):
        guest.memory().read((1 << 64) - 4, 8)
    with pytest.raises(GuestUnmappedError):
        guest.memory().read((1 << 64) - 8, 8)
    with pytest.raises(GuestUnmappedError):
        guest.memory().read(0, 1 << 63)


def test_one_page_mapped_a_million_times_is_no_larger_than_host_memory(frames: FrameAllocator) -> None:
    guest = Guest(frames)
    top = SV39.index(GVA, 2)
    guest.physical.write_u64(ROOT + 8 * top, SV39.table_entry(MIDDLE))
    guest.physical.write_struct(MIDDLE, np.full(512, SV39.table_entry(LAST), np.uint64))
    guest.physical.write_struct(LAST, np.full(512, SV39.pack_address(DATA) | USED, np.uint64))
    start = GVA - 0x20_0000
    with pytest.raises(OutOfRangeError, match="more than all of host memory"):
        guest.memory(Actor.GUEST).read(start, 1 << 30)
    guest.memory().write_u8(start + 0x123_4567, 9)
    assert guest.physical.read_u8(DATA + 0x567) == 9
    assert guest.memory().read(start, SIZE_2M).count(9) == 512
    guest.space.destroy()


def test_without_a_stage_1_a_gva_is_a_gpa(guest: Guest) -> None:
    memory = guest.physical.virtual(Regime.of(BARE_STAGE_1), Actor.GUEST)
    memory.write(DATA + 5, b"bare")
    assert guest.physical.read(DATA + 5, 4) == b"bare"
    with pytest.raises(GuestDeniedError):
        memory.write(READ_ONLY, b"x")


LEAVES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 67), st.sampled_from([68, 70])),
        st.sampled_from([USED, USED, USED | U, V | R | A | D, V | R | W | A, V | R | W, V | X | A, 0]),
    ),
    min_size=1,
    max_size=12,
)


@given(
    LEAVES,
    st.sampled_from(list(Actor)),
    st.sampled_from([0, riscv.SUM, riscv.MXR, riscv.HARDWARE_AD]),
    st.lists(st.tuples(st.booleans(), st.integers(0, 11 * SIZE_4K), st.integers(1, 5 * SIZE_4K)), max_size=6),
    st.lists(st.integers(0, 67), max_size=10),
)
def test_guest_virtual_memory_agrees_with_the_explained_walk_and_a_bytearray(
    leaves: list[tuple[int, int]],
    actor: Actor,
    controls: int,
    accesses: list[tuple[bool, int, int]],
    populated: list[int],
) -> None:
    with PhysicalMemory([RAM]) as memory:
        guest = Guest(FrameAllocator(memory), controls=controls)
        space = guest.space
        for page, (target, bits) in enumerate(leaves):
            guest.leaf(page, DATA + target * SIZE_4K, bits)
        for page in populated:
            space.handle_page_fault(DATA + page * SIZE_4K, Access.READ)
        model = bytearray(68 * SIZE_4K)
        virtual = guest.memory(actor)

        def allowed(page: int, access: Access) -> bool:
            """What a CPU that populates on demand would be allowed."""
            asked = None if actor is Actor.HOST else access
            for _ in range(4):
                result = space.walk(GVA + page * SIZE_4K, guest.regime, asked, user=actor is Actor.USER).result
                if isinstance(result, Mapped):
                    return True
                if result.stage == 1 or not 0 <= (result.gpa or 0) - DATA < 68 * SIZE_4K:
                    return False
                if actor is not Actor.HOST and access is Access.WRITE and (result.gpa or 0) >= READ_ONLY:
                    return False
                space.handle_page_fault(Gpa(result.gpa or 0), access if actor is not Actor.HOST else Access.READ)
            raise AssertionError("populating does not help")

        for write, offset, size in accesses:
            access = Access.WRITE if write else Access.READ
            pages = range(offset // SIZE_4K, (offset + size - 1) // SIZE_4K + 1)
            data = bytes((offset + i) % 255 for i in range(size))
            outcome: GuestAccessError | bytes | None = None
            try:
                if write:
                    virtual.write(GVA + offset, data)
                else:
                    outcome = virtual.read(GVA + offset, size)
            except GuestAccessError as error:
                outcome = error
            first_refused = next((page for page in pages if not allowed(page, access)), None)
            if first_refused is not None:
                assert isinstance(outcome, GuestAccessError)
                assert outcome.address == max(GVA + first_refused * SIZE_4K, GVA + offset)
                continue
            cuts = [offset, *(page * SIZE_4K for page in pages[1:]), offset + size]
            spots = [
                (leaves[low // SIZE_4K][0] * SIZE_4K + low % SIZE_4K, low - offset, high - low)
                for low, high in pairwise(cuts)
            ]
            if write:
                assert outcome is None
                for spot, start, length in spots:
                    model[spot : spot + length] = data[start : start + length]
            else:
                assert outcome == b"".join(model[spot : spot + length] for spot, _, length in spots)
        assert guest.physical.read(DATA, len(model)) == model
        space.destroy()
