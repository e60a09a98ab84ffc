"""Channels between VMs: memory published and subscribed to at run time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import stage2.vm.channels as module
from stage2.address import MIB, SIZE_2M, Gpa, Hpa, Range
from stage2.errors import ChannelError, OutOfMemoryError
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.tables.result import Fault, Mapped
from stage2.vm.channels import READ_WRITE, ChannelTable

PAGE = 0x1000
BASE = 0x8000_0000


class Bench:
    """Host memory, VMs 1 to n with 2 MiB of lazy RAM each, and their channels."""

    def __init__(self, vms: int = 3, *, ram: int = 32 * MIB, fmt: str = "sv39x4", size: int | None = None) -> None:
        self.memory = PhysicalMemory([Range.sized(0x1_0000_0000, ram)])
        self.frames = FrameAllocator(self.memory)
        self.table = ChannelTable(self.frames)
        self.spaces = {}
        for vm in range(1, vms + 1):
            space = AddressSpace.create(fmt, self.frames, name=f"vm{vm}", size=size)
            space.map(MemoryRegion(Gpa(BASE), 2 * MIB, RWX, MapType.MAP_ALLOC))
            self.spaces[vm] = space
            self.table.join(vm, space)

    def hpa(self, vm: int, gpa: int) -> int | None:
        found = self.spaces[vm].query(gpa)
        return None if found is None else int(found.hpa)

    def flags(self, vm: int, gpa: int) -> MappingFlags:
        found = self.spaces[vm].query(gpa)
        assert found is not None
        return found.flags

    def shared_bytes(self) -> int:
        owners = self.frames.owners
        return sum(span.size for span, owner in owners if owner.kind is OwnerKind.SHARE)

    def image(self) -> tuple[object, ...]:
        """Everything a failed call must leave alone."""
        tables = [
            (span.start, self.memory.read(Hpa(span.start), span.size))
            for space in self.spaces.values()
            for span in space.page_table.table_ranges
        ]
        regions = [space.memory_regions for space in self.spaces.values()]
        owned = list(self.frames.owners)
        return tables, regions, owned, self.frames.free_bytes

    def close(self) -> None:
        for vm, space in self.spaces.items():
            self.table.leave(vm)
            space.destroy()
        assert self.table.channels == ()
        assert self.frames.used_bytes == 0
        self.memory.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_what_the_publisher_writes_the_subscriber_reads_on_every_page(bench: Bench) -> None:
    ours = bench.table.publish(1, 7, 3 * PAGE)
    theirs = bench.table.subscribe(2, 1, 7)
    publisher, subscriber = (GuestMemory(bench.spaces[vm]) for vm in (1, 2))
    for page in range(3):
        publisher.write(ours + page * PAGE + 8, b"page %d" % page)
        assert subscriber.read(theirs + page * PAGE + 8, 6) == b"page %d" % page
    assert bench.table.size(2, 1, 7) == 3 * PAGE


@pytest.mark.parametrize("access", [MappingFlags.READ, READ_WRITE])
def test_a_subscriber_gets_the_access_the_publisher_granted_and_nobody_executes(
    bench: Bench, access: MappingFlags
) -> None:
    ours = bench.table.publish(1, 7, PAGE, access)
    theirs = bench.table.subscribe(2, 1, 7)
    assert bench.flags(1, ours) == READ_WRITE
    assert bench.flags(2, theirs) == access
    writable = isinstance(bench.spaces[2].translate(theirs, Access.WRITE), Mapped)
    assert writable is bool(access & MappingFlags.WRITE)
    assert isinstance(bench.spaces[1].translate(ours, Access.FETCH), Fault)
    with pytest.raises(ChannelError, match="read, or read and write"):
        bench.table.publish(1, 8, PAGE, RWX)


# --- each defect of upstream's IVC by its name -----------------------------------------------------------


def test_a_duplicate_key_is_refused_and_frees_no_mapped_frame(bench: Bench) -> None:
    ours = bench.table.publish(1, 7, PAGE)
    hpa = bench.hpa(1, ours)
    before = bench.image()
    with pytest.raises(ChannelError, match="published channel 0x7 already"):
        bench.table.publish(1, 7, PAGE)
    assert bench.image() == before
    assert bench.hpa(1, ours) == hpa
    assert bench.table.publish(2, 7, PAGE), "keys of two VMs are two keys"


def test_unpublishing_under_a_subscriber_leaves_it_its_memory_until_it_unsubscribes(bench: Bench) -> None:
    ours = bench.table.publish(1, 7, PAGE)
    theirs = bench.table.subscribe(2, 1, 7)
    GuestMemory(bench.spaces[1]).write(ours, b"still here")
    bench.table.unpublish(1, 7)
    assert bench.hpa(1, ours) is None
    assert GuestMemory(bench.spaces[2]).read(theirs, 10) == b"still here"
    with pytest.raises(ChannelError, match="publishes no channel"):
        bench.table.unpublish(1, 7)
    assert GuestMemory(bench.spaces[2]).read(theirs, 10) == b"still here"
    with pytest.raises(ChannelError, match="publishes no channel"):
        bench.table.subscribe(3, 1, 7)
    assert bench.shared_bytes() == PAGE
    bench.table.unsubscribe(2, 1, 7)
    assert bench.shared_bytes() == 0


def test_a_gpa_is_free_again_after_unpublish_and_unsubscribe(bench: Bench) -> None:
    first = (bench.table.publish(1, 7, PAGE), bench.table.subscribe(2, 1, 7))
    bench.table.unsubscribe(2, 1, 7)
    bench.table.unpublish(1, 7)
    assert all(not bench.spaces[vm].contains(gpa) for vm, gpa in zip((1, 2), first, strict=True))
    assert (bench.table.publish(1, 7, PAGE), bench.table.subscribe(2, 1, 7)) == first


def test_a_size_that_is_no_whole_page_is_rounded_up(bench: Bench) -> None:
    ours = bench.table.publish(1, 7, 100)
    assert ours % PAGE == 0
    assert bench.table.size(1, 1, 7) == PAGE


def test_a_channel_is_zero_though_its_frames_were_used_before() -> None:
    bench = Bench(2, ram=8 * MIB)
    size = 5 * MIB
    ours = bench.table.publish(1, 7, size)
    GuestMemory(bench.spaces[1]).write(ours, b"secret!!" * (size // 8))
    bench.table.unpublish(1, 7)
    # Wherever 5 of the 8 MiB are taken now, most of them were the first channel's.
    again = bench.table.publish(2, 9, size)
    assert not any(GuestMemory(bench.spaces[2]).read(again, size))
    bench.close()


def test_a_channel_of_several_mebibytes_is_mapped_in_blocks(bench: Bench) -> None:
    ours = bench.table.publish(1, 7, 4 * MIB)
    assert ours % SIZE_2M == 0
    found = bench.spaces[1].query(ours)
    assert found is not None
    assert found.size == SIZE_2M


# --- refusals change nothing -----------------------------------------------------------------------------


def test_what_is_refused_changes_nothing(bench: Bench) -> None:
    bench.table.publish(1, 7, PAGE)
    bench.table.subscribe(2, 1, 7)
    before = bench.image()
    for call, says in (
        (lambda: bench.table.subscribe(2, 1, 7), "subscribed to channel 0x7 of VM 1 already"),
        (lambda: bench.table.subscribe(1, 1, 7), "published channel 0x7 itself"),
        (lambda: bench.table.subscribe(2, 3, 7), "VM 3 publishes no channel"),
        (lambda: bench.table.subscribe(9, 1, 7), "VM 9 takes no part"),
        (lambda: bench.table.unsubscribe(3, 1, 7), "has not subscribed"),
        (lambda: bench.table.unsubscribe(1, 1, 7), "has not subscribed"),
        (lambda: bench.table.unpublish(2, 7), "publishes no channel"),
        (lambda: bench.table.publish(1, 8, 0), "1 to 0x1000000 bytes"),
        (lambda: bench.table.publish(1, 8, 1 << 60), "1 to 0x1000000 bytes"),
        (lambda: bench.table.size(1, 2, 7), "publishes no channel"),
        (lambda: bench.table.join(1, bench.spaces[1]), "takes part already"),
    ):
        with pytest.raises(ChannelError, match=says):
            call()
        assert bench.image() == before


def test_no_memory_for_a_channel_or_for_its_tables_leaves_everything_as_it_was() -> None:
    bench = Bench(2, ram=2 * MIB)
    before = bench.image()
    with pytest.raises(OutOfMemoryError):
        bench.table.publish(1, 7, 2 * MIB)
    assert bench.image() == before
    # All but one frame: the channel fits, a table for it does not.
    left = bench.frames.free_bytes
    bench.spaces[1].map(MemoryRegion(Gpa(BASE + 64 * MIB), left - PAGE - 2 * PAGE, RWX, MapType.MAP_ALLOC))
    bench.spaces[1].populate_range(Range.sized(BASE + 64 * MIB, left - PAGE - 2 * PAGE))
    while bench.frames.free_bytes > PAGE:
        bench.spaces[1].populate_range(Range.sized(BASE + (2 * MIB - bench.frames.free_bytes) // PAGE * PAGE, PAGE))
    before = bench.image()
    with pytest.raises(OutOfMemoryError):
        bench.table.publish(2, 7, PAGE)
    assert bench.image() == before
    bench.close()


def test_no_free_gpa_is_told_and_leaves_everything_as_it_was() -> None:
    bench = Bench(1, size=BASE + 2 * MIB)
    bench.spaces[1].map(MemoryRegion(Gpa(0), BASE, MappingFlags.READ, MapType.EMULATED))
    before = bench.image()
    with pytest.raises(OutOfMemoryError, match="no 0x1000 bytes of GPA free"):
        bench.table.publish(1, 7, PAGE)
    assert bench.image() == before
    bench.close()


def test_a_guest_cannot_take_more_than_its_share_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COUNT_LIMIT", 4)
    monkeypatch.setattr(module, "PUBLISHED_LIMIT", 8 * PAGE)
    bench = Bench(2)
    for key in range(3):
        bench.table.publish(1, key, PAGE)
    with pytest.raises(ChannelError, match="as much as it may"):
        bench.table.publish(1, 9, 6 * PAGE)
    bench.table.publish(1, 3, PAGE)
    with pytest.raises(ChannelError, match="maps 4 channels"):
        bench.table.publish(1, 4, PAGE)
    # Taking channels back does not help as long as somebody else holds them.
    for key in range(4):
        bench.table.subscribe(2, 1, key)
        bench.table.unpublish(1, key)
    with pytest.raises(ChannelError, match="as much as it may; 4 channels still hold frames"):
        bench.table.publish(1, 9, PAGE)
    bench.table.unsubscribe(2, 1, 0)
    bench.table.publish(1, 9, PAGE)
    bench.close()


def test_a_vm_that_ends_leaves_its_channels_and_its_subscriptions(bench: Bench) -> None:
    bench.table.publish(1, 7, PAGE)
    theirs = bench.table.subscribe(2, 1, 7)
    bench.table.publish(2, 5, PAGE)
    bench.table.leave(1)
    bench.table.leave(1)
    assert bench.hpa(2, theirs) is not None
    assert bench.shared_bytes() == 2 * PAGE
    bench.table.leave(2)
    assert bench.shared_bytes() == 0


# --- any sequence against a plain model ------------------------------------------------------------------

VMS, KEYS = st.integers(1, 3), st.integers(0, 2)


class ChannelModel(RuleBasedStateMachine):
    """Random calls; the model knows who maps what, as plain dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(3, ram=8 * MIB)
        self.alive = {1, 2, 3}
        self.mapped: dict[tuple[int, int, int], tuple[int, int, MappingFlags]] = {}
        """(VM, publisher, key) -> (GPA, first byte's tag, flags)"""
        self.open: dict[tuple[int, int], tuple[int, int, MappingFlags]] = {}
        """(publisher, key) -> (pages, tag, access)"""
        self.tag = 0

    @initialize()
    def start(self) -> None:
        self.base = self.bench.image()

    def attempt(self, allowed: bool, call: object) -> int | None:
        assert callable(call)
        before = None if allowed else self.bench.image()
        try:
            result = call()
        except ChannelError:
            assert not allowed
            assert self.bench.image() == before
            return None
        assert allowed
        return result if isinstance(result, int) else 0

    @rule(vm=VMS, key=KEYS, pages=st.integers(1, 5), writable=st.booleans())
    def publish(self, vm: int, key: int, pages: int, writable: bool) -> None:
        access = READ_WRITE if writable else MappingFlags.READ
        allowed = vm in self.alive and (vm, vm, key) not in self.mapped
        gpa = self.attempt(allowed, lambda: self.bench.table.publish(vm, key, pages * PAGE - 5, access))
        if gpa is not None:
            self.tag += 1
            GuestMemory(self.bench.spaces[vm]).write(gpa, self.tag.to_bytes(8, "little"))
            self.mapped[vm, vm, key] = gpa, self.tag, READ_WRITE
            self.open[vm, key] = pages, self.tag, access

    @rule(vm=VMS, publisher=VMS, key=KEYS)
    def subscribe(self, vm: int, publisher: int, key: int) -> None:
        allowed = (
            vm in self.alive
            and vm != publisher
            and (publisher, key) in self.open
            and (vm, publisher, key) not in self.mapped
        )
        gpa = self.attempt(allowed, lambda: self.bench.table.subscribe(vm, publisher, key))
        if gpa is not None:
            _, tag, access = self.open[publisher, key]
            self.mapped[vm, publisher, key] = gpa, tag, access

    @rule(vm=VMS, publisher=VMS, key=KEYS, frames=st.integers(0, 6))
    def run_out_of_memory(self, vm: int, publisher: int, key: int, frames: int) -> None:
        if vm not in self.alive or (vm, publisher, key) in self.mapped:
            return
        if vm != publisher and (publisher, key) not in self.open:
            return
        hog = Owner(OwnerKind.RESERVED, "hog")
        self.bench.frames.allocate_extents(self.bench.frames.free_bytes - frames * PAGE, owner=hog)
        before = self.bench.image()
        try:
            if vm == publisher:
                self.bench.table.publish(vm, key, 2 * PAGE)
                self.bench.table.unpublish(vm, key)
            else:
                self.bench.table.subscribe(vm, publisher, key)
                self.bench.table.unsubscribe(vm, publisher, key)
        except OutOfMemoryError:
            pass
        else:
            assert frames, "a table for it needs a frame"
        # Taken or refused, and taken back: all is as before.
        assert self.bench.image() == before
        self.bench.frames.free_owner(hog)

    @rule(vm=VMS, key=KEYS)
    def unpublish(self, vm: int, key: int) -> None:
        if self.attempt((vm, key) in self.open, lambda: self.bench.table.unpublish(vm, key)) is not None:
            del self.open[vm, key], self.mapped[vm, vm, key]

    @rule(vm=VMS, publisher=VMS, key=KEYS)
    def unsubscribe(self, vm: int, publisher: int, key: int) -> None:
        allowed = vm != publisher and (vm, publisher, key) in self.mapped
        if self.attempt(allowed, lambda: self.bench.table.unsubscribe(vm, publisher, key)) is not None:
            del self.mapped[vm, publisher, key]

    @rule(vm=VMS)
    def leave(self, vm: int) -> None:
        self.bench.table.leave(vm)
        self.alive.discard(vm)
        self.mapped = {who: what for who, what in self.mapped.items() if who[0] != vm}
        self.open = {what: how for what, how in self.open.items() if what[0] != vm}

    @invariant()
    def everybody_sees_what_the_model_says(self) -> None:
        hpas: dict[int, set[int]] = {}
        for (vm, _, _), (gpa, tag, flags) in self.mapped.items():
            found = self.bench.spaces[vm].query(gpa)
            assert found is not None
            assert found.flags == flags
            assert self.bench.memory.load_u64(found.hpa) == tag
            hpas.setdefault(tag, set()).add(found.hpa)
        assert all(len(places) == 1 for places in hpas.values())
        assert sorted(tag for tag in hpas) == sorted(
            self.bench.memory.load_u64(Hpa(channel.span.start)) for channel in self.bench.table.channels
        )
        for vm, space in self.bench.spaces.items():
            shared = [region for region in space.memory_regions if region.map_type is MapType.SHARE]
            assert len(shared) == sum(who[0] == vm for who in self.mapped)

    def teardown(self) -> None:
        self.bench.close()


ChannelModel.TestCase.settings = settings(stateful_step_count=30, deadline=None)
TestChannelModel = ChannelModel.TestCase
