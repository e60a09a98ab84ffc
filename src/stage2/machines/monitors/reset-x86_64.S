# What stands where a PC's firmware does: it takes an x86-64 CPU from its reset into 64-bit mode and to the monitor.
# link at 0xffffff00; the last 256 bytes below 4 GiB, for a CPU begins at 0xfffffff0 in real mode (Intel SDM Vol. 3A,
# 10.1.4 "First Instruction Executed"). No other firmware runs: nothing writes to memory before the monitor does.
    .include "run-x86_64.inc"
    .equ SEGMENT, 0xffff0000            # base of CS after a reset

    .text
    .globl _start
    .code16
_start:
    cli
    lgdtl %cs:(gdt_pointer - SEGMENT)
    mov $CR0_PE, %eax
    mov %eax, %cr0
    ljmpl $CODE_32, $protected
    .code32
protected:
    mov $DATA, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $CR4_PAE_OSFXSR, %eax
    mov %eax, %cr4
    mov $PML4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME_NXE_SVME, %eax
    wrmsr
    mov $CR0_PG_WP_NE_PE, %eax
    mov %eax, %cr0
    ljmp $CODE_64, $long
    .code64
long:
    mov $MONITOR, %eax
    jmp *%rax

    .align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # CODE_32
    .quad 0x00af9b000000ffff            # CODE_64
    .quad 0x00cf93000000ffff            # DATA
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .long gdt

    .org 0xf0
    .code16
    jmp _start
    .org 0x100
