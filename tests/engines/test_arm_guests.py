"""Small AArch64 guests on the Unicorn engine: their own faults, ours, EL0, code and data, firmware, stopping."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from assembler import build
from demo_guest import require_demo, run_demo
from guest_bench import (
    GuestBench,
    passed_through_serial,
    require_moved_record_noticed,
    require_moved_register_noticed,
    require_refused_device,
)

import stage2.engines.unicorn.arm.abi as arm_abi
from stage2.address import MIB, Gpa
from stage2.engines.unicorn.arm.machine import ArmMachine
from stage2.errors import EngineError
from stage2.flags import MappingFlags, MapType
from stage2.space.region import MemoryRegion, ViolationPolicy
from stage2.vm.vm import RunResult, Vm

PREFIX = "aarch64-linux-gnu-"
STAGE_2 = "arm-s2-4k-40"
GUESTS = Path(arm_abi.__file__).parents[3] / "vm" / "guests"
BASE, RESULTS = 0x8000_0000, 0x8020_0000
VALID, TABLE, BLOCK, PAGE = 1, 3, 1, 3
EL0, READ_ONLY, AF, PXN, UXN = 1 << 6, 1 << 7, 1 << 10, 1 << 53, 1 << 54
KERNEL = AF | UXN
ROOT, MIDDLE, LAST = 0x8010_0000, 0x8010_1000, 0x8010_2000
TCR = 25 | 25 << 16 | 2 << 30
"""39-bit halves, granule 4 KiB: tables start at level 1."""

HEADER = """
        .macro off
        ldr x0, =0x84000008
        hvc #0
        .endm
        .macro mmu_on
        ldr x0, =0x0005000080100001 // ASID 5, CnP
        msr ttbr0_el1, x0
        ldr x0, =0x80104000
        msr ttbr1_el1, x0
        ldr x0, =TCR
        msr tcr_el1, x0
        ldr x0, =0x04ff
        msr mair_el1, x0
        isb
        mrs x0, sctlr_el1
        orr x0, x0, #1
        msr sctlr_el1, x0
        isb
        .endm
        .macro vectors_on
        ldr x0, =vectors
        msr vbar_el1, x0
        ldr x0, =0x80300000
        mov sp, x0
        .endm
        .globl _start
_start:
"""
VECTORS = """
        .ltorg
// Every synchronous exception is noted at x29 (8 words: vector, ESR, FAR, ELR, SPSR), then "after" in x30 goes on.
        .balign 2048
