// The demo guest: EL1, own stage-1 tables, touches every kind of region and says what it saw.
// Assemble as `make guests` does; the bytes are checked in beside this file.

        .equ    UART, 0x10000000
        .equ    ROM,  0x20000000
        .equ    HOLE, 0x30000000
        .equ    LAZY, 0x80200000
        .equ    SAME, 0x90000000
        .equ    PAGES, 64

        .section .text
        .globl  _start
_start:
        ldr     x0, =stack_top
        mov     sp, x0
        ldr     x0, =vectors
        msr     vbar_el1, x0

        // Granule 4 KiB, 39 bits, three 1 GiB blocks, input = output: the first is device memory, never executed
        // at EL0; all readable and writable at EL1, with the access flag set.
        ldr     x1, =root
        ldr     x2, =0x0040000000000405
        str     x2, [x1]
        ldr     x2, =0x40000701
        str     x2, [x1, #8]
        ldr     x2, =0x80000701
        str     x2, [x1, #16]
        ldr     x0, =0x00ff             // attribute 0: normal write-back; 1: device nGnRnE
        msr     mair_el1, x0
        ldr     x0, =0x200803519        // T0SZ = 25, TG0 = 4 KiB, write-back, inner shareable, EPD1, 40-bit output
        msr     tcr_el1, x0
        msr     ttbr0_el1, x1
        isb
        mrs     x0, sctlr_el1
        orr     x0, x0, #1
        msr     sctlr_el1, x0
        isb
        ldr     x0, =hello
        bl      print

        // Lazy RAM: every first write is a stage-2 fault that gives the page a frame.
        ldr     x19, =LAZY
        mov     x20, #PAGES
1:      str     x19, [x19]
        add     x19, x19, #4096
        subs    x20, x20, #1
        b.ne    1b
        ldr     x19, =LAZY
        mov     x20, #PAGES
        mov     x21, #1
1:      ldr     x0, [x19]
        cmp     x0, x19
        csel    x21, x21, xzr, eq
        add     x19, x19, #4096
        subs    x20, x20, #1
        b.ne    1b
        ldr     x0, =lazy
        bl      verdict

        // Identical: the host finds these bytes at the same address.
        ldr     x19, =SAME
        ldr     x0, =0x600d600d
        str     x0, [x19]
        ldr     x1, [x19]
        cmp     x0, x1
        cset    x21, eq
        ldr     x0, =same
        bl      verdict

        // ROM: readable; a write changes nothing.
        ldr     x19, =ROM
        ldr     w2, =0x214d4f52         // "ROM!"
        ldr     w0, [x19]
        cmp     w0, w2
        cset    x21, eq
        str     wzr, [x19]
        ldr     w0, [x19]
        cmp     w0, w2
        csel    x21, x21, xzr, eq
        ldr     x0, =rom
        bl      verdict

        // A hole: the bus answers with an error, so the guest gets a synchronous external abort: class 0x25 (data
        // abort, same level), status 0x10, and the address in FAR_EL1.
        mov     x28, #0
        ldr     x19, =HOLE
        ldr     x0, [x19, #8]
        ldr     x1, =0x96000010
        cmp     x28, x1
        cset    x21, eq
        add     x19, x19, #8
        cmp     x27, x19
        csel    x21, x21, xzr, eq
        ldr     x0, =hole
        bl      verdict

        // A device is never executable at stage 2: class 0x21 (instruction abort, same level), status 0x10.
        mov     x28, #0
        ldr     x19, =UART
        blr     x19
        ldr     x1, =0x86000010
        cmp     x28, x1
        cset    x21, eq
        ldr     x0, =fetch
        bl      verdict

        ldr     x0, =done
        bl      print
        ldr     x0, =0x84000008         // PSCI SYSTEM_OFF
        hvc     #0
1:      b       1b

// Print the text at x0, then "ok" or "FAILED" by x21.
verdict:
        str     x30, [sp, #-16]!
        bl      print
        ldr     x0, =ok
        cbnz    x21, 1f
        ldr     x0, =failed
1:      bl      print
        ldr     x30, [sp], #16
        ret

// Print the text at x0: every register access of the UART traps to the emulated device.
print:
        ldr     x1, =UART
1:      ldrb    w2, [x0], #1
        cbz     w2, 3f
2:      ldr     w3, [x1, #0x18] // FR
        tbnz    w3, #5, 2b      // TXFF
        str     w2, [x1]
        b       1b
3:      ret

// Remember the syndrome and the address; go on after the instruction, or at the return address when it was a fetch.
sync:   mrs     x28, esr_el1
        mrs     x27, far_el1
        lsr     x26, x28, #26
        mrs     x25, elr_el1
        add     x25, x25, #4
        cmp     x26, #0x21
        csel    x25, x30, x25, eq
        msr     elr_el1, x25
        eret

        .ltorg
hello:  .asciz  "demo guest: EL1, stage 1 on\n"
lazy:   .asciz  "lazy RAM: 64 pages written and read back ... "
same:   .asciz  "identical memory: written and read back ... "
rom:    .asciz  "ROM: content found, a write changes nothing ... "
hole:   .asciz  "hole: external abort received ... "
fetch:  .asciz  "device: fetch refused ... "
done:   .asciz  "demo guest: done\n"
ok:     .asciz  "ok\n"
failed: .asciz  "FAILED\n"

// Sixteen vectors of 128 bytes; only the synchronous one of EL1 with its own stack pointer is ours.
        .balign 2048, 0
vectors:
        .rept   4
        b       .
        .balign 128, 0
        .endr
        b       sync

        .balign 4096, 0
root:   .zero   4096
        .zero   4096
stack_top:
