# The demo guest: long mode, own stage-1 tables, touches every kind of region and says what it saw.
# It begins in 32-bit protected mode without paging. Assemble as `make guests` does; the bytes are checked in beside
# this file.

        .equ    UART, 0x10000000
        .equ    ROM,  0x20000000
        .equ    HOLE, 0x30000000
        .equ    LAZY, 0x80200000
        .equ    SAME, 0x90000000
        .equ    UNMAPPED, 0xc0000000
        .equ    PAGES, 64
        .equ    GENERAL_PROTECTION, 13
        .equ    PAGE_FAULT, 14

        .section .text
        .globl  _start
        .code32
_start:
        mov     $stack_top, %esp

        # Four levels, three 1 GiB blocks, input = output: present, writable, blocks.
        movl    $third + 0x3, root
        movl    $0x00000083, third
        movl    $0x40000083, third + 8
        movl    $0x80000083, third + 16
        mov     $root, %eax
        mov     %eax, %cr3
        mov     $0x20, %eax             # CR4.PAE
        mov     %eax, %cr4
        mov     $0xc0000080, %ecx       # EFER.NXE and LME
        rdmsr
        or      $0x900, %eax
        wrmsr
        mov     $0x80010011, %eax       # CR0.PG, WP, ET and PE
        mov     %eax, %cr0
        lgdt    gdt_pointer
        ljmp    $8, $long

        .code64
long:   mov     $0x10, %eax
        mov     %eax, %ss
        mov     %eax, %ds
        mov     %eax, %es
        lea     page_fault(%rip), %rax
        mov     $PAGE_FAULT, %ecx
        call    gate
        lea     general_protection(%rip), %rax
        mov     $GENERAL_PROTECTION, %ecx
        call    gate
        lidt    idt_pointer(%rip)
        lea     hello(%rip), %rsi
        call    print

        # Lazy RAM: every first write is a stage-2 fault that gives the page a frame.
        mov     $LAZY, %ebx
        mov     $PAGES, %ecx
1:      mov     %rbx, (%rbx)
        add     $4096, %rbx
        loop    1b
        mov     $LAZY, %ebx
        mov     $PAGES, %ecx
        mov     $1, %ebp
        xor     %edx, %edx
1:      cmp     %rbx, (%rbx)
        cmovne  %edx, %ebp
        add     $4096, %rbx
        loop    1b
        lea     lazy(%rip), %rsi
        call    verdict

        # Identical: the host finds these bytes at the same address.
        mov     $SAME, %ebx
        mov     $0x600d600d, %eax
        mov     %rax, (%rbx)
        xor     %ebp, %ebp
        cmp     %rax, (%rbx)
        sete    %bpl
        lea     same(%rip), %rsi
        call    verdict

        # ROM: readable; a write changes nothing.
        mov     $ROM, %ebx
        mov     $0x214d4f52, %eax       # "ROM!"
        xor     %ebp, %ebp
        cmp     %eax, (%rbx)
        jne     1f
        movl    $0, (%rbx)
        cmp     %eax, (%rbx)
        sete    %bpl
1:      lea     rom(%rip), %rsi
        call    verdict

        # An address that our own tables do not map: a page fault, error code 0 (a read, not present, ring 0).
        mov     $UNMAPPED + 0x123, %ebx
        mov     %rbx, %r11
        mov     $PAGE_FAULT, %r10d
        call    try_read
        lea     own(%rip), %rsi
        call    verdict

        # A hole: nothing answers, so the guest gets a general-protection fault with error code 0.
        mov     $HOLE + 8, %ebx
        mov     %cr2, %r11              # which says nothing of the address
        mov     $GENERAL_PROTECTION, %r10d
        call    try_read
        lea     hole(%rip), %rsi
        call    verdict

        # A device is never executable at stage 2: general-protection fault.
        xor     %r12d, %r12d
        lea     1f(%rip), %r15
        mov     $UART, %ebx
        jmp     *%rbx
1:      xor     %ebp, %ebp
        cmp     $GENERAL_PROTECTION, %r12
        sete    %bpl
        lea     fetch(%rip), %rsi
        call    verdict

        lea     done(%rip), %rsi
        call    print
        mov     $0x604, %edx            # ACPI PM1a control: power off
        mov     $0x2000, %eax
        out     %ax, %dx
1:      jmp     1b

# Read at rbx; ebp says whether the exception r10 came, with error code 0 and CR2 as in r11.
try_read:
        xor     %r12d, %r12d
        lea     1f(%rip), %r15
        mov     (%rbx), %rax
1:      xor     %ebp, %ebp
        mov     %cr2, %rax
        cmp     %r10, %r12
        jne     2f
        cmp     %r11, %rax
        jne     2f
        test    %r13, %r13
        sete    %bpl
2:      ret

# Print the text at rsi, then "ok" or "FAILED" by ebp.
verdict:
        call    print
        lea     ok(%rip), %rsi
        test    %ebp, %ebp
        jnz     print
        lea     failed(%rip), %rsi

# Print the text at rsi: every register access of the UART traps to the emulated device.
print:  mov     $UART, %edi
1:      mov     (%rsi), %al
        inc     %rsi
        test    %al, %al
        jz      3f
2:      testb   $0x20, 5(%rdi)
        jz      2b
        mov     %al, (%rdi)
        jmp     1b
3:      ret

# Let vector ecx lead to rax.
gate:   lea     idt(%rip), %rdi
        shl     $4, %ecx
        add     %rcx, %rdi
        mov     %ax, (%rdi)
        movw    $8, 2(%rdi)
        movw    $0x8e00, 4(%rdi)        # present, ring 0, interrupt gate
        shr     $16, %rax
        mov     %ax, 6(%rdi)
        shr     $16, %rax
        mov     %eax, 8(%rdi)
        ret

# Remember vector and error code in r12 and r13; go on at r15.
page_fault:
        mov     $PAGE_FAULT, %r12d
        jmp     1f
general_protection:
        mov     $GENERAL_PROTECTION, %r12d
1:      pop     %r13
        mov     %r15, (%rsp)
        iretq

hello:  .asciz  "demo guest: long mode, stage 1 on\n"
lazy:   .asciz  "lazy RAM: 64 pages written and read back ... "
same:   .asciz  "identical memory: written and read back ... "
rom:    .asciz  "ROM: content found, a write changes nothing ... "
own:    .asciz  "own tables: page fault received ... "
hole:   .asciz  "hole: general-protection fault received ... "
fetch:  .asciz  "device: fetch refused ... "
done:   .asciz  "demo guest: done\n"
ok:     .asciz  "ok\n"
failed: .asciz  "FAILED\n"

        .balign 8, 0
gdt:    .quad   0
        .quad   0x00af9b000000ffff      # 64-bit code
        .quad   0x00cf93000000ffff      # data
gdt_pointer:
        .word   . - gdt - 1
        .quad   gdt
idt_pointer:
        .word   16 * (PAGE_FAULT + 1) - 1
        .quad   idt
        .balign 16, 0
idt:    .zero   16 * (PAGE_FAULT + 1)

        .balign 4096, 0
root:   .zero   4096
third:  .zero   4096
        .zero   4096
stack_top:
