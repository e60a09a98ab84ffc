"""Snapshots of running guests: what is put back is what was, and what comes after is what came after."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from writer_guest import PAGES, RAM, UART, Writer, store, sum_of

from stage2.address import MIB, Gpa, Range
from stage2.errors import OutOfMemoryError, SnapshotError
from stage2.space.region import Populate
from stage2.vm.devices import Silent

ARCHS = ("riscv64", "aarch64", "x86_64")
MOMENT, LATER = 20_000, 60_000


@pytest.fixture(params=ARCHS)
def writer(request: pytest.FixtureRequest) -> Iterator[Writer]:
    made = Writer(request.param)
    yield made
    made.close()


def test_two_runs_from_one_snapshot_end_in_the_same_state(writer: Writer) -> None:
    writer.run_until(MOMENT)
    moment = writer.vm.snapshot()
    writer.run_until(LATER)
    later, console = writer.state(), writer.vm.console.text
    assert len(console) > moment.state.console_position > 0
    writer.vm.restore(moment)
    assert writer.state() == sum_of(moment) != later
    assert writer.vm.console.position == moment.state.console_position
    writer.run_until(LATER)
    assert writer.state() == later
    assert writer.vm.console.text == console


def test_a_snapshot_goes_on_in_another_machine_by_way_of_a_file_as_if_it_had_never_stopped(
    writer: Writer, tmp_path: Path
) -> None:
    writer.run_until(MOMENT)
    moment = store(tmp_path / "a.snapshot", writer.vm.snapshot())
    writer.run_until(LATER)
    other = Writer(writer.vm.arch)
    try:
        restored = other.vm.restore(moment)
        assert restored.pages == len(moment.pages)
        assert other.state() == sum_of(moment)
        other.run_until(LATER)
        assert other.state() == writer.state()
    finally:
        other.close()


def test_after_the_first_one_a_snapshot_copies_the_pages_written_since_and_a_restore_puts_only_those_back(
    writer: Writer,
) -> None:
    writer.run_until(MOMENT)
    first = writer.vm.snapshot()
    assert first.copied == len(first.pages)
    writer.run_until(MOMENT + 600)
    second = writer.vm.snapshot()
    old, new = ({gpa: snapshot.read(gpa, 4096) for gpa in snapshot.pages.gpas.tolist()} for snapshot in (first, second))
    written = [gpa for gpa in new if old.get(gpa) != new[gpa]]
    assert 0 < len(written) < PAGES // 2
    assert second.copied == len(written)
    assert second.pages.differing(first.pages).tolist() == written
    assert writer.vm.restore(first).pages == len(written)
    third = writer.vm.snapshot()
    assert (third.copied, sum_of(third)) == (0, sum_of(first))
    assert not len(third.pages.differing(first.pages))
    assert writer.vm.restore(second).pages == len(written)
    assert writer.state() == sum_of(second)


@pytest.mark.parametrize("arch", ARCHS)
def test_blocks_that_write_tracking_cut_are_whole_again_after_a_restore(arch: str) -> None:
    writer = Writer(arch, populate=Populate.EAGER)
    try:
        writer.run_until(MOMENT)
        first = writer.vm.snapshot()
        leaves = writer.vm.space.page_table.statistics().leaves
        assert leaves == {2 * MIB: 2}
        writer.run_until(LATER)
        assert writer.vm.space.page_table.statistics().leaves == {2 * MIB: 1, 4096: 512}
        writer.vm.restore(first)
        assert writer.vm.space.page_table.statistics().leaves == leaves
        assert np.array_equal(writer.vm.snapshot().state.leaves, first.state.leaves)
        assert writer.state() == sum_of(first)
    finally:
        writer.close()


def test_what_was_populated_later_is_given_back_by_a_restore_and_populated_again(writer: Writer) -> None:
    writer.run_until(300)
    early = writer.vm.snapshot()
    held = writer.frames.used_bytes
    writer.run_until(LATER)
    later = writer.vm.snapshot()
    assert len(later.pages) > len(early.pages)
    writer.vm.restore(early)
    assert writer.frames.used_bytes == held
    assert writer.state() == sum_of(early)
    assert writer.vm.restore(later).populated == len(later.pages) - len(early.pages)
    assert writer.state() == sum_of(later)


def test_harts_their_timers_and_their_turns_are_put_back() -> None:
    writer = Writer(cpus=2)
    try:
        writer.run_until(MOMENT)
        moment = writer.vm.snapshot()
        harts = moment.state.machine.more["harts"]
        assert all(hart["running"] for hart in harts)
        writer.run_until(20 * LATER)
        later = writer.state()
        writer.vm.restore(moment)
        writer.run_until(20 * LATER)
        assert writer.state() == later
        counted = int.from_bytes(writer.vm.memory.read(RAM + 2 * MIB, 8), "little")
        assert counted > 1000
    finally:
        writer.close()


def test_looking_at_a_guest_changes_nothing_of_what_it_does() -> None:
    looked, alone = Writer(cpus=2), Writer(cpus=2)
    try:
        for moment in range(7_001, 400_000, 7_001):
            looked.run_until(moment)
            looked.vm.snapshot()
        looked.run_until(400_000)
        alone.run_until(400_000)
        assert looked.state() == alone.state()
    finally:
        looked.close()
        alone.close()


def test_a_reservation_and_an_exclusive_monitor_are_put_back() -> None:
    for arch, register in (("riscv64", "reservation"), ("aarch64", "exclusive")):
        writer = Writer(arch)
        try:
            addresses = set()
            for moment in range(1000, 1400):
                writer.run_until(moment)
                snapshot = writer.vm.snapshot()
                addresses.add(snapshot.state.machine.cpus[0][register])
                writer.vm.restore(snapshot)
                assert writer.machine.save() == snapshot.state.machine
            assert RAM + 2 * MIB in addresses
        finally:
            writer.close()


def test_a_snapshot_is_taken_between_two_turns_of_a_machine_that_runs(writer: Writer) -> None:
    taken = []
    for moment in (MOMENT, MOMENT + 5_000):
        writer.machine.when(moment, lambda: taken.append(writer.vm.snapshot()))
    writer.run_until(LATER)
    later = writer.state()
    assert [snapshot.state.machine.nanos // 5_000 for snapshot in taken] == [4, 5]
    for snapshot in taken:
        writer.vm.restore(snapshot)
        writer.run_until(LATER)
        assert writer.state() == later


def test_a_machine_that_was_not_begun_is_put_back_to_its_entry(writer: Writer) -> None:
    beginning = writer.vm.snapshot()
    assert not beginning.state.machine.started
    writer.run_until(MOMENT)
    there = writer.state()
    writer.vm.restore(beginning)
    writer.run_until(MOMENT)
    assert writer.state() == there


def test_a_dirty_log_goes_on_beside_snapshots_and_counts_what_a_restore_writes() -> None:
    from stage2.hypervisor.time import TimeValue

    writer = Writer()
    try:
        writer.machine.log_writes(TimeValue(1_000))
        writer.run_until(MOMENT)
        moment = writer.vm.snapshot()
        writer.run_until(LATER)
        assert writer.vm.dirty_log is not None
        before = writer.vm.dirty_log.report
        assert before.harvests == LATER // 1_000
        later = writer.state()
        back = writer.vm.restore(moment)
        writer.run_until(MOMENT + 1_500)
        after = writer.vm.dirty_log.report
        assert after.harvests == before.harvests + 1
        assert after.pages - before.pages >= back.pages
        writer.run_until(LATER)
        assert writer.state() == later
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("arch", "register", "value"),
    [
        ("riscv64", "privilege", 0),
        ("aarch64", "pstate", 0),
        # The privilege of x86 is that of the stack segment's descriptor.
        ("x86_64", "ss_flags", 0x00CF_F300),
    ],
)
def test_a_cpu_in_user_mode_is_saved_and_put_back_like_any_other(arch: str, register: str, value: int) -> None:
    writer = Writer(arch)
    try:
        writer.run_until(MOMENT)
        (cpu,) = writer.machine._cpus
        odd = {"stvec": 0x8000_1000, "vbar_el1": 0x8000_1000, "sepc": 0x1234, "elr_el1": 0x1234, "ia32_lstar": 0x1234}
        kernel = cpu.save()
        kernel |= {name: number for name, number in odd.items() if name in kernel}
        user = {**kernel, register: value}
        for values in (user, kernel, user):
            cpu.load(values)
            assert cpu.save() == values
    finally:
        writer.close()


_DERIVED = {
    # The address of the last fault until it is taken, and functions of this machine.
    "riscv64": (0x618, {0x220, 0x5F8}),
    # Condition flags as the numbers that they are worked out from, a counter of the host's time, the last exception.
    "aarch64": (0x3160, {0x208, 0x210, 0x810, *range(0xBD0, 0xBE8, 8)}),
    # Condition flags likewise, what the next instruction of the FPU adds flags to, its scratch, RIP after an exception.
    "x86_64": (0x15E8, {*range(0x88, 0xB0, 8), 0x308, 0x310, 0x318, 0x1510}),
}
"""Bytes of the library's state of a CPU that can be compared, and the words of them that need not be the same."""


@pytest.mark.parametrize("arch", ARCHS)
def test_nothing_else_in_the_librarys_state_of_a_cpu_is_a_guests(arch: str) -> None:
    size, derived = _DERIVED[arch]
    source, target = Writer(arch), Writer(arch)
    try:
        for moment in range(500, 30_000, 700):
            source.run_until(moment)
            target.vm.restore(source.vm.snapshot(follow=False))
            theirs, own = (
                np.frombuffer(ctypes.string_at(one.machine._cpus[0]._cpu.env, size), np.uint64)
                for one in (source, target)
            )
            assert {int(word) * 8 for word in np.flatnonzero(theirs != own)} <= derived
    finally:
        source.close()
        target.close()


# --- refused ----------------------------------------------------------------------------------------------------


def test_a_snapshot_of_another_vm_is_refused_and_nothing_changes() -> None:
    writer, named, smaller = Writer(), Writer(name="other"), Writer(cpus=2)
    try:
        writer.run_until(MOMENT)
        snapshot = writer.vm.snapshot()
        before = named.state(), smaller.state()
        with pytest.raises(SnapshotError) as refused:
            named.vm.restore(snapshot)
        assert str(refused.value) == "the snapshot is of a VM whose name is writer; that of this one is other"
        with pytest.raises(SnapshotError) as refused:
            smaller.vm.restore(snapshot)
        assert str(refused.value) == "the snapshot has 1 CPUs; VM writer has 2"
        smaller.vm.space.unmap(RAM + 3 * MIB, MIB)
        with pytest.raises(SnapshotError) as refused:
            smaller.vm.restore(snapshot)
        assert str(refused.value) == (
            "the snapshot of VM writer has the memory ram [0x80000000, 0x80400000) rwx--- MAP_ALLOC, where it now has "
            "ram [0x80000000, 0x80300000) rwx--- MAP_ALLOC"
        )
        assert (named.state(), smaller.state()) == before
    finally:
        for one in (writer, named, smaller):
            one.close()


def test_without_memory_for_it_a_restore_changes_nothing() -> None:
    writer, small = Writer(), Writer(limit=16 * 4096)
    try:
        writer.run_until(LATER)
        snapshot = writer.vm.snapshot()
        small.run_until(300)
        first = small.vm.snapshot()
        small.run_until(600)
        before, leaves = small.state(), small.vm.space.leaves_of_memory()
        with pytest.raises(OutOfMemoryError):
            small.vm.restore(snapshot)
        assert small.state() == before
        assert np.array_equal(small.vm.space.leaves_of_memory(), leaves)
        assert small.vm.restore(first).pages > 0
        assert small.state() == sum_of(first)
    finally:
        writer.close()
        small.close()


def test_a_device_that_does_not_give_its_state_is_named() -> None:
    class Secret(Silent):
        save = None  # type: ignore[assignment]

    writer = Writer()
    try:
        writer.vm.bus.attach(Range.sized(Gpa(UART + 0x1000), 0x1000), Secret("secret"))
        with pytest.raises(SnapshotError) as refused:
            writer.vm.snapshot()
        assert str(refused.value) == "VM writer cannot be saved: its device secret does not give its state"
    finally:
        writer.close()


def test_a_vm_without_a_machine_is_refused() -> None:
    writer = Writer()
    writer.machine.close()
    with pytest.raises(SnapshotError, match="VM writer is on no machine whose state can be saved"):
        writer.vm.snapshot()
    writer.close()


@pytest.mark.parametrize(
    ("name", "value"), [("privilege", 3), ("mstatus", 0x1800), ("satp", 5 << 60), ("x1", 1 << 64), ("sip", 1 << 7)]
)
def test_registers_that_no_guest_can_have_are_refused(name: str, value: int) -> None:
    from dataclasses import replace

    writer = Writer()
    try:
        writer.run_until(MOMENT)
        snapshot = writer.vm.snapshot()
        machine = snapshot.state.machine
        forged = replace(machine, cpus=({**machine.cpus[0], name: value},))
        before = writer.state()
        with pytest.raises(SnapshotError) as refused:
            writer.vm.restore(replace(snapshot, state=replace(snapshot.state, machine=forged)))
        assert str(refused.value) == f"CPU 0: register {name} cannot be {value:#x} here"
        assert writer.state() == before
    finally:
        writer.close()
