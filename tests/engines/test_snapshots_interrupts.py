"""Snapshots of an AArch64 guest with an emulated GICv2, its virtual timer and a PL011, in the midst of interrupts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from assembler import build
from test_arm_interrupts import BASE, RESULTS, SOURCE, Bench
from writer_guest import sum_of

from stage2.address import Gpa
from stage2.engines.unicorn.arm.machine import ArmMachine
from stage2.errors import EngineError, SnapshotError
from stage2.vm.gic.v2 import GicV2
from stage2.vm.snapshots.snapshot import Snapshot

GUEST = """
        msr daifclr, #2
        mov x25, #3
more:   ldr w0, =0x02000005             // an SGI to itself; the handler masks all but these
        str w0, [x19, #0xf00]
        b 1f
1:      mov w0, #0x20                   // the serial port has sent something
        str w0, [x23, #0x38]
        mov w0, #'.'
        str w0, [x23]
        b 1f
1:      mov x24, x22
        mov x0, #20                     // the timer in 2 us
        msr cntv_tval_el0, x0
        mov x0, #1
        msr cntv_ctl_el0, x0
1:      wfi
        cmp x22, x24
        b.eq 1b
        mov x3, #64
2:      subs x3, x3, #1
        b.ne 2b
        subs x25, x25, #1
        b.ne more
        result 0, x22
        off
"""
STEP = 40
"""Nanoseconds of the guest's time between two snapshots."""


@pytest.fixture
def machine() -> Iterator[ArmMachine]:
    bench = Bench()
    vm = bench.vm_with_interrupts()
    vm.memory.write(Gpa(BASE), build("aarch64-linux-gnu-", SOURCE + GUEST, BASE))
    bench.machine = ArmMachine(vm)
    yield bench.machine
    bench.close()


def gic_of(snapshot: Snapshot) -> dict[str, object]:
    return dict(snapshot.state.devices["gic-distributor"])


def test_from_every_moment_the_guest_comes_to_the_same_end(machine: ArmMachine) -> None:
    vm = machine.vm
    taken: list[Snapshot] = []

    def take() -> None:
        taken.append(vm.snapshot())
        machine.when(machine.clock.now().nanos + STEP, take)

    machine.when(STEP, take)
    assert machine.run().exit == "off"
    end = sum_of(vm.snapshot())
    assert int.from_bytes(vm.memory.read(Gpa(RESULTS), 8), "little") == 9
    assert vm.console.text == "..."
    states = [snapshot.state.machine.more for snapshot in taken]
    assert any(more["waiting"] for more in states)
    assert any(more["timer_ns"] is not None for more in states)
    assert len({str(gic_of(snapshot)) for snapshot in taken}) > 2
    for snapshot in taken:
        vm.restore(snapshot)
        assert sum_of(vm.snapshot()) == sum_of(snapshot)
        assert machine.run().exit == "off"
        assert sum_of(vm.snapshot()) == end


def test_a_state_of_the_controller_that_cannot_be_is_refused_and_nothing_changes(machine: ArmMachine) -> None:
    vm = machine.vm
    machine.when(3_000, lambda: machine.stop("stopped", "in the middle"))
    machine.run()
    snapshot = vm.snapshot()
    for name, value in (
        ("groups", "x"),
        ("banks", []),
        ("routed", ["0x0", "0x0"]),
        ("served_by", [[5, 0]]),
        ("senders", ["ff" * 16]),
        ("answered", ["01" * 16]),
        ("interfaces", [{}]),
    ):
        forged = {**snapshot.state.devices, "gic-distributor": {**gic_of(snapshot), name: value}}
        with pytest.raises(SnapshotError, match="the snapshot has no state that device gic-distributor can have: "):
            vm.restore(replace(snapshot, state=replace(snapshot.state, devices=forged)))
        assert sum_of(vm.snapshot()) == sum_of(snapshot)


def test_a_controller_whose_interrupts_are_in_list_registers_is_not_saved() -> None:
    gic = GicV2(1)
    gic.distributor.write_by(0, 0x0, 4, 1)
    gic.distributor.write_by(0, 0x100, 4, 0xFFFF_FFFF)
    gic.distributor.write_by(0, 0xF00, 4, 0x0200_0005)
    state = gic.save()
    gic.fill(0, 4)
    with pytest.raises(EngineError, match="interrupts are in list registers"):
        gic.save()
    other = GicV2(1)
    other.load(state)
    assert other.save() == state
    assert other.fill(0, 4)[0][0].intid == 5
