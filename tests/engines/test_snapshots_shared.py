"""Snapshots of VMs that share memory: saved alone only where nobody else may write it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stage2.address import GIB, MIB, SIZE_4K, Gpa, Hpa, Range
from stage2.engines.run import machine_for
from stage2.errors import SnapshotError
from stage2.flags import RWX, MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.vm.channels import READ_WRITE, ChannelTable
from stage2.vm.snapshots.precopy import Round, _Copy, precopy
from stage2.vm.snapshots.snapshot import Snapshot
from stage2.vm.vm import Vm

SHARED = 0x9000_0000


class Pair:
    """Two VMs on one host, one with a machine."""

    def __init__(self, other_may: MappingFlags) -> None:
        self.memory = PhysicalMemory([Range.sized(0x1_0000_0000, GIB)])
        self.frames = FrameAllocator(self.memory)
        self.channels = ChannelTable(self.frames)
        owner = Owner(OwnerKind.SHARE, "board")
        self.share = Range.sized(self.frames.allocate(SIZE_4K, owner=owner), SIZE_4K)
        self.vms = [self.vm("one", 1, READ_WRITE), self.vm("two", 2, other_may)]
        self.machine = machine_for(self.vms[0])

    def vm(self, name: str, number: int, flags: MappingFlags) -> Vm:
        space = AddressSpace.create("sv39x4", self.frames, name=name)
        space.map(MemoryRegion(Gpa(0x8000_0000), MIB, RWX, MapType.MAP_ALLOC))
        space.map(MemoryRegion(Gpa(SHARED), SIZE_4K, flags, MapType.SHARE, Hpa(self.share.start), name="board"))
        return Vm(name, number, "riscv64", space, channels=self.channels)

    def close(self) -> None:
        self.machine.close()
        for vm in self.vms:
            vm.close()
        self.memory.close()


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(request.param)
    yield pair
    pair.close()


@pytest.mark.parametrize("pair", [MappingFlags.READ], indirect=True)
def test_a_share_that_only_this_vm_may_write_is_saved_and_put_back_with_it(pair: Pair) -> None:
    one, two = pair.vms
    one.memory.write(SHARED, b"then")
    first = one.snapshot()
    assert first.read(SHARED, 4) == b"then"
    pair.memory.write(Hpa(pair.share.start), b"soon")
    assert one.snapshot().copied == 1
    one.restore(first)
    assert two.memory.read(SHARED, 4) == b"then"


@pytest.mark.parametrize("pair", [MappingFlags.READ], indirect=True)
def test_what_the_host_writes_to_a_share_while_it_is_copied_is_in_the_copy(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pair.vms[0]
    one.memory.write(SHARED, b"then")
    real = _Copy.round

    def then_written(self: _Copy) -> Round:
        done = real(self)
        pair.memory.write(Hpa(pair.share.start), b"soon")
        return done

    monkeypatch.setattr(_Copy, "round", then_written)
    report = precopy(one, tmp_path / "a.snapshot", rounds=1)
    assert (report.pages, report.last.pages) == (1, 1)
    assert Snapshot.open(tmp_path / "a.snapshot").read(SHARED, 4) == b"soon"


@pytest.mark.parametrize("pair", [READ_WRITE], indirect=True)
def test_a_vm_whose_share_another_may_write_is_refused_with_its_name(pair: Pair) -> None:
    with pytest.raises(SnapshotError) as refused:
        pair.vms[0].snapshot()
    assert str(refused.value) == "VM one cannot be saved alone: VM two may write the share board as well"
    pair.vms[1].close()
    assert len(pair.vms[0].snapshot().pages) == 1


@pytest.mark.parametrize("pair", [MappingFlags.READ], indirect=True)
def test_a_vm_that_takes_part_in_a_channel_is_neither_saved_nor_put_back(pair: Pair) -> None:
    one = pair.vms[0]
    first = one.snapshot()
    pair.channels.publish(1, 7, SIZE_4K)
    for attempt in (one.snapshot, lambda: one.restore(first)):
        with pytest.raises(SnapshotError) as refused:
            attempt()
        assert str(refused.value) == (
            "VM one takes part in a channel, which no snapshot holds: unpublish or unsubscribe it first"
        )
    pair.channels.unpublish(1, 7)
    one.restore(first)
    assert one.snapshot().copied == 0
