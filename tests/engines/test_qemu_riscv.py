"""The qemu engine: RISC-V guests in VS-mode, by our tables, on QEMU's emulated MMU."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from assembler import BASE, assemble, require_assembler
from demo_guest import GUESTS, require_demo
from linux_guest import require_linux

from stage2.address import Gpa, Range
from stage2.config.document import parse_document
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm, plan_vm
from stage2.config.vm import read_vm
from stage2.engines.qemu import riscv_host
from stage2.engines.qemu.board import board_host, give_cores
from stage2.engines.run import run_all
from stage2.errors import HostToolError
from stage2.machines.core import Core
from stage2.machines.emulator import OWN_QEMU, Emulator
from stage2.machines.riscv_board import OPERATIONS, RiscvBoard
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import Populate, ViolationPolicy
from stage2.vm.boot import load_images
from stage2.vm.devices import DeviceBus
from stage2.vm.host import Host, Options, build
from stage2.vm.images import read_images
from stage2.vm.report import VmReport
from stage2.vm.uart16550 import Uart
from stage2.vm.vm import Vm
from waiting import HANG_S, until

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


GENERATIONS = {"QEMU 7": 7, "QEMU 10": 10}


@pytest.fixture(params=[*GENERATIONS, "without Sstc"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The board: with the QEMU of either of Debian's releases, and with a hart that has no vstimecmp."""
    emulator, cpu = OWN_QEMU, "rv64,h=on,sstc=off" if request.param == "without Sstc" else None
    if request.param in GENERATIONS:
        emulator = Emulator("qemu", GENERATIONS[request.param])
        require_emulator(emulator)

    class Chosen(RiscvBoard):
        def __init__(self, memory: PhysicalMemory, *, cores: int) -> None:
            super().__init__(memory, cores=cores, cpu=cpu, emulator=emulator)
            assert self.has_timer is (cpu is None)
            assert self.version.startswith("" if emulator.generation is None else str(emulator.generation))

    monkeypatch.setattr(riscv_host, "RiscvBoard", Chosen)
    return str(request.param)


def require_emulator(emulator: Emulator) -> None:
    try:
        emulator.program(RiscvBoard.PROGRAM, RiscvBoard.PACKAGE)
    except HostToolError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


def run(
    config: PlannedVm, populate: Populate | None = None, *, prepare: Callable[[Vm], None] = lambda _: None,
    look: Callable[[Host], None] = lambda _: None, max_seconds: float = HANG_S,
) -> VmReport:  # fmt: skip
    """A VM's report; `prepare` sees it before it runs, `look` its host afterwards."""
    options = Options(populate, 4096 if populate is Populate.LAZY else None, shared_memory=True)
    platform, _ = board_host([config], "riscv64")
    with build([config], platform=platform, options=options) as host:
        give_cores(host)
        load_images(host.vms[0], config, read_images(config))
        prepare(host.vms[0])
        outcome = run_all(host, max_seconds=max_seconds, engine="qemu")
        look(host)
    (report,) = outcome.reports
    return report


def with_options(config: PlannedVm, **changed: object) -> PlannedVm:
    options = replace(config.options, **changed)  # type: ignore[arg-type]
    return replace(config, extensions=replace(config.extensions, options=options))


# --- Linux ------------------------------------------------------------------------------------------------------


def test_linux_boots_to_power_off_with_all_its_memory(kind: str) -> None:
    require_linux()
    report = run(load_vm(EXAMPLE), Populate.EAGER)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    assert "stage2-guest: memory work ok" in report.console
    assert report.stage2_faults == 0


def test_linux_boots_to_power_off_without_any_memory_to_begin_with() -> None:
    require_linux()
    report = run(load_vm(EXAMPLE), Populate.LAZY)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    assert report.engine == "qemu"
    assert "stage2-guest: memory work ok" in report.console
    assert report.stage2_faults > 5000


WITH_SHELL = """\
[base]
id = 1
name = "shell"
vm_type = 2
cpu_num = 1
arch = "riscv64"
[kernel]
entry_point = 0x8020_0000
image_location = "fs"
kernel_path = "fetched:linux-riscv64"
kernel_load_addr = 0x8020_0000
ramdisk_path = "fetched:linux-riscv64"
cmdline = "quiet console=ttyS0 panic=-1 cryptomgr.notests stage2.init=shell"
memory_regions = [[0x8000_0000, 0x1000_0000, 0x7, 0]]
[devices]
emu_devices = [
    ["plic", 0x0c00_0000, 0x60_0000, 0, 0x1, []],
    ["uart", 0x1000_0000, 0x1000, 10, 0x2, []],
]
passthrough_devices = []
[stage2]
generation = "head"
"""


def test_a_shell_listens_to_an_emulated_uart_that_interrupts_through_an_emulated_plic() -> None:
    require_linux()
    typed: list[threading.Thread] = []

    def prepare(vm: Vm) -> None:
        console, uart = vm.console, vm.bus.device_at(Gpa(0x1000_0000))
        assert isinstance(uart, Uart)

        def type_in() -> None:
            until(lambda: "~ # " in console.text, "no prompt")
            uart.receive(b"/bin/busybox grep ttyS0 /proc/interrupts\r")
            until(lambda: console.text.count("~ # ") > 1, "no answer")
            uart.receive(b"/bin/busybox poweroff -f\r")

        typed.append(threading.Thread(target=type_in, daemon=True))
        typed[0].start()

    report = run(plan_vm(read_vm(parse_document(WITH_SHELL, "shell.toml"))), prepare=prepare)
    assert (report.exit, report.reason) == ("off", "the guest asked for shutdown"), report.console[-2000:]
    (line,) = (line for line in report.console.splitlines() if "SiFive PLIC" in line)
    assert int(line.split()[1]) > 10
    assert report.devices["plic"] > 20


TWO_HARTS = WITH_SHELL.replace("cpu_num = 1", "cpu_num = 2").replace(" stage2.init=shell", "")


def test_two_harts_are_started_interrupt_each_other_and_drop_each_others_translations() -> None:
    require_linux()
    report = run(plan_vm(read_vm(parse_document(TWO_HARTS, "two.toml"))))
    assert report.exit == "off", report.console[-2000:]
    assert "riscv64, 2 cpu," in report.console
    assert "stage2-guest: memory work ok" in report.console


def test_two_linux_vms_with_a_share_beside_the_hostile_guest_are_isolated_at_each_edit() -> None:
    require_linux()
    files = [EXAMPLE.with_name(f"share-linux-{side}.toml") for side in "ab"]
    configs = [with_options(load_vm(file), fault_around=0x4_0000) for file in files]
    configs.append(load_vm(GUESTS / "hostile-riscv64.toml"))
    platform, _ = board_host(configs, "riscv64")
    with build(configs, platform=platform, options=Options(Populate.LAZY, shared_memory=True)) as host:
        give_cores(host)
        for vm, config in zip(host.vms, host.configs, strict=True):
            load_images(vm, config, read_images(config))
        outcome = run_all(host, max_seconds=HANG_S, engine="qemu", paranoid=True)
    writer, reader, hostile = outcome.reports
    assert [report.exit for report in outcome.reports] == ["off"] * 3, writer.console[-1000:] + reader.console[-1000:]
    assert "share: pattern written" in writer.console
    assert "share: 32 words of the other VM ok" in reader.console
    assert hostile.console.splitlines()[-1].startswith("hostile guest: accesses that went through: ")
    assert outcome.proof is not None
    assert outcome.proof.proved_for_cpus
    assert outcome.proofs > 300
    assert writer.stage2_faults < 1000


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


def test_the_hostile_guest_comes_nowhere(kind: str) -> None:
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


def test_the_guests_timer_interrupts_it(kind: str) -> None:
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