vectors:
        .rept 16
        .balign 128
        str x29, [sp, #-16]
        adr x28, .
        b note
        .endr
note:   and x28, x28, #0x780
        mrs x27, esr_el1
        stp x28, x27, [x29]
        mrs x27, far_el1
        mrs x28, elr_el1
        stp x27, x28, [x29, #16]
        mrs x27, spsr_el1
        str x27, [x29, #32]
        add x29, x29, #64
        br x30
"""


class Bench(GuestBench[ArmMachine]):
    """RAM begins at BASE, as guests do."""

    fmt, ram, entry = STAGE_2, BASE, BASE

    def __init__(self) -> None:
        super().__init__(ArmMachine)

    def run(self, vm: Vm, body: str, *, stop_at: int | None = None, tcr: int = TCR) -> RunResult:
        equates = f".equ TCR, {tcr:#x}\n.equ RESULTS, {RESULTS:#x}\n"
        return self.run_image(vm, build(PREFIX, equates + HEADER + body + VECTORS, BASE), stop_at)

    def identity(self) -> None:
        """Stage-1 tables: the gigabyte of the guest's RAM maps to itself, for EL1."""
        self.put(ROOT + 8 * 2, BASE | KERNEL | BLOCK)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_the_demo_guest_sees_what_it_was_promised() -> None:
    require_demo(run_demo("aarch64", STAGE_2), verdicts=5)


# Pages of the third table, at GVA 0 in steps of 4 KiB.
LEAVES = {0: PAGE, 1: RESULTS + 0x1000 | KERNEL | READ_ONLY | PAGE, 2: RESULTS + 0x2000 | KERNEL & ~AF | PAGE,
          3: RESULTS + 0x3000 | KERNEL | PXN | PAGE, 4: 0, 5: RESULTS + 0x5000 | KERNEL | EL0 | PAGE,
          6: 1 << 40 | KERNEL | PAGE}  # fmt: skip


@pytest.mark.parametrize(
    ("instruction", "gva", "syndrome"),
    [
        ("ldr x3, [x1]", 0x40_0000_0123, 0x96000005),
        ("ldr x3, [x1]", 0x20_0123, 0x96000006),
        ("ldr x3, [x1]", 0x4123, 0x96000007),
        ("str x3, [x1]", 0x4120, 0x96000047),
        ("str x3, [x1]", 0x1008, 0x9600004F),
        ("ldr x3, [x1]", 0x2010, 0x9600000B),
        ("ldr x3, [x1]", 0x80_0000_0000, 0x96000004),
        ("ldr x3, [x1]", 0xFFFF_FF80_0000_0018, 0x96000005),
        ("ldr x3, [x1]", 0xFFFF_0000_0000_0018, 0x96000004),
        ("blr x1", 0x3000, 0x8600000F),
        ("blr x1", 0x4000, 0x86000007),
        ("ldtr x3, [x1]", 0x1008, 0x9600000F),
        ("ldr x3, [x1]", 0x6018, 0x96000003),
    ],
)
def test_a_stage_1_fault_reaches_the_guest_with_its_syndrome(
    bench: Bench, instruction: str, gva: int, syndrome: int
) -> None:
    vm = bench.vm_with()
    bench.identity()
    bench.put(ROOT, MIDDLE | TABLE)
    bench.put(MIDDLE, LAST | TABLE)
    for index, entry in LEAVES.items():
        bench.put(LAST + 8 * index, entry)
    body = f"""
        vectors_on
        mmu_on
        ldr x29, =RESULTS
        ldr x1, ={gva:#x}
        mov x4, x30
        adr x30, 2f
1:      {instruction.replace("blr", "br")}
        b .
2:      adr x1, 1b
        str x1, [x29]
        off
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS) == 0x200
    assert bench.word(RESULTS + 8) == syndrome
    assert bench.word(RESULTS + 16) == gva
    assert bench.word(RESULTS + 24) == (gva if instruction.startswith("b") else bench.word(RESULTS + 64))
    assert bench.word(RESULTS + 32) & 0xF == 5
    assert result.guest_faults == 1


FROM_EL0 = """
        vectors_on
        mmu_on
        ldr x29, =RESULTS
        adr x30, after
        mov x0, #0x3c0
        msr spsr_el1, x0
        mov x0, #0x5000             // the page of EL0
        msr elr_el1, x0
        ldr x1, =0x1008
        eret
after:  ldr x0, =RESULTS + 64
        cmp x29, x0
        b.hi 2f
        mrs x0, elr_el1             // the SVC is over; go on behind it
        msr elr_el1, x0
        eret
2:      ldr x0, =RESULTS + 128
        cmp x29, x0
        b.hi 3f
        mrs x0, elr_el1
        add x0, x0, #4
        msr elr_el1, x0
        eret
3:      off
"""


def test_el0_calls_its_kernel_and_cannot_touch_the_kernels_pages(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.identity()
    bench.put(ROOT, MIDDLE | TABLE)
    bench.put(MIDDLE, LAST | TABLE)
    bench.put(LAST + 8, LEAVES[1])
    bench.put(LAST + 8 * 5, RESULTS + 0x5000 | AF | EL0 | READ_ONLY | PXN | PAGE)
    code = [0xD4000001 | 0x77 << 5, 0xF9400023, 0xD61F0020]  # svc #0x77; ldr x3, [x1]; br x1
    vm.memory.write(Gpa(RESULTS + 0x5000), b"".join(word.to_bytes(4, "little") for word in code))
    result = bench.run(vm, FROM_EL0)
    assert result.exit == "off", result.reason
    notes = [[bench.word(RESULTS + 64 * n + 8 * i) for i in range(5)] for n in range(3)]
    assert [note[0] for note in notes] == [0x400] * 3
    assert [note[1] for note in notes] == [0x56000077, 0x9200000F, 0x8200000F]
    assert [note[3] for note in notes] == [0x5004, 0x5004, 0x1008]
    assert notes[1][2] == notes[2][2] == 0x1008
    assert all(note[4] & 0xF == 0 for note in notes)


def test_an_unprivileged_load_at_el1_leaves_nothing_behind_that_el0_could_use(bench: Bench) -> None:
    """EL1 first reads its own page plainly and by LDTR, then EL0 tries: it must fault although EL1 just could."""
    vm = bench.vm_with()
    bench.identity()
    bench.put(ROOT, MIDDLE | TABLE)
    bench.put(MIDDLE, LAST | TABLE)
    bench.put(LAST + 8, LEAVES[1])
    bench.put(LAST + 8 * 5, RESULTS + 0x5000 | AF | EL0 | READ_ONLY | PXN | PAGE)
    vm.memory.write(Gpa(RESULTS + 0x5000), 0xF9400023.to_bytes(4, "little"))
    body = """
        vectors_on
        mmu_on
        ldr x29, =RESULTS
        ldr x1, =0x1008
        ldr x2, [x1]
        adr x30, 1f
        ldtr x2, [x1]
        b .
1:      adr x30, 2f
        mov x0, #0x3c0
        msr spsr_el1, x0
        mov x0, #0x5000
        msr elr_el1, x0
        eret
2:      ldr x1, =0x5000             // the page of EL0 is LDTR's to read
        ldtr w3, [x1]
        str x3, [x29]
        off
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS + 8) == 0x9600000F
    assert bench.word(RESULTS + 64 + 8) == 0x9200000F
    assert bench.word(RESULTS + 128) == 0xF9400023


def test_the_upper_half_is_translated_by_ttbr1(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.identity()
    bench.put(0x8010_4000 + 8 * 511, BASE | KERNEL | BLOCK)
    body = """
        mmu_on
        ldr x1, =0xffffffffc0200000
        mov x2, #0x1234
        str x2, [x1]
        off
"""
    assert bench.run(vm, body).exit == "off"
    assert bench.word(RESULTS) == 0x1234


def test_a_half_that_is_switched_off_faults_at_level_0(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.identity()
    bench.put(0x8010_4000 + 8 * 511, BASE | KERNEL | BLOCK)
    body = """
        vectors_on
        mmu_on
        ldr x29, =RESULTS
        ldr x1, =0xffffffffc0200000
        adr x30, 1f
        ldr x2, [x1]
1:      off
"""
    assert bench.run(vm, body, tcr=TCR | 1 << 23).exit == "off"
    assert bench.word(RESULTS + 8) == 0x96000004


def test_a_root_of_two_entries_may_begin_anywhere_in_a_page(bench: Bench) -> None:
    """The 64-byte minimum is of registers that hold 52-bit addresses (D8.2.3): T1SZ 33 leaves two entries of 1 GiB."""
    vm = bench.vm_with()
    bench.identity()
    bench.put(0x8010_5010, BASE | KERNEL | BLOCK, 0)
    body = """
        mmu_on
        ldr x0, =0x80105010
        msr ttbr1_el1, x0
        isb
        ldr x1, =0xffffffff80200000
        mov x2, #0x77
        str x2, [x1]
        off
"""
    assert bench.run(vm, body, tcr=TCR & ~(0x3F << 16) | 33 << 16).exit == "off"
    assert bench.word(RESULTS) == 0x77


def test_a_root_above_ips_is_an_address_size_fault_at_level_0(bench: Bench) -> None:
    """DDI 0487 D24.2 "ESR_EL1", DFSC 0: "level 0 of translation or translation table base register"; IPS 0: 32 bits."""
    vm = bench.vm_with()
    bench.identity()
    body = """
        vectors_on
        mmu_on
        mov x0, #0x100000000
        msr ttbr1_el1, x0
        isb
        ldr x29, =RESULTS
        ldr x1, =0xffffffffc0200000
        adr x30, 1f
        ldr x2, [x1]
1:      off
"""
    assert bench.run(vm, body).exit == "off"
    assert bench.word(RESULTS + 8) == 0x9600_0000


def test_a_tag_in_the_top_byte_is_ignored_when_tcr_says_so(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.identity()
    body = "mmu_on\n ldr x1, =0x5a00000080200000\n mov x2, #77\n str x2, [x1]\n off\n"
    assert bench.run(vm, body, tcr=TCR | 1 << 37).exit == "off"
    assert bench.word(RESULTS) == 77


@pytest.mark.parametrize("t0sz", [16, 20, 25, 28, 32])
def test_t0sz_selects_the_first_level(bench: Bench, t0sz: int) -> None:
    vm = bench.vm_with()
    tables = iter(range(ROOT, ROOT + 0x4000, 0x1000))
    table = next(tables)
    width = 64 - t0sz
    for level in (3, 2, 1):
        index = BASE >> 12 + 9 * level & 511
        if 12 + 9 * level >= width:
            continue
        if level == 1:
            bench.put(table + 8 * index, BASE | KERNEL | BLOCK)
            bench.put(table + 8 * (index + 1), BASE + 2 * MIB | KERNEL | BLOCK)
        else:
            below = next(tables)
            bench.put(table + 8 * index, below | TABLE)
            table = below
    body = "mmu_on\n ldr x1, =RESULTS\n mov x2, #42\n str x2, [x1]\n off\n"
    assert bench.run(vm, body, tcr=t0sz | 25 << 16 | 2 << 30).exit == "off"
    assert bench.word(RESULTS) == 42


def test_a_stage_1_table_in_a_hole_is_reported_as_an_access_to_a_table(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.identity()
    bench.put(ROOT, 0x3000_0000 | TABLE)
    result = bench.run(vm, "mmu_on\n mov x1, #0x200000\n ldr x2, [x1]\n off\n")
    assert result.exit == "stopped"
    (violation,) = vm.violations
    assert violation.region == "hole (stage-1 table)"
    assert violation.gpa == 0x3000_0008
    assert violation.walk is not None
    assert getattr(violation.walk.result, "stage", None) == 2


def test_a_stage_1_table_in_a_hole_can_be_an_external_abort_on_a_walk(bench: Bench) -> None:
    vm = bench.vm_with(violation=ViolationPolicy.INJECT)
    bench.identity()
    bench.put(ROOT, 0x3000_0000 | TABLE)
    body = """
        vectors_on
        mmu_on
        ldr x29, =RESULTS
        adr x30, 1f
        mov x1, #0x200000
        ldr x2, [x1, #24]
1:      off
"""
    assert bench.run(vm, body).exit == "off"
    assert bench.word(RESULTS + 8) == 0x96000016  # on the walk, level 2
    assert bench.word(RESULTS + 16) == 0x20_0018


def test_a_hole_stops_the_guest_by_default_and_the_report_shows_where(bench: Bench) -> None:
    vm = bench.vm_with()
    result = bench.run(vm, "ldr x1, =0x30000008\n str x1, [x1]\n off\n")
    assert result.exit == "stopped"
    (violation,) = vm.violations
    assert (violation.gpa, violation.access, violation.region) == (0x3000_0008, "write", "hole")
    assert violation.walk is not None
    assert violation.pc == BASE + 4
    assert "0x30000008" in result.reason


@pytest.mark.parametrize(("table", "level"), [(ROOT, 2), (MIDDLE, 3)])
@pytest.mark.parametrize("passed_through", [True, False])
def test_a_stage_1_table_in_a_device_is_an_external_abort_at_its_level(
    bench: Bench, table: int, level: int, passed_through: bool
) -> None:
    """DDI 0487 D24.2 "ESR_EL1", DFSC 0b0101LL: "Synchronous External abort on translation table walk", level LL."""
    flags = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.DEVICE
    emulated = MemoryRegion(Gpa(0x1000_0000), 4096, flags, MapType.EMULATED, name="uart")
    device = passed_through_serial() if passed_through else emulated
    vm = bench.vm_with(device, violation=ViolationPolicy.INJECT)
    bench.identity()
    bench.put(ROOT, MIDDLE | TABLE)
    bench.put(MIDDLE, LAST | TABLE)
    bench.put(table, 0x1000_0000 | TABLE)
    body = """
        vectors_on
        mmu_on
        ldr x29, =RESULTS
        adr x30, 1f
        mov x1, #0x1000
        str x2, [x1]
1:      adr x30, 2f
        br x1
2:      off
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS + 8) == 0x9600_0054 | level
    assert bench.word(RESULTS + 16) == 0x1000
    assert bench.word(RESULTS + 64 + 8) == 0x8600_0014 | level


def test_a_refused_store_is_told_to_the_hypervisor_with_its_size_and_register(bench: Bench) -> None:
    vm = bench.vm_with(violation=ViolationPolicy.DISCARD)
    body = """
        ldr x1, =0x30000008
        str wzr, [x1]
        ldrsh x7, [x1]
        str w2, [x1], #8
        off
"""
    assert bench.run(vm, body).exit == "off"
    told = [violation.syndrome["ESR_EL2"] for violation in vm.violations]
    # Translation faults of level 1; ISV, size, register and width, but for the store that writes its base back.
    assert [f"{esr:#x}" for esr in told] == ["0x939f0045", "0x93678005", "0x92000045"]


@pytest.mark.parametrize(
    ("instruction", "syndrome", "elr_after"),
    [
        ("svc #0x123", 0x56000123, 4),
        ("brk #0x45", 0xF2000045, 0),
        ("udf #0", 0x02000000, 0),
        ("mrs x0, scr_el3", 0x02000000, 0),
        ("ldxr x0, [x1]", 0x96000021, 0),
    ],
)
def test_an_exception_that_the_cpu_finds_reaches_the_guest(
    bench: Bench, instruction: str, syndrome: int, elr_after: int
) -> None:
    vm = bench.vm_with()
    body = f"""
        vectors_on
        ldr x29, =RESULTS
        ldr x1, =0x80300001
        adr x30, 2f
1:      {instruction}
        b .
2:      adr x1, 1b
        str x1, [x29]
        off
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS) == 0x200
    assert bench.word(RESULTS + 8) == syndrome
    assert bench.word(RESULTS + 24) == bench.word(RESULTS + 64) + elr_after


CODE_WRITTEN_THROUGH_AN_ALIAS = """
        mmu_on
        ldr x1, =0x00300000         // writable alias of the code page at 0x80300000
        ldr x2, =0x80300000
        mov x3, #100
        mov x4, #0
        ldr w5, =0xd2800000         // mov x0, #0
        ldr w6, =0xd65f03c0         // ret
        str w6, [x1, #4]
1:      add w5, w5, #32             // the immediate grows by one
        str w5, [x1]
        ic iallu
        isb
        blr x2
        add x4, x4, x0
        subs x3, x3, #1
        b.ne 1b
        ldr x1, =RESULTS
        str x4, [x1]
        off
"""


def test_code_written_through_another_address_is_executed_as_written(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.identity()
    bench.put(ROOT, BASE | KERNEL | BLOCK)
    assert bench.run(vm, CODE_WRITTEN_THROUGH_AN_ALIAS).exit == "off"
    assert bench.word(RESULTS) == sum(range(1, 101))
    # Each round made the page executed and then written: it never was both.
    assert bench.machine is not None
    assert bench.machine.flips >= 2 * 99


def test_a_translation_changed_by_the_guest_is_seen_after_tlbi(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.identity()
    bench.put(ROOT, MIDDLE | TABLE)
    bench.put(MIDDLE, LAST | TABLE)
    bench.put(LAST, RESULTS + 0x1000 | KERNEL | PAGE)
    bench.put(RESULTS + 0x1000, 111)
    bench.put(RESULTS + 0x2000, 222)
    body = f"""
        mmu_on
        mov x1, #0
        ldr x3, =RESULTS
        ldr x2, [x1]
        str x2, [x3]
        ldr x4, ={LAST:#x}
        ldr x5, ={RESULTS + 0x2000 | KERNEL | PAGE:#x}
        str x5, [x4]
        dsb sy
        lsr x6, x1, #12
        tlbi vae1, x6
        dsb sy
        isb
        ldr x2, [x1]
        str x2, [x3, #8]
        off
"""
    assert bench.run(vm, body).exit == "off"
    assert [bench.word(RESULTS), bench.word(RESULTS + 8)] == [111, 222]


@pytest.mark.parametrize(
    ("name", "gva", "par"),
    [
        ("s1e1r", 0x1123, 0xFF << 56 | RESULTS + 0x1000 | 1 << 11 | 1 << 9),
        ("s1e1w", 0x1123, 0x0F << 1 | 1 << 11 | 1),
        ("s1e0r", 0x1123, 0x0F << 1 | 1 << 11 | 1),
        ("s1e1r", 0x4000, 0x07 << 1 | 1 << 11 | 1),
        ("s1e1r", 0x80_0000_0000, 0x04 << 1 | 1 << 11 | 1),
        ("s1e1r", 0x7000, 4 << 56 | 0x3000_0000 | 1 << 11 | 1 << 9 | 2 << 7),
        ("s1e1r", 0x20_0000, 0x17 << 1 | 1 << 11 | 1),
    ],
)
def test_an_at_instruction_is_answered_by_our_walker(bench: Bench, name: str, gva: int, par: int) -> None:
    vm = bench.vm_with(violation=ViolationPolicy.INJECT)
    bench.identity()
    bench.put(ROOT, MIDDLE | TABLE)
    bench.put(MIDDLE, LAST | TABLE, 0x3000_0000 | TABLE)
    for index, entry in LEAVES.items():
        bench.put(LAST + 8 * index, entry)
    bench.put(LAST + 8 * 7, 0x3000_0000 | KERNEL | PAGE | 1 << 2)
    body = f"""
        mmu_on
        ldr x1, ={gva:#x}
        at {name}, x1
        isb
        mrs x2, par_el1
        ldr x3, =RESULTS
        str x2, [x3]
        off
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert f"{bench.word(RESULTS):#x}" == f"{par:#x}"


AT_WORK = "ldr x0, =RESULTS\n str x0, [x0]\n"


def test_an_endless_guest_ends_when_it_is_stopped_from_another_thread(bench: Bench) -> None:
    result = bench.run(bench.vm_with(), AT_WORK + "1: b 1b\n", stop_at=RESULTS)
    assert (result.exit, result.reason) == ("interrupted", "the guest is at work")


def test_a_guest_that_waits_for_nothing_can_still_be_stopped(bench: Bench) -> None:
    assert bench.run(bench.vm_with(), AT_WORK + "1: wfi\n b 1b\n", stop_at=RESULTS).exit == "interrupted"


def test_a_guest_can_ask_psci_for_a_restart_by_smc(bench: Bench) -> None:
    body = "ldr x0, =0x84000000\n smc #0\n ldr x1, =RESULTS\n str x0, [x1]\n ldr x0, =0x84000009\n smc #0\n"
    result = bench.run(bench.vm_with(), body)
    assert (result.exit, result.reason) == ("off", "the guest asked for reboot")
    assert bench.word(RESULTS) == 0x10001


def test_a_guest_that_goes_to_aarch32_is_stopped_with_one_sentence(bench: Bench) -> None:
    body = "ldr x0, =0x80000100\n msr elr_el1, x0\n mov x0, #0x1d0\n msr spsr_el1, x0\n eret\n"
    result = bench.run(bench.vm_with(), body)
    assert result.exit == "error"
    assert "AArch32" in result.reason


def test_a_machine_of_another_kind_or_with_more_cpus_is_refused(bench: Bench) -> None:
    vm = bench.vm_with()
    vm.cpu_count = 2
    with pytest.raises(EngineError, match="cpu_num = 1"):
        ArmMachine(vm)
    vm.arch = "riscv64"
    with pytest.raises(EngineError, match="is riscv64"):
        ArmMachine(vm)


@pytest.mark.parametrize("name", ["ENV_PC", "ENV_X", "ENV_PSTATE"])
def test_a_moved_register_is_noticed_before_a_guest_runs(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, name: str
) -> None:
    require_moved_register_noticed(monkeypatch, arm_abi, name, bench)


def test_a_moved_exception_record_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    require_moved_record_noticed(monkeypatch, arm_abi, "ENV_EXCEPTION")


def test_a_passed_through_device_is_refused_with_one_sentence(bench: Bench) -> None:
    require_refused_device(
        bench.run(bench.vm_with(passed_through_serial()), "ldr x1, =0x10000000\n ldr x0, [x1]\n off\n")
    )


@pytest.mark.parametrize(("tg0", "page_shift"), [(2, 14), (1, 64 - 48)])
def test_a_guest_may_use_a_larger_granule(bench: Bench, tg0: int, page_shift: int) -> None:
    vm = bench.vm_with()
    per_level = page_shift - 3
    shift = page_shift + per_level  # of the entries whose blocks are the largest
    block = BASE >> shift << shift
    bench.put(ROOT + 8 * (BASE >> shift + per_level), ROOT + 0x10000 | TABLE)
    bench.put(ROOT + 0x10000 + 8 * (BASE >> shift & (1 << per_level) - 1), block | KERNEL | BLOCK)
    width = shift + per_level + 3
    body = "mmu_on\n ldr x1, =RESULTS\n mov x2, #42\n str x2, [x1, #8]\n off\n"
    result = bench.run(vm, body, tcr=64 - width | 25 << 16 | 2 << 30 | tg0 << 14)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS + 8) == 42
