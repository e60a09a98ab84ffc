"""What guests may try with channels, all at once and for ever, and what the host must not lose by it."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from test_channels import PAGE, Bench

from stage2.address import MIB, SIZE_2M, Gpa
from stage2.errors import ChannelError, OutOfMemoryError
from stage2.flags import RWX, MapType
from stage2.guest.memory import GuestMemory
from stage2.memory.owners import Owner, OwnerKind
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.vm.channels import COUNT_LIMIT, READ_WRITE
from stage2.vm.console import Console
from stage2.vm.exits import Hypercall
from stage2.vm.sbi import CHANNELS, Error, Harts, HartState, Sbi

_PROBE = Owner(OwnerKind.RESERVED, "probe")


def whole_blocks(bench: Bench) -> int:
    """How many blocks of 2 MiB the host could give."""
    count = 0
    try:
        while True:
            bench.frames.allocate(SIZE_2M, owner=_PROBE)
            count += 1
    except OutOfMemoryError:
        bench.frames.free_owner(_PROBE)
        return count


class _Nothing(Harts):
    """A machine that channel calls have no business with."""

    count = 1

    def set_timer(self, hart: int, deadline: int) -> None: ...
    def send_ipi(self, hart: int) -> None: ...
    def flush(self, hart: int) -> None: ...
    def start(self, hart: int, address: int, opaque: int) -> None: ...
    def stop_hart(self, hart: int) -> None: ...
    def state(self, hart: int) -> HartState:
        return HartState.STARTED

    def power_off(self, reason: str) -> None: ...


def call(bench: Bench, vm: int, function: int, *arguments: int) -> tuple[int, int | None]:
    """A channel call as the guest makes it: the signed error, and the value."""
    sbi = Sbi(_Nothing(), GuestMemory(bench.spaces[vm]), Console(), (bench.table, vm))
    registers = (*arguments, *[0] * (6 - len(arguments)), function, CHANNELS)
    error, value = sbi.call(Hypercall(0, registers))
    return error - (1 << 64) if error >> 63 else error, value


def test_publishing_for_ever_leaves_nothing_behind_in_the_host() -> None:
    bench = Bench(1)
    bench.table.publish(1, 1, PAGE)
    bench.table.unpublish(1, 1)
    before = bench.image(), len(bench.frames._runs)
    for key in range(300):
        bench.table.publish(1, key, PAGE)
        bench.table.unpublish(1, key)
    assert (bench.image(), len(bench.frames._runs)) == before
    bench.close()


def test_many_small_channels_do_not_break_up_the_blocks_of_the_host() -> None:
    bench = Bench(1, ram=256 * MIB)
    before = whole_blocks(bench)
    for key in range(COUNT_LIMIT):
        bench.table.publish(1, key, PAGE)
    assert whole_blocks(bench) >= before - 2
    bench.close()


def test_a_vm_with_larger_pages_is_told_that_a_channel_does_not_fit_it() -> None:
    bench = Bench(1)
    wide = AddressSpace.create("arm-s2-64k-40", bench.frames, name="wide")
    wide.map(MemoryRegion(Gpa(0x8000_0000), 2 * MIB, RWX, MapType.MAP_ALLOC))
    bench.spaces[2] = wide
    bench.table.join(2, wide)
    bench.table.publish(1, 7, PAGE)
    before = bench.image()
    with pytest.raises(ChannelError, match=r"channel 0x7 cannot be mapped in VM 2.*0x10000"):
        bench.table.subscribe(2, 1, 7)
    assert call(bench, 2, 1, 1, 7) == (Error.DENIED, 0)
    assert bench.image() == before
    # The other way round it always fits.
    ours = bench.table.publish(2, 7, 100, READ_WRITE)
    theirs = bench.table.subscribe(1, 2, 7)
    assert bench.table.size(1, 2, 7) == 16 * PAGE
    assert bench.hpa(1, theirs) == bench.hpa(2, ours)
    bench.close()


def test_no_argument_of_a_call_is_an_error_of_the_host() -> None:
    bench = Bench(2)
    before = bench.image()
    largest = (1 << 64) - 1
    odd = (0, 1, 2, largest, 1 << 63)
    for function in (1, 2, 3, 4, 5, largest):
        for first in odd:
            for second in odd:
                error, _ = call(bench, 1, function, first, second)
                assert error == (Error.DENIED if function < 5 else Error.NOT_SUPPORTED)
    for size in (0, largest, 1 << 63):
        assert call(bench, 1, 0, largest, size, 0) == (Error.DENIED, 0)
    assert call(bench, 1, 0, 1, PAGE, largest) == (Error.INVALID_PARAM, 0)
    assert bench.image() == before
    assert call(bench, 1, 0, largest, PAGE, 1)[0] == Error.SUCCESS
    assert call(bench, 2, 1, 1, largest)[0] == Error.SUCCESS
    bench.close()


def test_a_host_without_memory_answers_failed() -> None:
    bench = Bench(2)
    bench.frames.allocate_extents(bench.frames.free_bytes, owner=_PROBE)
    before = bench.image()
    assert call(bench, 1, 0, 7, PAGE, 0) == (Error.FAILED, 0)
    assert bench.image() == before
    bench.frames.free_owner(_PROBE)
    assert call(bench, 1, 0, 7, PAGE, 0)[0] == Error.SUCCESS
    bench.close()


def test_a_space_that_was_destroyed_first_still_lets_go_of_its_channels() -> None:
    bench = Bench(2)
    bench.table.publish(1, 7, PAGE)
    theirs = bench.table.subscribe(2, 1, 7)
    bench.spaces[1].destroy()
    assert bench.hpa(2, theirs) is not None
    with pytest.raises(ChannelError, match="destroyed"):
        bench.table.publish(1, 8, PAGE)
    bench.table.leave(1)
    assert bench.shared_bytes() == PAGE
    bench.close()


def test_vms_on_threads_never_see_a_frame_that_is_not_theirs_and_lose_none() -> None:
    bench = Bench(4)

    def live(vm: int) -> None:
        choose = random.Random(vm)
        memory = GuestMemory(bench.spaces[vm])
        mine: set[int] = set()
        others: set[tuple[int, int]] = set()
        for _ in range(250):
            action = choose.choice(("publish", "subscribe", "unpublish", "unsubscribe"))
            key, other = choose.randrange(3), choose.randint(1, 4)
            # What depends on one's own calls alone is certain, whatever the others do.
            certain = {
                "publish": key not in mine,
                "unpublish": key in mine,
                "unsubscribe": (other, key) in others,
                "subscribe": None,
            }[action]
            try:
                if action == "publish":
                    gpa = bench.table.publish(vm, key, choose.randint(1, 3) * PAGE)
                    mine.add(key)
                    assert memory.read(gpa, 8) == bytes(8)
                    memory.write(gpa, vm.to_bytes(8, "little"))
                elif action == "subscribe":
                    gpa = bench.table.subscribe(vm, other, key)
                    others.add((other, key))
                    # Zero until the publisher has written; never anybody else's number.
                    assert int.from_bytes(memory.read(gpa, 8), "little") in (0, other)
                elif action == "unpublish":
                    bench.table.unpublish(vm, key)
                    mine.remove(key)
                else:
                    bench.table.unsubscribe(vm, other, key)
                    others.remove((other, key))
            except ChannelError:
                assert not certain
            else:
                assert certain is not False
        bench.table.leave(vm)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(live, vm) for vm in bench.spaces]:
            done.result(120)
    assert bench.table.channels == ()
    assert bench.shared_bytes() == 0
    bench.close()
