// The hostile guest for AArch64: tries everything outside its regions and counts what stopped it.
// Whatever it can read there it keeps ("loot"), whatever it can write becomes the word MARK: the host looks for both.
// Assemble as `make guests` does; the bytes are checked in beside this file.

        .equ    UART, 0x09000000
        .equ    RAM,  0x80000000
        .equ    RAM_SIZE, 0x400000
        .equ    WINDOW, 0x40000000      // GVA whose level-2 and level-3 tables we move about (entry 1 of the root)
        .equ    BLOCK, 0x701            // a block: AF, inner shareable, readable and writable at EL1
        .equ    PAGE, 0x703

// Throughout: x20 reads refused, x21 writes refused, x22 fetches refused, x23 accesses that went through, x24 next
// loot slot, x25 class of the last exception and one (0: none), x26 the address under attack, x27 random state.
        .section .text
        .globl  _start
_start:
        ldr     x0, =stack_top
        mov     sp, x0
        ldr     x0, =vectors
        msr     vbar_el1, x0
        mov     x23, #0
        ldr     x24, =loot
        ldr     x27, =0x9e3779b97f4a7c15
        ldr     x0, =hello
        bl      print

        // 1. MMU off: a GPA of every 2 MiB of the first 4 GiB.
        bl      clear
        mov     x19, #0
1:      mov     x0, x19
        bl      attack
        add     x19, x19, #0x200000
        tbz     x19, #32, 1b
        ldr     x0, =text_low
        bl      verdict

        // 2. MMU off: the first and last words around every power of two, up to the widest address.
        bl      clear
        mov     x19, #4096
1:      mov     x0, x19
        bl      attack
        sub     x0, x19, #8
        bl      attack
        lsl     x19, x19, #1
        cbnz    x19, 1b
        ldr     x0, =text_powers
        bl      verdict

        // 3. MMU off: beside our own regions, and where boards have what is not ours.
        bl      clear
        ldr     x19, =edges
1:      ldr     x0, [x19], #8
        cbz     x0, 2f
        bl      attack
        b       1b
2:      ldr     x26, =RAM + RAM_SIZE - 4 // half of the word is ours
        mov     x25, #0
        ldr     x0, [x26]
        bl      note_read
        ldr     x1, =mark
        ldr     x1, [x1]
        mov     x25, #0
        str     x1, [x26]
        bl      note_write
        ldr     x0, =text_edges
        bl      verdict

        // 4. MMU off: 1024 random GPAs of 41 bits.
        bl      clear
        mov     x19, #1024
1:      bl      random
        bl      attack
        subs    x19, x19, #1
        b.ne    1b
        ldr     x0, =text_random
        bl      verdict

        // 5. Our tables are good, their leaves point outside.
        bl      clear
        bl      paging_on
        mov     x19, #512
1:      bl      random
        bl      point_leaf
        ldr     x0, =WINDOW
        bl      attack_mapped
        subs    x19, x19, #1
        b.ne    1b
        ldr     x0, =text_leaf
        bl      verdict

        // 6. The level-3 table lies outside.
        bl      clear
        mov     x19, #256
1:      bl      random
        bl      point_level3
        ldr     x0, =WINDOW
        bl      attack_mapped
        subs    x19, x19, #1
        b.ne    1b
        ldr     x0, =text_level3
        bl      verdict

        // 7. The level-2 table lies outside.
        bl      clear
        mov     x19, #256
1:      bl      random
        bl      point_level2
        ldr     x0, =WINDOW
        bl      attack_mapped
        subs    x19, x19, #1
        b.ne    1b
        ldr     x0, =text_level2
        bl      verdict

        // 8. The level-3 table lies in a device.
        bl      clear
        ldr     x0, =UART
        bl      point_level3
        ldr     x0, =WINDOW
        bl      attack_mapped
        ldr     x0, =text_device
        bl      verdict

        // 9. Ways to the host that are no memory: semihosting, EL2's registers, a debugger's breakpoint.
        bl      clear
        ldr     x1, =semihosting_block
        mov     x0, #0x18               // SYS_EXIT
        mov     x25, #0
        hlt     #0xf000
        bl      note_fetch
        mov     x0, #0x02               // SYS_CLOSE
        mov     x25, #0
        hlt     #0xf000
        bl      note_fetch
        mov     x25, #0
        mrs     x0, hcr_el2
        bl      note_read
        mov     x25, #0
        mrs     x0, vttbr_el2
        bl      note_read
        mov     x25, #0
        msr     vttbr_el2, xzr
        bl      note_write
        mov     x25, #0
        msr     vbar_el2, xzr
        bl      note_write
        ldr     x0, =text_ways
        bl      verdict

        ldr     x0, =total
        bl      print
        mov     x0, x23
        bl      print_number
        ldr     x0, =newline
        bl      print
        ldr     x0, =0x84000008         // PSCI SYSTEM_OFF
        hvc     #0
