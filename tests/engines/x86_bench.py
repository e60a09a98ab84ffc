"""What tests of x86-64 guests share: a bench that assembles a guest, builds its tables and runs it."""

from __future__ import annotations

from pathlib import Path

from assembler import build
from guest_bench import GuestBench

from stage2.engines.unicorn.x86.machine import X86Machine
from stage2.vm.vm import RunResult, Vm

PREFIX = "x86_64-linux-gnu-"
BASE, RESULTS, STACK = 0x10_0000, 0x30_0000, 0x40_0000
P, W, U, A, D, PS, NX = 1, 2, 4, 0x20, 0x40, 0x80, 1 << 63
ROOT, THIRD, SECOND, LAST, UPPER = 0x20_0000, 0x20_1000, 0x20_2000, 0x20_3000, 0x20_4000
"""Tables: of 256 TiB (or one of its 512 GiB with five levels), 512 GiB, 1 GiB, 2 MiB; the one above with five."""
TESTED = 0x4000_0000
"""GVA of the first page of LAST; below it 1 GiB of identity."""
WP, SMEP, SMAP, LA57 = 1 << 16, 1 << 20, 1 << 21, 1 << 12

HEADER = """
        .code32
        .macro off
        mov     $0x604, %dx
        mov     $0x2000, %ax
        out     %ax, %dx
        jmp     .
        .endm
        .globl  _start
_start:
        mov     $STACK, %esp
        lgdt    gdt_pointer
        mov     $CR4 | 0x20, %eax           # PAE
        mov     %eax, %cr4
        mov     $CR3, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx
        rdmsr
        or      $0x901, %eax                # NXE, LME, SCE
        wrmsr
        mov     $0x80000011 | CR0, %eax
        mov     %eax, %cr0
        ljmp    $8, $long
        .code64
long:   lidt    idt_pointer(%rip)
        mov     $0x10, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
        mov     $0x28, %eax
        ltr     %ax
        mov     $RESULTS, %r15
        mov     $after, %r14
"""
FOOTER = """
        off
# Every exception is noted at r15 (8 words: vector, error code, RIP, CS, CR2, RFLAGS, RSP), then r14 goes on in ring 0.
        .macro  entry number, code
vector\\number:
        .if     \\code == 0
        push    $0
        .endif
        push    $\\number
        jmp     note
        .endm
        .irp    number, 0, 1, 3, 6, 7, 0x30
        entry   \\number, 0
        .endr
        .irp    number, 8, 10, 11, 12, 13, 14
        entry   \\number, 1
        .endr
note:   push    %rax
        mov     8(%rsp), %rax
        mov     %rax, (%r15)
        mov     16(%rsp), %rax
        mov     %rax, 8(%r15)
        mov     24(%rsp), %rax
        mov     %rax, 16(%r15)
        mov     32(%rsp), %rax
        mov     %rax, 24(%r15)
        mov     %cr2, %rax
        mov     %rax, 32(%r15)
        mov     40(%rsp), %rax
        mov     %rax, 40(%r15)
        mov     48(%rsp), %rax
        mov     %rax, 48(%r15)
        pop     %rax
        add     $64, %r15
        mov     %r14, 16(%rsp)
        movq    $8, 24(%rsp)
        movq    $STACK, 40(%rsp)
        movq    $0x10, 48(%rsp)
        add     $16, %rsp
        iretq
        .balign 16
gdt:    .quad   0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff
task:   .quad   0x0000890000000067 + (tss - _start + BASE) * 0x10000, 0
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
idt_pointer:
        .word   0xfff
        .quad   idt
tss:    .long   0
        .quad   STACK - 0x1000
        .zero   0x58
        .balign 16
        .macro  gate number, ring
        .org    idt + 16 * \\number
        .word   vector\\number - _start, 8
        .byte   0, 0x8e + \\ring * 0x20
        .word   BASE >> 16          # the guest is smaller than 64 KiB
        .quad   0
        .endm
idt:
        .irp    number, 0, 1, 3, 6, 7, 8, 10, 11, 12, 13, 14
        gate    \\number, 0
        .endr
        gate    0x30, 3
        .org    idt + 0x1000
"""


class Bench(GuestBench[X86Machine]):
    """RAM begins at 0, guests at BASE; `folder` is for what tests assemble themselves."""

    fmt, ram, entry = "ept4", 0, BASE

    def __init__(self, folder: Path) -> None:
        super().__init__(X86Machine)
        self.folder = folder

    def tables(self) -> None:
        """Stage-1 tables: the first gigabyte to itself for ring 0, and an empty last level for TESTED."""
        self.put(UPPER, ROOT | P | W | U)
        self.put(ROOT, THIRD | P | W | U)
        self.put(THIRD, P | W | PS, SECOND | P | W | U)
        self.put(SECOND, LAST | P | W | U)

    def run(
        self, vm: Vm, body: str, *, stop_at: int | None = None, cr0: int = WP, cr3: int = ROOT, cr4: int = 0
    ) -> RunResult:
        numbers = {
            "CR0": cr0, "CR3": cr3, "CR4": cr4, "BASE": BASE, "RESULTS": RESULTS, "STACK": STACK, "TESTED": TESTED,
            "LAST": LAST,
        }  # fmt: skip
        equates = "".join(f".equ {name}, {value:#x}\n" for name, value in numbers.items())
        image = build(PREFIX, equates + HEADER + body + FOOTER, BASE, ["--64"], ["-z", "max-page-size=4096"])
        return self.run_image(vm, image, stop_at)

    def note(self, number: int = 0) -> tuple[int, int, int, int, int]:
        """(vector, error code, RIP, CS, CR2) of an exception that the guest noted."""
        at = RESULTS + 64 * number
        vector, code, rip, cs, cr2 = (self.word(at + 8 * i) for i in range(5))
        return vector, code, rip, cs, cr2
