"""Small RISC-V guests on the qemu engine: policies, injected faults, emulated devices, edits, the timer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from assembler import BASE, assemble, require_assembler
from demo_guest import GUESTS, require_demo
from riscv_on_qemu import KINDS, require_qemu, run, take_board, with_options

from stage2.address import Gpa, Range
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm
from stage2.machines.core import Core
from stage2.machines.riscv_board import OPERATIONS
from stage2.space.address_space import AddressSpace
from stage2.space.region import ViolationPolicy
from stage2.vm.devices import DeviceBus
from stage2.vm.host import Host
from stage2.vm.report import VmReport
from stage2.vm.vm import Vm
from waiting import HANG_S

SCRATCH = 0x8030_0000
"""RAM of the demo guest that small guests write their results to."""


@pytest.fixture(autouse=True)
def board() -> None:
    require_qemu()


def demo(policy: ViolationPolicy = ViolationPolicy.INJECT) -> PlannedVm:
    return with_options(load_vm(GUESTS / "demo-riscv64.toml"), violation=policy)


def run_code(body: str, policy: ViolationPolicy = ViolationPolicy.INJECT, *, max_seconds: float = HANG_S,
             ) -> tuple[VmReport, list[int]]:  # fmt: skip
    """Run an assembled guest in the demo's memory: its report, and the first words of SCRATCH."""
    require_assembler()
    words: list[int] = []

    def look(host: Host) -> None:
        data = host.vms[0].memory.read(SCRATCH, 64)
        words.extend(int.from_bytes(data[at : at + 8], "little") for at in range(0, 64, 8))

    def prepare(vm: Vm) -> None:
        vm.memory.write(BASE, assemble(body))

    return run(demo(policy), prepare=prepare, look=look, max_seconds=max_seconds), words


