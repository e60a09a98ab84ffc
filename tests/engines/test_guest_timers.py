"""The timers of running guests: by the machine's one clock, in the lists of its CPUs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from assembler import BASE, assemble
from guest_bench import GuestBench

import stage2
from stage2.engines.unicorn.riscv.machine import RiscvMachine
from stage2.errors import OutOfRangeError
from stage2.hypervisor.time import TimeValue
from stage2.tables.result import Mapped
from stage2.vm.exits import Hypercall
from stage2.vm.sbi import Sbi

SEEN = 0x8020_0000
TIMER = """
        .macro timer ticks             # sbi_set_timer(now + ticks)
        rdtime a0
        li t0, \\ticks
        add a0, a0, t0
        li a7, 0x54494d45
        li a6, 0
        ecall
        .endm
        .macro wait                    # until the timer interrupt is pending; it stays pending
        li t0, 1 << 5
        csrw sie, t0
1:      wfi
        csrr t1, sip
        and t1, t1, t0
        beqz t1, 1b
        .endm
"""


class Bench(GuestBench[RiscvMachine]):
    """RAM begins at BASE, as guests do."""

    fmt, ram, entry = "sv39x4", BASE, BASE


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench(RiscvMachine)
    yield bench
    bench.close()


def test_rdtime_at_an_sbi_call_is_the_clocks_time_to_the_tick(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    real = Sbi.call

    def call(self: Sbi, exit_: Hypercall) -> tuple[int, int | None]:
        assert bench.machine is not None
        seen.append((exit_.arguments[0], bench.machine.clock.now().ticks(10_000_000)))
        return real(self, exit_)

    monkeypatch.setattr(Sbi, "call", call)
    read = "rdtime a0\n li a7, 0x10\n li a6, 0\n ecall\n"
    spin = "li t2, {}\n2: addi t2, t2, -1\n bnez t2, 2b\n"
    result = bench.run_image(
        bench.vm_with(),
        assemble(TIMER + read + spin.format(5000) + read + "timer 12345\n wait\n" + read + "off\n"),
        None,
    )
    assert result.exit == "off", result.reason
    reads = [seen[0], seen[1], seen[3]]
    assert all(0 <= now - guest <= 1 for guest, now in reads)
    (first, _), (second, _), (third, _) = reads
    assert second - first >= 5000 * 8 // 128, "a tick is 128 bytes of code, and the loop has 8"
    assert third - second >= 12345


def test_a_timer_rings_not_before_its_tick_and_a_new_one_takes_it_back(bench: Bench) -> None:
    body = f"""
        timer 1000
        timer 50000                    # instead of the first
        rdtime s0
        wait
        rdtime s1
        sub s1, s1, s0
        li t0, {SEEN:#x}
        sd s1, 0(t0)
        li a0, -1                      # never: takes the pending one back
        li a7, 0x54494d45
        li a6, 0
        ecall
        csrr t1, sip
        sd t1, 8(t0)
        off
    """
    result = bench.run_image(bench.vm_with(), assemble(TIMER + body), None)
    assert result.exit == "off", result.reason
    assert 49_990 <= bench.word(SEEN) <= 50_010
    assert bench.word(SEEN + 8) == 0


def test_a_timer_wakes_a_waiting_hart_while_another_is_busy(bench: Bench) -> None:
    """The busy hart is alone in being ready, and does nothing but look for what the other writes."""
    body = f"""
        li s0, {SEEN:#x}
        bnez a0, second
        li a7, 0x48534d
        li a6, 0
        li a0, 1
        la a1, _start
        ecall
2:      ld t0, 0(s0)
        beqz t0, 2b
        off
second: timer 20000
        wait
        li t0, 1
        sd t0, 0(s0)
3:      wfi
        j 3b
    """
    result = bench.run_image(bench.vm_with(cpus=2), assemble(TIMER + body), None)
    assert result.exit == "off", result.reason


def test_events_of_a_guests_timer_are_in_its_cpus_list_and_go_with_the_machine(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm, pending = bench.vm_with(), []
    real = RiscvMachine.set_timer

    def set_timer(self: RiscvMachine, hart: int, deadline: int) -> None:
        real(self, hart, deadline)
        assert vm.cpus is not None
        pending.append([event.deadline.nanos for event in vm.cpus.timers.lists[hart]])

    monkeypatch.setattr(RiscvMachine, "set_timer", set_timer)
    body = "li a0, 777777\n li a7, 0x54494d45\n li a6, 0\n ecall\n li a0, -1\n ecall\n off\n"
    assert bench.run_image(vm, assemble(TIMER + body), None).exit == "off"
    assert pending == [[77_777_700], []], "a tick is 100 ns"
    assert bench.machine is not None
    bench.machine.close()
    assert vm.cpus is None


def test_calls_of_a_callback_are_about_the_guests_machine_and_a_failing_one_ends_the_run(bench: Bench) -> None:
    times: list[TimeValue] = []
    vm = bench.vm_with()
    vm.memory.write(BASE, assemble("1: j 1b\n"))
    machine = RiscvMachine(vm)

    def again(now: TimeValue) -> None:
        times.append(now)
        if len(times) == 3:
            raise ValueError("three are enough")
        stage2.register_timer(now + TimeValue.of(millis=1), again)

    machine.timers.register_timer(TimeValue.of(millis=1), again)
    result = machine.run()
    machine.close()
    assert (result.exit, result.reason) == ("error", "a timer of CPU 0 failed: three are enough")
    ms = [time.nanos // 1_000_000 for time in times]
    assert ms == [1, 2, 3]


def test_a_dirty_log_harvests_at_its_interval_what_the_guest_wrote(bench: Bench) -> None:
    """The guest writes 3 pages, then the same page again and again for 10 ms."""
    body = f"""
        li s0, {SEEN:#x}
        li t1, 4096
        sd t1, 0(s0)
        add t2, s0, t1
        sd t1, 0(t2)
        add t2, t2, t1
        sd t1, 0(t2)
        rdtime s1
        li t0, 100000
        add s1, s1, t0
2:      sd t1, 0(s0)
        rdtime t0
        bltu t0, s1, 2b
        off
    """
    vm = bench.vm_with()
    vm.memory.write(BASE, assemble(body))
    machine = RiscvMachine(vm)
    machine.log_writes(TimeValue.of(millis=1))
    result = machine.run()
    report = vm.report("unicorn", result).dirty_log
    machine.close()
    assert result.exit == "off", result.reason
    assert report is not None
    assert report.harvests in (9, 10)
    assert (report.most, report.pages) == (3, 3 + report.harvests - 1)
    assert vm.dirty_log is None
    assert isinstance(vm.space.translate(SEEN, stage2.Access.WRITE), Mapped), "pages may be written again"


def test_a_dirty_log_without_an_interval_is_refused(bench: Bench) -> None:
    vm = bench.vm_with()
    machine = RiscvMachine(vm)
    with pytest.raises(OutOfRangeError, match="at least 1 ns"):
        machine.log_writes(TimeValue())
    machine.close()
