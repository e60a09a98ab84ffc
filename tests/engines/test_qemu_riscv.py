"""The qemu engine: RISC-V guests in VS-mode, by our tables, on QEMU's emulated MMU."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from assembler import BASE, assemble, require_assembler
from demo_guest import GUESTS, require_demo
from linux_guest import require_linux

from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm
from stage2.engines.qemu.board import board_host, give_cores
from stage2.engines.run import run_all
from stage2.machines.riscv_board import RiscvBoard
from stage2.space.region import Populate, ViolationPolicy
from stage2.vm.boot import load_images
from stage2.vm.host import Host, Options, build
from stage2.vm.images import read_images
from stage2.vm.report import VmReport
from stage2.vm.vm import Vm
from waiting import HANG_S

EXAMPLE = Path(__file__).parents[2] / "examples" / "linux-riscv64.toml"
SCRATCH = 0x8030_0000
"""RAM of the demo guest that small guests write their results to."""


@pytest.fixture(autouse=True)
def board() -> None:
    """QEMU: CI must have it."""
    if shutil.which(RiscvBoard.PROGRAM) is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the Debian package {RiscvBoard.PACKAGE}")
        pytest.skip(f"{RiscvBoard.PROGRAM} is not installed")


def run(
    config: PlannedVm, populate: Populate | None = None, *, prepare: Callable[[Vm], None] = lambda _: None,
    look: Callable[[Host], None] = lambda _: None, paranoid: bool = False, max_seconds: float = HANG_S,
) -> VmReport:  # fmt: skip
    """A VM's report; `prepare` sees it before it runs, `look` its host afterwards."""
    options = Options(populate, 4096 if populate is Populate.LAZY else None, shared_memory=True)
    platform, _ = board_host([config], "riscv64")
    with build([config], platform=platform, options=options) as host:
        give_cores(host)
        load_images(host.vms[0], config, read_images(config))
        prepare(host.vms[0])
        outcome = run_all(host, max_seconds=max_seconds, engine="qemu", paranoid=paranoid)
        look(host)
    (report,) = outcome.reports
    if paranoid:
        assert outcome.proof is not None
        assert outcome.proof.proved_for_cpus
        assert outcome.proofs >= report.stage2_faults // 4
    return report


def with_options(config: PlannedVm, **changed: object) -> PlannedVm:
    options = replace(config.options, **changed)  # type: ignore[arg-type]
    return replace(config, extensions=replace(config.extensions, options=options))


# --- Linux ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("populate", list(Populate), ids=lambda one: one.value)
def test_linux_boots_to_power_off(populate: Populate) -> None:
    require_linux()
    report = run(load_vm(EXAMPLE), populate)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    assert report.engine == "qemu"
    assert "stage2-guest: memory work ok" in report.console
    assert bool(report.stage2_faults) is (populate is Populate.LAZY)
    if populate is Populate.LAZY:
        assert report.stage2_faults > 5000


def test_faults_around_make_fewer_of_them_and_every_edit_is_proved() -> None:
    require_linux()
    report = run(with_options(load_vm(EXAMPLE), fault_around=0x1_0000), Populate.LAZY, paranoid=True)
    assert report.exit == "off", report.reason
    assert report.stage2_faults < 2500


# --- small guests -----------------------------------------------------------------------------------------------


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


def test_the_hostile_guest_comes_nowhere() -> None:
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
    # Entries in ROM whose accessed and dirty bits are clear lead to its own memory: QEMU sets the bits in ROM.
    assert lines["hostile guest"].endswith(("0", "6"))


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


def test_an_instruction_of_hypervisors_is_illegal_to_a_guest() -> None:
    report, (scause, stval, *_) = run_code(REPORTS_TRAPS.format(access=".word 0x62000073"))  # hfence.gvma
    assert report.exit == "off", report.reason
    assert (scause, stval) == (2, 0x6200_0073)


def test_the_guests_timer_interrupts_it() -> None:
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
