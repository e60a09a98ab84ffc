"""Small x86-64 guests on the Unicorn engine: their own faults, ours, ring 3, code and data, ports, stopping."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from demo_guest import require_demo, run_demo
from guest_bench import (
    passed_through_serial,
    require_moved_record_noticed,
    require_moved_register_noticed,
    require_refused_device,
)
from x86_bench import (
    BASE,
    LA57,
    LAST,
    NX,
    PREFIX,
    PS,
    RESULTS,
    ROOT,
    SECOND,
    SMAP,
    SMEP,
    TESTED,
    THIRD,
    UPPER,
    WP,
    A,
    Bench,
    D,
    P,
    U,
    W,
)  # fmt: skip

import stage2.engines.unicorn.x86.abi as x86_abi
from stage2.address import GIB, MIB, Gpa, Range
from stage2.engines.run import machine_for
from stage2.engines.unicorn.x86.machine import X86Machine
from stage2.engines.unicorn.x86.segments import reads_descriptor
from stage2.errors import EngineError
from stage2.flags import MappingFlags, MapType
from stage2.space.region import MemoryRegion, ViolationPolicy
from stage2.vm.pc_ports import Ports
from stage2.vm.vm import Boot
from waiting import HANG_S

GUESTS = Path(x86_abi.__file__).parents[3] / "vm" / "guests"
DATA = 0x50_0000
"""GPA of the first page that tests map at TESTED."""
PF, GP, UD, DF = 14, 13, 6, 8
RING_0, RING_3 = 0x08, 0x1B
STAGE_2 = ("ept4", "npt4")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


@pytest.mark.parametrize("fmt", STAGE_2)
def test_the_demo_guest_sees_what_it_was_promised(fmt: str) -> None:
    report = run_demo("x86_64", fmt)
    require_demo(report, verdicts=6)
    assert report.guest_faults == 1


# Pages of the last table, at TESTED in steps of 4 KiB.
LEAVES = {0: 0, 1: DATA + 0x1000 | P, 2: DATA + 0x2000 | P | W | NX, 3: DATA + 0x3000 | P | W | U,
          4: DATA + 0x4000 | P | W | 1 << 45, 5: DATA + 0x5000 | P | W}  # fmt: skip
LOAD, STORE, JUMP = "mov (%rbx), %eax", "mov %eax, (%rbx)", "jmp *%rbx"


@pytest.mark.parametrize("fmt", STAGE_2)
@pytest.mark.parametrize(
    ("instruction", "gva", "code", "cr0", "cr4"),
    [
        (LOAD, TESTED + 0x123, 0x00, WP, 0),
        (STORE, TESTED + 0x123, 0x02, WP, 0),
        (JUMP, TESTED + 0x123, 0x10, WP, 0),
        (LOAD, 0x8000_0010, 0x00, WP, 0),
        (LOAD, 0x80_0000_0020, 0x00, WP, 0),
        (LOAD, 0xFFFF_8000_0000_0030, 0x00, WP, 0),
        (STORE, TESTED + 0x1008, 0x03, WP, 0),
        (JUMP, TESTED + 0x2000, 0x11, WP, 0),
        (LOAD, TESTED + 0x3010, 0x01, WP, SMAP),
        (STORE, TESTED + 0x3010, 0x03, WP, SMAP),
        (JUMP, TESTED + 0x3000, 0x11, WP, SMEP),
        (LOAD, TESTED + 0x4018, 0x09, WP, 0),
        (STORE, TESTED + 0x4018, 0x0B, 0, 0),
    ],
)
def test_a_stage_1_fault_reaches_the_guest_with_its_error_code_and_cr2(
    bench: Bench, fmt: str, instruction: str, gva: int, code: int, cr0: int, cr4: int
) -> None:
    vm = bench.vm_with(fmt=fmt)
    for index, entry in LEAVES.items():
        bench.put(LAST + 8 * index, entry)
    body = f"mov ${gva:#x}, %rbx\n lea 1f(%rip), %rax\n mov %rax, 64(%r15)\n1: {instruction}\nafter:\n"
    result = bench.run(vm, body, cr0=cr0, cr4=cr4)
    assert result.exit == "off", result.reason
    rip = gva if instruction == JUMP else bench.word(RESULTS + 64)
    assert bench.note() == (PF, code, rip, RING_0, gva)
    assert result.guest_faults == 1
    assert not vm.violations


@pytest.mark.parametrize(
    ("before", "instruction", "page", "cr0", "cr4"),
    [
        ("", STORE, 1, 0, 0),  # CR0.WP clear
        ("stac", LOAD, 3, WP, SMAP),
        ("", STORE, 3, WP, SMEP),
        ("", LOAD, 2, WP, SMAP | SMEP),
    ],
)
def test_an_access_that_the_control_registers_allow_goes_through(
    bench: Bench, before: str, instruction: str, page: int, cr0: int, cr4: int
) -> None:
    vm = bench.vm_with()
    bench.put(LAST + 8 * page, LEAVES[page])
    body = f"{before}\n mov ${TESTED + 0x1000 * page:#x}, %rbx\n {instruction}\n movq $1, (%r15)\nafter:\n"
    result = bench.run(vm, body, cr0=cr0, cr4=cr4)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS) == 1
    assert result.guest_faults == 0


def test_stac_leaves_nothing_behind_that_works_after_clac(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.put(LAST + 8 * 3, LEAVES[3])
    body = f"stac\n mov ${TESTED + 0x3000:#x}, %rbx\n {STORE}\n clac\n {LOAD}\nafter:\n"
    assert bench.run(vm, body, cr4=SMAP).exit == "off"
    assert bench.note()[:2] == (PF, 1)


@pytest.mark.parametrize("gva", [0x0123_4567_89AB_CDE0, 0x0000_8000_0000_0000, 0xFFFF_7FFF_FFFF_F000])
def test_an_address_that_is_not_canonical_is_a_general_protection_fault(bench: Bench, gva: int) -> None:
    result = bench.run(bench.vm_with(), f"mov ${gva:#x}, %rbx\n {LOAD}\nafter:\n")
    assert result.exit == "off", result.reason
    assert bench.note()[:2] == (GP, 0)


def user_code(bench: Bench, code: str) -> None:
    """Put ring 3's program at TESTED, its stack in the page at TESTED + 0x3000, and the kernel's at + 0x5000."""
    source, obj, binary = (bench.folder / name for name in ("u.S", "u.o", "u.bin"))
    source.write_text(code + "\n")
    subprocess.run([PREFIX + "as", "--64", "-o", obj, source], check=True, timeout=HANG_S)
    subprocess.run([PREFIX + "objcopy", "-O", "binary", "-j", ".text", obj, binary], check=True, timeout=HANG_S)
    bench.vm.memory.write(Gpa(DATA), binary.read_bytes())
    for index, entry in LEAVES.items():
        bench.put(LAST + 8 * index, entry)
    bench.put(LAST, DATA | P | U)


TO_RING_3 = """
        push    $0x23
        push    $TESTED + 0x3ff0
        push    $0x2
        push    $0x1b
        push    $TESTED
        iretq