1:      b       1b

clear:
        mov     x20, #0
        mov     x21, #0
        mov     x22, #0
        ret

// x0 = a random aligned GPA of 41 bits; xorshift in x27.
random:
        eor     x27, x27, x27, lsl #13
        eor     x27, x27, x27, lsr #7
        eor     x27, x27, x27, lsl #17
        lsr     x0, x27, #23
        and     x0, x0, #~7
        ret

// Attack the GPA at x0 unless it is ours.
attack:
        ldr     x1, =RAM
        sub     x1, x0, x1
        ldr     x2, =RAM_SIZE - 7
        cmp     x1, x2
        b.lo    1f
        ldr     x1, =UART
        sub     x1, x0, x1
        lsr     x1, x1, #12
        cbnz    x1, attack_mapped
1:      ret

// Read, write, swap, zero and fetch at x0, in several ways; count what is refused, keep what is not.
attack_mapped:
        stp     x29, x30, [sp, #-16]!
        mov     x26, x0
        ldr     x28, =mark
        ldr     x28, [x28]
        mov     x25, #0
        ldr     x0, [x26]
        bl      note_read
        mov     x25, #0
        ldrb    w0, [x26]
        bl      note_read
        mov     x25, #0
        ldp     x0, x1, [x26]           // no syndrome says which registers
        bl      note_read
        mov     x25, #0
        ldxr    x0, [x26]
        bl      note_read
        mov     x25, #0
        str     x28, [x26]
        bl      note_write
        mov     x25, #0
        stp     x28, x28, [x26]
        bl      note_write
        mov     x0, x26
        mov     x25, #0
        str     x28, [x0], #8           // with write-back
        bl      note_write
        mov     x25, #0
        ldr     x29, =resume
        adr     x30, resume
        br      x26                     // a fault returns right after, see the vectors
resume: bl      note_fetch
        ldp     x29, x30, [sp], #16
        ret

note_fetch:
        cbz     x25, 1f
        add     x22, x22, #1
        ret
1:      add     x23, x23, #1
        ret
note_write:
        cbz     x25, 1f
        add     x21, x21, #1
        ret
1:      add     x23, x23, #1
        ret
note_read:
        cbz     x25, 1f
        add     x20, x20, #1
        ret
1:      add     x23, x23, #1
        ldr     x1, =loot_end
        cmp     x24, x1
        b.hs    2f
        stp     x26, x0, [x24], #16
2:      ret

// Granule 4 KiB, 39 bits: entries 0 and 2 map our device and RAM one to one, entry 1 goes through level2 and level3.
paging_on:
        ldr     x1, =root
        ldr     x2, =0x0040000000000405
        str     x2, [x1]
        ldr     x2, =RAM + BLOCK
        str     x2, [x1, #16]
        ldr     x0, =0x00ff
        msr     mair_el1, x0
        ldr     x0, =0x200803519
        msr     tcr_el1, x0
        msr     ttbr0_el1, x1
        isb
        mrs     x0, sctlr_el1
        orr     x0, x0, #1
        msr     sctlr_el1, x0
        isb
        ret

// The three ways to make WINDOW lead to the page at x0.
point_leaf:
        and     x0, x0, #~0xfff
        ldr     x1, =PAGE
        orr     x0, x0, x1
        ldr     x1, =level3
        str     x0, [x1]
        mov     x0, x1
point_level3:
        and     x0, x0, #~0xfff
        orr     x0, x0, #3
        ldr     x1, =level2
        str     x0, [x1]
        mov     x0, x1
point_level2:
        and     x0, x0, #~0xfff
        orr     x0, x0, #3
        ldr     x1, =root
        str     x0, [x1, #8]
        dsb     ish
        tlbi    vmalle1
        dsb     ish
        isb
        ret

// Print the text at x0 and the three counters.
verdict:
        stp     x29, x30, [sp, #-16]!
        bl      print
        mov     x0, x20
        bl      print_number
        ldr     x0, =text_reads
        bl      print
        mov     x0, x21
        bl      print_number
        ldr     x0, =text_writes
        bl      print
        mov     x0, x22
        bl      print_number
        ldr     x0, =text_fetches
        bl      print
        ldp     x29, x30, [sp], #16
        ret

// Print x0 in decimal.
print_number:
        stp     x29, x30, [sp, #-48]!
        add     x1, sp, #47
        strb    wzr, [x1]
        mov     x2, #10
1:      udiv    x3, x0, x2
        msub    x4, x3, x2, x0
        add     w4, w4, #'0'
        strb    w4, [x1, #-1]!
        mov     x0, x3
        cbnz    x0, 1b
        mov     x0, x1
        bl      print
        ldp     x29, x30, [sp], #48
        ret

// Print the text at x0 on the emulated PL011.
print:
        ldr     x1, =UART
1:      ldrb    w2, [x0], #1
        cbz     w2, 2f
        str     w2, [x1]
        b       1b
2:      ret

// Remember the class; go on after the instruction, or at x30 when it was a fetch or foreign bytes were executed.
        .balign 2048, 0
vectors:
        .rept 16
        b       trap
        .balign 128, 0
        .endr
trap:   mrs     x25, esr_el1
        lsr     x25, x25, #26
        add     x25, x25, #1            // class 0 is an undefined instruction
        mrs     x10, elr_el1
        cmp     x10, x26                // it was the fetch
        b.eq    1f
        ldr     x11, =_start
        cmp     x10, x11                // somewhere else: foreign bytes were executed
        b.lo    2f
        ldr     x11, =vectors
        cmp     x10, x11
        b.hs    2f
        add     x10, x10, #4
        msr     elr_el1, x10
        eret
2:      mov     x25, #0
1:      msr     elr_el1, x30
        eret

hello:          .asciz  "hostile guest: everything outside its regions is attacked\n"
text_low:       .asciz  "every 2 MiB below 4 GiB: "
text_powers:    .asciz  "around every power of two: "
text_edges:     .asciz  "beside its own regions, and where boards have what is not its own: "
text_random:    .asciz  "1024 random addresses of 41 bits: "
text_leaf:      .asciz  "own leaves that point outside: "
text_level3:    .asciz  "level-3 tables outside: "
text_level2:    .asciz  "level-2 tables outside: "
text_device:    .asciz  "level-3 table in a device: "
text_ways:      .asciz  "semihosting and EL2's registers: "
text_reads:     .asciz  " reads, "
text_writes:    .asciz  " writes, "
text_fetches:   .asciz  " others refused\n"
total:          .asciz  "hostile guest: accesses that went through: "
newline:        .asciz  "\n"

        .balign 8, 0
mark:           .dword  0x5bad5bad6b720000 // its first word is an undefined instruction
edges:          .dword  UART - 8, UART - 0x1000, UART + 0x1000, UART + 0x1ff8
                .dword  RAM - 8, RAM - 0x1000, RAM + RAM_SIZE, RAM + RAM_SIZE + 0xff8
                // QEMU's board: distributor, CPU interface, redistributor, fw_cfg, PCI ports and their doorbells,
                // PCI memory and configuration space, mailbox and monitor of the hypervisor.
                .dword  0x08000000, 0x08010000, 0x080a0000, 0x09020000, 0x3eff0000, 0x3eff1000, 0x3eff1040
                .dword  0x10000000, 0x4010000000, 0x4010008000, 0x4010010000, 0x40100000, 0x40101000, 0x40200000
                .dword  -8, 0
semihosting_block: .dword 0x20026, 0

        .balign 4096, 0
root:           .zero   4096
level2:         .zero   4096
level3:         .zero   4096
loot:           .zero   65536
loot_end:       .zero   4096
stack_top:
