"""Small guests on the Unicorn engine: faults, policies, code and data, stopping."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from assembler import BASE, PACKAGES, assemble, require_assembler
from demo_guest import require_demo, run_demo
from guest_bench import GuestBench, passed_through_serial, require_moved_register_noticed

import stage2.engines.unicorn.abi as abi
import stage2.engines.unicorn.riscv.abi as riscv_abi
from stage2.address import Gpa, Range
from stage2.config.load import load_vm
from stage2.engines.unicorn.riscv.machine import RiscvMachine
from stage2.engines.unicorn.state import Word
from stage2.engines.unicorn.vcpu import Vcpu
from stage2.errors import EngineError
from stage2.flags import MappingFlags, MapType
from stage2.formats.outcome import FaultKind
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.region import MemoryRegion, ViolationPolicy
from stage2.tables.compiled import Callback
from stage2.vm.host import build
from stage2.vm.uart16550 import Uart
from stage2.vm.vm import Boot, RunResult, Vm
from waiting import HANG_S

GUESTS = Path(abi.__file__).parents[2] / "vm" / "guests"
ROM_AT = 0x2000_0000
R, W, X, V, A, D = 2, 4, 8, 1, 0x40, 0x80


class Bench(GuestBench[RiscvMachine]):
    """RAM begins at BASE, as guests do."""

    fmt, ram, entry = "sv39x4", BASE, BASE

    def __init__(self) -> None:
        super().__init__(RiscvMachine)

    def run(self, vm: Vm, image: bytes, *, stop_at: int | None = None) -> RunResult:
        return self.run_image(vm, image, stop_at)


@pytest.fixture(params=["compiled", "plain"])
def bench(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """With the MMU in both forms: as it is in long runs, and in those that are over before it would be compiled."""
    monkeypatch.setattr(Callback, "pays", lambda self, calls: request.param == "compiled")
    bench = Bench()
    yield bench
    bench.close()


def leaf(address: int, flags: int = V | R | W | X | A | D) -> int:
    return address >> 12 << 10 | flags


def test_the_demo_guest_sees_what_it_was_promised() -> None:
    config = load_vm(GUESTS / "demo-riscv64.toml")
    with build([config]) as host:
        vm = host.vms[0]
        vm.memory.write(BASE, (GUESTS / "demo-riscv64.bin").read_bytes())
        vm.memory.write(ROM_AT, (GUESTS / "demo-rom.bin").read_bytes())
        vm.boot = Boot(Gpa(BASE))
        machine = RiscvMachine(vm)
        try:
            result = machine.run()
        finally:
            machine.close()
        report = vm.report("unicorn", result)
        same = int.from_bytes(host.memory.read(0x9000_0000, 8), "little")  # type: ignore[arg-type]  # HPA = GPA
    require_demo(report, verdicts=5)
    assert same == 0x600D600D
    identical = next(region for region in report.regions if region.map_type is MapType.MAP_IDENTICAL)
    assert identical.hpa == ((identical.start, identical.start + identical.size),)


def test_the_bundled_guests_are_what_their_sources_assemble_to(tmp_path: Path) -> None:
    for prefix in PACKAGES:
        require_assembler(prefix)
    root = GUESTS.parents[3]
    subprocess.run(["sh", "scripts/guests.sh", str(tmp_path)], cwd=root, check=True, timeout=HANG_S)
    made = sorted(tmp_path.glob("*.bin"))
    assert {path.stem for path in made} == {path.stem for path in GUESTS.glob("*.S")}
    for path in made:
        assert path.read_bytes() == (GUESTS / path.name).read_bytes(), path.name


FAULTS_AT_EXACT_ADDRESS = """
        la t0, trap
        csrw stvec, t0
        li t0, (8 << 60) | (0x80100000 >> 12)
        csrw satp, t0
        sfence.vma
        li s0, 0x40000123
        lb t1, 0(s0)
        nop
1:      j 1b
        .align 2
trap:   csrr t0, stval
        csrr t1, scause
        csrr t2, sepc
        li t3, 0x80200000
        sd t0, 0(t3)
        sd t1, 8(t3)
        sd t2, 16(t3)
        off
"""


def test_a_stage_1_fault_reaches_the_guest_with_its_exact_address(bench: Bench) -> None:
    vm = bench.vm_with()
    vm.memory.write(0x8010_0000 + 8 * 2, leaf(BASE).to_bytes(8, "little"))
    result = bench.run(vm, assemble(FAULTS_AT_EXACT_ADDRESS))
    assert result.exit == "off"
    assert bench.word(0x8020_0000) == 0x4000_0123
    assert bench.word(0x8020_0008) == 13
    assert BASE < bench.word(0x8020_0010) < BASE + 0x100
    assert result.guest_faults == 1


CODE_WRITTEN_THROUGH_AN_ALIAS = """
        li t0, (8 << 60) | (0x80100000 >> 12)
        csrw satp, t0
        sfence.vma
        li s0, 0x00300000           # writable alias of the code page at 0x80300000
        li s1, 0x80300000
        li s2, 100
        li s3, 0
        li s4, 0x00000513           # addi a0, zero, 0
        li s5, 0x00008067           # ret
        sw s5, 4(s0)
1:      li t0, 0x100000
        add s4, s4, t0              # the immediate grows by one
        sw s4, 0(s0)
        fence.i
        jalr s1
        add s3, s3, a0
        addi s2, s2, -1
        bnez s2, 1b
        li t3, 0x80200000
        sd s3, 0(t3)
        off
"""


def test_code_written_through_another_address_is_executed_as_written(bench: Bench) -> None:
    vm = bench.vm_with()
    vm.memory.write(0x8010_0000, leaf(BASE).to_bytes(8, "little"))
    vm.memory.write(0x8010_0000 + 8 * 2, leaf(BASE).to_bytes(8, "little"))
    result = bench.run(vm, assemble(CODE_WRITTEN_THROUGH_AN_ALIAS))
    assert result.exit == "off"
    assert bench.word(0x8020_0000) == sum(range(1, 101))


def test_the_mmu_is_compiled_within_a_run_when_that_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo guest's report is the same with all fills plain, with none, and with a change in the middle."""
    reports, changes = [], []
    install = Vcpu._install_fill

    def noted(self: Vcpu) -> None:
        changes.append(self.state[Word.FILLS])
        install(self)

    monkeypatch.setattr(Vcpu, "_install_fill", noted)
    for limit in (None, 0, 300):
        monkeypatch.setattr(Callback, "pays", lambda self, calls, limit=limit: limit is not None and calls >= limit)
        report = run_demo("riscv64", "sv39x4")
        require_demo(report, 5)
        reports.append(replace(report, wall_s=0.0, fault_latency_ns={}))
    assert [limit // 10 for limit in changes] == [0, 30], "the compiled fill took over at other times"
    # Only the change itself ends a run, and what the library then fills again is counted again.
    assert abs(reports[2].fills - reports[0].fills) <= 2
    assert reports[0] == reports[1] == replace(reports[2], fills=reports[0].fills)


def test_a_hole_stops_the_guest_by_default_and_the_report_shows_where(bench: Bench) -> None:
    vm = bench.vm_with()
    result = bench.run(vm, assemble("li s0, 0x30000008\n sd zero, 0(s0)\n off\n"))
    assert result.exit == "stopped"
    (violation,) = vm.violations
    assert (violation.gpa, violation.access, violation.region) == (0x3000_0008, "write", "hole")
    assert violation.walk is not None
    assert violation.pc in range(BASE, BASE + 64)
    assert "0x30000008" in result.reason


def test_a_stage_1_table_in_a_hole_is_reported_as_an_access_to_a_table(bench: Bench) -> None:
    vm = bench.vm_with()
    body = (
        "li t0, (8 << 60) | (0x30000000 >> 12)\n li t1, 0x80001000\n csrw satp, t0\n sfence.vma\n ld t2, 0(t1)\n off\n"
    )
    result = bench.run(vm, assemble(body))
    assert result.exit == "stopped"
    (violation,) = vm.violations
    assert violation.region == "hole (stage-1 table)"
    assert violation.gpa == 0x3000_0000 + 8 * 2


ACCESS_THROUGH_A_TABLE = """
        la t0, trap
        csrw stvec, t0
        li t0, (8 << 60) | (0x80100000 >> 12)
        csrw satp, t0
        sfence.vma
        li s0, 0x40000128
        {access}
        off
        .align 2
trap:   csrr t0, stval
        csrr t1, scause
        li t3, 0x80200000
        sd t0, 0(t3)
        sd t1, 8(t3)
        off
"""


@pytest.mark.parametrize(("access", "scause"), [("ld t1, 0(s0)", 5), ("sd t1, 0(s0)", 7), ("jr s0", 1)])
def test_a_stage_1_table_in_a_passed_through_device_is_an_access_fault(bench: Bench, access: str, scause: int) -> None:
    """Privileged, "Virtual Address Translation Process", step 2: a PTE whose access violates a PMA check raises "an
    access-fault exception corresponding to the original access type"."""
    vm = bench.vm_with(passed_through_serial())
    vm.memory.write(0x8010_0000 + 8 * 1, leaf(0x1000_0000, V).to_bytes(8, "little"))
    vm.memory.write(0x8010_0000 + 8 * 2, leaf(BASE).to_bytes(8, "little"))
    result = bench.run(vm, assemble(ACCESS_THROUGH_A_TABLE.format(access=access)))
    assert result.exit == "off"
    assert (bench.word(0x8020_0000), bench.word(0x8020_0008)) == (0x4000_0128, scause)
    assert vm.violations == ()


MARKS_A_TABLE_IN_ROM = """
        la t0, trap
        csrw stvec, t0
        li t0, (8 << 60) | (0x20000000 >> 12)
        csrw satp, t0
        sfence.vma
        li s0, 0x40000000
        ld t1, 0(s0)
        off
        .align 2
trap:   csrr t1, scause
        li t3, 0x80200000
        sd t1, 8(t3)
        off
"""


def test_a_hardware_accessed_bit_in_a_read_only_stage_1_table_needs_stage_2_write_permission(bench: Bench) -> None:
    rom = MemoryRegion(Gpa(ROM_AT), 4096, MappingFlags.READ, MapType.ROM, name="rom")
    vm = bench.vm_with(rom, violation=ViolationPolicy.INJECT)
    # The gigapage of the code is marked already; the one the guest reads through is not.
    vm.memory.write(ROM_AT + 8, leaf(BASE, V | R).to_bytes(8, "little"))
    vm.memory.write(ROM_AT + 16, leaf(BASE).to_bytes(8, "little"))
    result = bench.run(vm, assemble(MARKS_A_TABLE_IN_ROM))
    assert result.exit == "off"
    assert bench.word(0x8020_0008) == 5
    (violation,) = vm.violations
    assert (violation.gpa, violation.access, violation.region) == (ROM_AT + 8, "write", "rom (stage-1 table)")
    assert bench.word(ROM_AT + 8) == leaf(BASE, V | R)


AT_WORK = "li t0, 0x80200000\n sd t0, (t0)\n"


def test_an_endless_guest_ends_when_it_is_stopped_from_another_thread(bench: Bench) -> None:
    result = bench.run(bench.vm_with(), assemble(AT_WORK + "1: j 1b\n"), stop_at=0x8020_0000)
    assert (result.exit, result.reason) == ("interrupted", "the guest is at work")


def test_a_guest_that_waits_for_nothing_can_still_be_stopped(bench: Bench) -> None:
    result = bench.run(bench.vm_with(), assemble(AT_WORK + "1: wfi\n j 1b\n"), stop_at=0x8020_0000)
    assert result.exit == "interrupted"


SECOND_HART_ADDS = """
        bnez a0, second
        li a7, 0x48534d
        li a6, 0
        li a0, 1
        la a1, _start
        li a2, 0x77
        ecall
        bnez a0, bad
        li s0, 0x80200000
        li s1, 1000
1:      amoadd.d zero, s1, (s0)
        addi s1, s1, -1
        bnez s1, 1b
        fence
2:      ld t0, 8(s0)                # the second hart says when it is done
        beqz t0, 2b
        off
bad:    sd a0, 16(s0)
        off
second: li s0, 0x80200000
        sd a1, 24(s0)
        li s1, 1000
1:      amoadd.d zero, s1, (s0)
        addi s1, s1, -1
        bnez s1, 1b
        li t0, 1
        sd t0, 8(s0)
3:      wfi
        j 3b
"""


def test_two_harts_add_atomically_to_one_word(bench: Bench) -> None:
    vm = bench.vm_with(cpus=2)
    result = bench.run(vm, assemble(SECOND_HART_ADDS))
    assert result.exit == "off"
    assert bench.word(0x8020_0000) == 2 * sum(range(1, 1001))
    assert bench.word(0x8020_0018) == 0x77


@pytest.mark.parametrize(
    ("policy", "exit_", "action"),
    [
        (ViolationPolicy.STOP, "stopped", "stopped"),
        (ViolationPolicy.DISCARD, "off", "discarded"),
        (ViolationPolicy.INJECT, "off", "discarded"),
    ],
)
def test_an_address_in_a_devices_page_that_no_device_answers_follows_the_policy(
    bench: Bench, policy: ViolationPolicy, exit_: str, action: str
) -> None:
    device = MemoryRegion(Gpa(0x1000_0000), 4096, MappingFlags(0), MapType.EMULATED, name="uart")
    vm = bench.vm_with(device, violation=policy)
    vm.bus.attach(Range.sized(0x1000_0000, 0x100), Uart("uart", vm.console))
    body = "li s0, 0x10000000\n lw t0, 0x200(s0)\n li t3, 0x80200000\n sd t0, 0(t3)\n fence\n off\n"
    result = bench.run(vm, assemble(body))
    assert result.exit == exit_
    (violation,) = vm.violations
    assert (violation.gpa, violation.region, violation.action) == (0x1000_0200, "uart", action)
    if exit_ == "off":
        assert bench.word(0x8020_0000) == 2**64 - 1


def test_a_device_region_without_a_device_is_a_hole(bench: Bench) -> None:
    device = MemoryRegion(Gpa(0x1000_0000), 4096, MappingFlags(0), MapType.EMULATED, name="nobody")
    result = bench.run(bench.vm_with(device), assemble("li s0, 0x10000000\n ld t0, 8(s0)\n off\n"))
    assert result.exit == "stopped"
    assert bench.vm.violations[0].gpa == 0x1000_0008


def test_no_frame_left_stops_the_guest_and_says_so(bench: Bench) -> None:
    bench.memory.close()
    bench.memory = PhysicalMemory([Range.sized(0x1_0000_0000, 64 * 4096)])
    bench.frames = FrameAllocator(bench.memory)
    vm = bench.vm_with()
    body = "li s0, 0x80100000\n li t0, 4096\n1: sd s0, 0(s0)\n add s0, s0, t0\n j 1b\n"
    result = bench.run(vm, assemble(body))
    assert result.exit == "stopped"
    assert "out of memory" in result.reason
    assert vm.violations[0].region.endswith("(out of memory)")


def test_another_release_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abi, "VERSION", "9.9.9")
    abi.library.cache_clear()
    try:
        with pytest.raises(EngineError, match=r"private ABI is known for 9\.9\.9 only"):
            abi.library()
    finally:
        abi.library.cache_clear()


def test_a_moved_register_is_noticed_before_a_guest_runs(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    require_moved_register_noticed(monkeypatch, riscv_abi, "ENV_PC", bench)


def test_the_walk_of_a_violation_names_kind_and_stage(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.run(vm, assemble("li s0, 0x30000000\n ld t0, 0(s0)\n off\n"))
    walk = vm.violations[0].walk
    assert walk is not None
    assert not hasattr(walk.result, "hpa")
    assert getattr(walk.result, "kind", None) is FaultKind.TRANSLATION
    assert getattr(walk.result, "stage", None) == 2