def test_the_demo_guest_sees_what_it_was_promised_through_an_emulated_uart() -> None:
    require_demo(run(demo()), verdicts=5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_hostile_guest_comes_nowhere(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_board(kind, monkeypatch)
    report = run(load_vm(GUESTS / "hostile-riscv64.toml"))
    lines = dict(line.split(": ", 1) for line in report.console.splitlines())
    refused = [lines[what] for what in (
        "every 2 MiB below 4 GiB", "around every power of two", "beside its own regions",
        "1024 random addresses of 41 bits", "own leaves that point outside", "level-0 tables outside",
        "level-1 tables outside", "level-0 table in a device", "firmware asked to print foreign memory",
    )]  # fmt: skip
    assert refused == [
        "6132 reads, 4088 writes, 2044 fetches refused",
        "303 reads, 202 writes, 101 fetches refused",
        "40 reads, 28 writes, 13 fetches refused",
        "3072 reads, 2048 writes, 1024 fetches refused",
        "1536 reads, 1024 writes, 512 fetches refused",
        "768 reads, 512 writes, 256 fetches refused",
        "768 reads, 512 writes, 256 fetches refused",
        "3 reads, 2 writes, 1 fetches refused",
        "257 reads, 0 writes, 0 fetches refused",
    ]
    # Entries in ROM without accessed and dirty bits lead to its own memory. QEMU 7 sets the bits: docs/conformance.md.
    marks, through = lines["accessed and dirty marks in ROM"], report.console.splitlines()[-1].rsplit(" ", 1)[1]
    old = ("0 reads, 0 writes, 0 fetches refused", "6")
    assert (marks, through) == (("3 reads, 2 writes, 1 fetches refused", "0") if kind == "QEMU 10" else old)


REPORTS_TRAPS = """
        la t0, trap
        csrw stvec, t0
        li s0, 0x80300000
        li s1, 0x30000000
        {access}
        off
        .align 2
trap:   csrr t0, scause
        csrr t1, stval
        csrr t2, sepc
        csrr t3, sstatus
        sd t0, 0(s0)
        sd t1, 8(s0)
        sd t2, 16(s0)
        sd t3, 24(s0)
        off
"""


@pytest.mark.parametrize(("access", "cause"), [("lbu a0, 3(s1)", 5), ("sw a0, 4(s1)", 7), ("jr s1", 1),
                                               ("amoadd.d a0, a0, (s1)", 7)])  # fmt: skip
def test_an_injected_fault_is_the_guests_own_access_fault(access: str, cause: int) -> None:
    report, (scause, stval, sepc, sstatus, *_) = run_code(REPORTS_TRAPS.format(access=access))
    assert report.exit == "off", report.reason
    offset = {"lbu a0, 3(s1)": 3, "sw a0, 4(s1)": 4}.get(access, 0)
    assert (scause, stval) == (cause, 0x3000_0000 + offset)
    assert sepc == stval if cause == 1 else BASE < sepc < BASE + 0x100
    assert sstatus & 0x122 == 0x100, "from supervisor mode, where interrupts were off, as they are now"
    (violation,) = report.violations
    assert (violation.region, violation.action, violation.gpa) == ("hole", "injected", stval)


def test_a_discarded_load_reads_as_ones_and_a_discarded_store_is_lost() -> None:
    report, (wide, half, signed, *_) = run_code(
        """
        li s0, 0x80300000
        li s1, 0x30000000
        ld a0, 0(s1)
        sd a0, 0(s0)
        lhu a0, 8(s1)
        sd a0, 8(s0)
        lb a0, 9(s1)
        sd a0, 16(s0)
        sd a0, 16(s1)
        off
        """,
        ViolationPolicy.DISCARD,
    )
    assert report.exit == "off", report.reason
    assert (wide, half, signed) == ((1 << 64) - 1, 0xFFFF, (1 << 64) - 1)
    assert [violation.action for violation in report.violations] == ["discarded"] * 4


def test_a_violation_that_stops_says_what_was_tried_and_where() -> None:
    report, _ = run_code("li s1, 0x30000000\n sd s1, 8(s1)", ViolationPolicy.STOP)
    assert report.exit == "stopped"
    assert report.reason == "write of GPA 0x30000008 (hole: no region) at PC 0x80000004"


class Doorbell:
    """A device that does something when it is written, while the guest stands still."""

    name = "doorbell"

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work

    def read(self, offset: int, width: int) -> int:
        return 0

    def write(self, offset: int, width: int, value: int) -> None:
        self._work()


EDITED = """
        la t0, trap
        csrw stvec, t0
        li s0, 0x80300000
        li s1, 0x80310000
        li s2, 0x10000800
        sd s1, 0(s1)
        sd s1, 8(s1)
        sd zero, 0(s2)
        sd s2, 0(s1)
        ld t0, 0(s1)
        sd t0, 8(s0)
        off
        .align 2
trap:   csrr t0, scause
        sd t0, 0(s0)
        off
"""


def run_edited(edit: Callable[[AddressSpace], object], harts: int, body: str = EDITED) -> tuple[VmReport, int]:
    """Run a guest with an edit in the middle: the report, and the cause of the exception that it ended in."""
    require_assembler()
    cause: list[int] = []

    def prepare(vm: Vm) -> None:
        vm.bus = DeviceBus()
        vm.bus.attach(Range.sized(0x1000_0000, 0x1000), Doorbell(lambda: edit(vm.space)))
        vm.memory.write(BASE, assemble(body))

    def look(host: Host) -> None:
        cause.append(int.from_bytes(host.vms[0].memory.read(SCRATCH, 8), "little"))

    config = replace(demo(), cpu_num=harts)
    report = run(config, prepare=prepare, look=look)
    assert report.exit == "off", report.reason
    return report, cause[0]


@pytest.mark.parametrize("harts", [1, 2])
def test_an_edit_under_a_running_guest_is_fenced_at_once(monkeypatch: pytest.MonkeyPatch, harts: int) -> None:
    """QEMU drops all translations whenever a hart changes between guest and monitor, so that a missing fence would not
    be seen in what the guest can do."""
    done: list[list[tuple[str, int]]] = []
    settle = Core.settle

    def noted(core: Core) -> None:
        done.append([(OPERATIONS[number], operand) for number, operand in core._owed])
        settle(core)
        assert not core._owed
        assert core.waits

    monkeypatch.setattr(Core, "settle", noted)
    report, cause = run_edited(lambda space: space.track_writes(Gpa(0x8031_0000), 4096), harts)
    assert (report.resolutions["tracked"], cause) == (1, 0)
    assert done[0] == [("HFENCE.GVMA gpa, vmid", 0x8031_0000 >> 2)]
    done.clear()
    report, cause = run_edited(lambda space: space.unmap(Gpa(0x8031_0000), 4096), harts)
    assert cause == 7, "a store access fault"
    assert done == [[("HFENCE.GVMA x0, vmid", 0)]], "its table, which held no other page, is gone too"


STALE = """
        li s0, 0x80300000
        li s1, 0x80310000
        li s2, 0x10000800
        li a7, 0x48534d         # hart 1, which writes a page again and again
        li a6, 0
        li a0, 1
        la a1, other
        ecall
1:      ld t0, 8(s0)
        beqz t0, 1b
        sd zero, 0(s2)          # the page is taken away
        rdtime t1
        li t2, 1200000000       # two minutes
        add t1, t1, t2
2:      ld t0, 0(s0)
        bnez t0, 3f
        rdtime t0
        bltu t0, t1, 2b
3:      off
other:  la t0, trap
        csrw stvec, t0
        li s0, 0x80300000
        li s1, 0x80310000
4:      sd s1, 0(s1)
        sd s1, 8(s0)
        j 4b
        .align 2
trap:   csrr t0, scause
        sd t0, 0(s0)
5:      j 5b
"""


def test_what_another_hart_is_about_to_write_is_gone_for_it_too() -> None:
    _, cause = run_edited(lambda space: space.unmap(Gpa(0x8031_0000), 4096), 2, STALE)
    assert cause == 7, "a store access fault"


def test_an_instruction_of_hypervisors_is_illegal_to_a_guest() -> None:
    report, (scause, stval, *_) = run_code(REPORTS_TRAPS.format(access=".word 0x62000073"))  # hfence.gvma
    assert report.exit == "off", report.reason
    assert (scause, stval) == (2, 0x6200_0073)


@pytest.mark.parametrize("kind", KINDS)
def test_the_guests_timer_interrupts_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    take_board(kind, monkeypatch)
    report, (scause, late, *_) = run_code(
        """
        la t0, trap
        csrw stvec, t0
        li s0, 0x80300000
        li t0, 1 << 5
        csrw sie, t0
        rdtime s2
        li t0, 1000
        add s2, s2, t0
        mv a0, s2
        li a6, 0
        li a7, 0x54494d45
        ecall
        csrsi sstatus, 2
1:      wfi
        j 1b
        .align 2
trap:   csrr t0, scause
        sd t0, 0(s0)
        rdtime t1
        sltu t1, t1, s2
        sd t1, 8(s0)
        off
        """
    )
    assert report.exit == "off", report.reason
    assert (scause, late) == (1 << 63 | 5, 0)


@pytest.mark.parametrize("body", ["1: j 1b", "1: wfi\n j 1b"], ids=["in a loop", "asleep"])
def test_a_guest_that_never_exits_is_stopped_by_the_time_limit(body: str) -> None:
    report, _ = run_code(body, max_seconds=1)
    assert (report.exit, report.reason) == ("time limit", "still running after 1 s")