"""


@pytest.mark.parametrize(
    ("code", "vector", "error", "address"),
    [
        ("int $0x30", 0x30, 0, None),
        ("mov 0x40001008, %eax", PF, 5, 0x4000_1008),
        ("mov %eax, 0x40001008", PF, 7, 0x4000_1008),
        ("mov %eax, 0x40000000", PF, 7, 0x4000_0000),
        ("mov 0x40006004, %eax", PF, 4, 0x4000_6004),
        ("mov $0x40005000, %eax\n jmp *%rax", PF, 0x15, 0x4000_5000),
        ("mov 0x100000, %eax", PF, 5, 0x10_0000),
        ("cli", GP, 0, None),
        ("mov %rax, %cr3", GP, 0, None),
        ("ud2", UD, 0, None),
    ],
)
def test_ring_3_calls_its_kernel_and_cannot_touch_the_kernels_pages(
    bench: Bench, code: str, vector: int, error: int, address: int | None
) -> None:
    vm = bench.vm_with()
    user_code(bench, code)
    result = bench.run(vm, TO_RING_3 + "after:\n")
    assert result.exit == "off", result.reason
    found_vector, found_error, _rip, cs, cr2 = bench.note()
    assert (found_vector, found_error, cs) == (vector, error, RING_3)
    assert address is None or cr2 == address


@pytest.mark.parametrize(
    ("instruction", "vector"),
    [
        ("mov %ecx, %ds", 0x30),
        ("lar %ecx, %eax", 0x30),
        ("push $0x1b\n lea 2f(%rip), %rax\n push %rax\n lretq", 0x30),
        ("mov 0x100000, %eax", PF),
        ("mov gdt_at, %eax", PF),
        ("mov gdt_at, %ds", PF),
    ],
)
def test_a_descriptor_is_read_with_a_supervisors_rights_in_ring_3_too(
    bench: Bench, instruction: str, vector: int
) -> None:
    """Writing code makes the TLB forget the descriptor table, so that the instruction brings it in again."""
    vm = bench.vm_with()
    code = f"mov $0x23, %ecx\n movb $0x90, 0x40006ff0\n {instruction}\n2: int $0x30\n .equ gdt_at, 0x40007000"
    user_code(bench, code)
    bench.put(LAST + 8 * 6, DATA | P | W | U, DATA + 0x7000 | P | W)
    body = """
        mov     $gdt, %esi
        mov     $TESTED + 0x7000, %rdi
        mov     $task + 16 - gdt, %ecx
        rep     movsb
        movabs  $TESTED + 0x7000, %rax
        push    %rax
        pushw   $task + 16 - gdt - 1
        lgdt    (%rsp)
"""
    result = bench.run(vm, body + TO_RING_3 + "after:\n")
    assert result.exit == "off", result.reason
    assert bench.note()[0] == vector
    assert bench.note()[3] == RING_3
    assert bench.machine is not None
    assert bench.machine.flips >= 1


@pytest.mark.parametrize(
    ("code", "long", "expected"),
    [
        ("8ed9", True, True),
        ("668ed9", True, True),
        ("8e18", True, False),
        ("410fa1", True, True),
        ("0fa9", True, True),
        ("0f02c1", True, True),
        ("0f0201", True, False),
        ("0f00e1", True, True),
        ("0f00d1", True, False),
        ("48cf", True, True),
        ("1f", True, False),
        ("1f", False, True),
        ("ea00000000", False, True),
        ("8b00", True, False),
        ("", True, False),
        ("0f", True, False),
    ],
)
def test_the_instructions_that_read_a_descriptor_are_known(code: str, long: bool, expected: bool) -> None:
    assert reads_descriptor(bytes.fromhex(code), long=long) is expected


def test_a_handler_may_map_the_page_and_repeat_the_access(bench: Bench) -> None:
    """Flags and registers are as they were, so the guest does not notice."""
    vm = bench.vm_with()
    bench.put(DATA, 0x1234)
    body = f"""
        lea     map(%rip), %rax
        mov     %ax, idt + 16 * 14(%rip)    # the guest is smaller than 64 KiB
        mov     $TESTED, %rbx
        mov     $7, %ecx
        stc
        mov     (%rbx), %rax
        adc     $0, %rcx                    # 8
        mov     %rax, (%r15)
        mov     %rcx, 8(%r15)
        jmp     after
map:    push    %rax
        movq    ${DATA | P | W:#x}, LAST
        mov     $0, %eax
        add     %eax, %eax                  # clears CF
        pop     %rax
        add     $8, %rsp
        iretq
after:
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert [bench.word(RESULTS), bench.word(RESULTS + 8)] == [0x1234, 8]
    assert result.guest_faults == 1


@pytest.mark.parametrize(("instruction", "code"), [("mov 0xffc(%rbx), %rax", 0), ("mov %rax, 0xffc(%rbx)", 2)])
def test_an_access_across_two_pages_faults_at_the_second(bench: Bench, instruction: str, code: int) -> None:
    vm = bench.vm_with()
    bench.put(LAST, DATA | P | W)
    assert bench.run(vm, f"mov $TESTED, %rbx\n {instruction}\nafter:\n").exit == "off"
    assert (bench.note()[:2], bench.note()[4]) == ((PF, code), TESTED + 0x1000)


def test_an_instruction_across_two_pages_faults_at_the_second(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.put(LAST, DATA | P)
    vm.memory.write(Gpa(DATA + 0xFFC), bytes.fromhex("90 b8 0100"))
    assert bench.run(vm, "mov $TESTED + 0xffc, %rbx\n jmp *%rbx\nafter:\n").exit == "off"
    vector, code, rip, _, cr2 = bench.note()
    assert (vector, code, cr2) == (PF, 0x10, TESTED + 0x1000)
    # The library translates a block before it executes any of it, so the fault may come one instruction early.
    assert rip in (TESTED + 0xFFC, TESTED + 0xFFD)


def test_syscall_and_sysret_change_rings(bench: Bench) -> None:
    vm = bench.vm_with()
    user_code(bench, "stc\n syscall\n mov %cs, %eax\n int $0x30")
    body = (
        """
        mov     $0xc0000081, %ecx           # STAR: ring 0 from 0x08, ring 3 from 0x0b on
        xor     %eax, %eax
        mov     $0x000b0008, %edx
        wrmsr
        mov     $0xc0000082, %ecx           # LSTAR
        lea     kernel(%rip), %rax
        xor     %edx, %edx
        wrmsr
        mov     $0xc0000084, %ecx           # FMASK: CF
        mov     $1, %eax
        wrmsr
"""
        + TO_RING_3
        + """
kernel: mov     %rcx, (%r15)
        mov     %r11, 8(%r15)
        pushfq
        pop     16(%r15)
        mov     %cs, 24(%r15)
        mov     %ss, 32(%r15)
        add     $64, %r15
        sysretq
after:
"""
    )
    result = bench.run(vm, body.replace("push    $0x2\n", "push    $0x202\n"))
    assert result.exit == "off", result.reason
    # CR2's column is SS here.
    assert bench.note(0) == (TESTED + 3, 0x203, 0x202, 0x08, 0x10)
    assert bench.note(1)[0] == 0x30
    assert bench.note(1)[3] == RING_3


def test_syscall_without_its_enable_bit_is_an_invalid_opcode(bench: Bench) -> None:
    vm = bench.vm_with()
    user_code(bench, "nop\n syscall")
    body = "mov $0xc0000080, %ecx\n rdmsr\n and $~1, %eax\n wrmsr\n" + TO_RING_3 + "after:\n"
    assert bench.run(vm, body).exit == "off"
    assert bench.note()[:4] == (UD, 0, TESTED + 1, RING_3)


def test_accessed_and_dirty_bits_stay_in_the_guests_tables(bench: Bench) -> None:
    vm = bench.vm_with()
    for page in range(3):
        bench.put(LAST + 8 * page, DATA + 0x1000 * page | P | W)
    body = "mov $TESTED, %rbx\n mov (%rbx), %eax\n mov %eax, 0x1000(%rbx)\nafter:\n"
    assert bench.run(vm, body).exit == "off"
    assert [bench.word(LAST + 8 * page) & (A | D) for page in range(3)] == [A, A | D, 0]
    assert [bench.word(table) & (A | PS) for table in (ROOT, SECOND)] == [A, A]
    assert bench.word(THIRD) & (A | D) == A | D
    assert bench.word(UPPER) & A == 0


def test_a_page_that_was_only_read_becomes_dirty_at_its_first_write(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.put(LAST, DATA | P | W)
    body = "mov $TESTED, %rbx\n mov (%rbx), %eax\n mov LAST, %rax\n mov %rax, (%r15)\n mov %eax, (%rbx)\nafter:\n"
    assert bench.run(vm, body).exit == "off"
    assert bench.word(RESULTS) & (A | D) == A
    assert bench.word(LAST) & (A | D) == A | D


@pytest.mark.parametrize("how", ["invlpg (%rbx)", "mov %cr3, %rax\n mov %rax, %cr3"])
def test_a_translation_changed_by_the_guest_is_seen_after_it_is_dropped(bench: Bench, how: str) -> None:
    vm = bench.vm_with()
    bench.put(LAST, DATA | P | W)
    bench.put(DATA, 111)
    bench.put(DATA + 0x1000, 222)
    body = f"""
        mov     $TESTED, %rbx
        mov     (%rbx), %rax
        mov     %rax, (%r15)
        movq    ${DATA + 0x1000 | P | W:#x}, LAST
        {how}
        mov     (%rbx), %rax
        mov     %rax, 8(%r15)
after:
"""
    assert bench.run(vm, body).exit == "off"
    assert [bench.word(RESULTS), bench.word(RESULTS + 8)] == [111, 222]


@pytest.mark.parametrize("size", [2 * MIB, GIB])
def test_a_guest_may_use_blocks(bench: Bench, size: int) -> None:
    vm = bench.vm_with()
    table, index = (SECOND, 1) if size == 2 * MIB else (THIRD, 2)
    bench.put(table + 8 * index, P | W | PS)
    gva = TESTED + 2 * MIB if size == 2 * MIB else 0x8000_0000
    body = f"mov ${gva + 0x12_3450:#x}, %rbx\n movq $0x5a, (%rbx)\nafter:\n"
    assert bench.run(vm, body).exit == "off"
    assert bench.word(0x12_3450) == 0x5A


@pytest.mark.parametrize("fmt", STAGE_2)
def test_a_guest_may_have_five_levels(bench: Bench, fmt: str) -> None:
    vm = bench.vm_with(fmt=fmt)
    bench.put(LAST, DATA | P | W)
    bench.put(UPPER + 8, ROOT | P | W)
    body = "mov $TESTED + (1 << 48), %rbx\n movq $77, (%rbx)\n mov $1 << 49, %rbx\n mov (%rbx), %eax\nafter:\n"
    result = bench.run(vm, body, cr3=UPPER, cr4=LA57)
    assert result.exit == "off", result.reason
    assert bench.word(DATA) == 77
    assert bench.note() == (PF, 0, bench.note()[2], RING_0, 1 << 49)


@pytest.mark.parametrize("fmt", [*STAGE_2, "ept5"])
def test_ram_is_populated_when_it_is_first_touched(bench: Bench, fmt: str) -> None:
    vm = bench.vm_with(fmt=fmt)
    before = vm.space.counters.total
    body = f"""
        mov     $0x600000, %ebx
        mov     $32, %ecx
1:      mov     %rbx, (%rbx)
        add     $4096, %rbx
        loop    1b
        mov     {0x600000 + 31 * 4096:#x}, %rax
        mov     %rax, (%r15)
after:
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS) == 0x60_0000 + 31 * 4096
    assert vm.space.counters.total - before >= 32
    assert result.guest_faults == 0


@pytest.mark.parametrize("fmt", STAGE_2)
def test_a_stage_1_table_in_a_hole_is_reported_as_an_access_to_a_table(bench: Bench, fmt: str) -> None:
    vm = bench.vm_with(fmt=fmt)
    bench.put(SECOND + 8, 0x3000_0000 | P | W)
    result = bench.run(vm, "mov $TESTED + 0x201000, %rbx\n mov (%rbx), %eax\nafter:\n")
    assert result.exit == "stopped"
    (violation,) = vm.violations
    assert violation.region == "hole (stage-1 table)"
    assert violation.gpa == 0x3000_0008
    # Nested tables count every read of a guest's table as a write (AMD APM 15.25.5); EPT without A/D flags does not.
    assert violation.access == ("write" if fmt == "npt4" else "read")
    assert violation.walk is not None
    assert getattr(violation.walk.result, "stage", None) == 2


def test_a_hole_stops_the_guest_by_default_and_the_report_shows_where(bench: Bench) -> None:
    vm = bench.vm_with()
    result = bench.run(
        vm, "lea 1f(%rip), %rax\n mov %rax, (%r15)\n mov $0x30000008, %ebx\n1: mov %eax, (%rbx)\nafter:\n"
    )
    assert result.exit == "stopped"
    (violation,) = vm.violations
    assert (violation.gpa, violation.access, violation.region) == (0x3000_0008, "write", "hole")
    assert violation.walk is not None
    assert violation.pc == bench.word(RESULTS)
    assert "0x30000008" in result.reason


@pytest.mark.parametrize("instruction", [LOAD, STORE, JUMP])
def test_an_injected_access_fault_is_a_general_protection_fault_and_no_page_fault(
    bench: Bench, instruction: str
) -> None:
    vm = bench.vm_with(violation=ViolationPolicy.INJECT)
    result = bench.run(vm, f"mov $0x30000008, %ebx\n {instruction}\nafter:\n")
    assert result.exit == "off", result.reason
    assert bench.note()[:2] == (GP, 0)
    assert [violation.action for violation in vm.violations] == ["injected"]
    assert result.guest_faults == 0


def test_a_discarded_access_reads_as_ones_and_writes_nothing(bench: Bench) -> None:
    vm = bench.vm_with(violation=ViolationPolicy.DISCARD)
    body = "mov $0x30000008, %ebx\n movl $5, (%rbx)\n mov (%rbx), %eax\n mov %rax, (%r15)\nafter:\n"
    assert bench.run(vm, body).exit == "off"
    assert bench.word(RESULTS) == 0xFFFF_FFFF
    assert [(v.access, v.action, v.value) for v in vm.violations] == [
        ("write", "discarded", 5),
        ("read", "discarded", None),
    ]


def test_a_write_to_rom_is_refused_and_a_read_is_not(bench: Bench) -> None:
    rom = MemoryRegion(
        Gpa(0x2000_0000), 4096, MappingFlags.READ, MapType.ROM, name="rom", violation=ViolationPolicy.INJECT
    )
    vm = bench.vm_with(rom)
    bench.put(0x2000_0000, 0x1234)
    body = "mov $0x20000000, %ebx\n mov (%rbx), %rax\n mov %rax, 64(%r15)\n mov %rax, 8(%rbx)\nafter:\n"
    assert bench.run(vm, body).exit == "off"
    assert bench.word(RESULTS + 64) == 0x1234
    assert bench.note()[:2] == (GP, 0)
    assert bench.word(0x2000_0008) == 0


class Recorder:
    """A device that remembers its accesses."""

    def __init__(self) -> None:
        self.name = "recorder"
        self.seen: list[tuple[str, int, int, int]] = []

    def read(self, offset: int, width: int) -> int:
        self.seen.append(("read", offset, width, 0))
        return 0x1122_3344_5566_7788 & (1 << 8 * width) - 1

    def write(self, offset: int, width: int, value: int) -> None:
        self.seen.append(("write", offset, width, value))


def test_a_device_sees_address_width_and_value_of_every_access(bench: Bench) -> None:
    region = MemoryRegion(Gpa(0x1000_0000), 0x2000, MappingFlags(0), MapType.EMULATED, name="device")
    vm = bench.vm_with(region)
    device = Recorder()
    vm.bus.attach(Range.sized(0x1000_0000, 0x2000), device)
    body = """
        mov     $0x10000000, %ebx
        movb    $0x12, 5(%rbx)
        movw    $0x1234, 0x10(%rbx)
        movl    $0x12345678, 0x1ffc(%rbx)
        movzbl  7(%rbx), %eax
        mov     %rax, (%r15)
        mov     0x1004(%rbx), %eax
        mov     %rax, 8(%r15)
after:
"""
    assert bench.run(vm, body).exit == "off"
    assert device.seen == [
        ("write", 5, 1, 0x12),
        ("write", 0x10, 2, 0x1234),
        ("write", 0x1FFC, 4, 0x1234_5678),
        ("read", 7, 1, 0),
        ("read", 0x1004, 4, 0),
    ]
    assert [bench.word(RESULTS), bench.word(RESULTS + 8)] == [0x88, 0x5566_7788]


def test_a_device_that_stage_1_maps_for_reading_only_cannot_be_written(bench: Bench) -> None:
    vm = bench.vm_with(MemoryRegion(Gpa(0x1000_0000), 0x1000, MappingFlags(0), MapType.EMULATED, name="device"))
    device = Recorder()
    vm.bus.attach(Range.sized(0x1000_0000, 0x1000), device)
    bench.put(LAST, 0x1000_0000 | P)
    body = "mov $TESTED, %rbx\n mov 4(%rbx), %eax\n mov %eax, 8(%rbx)\nafter:\n"
    assert bench.run(vm, body).exit == "off"
    assert bench.note()[:2] == (PF, 3)
    assert device.seen == [("read", 4, 4, 0)]


CODE_WRITTEN_THROUGH_AN_ALIAS = """
        mov     $TESTED, %rbx               # writable alias of the code page at DATA
        mov     $0x500000, %edx
        movl    $0x000000b8, (%rbx)         # mov $0, %eax
        movw    $0xc300, 4(%rbx)            # ret
        mov     $100, %ecx
        xor     %esi, %esi
1:      mov     %ecx, 1(%rbx)
        call    *%rdx
        add     %rax, %rsi
        loop    1b
        mov     %rsi, (%r15)
after:
"""


def test_code_written_through_another_address_is_executed_as_written(bench: Bench) -> None:
    vm = bench.vm_with()
    bench.put(LAST, DATA | P | W)
    result = bench.run(vm, CODE_WRITTEN_THROUGH_AN_ALIAS)
    assert result.exit == "off", result.reason
    assert bench.word(RESULTS) == sum(range(1, 101))
    # Each round made the page executed and then written: it never was both.
    assert bench.machine is not None
    assert bench.machine.flips >= 2 * 99


@pytest.mark.parametrize(
    ("instruction", "vector", "error", "rip_after"),
    [
        ("int $0x30", 0x30, 0, 2),
        ("int3", 3, 0, 1),
        ("ud2", UD, 0, 0),
        ("divl zero(%rip)", 0, 0, 0),
        ("mov %ebx, %ds", GP, 0x1000, 0),
        ("lldt %bx", GP, 0x1000, 0),
    ],
)
def test_an_exception_that_the_cpu_finds_reaches_the_guest(
    bench: Bench, instruction: str, vector: int, error: int, rip_after: int
) -> None:
    body = f"mov $0x1000, %ebx\n lea 1f(%rip), %rax\n mov %rax, 64(%r15)\n xor %edx, %edx\n1: {instruction}\n"
    result = bench.run(bench.vm_with(), body + "after: off\nzero: .long 0\n")
    assert result.exit == "off", result.reason
    found_vector, found_error, rip, _, _ = bench.note()
    assert (found_vector, found_error) == (vector, error)
    assert rip == bench.word(RESULTS + 64) + rip_after


def test_a_page_fault_while_one_is_taken_is_a_double_fault(bench: Bench) -> None:
    """The stack of vector 14 is not mapped; vector 8 has one of its own (IST 1)."""
    vm = bench.vm_with()
    body = """
        movl    $STACK - 0x2000, tss + 0x24(%rip)
        movb    $1, idt + 16 * 8 + 4(%rip)
        mov     $TESTED + 0x3000, %rsp
        mov     $TESTED, %rbx
        mov     (%rbx), %eax
after:
"""
    result = bench.run(vm, body)
    assert result.exit == "off", result.reason
    assert bench.note()[:2] == (DF, 0)
    assert bench.note()[4] == TESTED + 0x2FF8
    assert result.guest_faults == 2


@pytest.mark.parametrize(
    "body",
    [
        "mov $TESTED + 0x2000, %rsp\n mov $TESTED, %rbx\n mov (%rbx), %eax\nafter:\n",
        "push $0\n push $0\n lidt (%rsp)\n int $0x30\nafter:\n",
        "movabs $0x40000000, %rax\n push %rax\n pushw $0xfff\n lidt (%rsp)\n ud2\nafter:\n",
    ],
)
def test_a_guest_that_cannot_take_a_double_fault_is_stopped(bench: Bench, body: str) -> None:
    result = bench.run(bench.vm_with(), body)
    assert result.exit == "stopped"
    assert "triple fault" in result.reason


def test_an_idt_in_a_hole_stops_the_guest_like_any_access_to_a_hole(bench: Bench) -> None:
    vm = bench.vm_with()
    result = bench.run(vm, "movabs $0x30000000, %rax\n push %rax\n pushw $0xfff\n lidt (%rsp)\n ud2\nafter:\n")
    assert result.exit == "stopped"
    assert [(v.gpa, v.access) for v in vm.violations] == [(0x3000_0000 + 16 * UD, "read")]


def test_a_guest_prints_by_com1_and_the_report_counts_its_accesses(bench: Bench) -> None:
    vm = bench.vm_with()
    body = """
        mov     $0x3fd, %dx
        in      %dx, %al
        movzbl  %al, %eax
        mov     %rax, (%r15)
        mov     $0x3f8, %dx
        lea     text(%rip), %rsi
        mov     $3, %ecx
        rep     outsb
        mov     $0x999, %dx
        in      %dx, %eax
        mov     %rax, 8(%r15)
after:  off
text:   .ascii  "hi\\n"
"""
    assert bench.run(vm, body).exit == "off"
    assert vm.console.text == "hi\n"
    assert bench.word(RESULTS) == 0x60
    assert bench.word(RESULTS + 8) == 0xFFFF_FFFF
    assert vm.bus.accesses["com1"] == 4


@pytest.mark.parametrize(
    ("port", "value", "said"),
    [(0x604, 0x2000, ["shutdown"]), (0x604, 0x1000, []), (0xCF9, 0x6, ["reboot"]), (0xCF9, 0x2, []), (0x80, 1, [])],
)
def test_a_port_ends_the_guest_only_with_its_own_value(bench: Bench, port: int, value: int, said: list[str]) -> None:
    found: list[str] = []
    ports = Ports(bench.vm_with(), found.append)
    ports.write(port, 2, value)
    assert found == said
    assert ports.is_off is bool(said)


def test_a_guest_can_ask_for_a_restart(bench: Bench) -> None:
    result = bench.run(bench.vm_with(), "mov $0xcf9, %dx\n mov $6, %al\n out %al, %dx\n jmp .\nafter:\n")
    assert (result.exit, result.reason) == ("off", "the guest asked for reboot")


def test_an_endless_guest_ends_when_it_is_stopped_from_another_thread(bench: Bench) -> None:
    result = bench.run(bench.vm_with(), "movq $1, RESULTS\n1: jmp 1b\nafter:\n", stop_at=RESULTS)
    assert (result.exit, result.reason) == ("interrupted", "the guest is at work")


def test_a_guest_that_faults_for_ever_can_still_be_stopped(bench: Bench) -> None:
    body = "mov $TESTED, %rbx\n mov $RESULTS, %r15\nafter: mov $RESULTS, %r15\n mov (%rbx), %eax\n"
    assert bench.run(bench.vm_with(), body, stop_at=RESULTS).exit == "interrupted"


def test_a_guest_that_halts_is_ended_since_nothing_could_wake_it(bench: Bench) -> None:
    result = bench.run(bench.vm_with(), "sti\n hlt\nafter:\n")
    assert result.exit == "stopped"
    assert "HLT" in result.reason


def test_a_guest_with_protection_keys_is_stopped_with_one_sentence(bench: Bench) -> None:
    result = bench.run(bench.vm_with(), "mov %cr4, %rax\n or $1 << 22, %rax\n mov %rax, %cr4\nafter:\n")
    assert result.exit == "error"
    assert "protection keys" in result.reason


def test_a_guest_with_32_bit_paging_is_stopped_with_one_sentence(bench: Bench) -> None:
    vm = bench.vm_with()
    # mov cr3, eax; mov eax, 0x80000011; mov cr0, eax; jmp $
    vm.memory.write(Gpa(BASE), bytes.fromhex("0f22d8 b811000080 0f22c0 ebfe"))
    bench.machine = X86Machine(vm)
    result = bench.machine.run()
    assert result.exit == "error"
    assert "outside long mode" in result.reason


def test_a_guest_begins_as_multiboot_has_it(bench: Bench) -> None:
    vm = bench.vm_with()
    vm.boot = Boot(Gpa(BASE), Gpa(0x7000))
    # mov esp, STACK; mov [RESULTS], ebx; mov [RESULTS+8], eax; mov eax, cr0; mov [RESULTS+16], eax
    # pushfd; pop [RESULTS+24]; mov dx, 0x604; mov ax, 0x2000; out dx, ax; jmp $
    code = "bc00004000 891d00003000 a308003000 0f20c0 a310003000 9c 8f0518003000 66ba0406 66b80020 66ef ebfe"
    vm.memory.write(Gpa(BASE), bytes.fromhex(code))
    bench.machine = X86Machine(vm)
    assert bench.machine.run().exit == "off"
    assert [bench.word(RESULTS + 8 * i) for i in range(4)] == [0x7000, 0, 0x11, 2]


def test_a_machine_of_another_kind_or_with_more_cpus_is_refused(bench: Bench) -> None:
    vm = bench.vm_with()
    vm.cpu_count = 2
    with pytest.raises(EngineError, match="cpu_num = 1"):
        machine_for(vm)
    vm.arch = "riscv64"
    with pytest.raises(EngineError, match="is riscv64"):
        X86Machine(vm)
    vm.arch = "mips"
    with pytest.raises(EngineError, match="is mips"):
        machine_for(vm)


@pytest.mark.parametrize("name", ["ENV_RIP", "ENV_CR3", "ENV_EFER", "ENV_GDTR", "ENV_FMASK", "ENV_HFLAGS"])
def test_a_moved_register_is_noticed_before_a_guest_runs(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, name: str
) -> None:
    require_moved_register_noticed(monkeypatch, x86_abi, name, bench)


@pytest.mark.parametrize("name", ["ENV_ERROR_CODE", "ENV_OLD_EXCEPTION"])
def test_a_moved_exception_record_is_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    require_moved_record_noticed(monkeypatch, x86_abi, name)


def test_a_passed_through_device_is_refused_with_one_sentence(bench: Bench) -> None:
    require_refused_device(bench.run(bench.vm_with(passed_through_serial()), "mov 0x10000000, %eax\nafter:\n"))


@pytest.mark.parametrize("fmt", STAGE_2)
@pytest.mark.parametrize(("instruction", "code"), [(LOAD, 0x09), (STORE, 0x0B), (JUMP, 0x19)])
def test_a_stage_1_table_inside_a_device_reads_as_ones_which_have_reserved_bits(
    bench: Bench, fmt: str, instruction: str, code: int
) -> None:
    """x86 has no fault for it: the walk goes on with what the bus answers, all ones where nothing does, and that is a
    present entry with reserved bits set (SDM Vol. 3A, 5.7: P and RSVD)."""
    vm = bench.vm_with(passed_through_serial(), fmt=fmt)
    bench.put(SECOND + 8, 0x1000_0000 | P | W | U)
    gva = TESTED + 2 * MIB
    result = bench.run(vm, f"mov ${gva:#x}, %rbx\n {instruction}\nafter:\n", cr0=WP)
    assert result.exit == "off", result.reason
    vector, error, *_, cr2 = bench.note()
    assert (vector, error, cr2) == (PF, code, gva)


@pytest.mark.parametrize("fmt", STAGE_2)
def test_bit_8_of_a_pml4_entry_is_reserved_on_the_processor_that_has_nested_paging(bench: Bench, fmt: str) -> None:
    """APM Vol. 2, 5.3, figure of the PML4E; SDM Vol. 3A, table 5-15 ignores it. Of a PDPE, both ignore it."""
    vm = bench.vm_with(fmt=fmt)
    bench.put(ROOT + 8, THIRD | P | W | U | 1 << 8)
    bench.put(THIRD + 8, SECOND | P | W | U | 1 << 8)
    bench.put(LAST, DATA | P | W)
    gva = 0x80_0000_0000 + DATA
    result = bench.run(vm, f"mov ${TESTED:#x}, %rbx\n {LOAD}\n mov ${gva:#x}, %rbx\n {LOAD}\nafter:\n", cr0=WP)
    assert result.exit == "off", result.reason
    if fmt.startswith("ept"):
        assert result.guest_faults == 0
        return
    vector, error, *_, cr2 = bench.note()
    assert (result.guest_faults, vector, error, cr2) == (1, PF, 0x09, gva)
