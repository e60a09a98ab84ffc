# The hostile guest: tries everything outside its regions and counts what stopped it.
# Whatever it can read there it keeps ("loot"), whatever it can write becomes the word MARK: the host looks for both.
# Assemble as `make guests` does; the bytes are checked in beside this file.

        .option norvc                   # every instruction is 4 bytes: the trap handler can step over one
        .option norelax
        .equ    UART, 0x10000000
        .equ    ROM,  0x20000000        # a page of page table entries, see hostile-rom.bin
        .equ    RAM,  0x80000000
        .equ    RAM_SIZE, 0x400000
        .equ    WINDOW, 0x40000000      # GVA whose level-1 and level-0 tables we move about (entry 1 of the root)
        .equ    MARK, 0x5bad5bad6b720000 # its first halfword is an illegal instruction
        .equ    LEAF, 0xcf              # V R W X A D
        .equ    DEBUG_CONSOLE, 0x4442434e

# Throughout: s2 reads refused, s3 writes refused, s4 fetches refused, s5 accesses that went through, s6 next loot
# slot, s10 cause of the last trap (0: none).
        .section .text
        .globl  _start
_start:
        la      sp, stack_top
        la      t0, trap
        csrw    stvec, t0
        li      s5, 0
        la      s6, loot
        la      a0, hello
        call    print

        # 1. Bare: a GPA of every 2 MiB of the first 4 GiB.
        call    clear
        li      s0, 0
        li      s1, 1 << 32
        li      s7, 0x200000
1:      mv      a0, s0
        call    attack
        add     s0, s0, s7
        bltu    s0, s1, 1b
        la      a0, text_low
        call    verdict

        # 2. Bare: the first and last words around every power of two, up to the widest address.
        call    clear
        li      s0, 12
1:      li      t0, 1
        sll     s1, t0, s0
        mv      a0, s1
        call    attack
        addi    a0, s1, -8
        call    attack
        addi    s0, s0, 1
        li      t0, 64
        bltu    s0, t0, 1b
        la      a0, text_powers
        call    verdict

        # 3. Bare: the pages right before and after our own regions, and a word across the end of RAM.
        call    clear
        la      s0, edges
1:      ld      a0, 0(s0)
        beqz    a0, 2f
        call    attack
        addi    s0, s0, 8
        j       1b
2:      li      s8, RAM + RAM_SIZE - 4  # half of the word is ours: neither half may be read or written
        li      s10, 0
        ld      s9, 0(s8)
        call    note_read
        li      t0, -1
        li      s10, 0
        sd      t0, 0(s8)
        call    note_write
        lw      s10, 0(s8)
        seqz    s10, s10
        call    note_write
        la      a0, text_edges
        call    verdict

        # 4. Bare: 1024 random GPAs of 41 bits.
        call    clear
        li      s0, 1024
        li      s1, 0x9e3779b97f4a7c15
1:      call    random
        call    attack
        addi    s0, s0, -1
        bnez    s0, 1b
        la      a0, text_random
        call    verdict

        # 5. Our tables are good, their leaves point outside: 512 random pages through a leaf of our own.
        call    clear
        call    paging_on
        li      s0, 512
1:      call    random
        call    point_leaf
        li      a0, WINDOW
        call    attack_mapped
        addi    s0, s0, -1
        bnez    s0, 1b
        la      a0, text_leaf
        call    verdict

        # 6. The level-0 table lies outside.
        call    clear
        li      s0, 256
1:      call    random
        call    point_level0
        li      a0, WINDOW
        call    attack_mapped
        addi    s0, s0, -1
        bnez    s0, 1b
        la      a0, text_level0
        call    verdict

        # 7. The level-1 table lies outside.
        call    clear
        li      s0, 256
1:      call    random
        call    point_level1
        li      a0, WINDOW
        call    attack_mapped
        addi    s0, s0, -1
        bnez    s0, 1b
        la      a0, text_level1
        call    verdict

        # 8. The level-0 table lies in a device.
        call    clear
        li      a0, UART
        call    point_level0
        li      a0, WINDOW
        call    attack_mapped
        la      a0, text_device
        call    verdict

        # 9. The level-0 table lies in ROM: its entries are good, but A and D are clear there.
        call    clear
        li      a0, ROM
        call    point_level0
        li      a0, WINDOW
        call    attack_mapped
        la      a0, text_rom
        call    verdict

        # 10. The firmware is asked to print what is not ours.
        call    clear
        li      s0, 256
1:      call    random
        call    ask_firmware
        addi    s0, s0, -1
        bnez    s0, 1b
        li      a0, RAM + RAM_SIZE - 4
        call    ask_firmware
        la      a0, text_firmware
        call    verdict

        la      a0, total
        call    print
        mv      a0, s5
        call    print_number
        la      a0, newline
        call    print
        li      a7, 0x53525354          # SBI system reset: shutdown
        li      a6, 0
        li      a0, 0
        li      a1, 0
        snez    a1, s5                  # reason 1, system failure, when anything went through
        ecall
1:      j       1b

clear:
        li      s2, 0
        li      s3, 0
        li      s4, 0
        ret

# a0 = a random word-aligned GPA of 41 bits; xorshift in s1.
random:
        slli    t0, s1, 13
        xor     s1, s1, t0
        srli    t0, s1, 7
        xor     s1, s1, t0
        slli    t0, s1, 17
        xor     s1, s1, t0
        srli    a0, s1, 23
        andi    a0, a0, -8
        ret

# Attack the GPA at a0 unless it is ours.
attack:
        li      t0, RAM
        sub     t1, a0, t0
        li      t0, RAM_SIZE - 7
        bltu    t1, t0, 1f
        li      t0, UART
        sub     t1, a0, t0
        srli    t1, t1, 12
        beqz    t1, 1f
        li      t0, ROM
        sub     t1, a0, t0
        srli    t1, t1, 12
        bnez    t1, attack_mapped
1:      ret

# Read, write, swap, compare and fetch at a0; count what is refused, keep what is not.
attack_mapped:
        addi    sp, sp, -16
        sd      ra, 0(sp)
        mv      s8, a0
        li      s10, 0
        ld      s9, 0(s8)
        call    note_read
        li      s10, 0
        lbu     s9, 0(s8)
        call    note_read
        li      t0, MARK
        li      s10, 0
        sd      t0, 0(s8)
        call    note_write
        li      t0, MARK
        li      s10, 0
        amoswap.d s9, t0, (s8)
        call    note_write
        li      s10, 0
        lr.d    s9, (s8)
        call    note_read
        mv      a0, s8
        li      s10, 0
        jalr    a0                      # a fault returns right after, see trap
        beqz    s10, 1f
        addi    t0, s10, -2             # illegal instruction: a foreign word came through
        bnez    t0, 2f
1:      addi    s5, s5, 1
        j       3f
2:      addi    s4, s4, 1
3:      ld      ra, 0(sp)
        addi    sp, sp, 16
        ret

note_read:
        beqz    s10, 1f
        addi    s2, s2, 1
        ret
1:      addi    s5, s5, 1
        la      t0, loot_end
        bgeu    s6, t0, 2f
        sd      s8, 0(s6)
        sd      s9, 8(s6)
        addi    s6, s6, 16
2:      ret

note_write:
        beqz    s10, 1f
        addi    s3, s3, 1
        ret
1:      addi    s5, s5, 1
        ret

# Ask the debug console to print 8 bytes at a0: it must refuse and print nothing.
ask_firmware:
        li      a7, DEBUG_CONSOLE
        li      a6, 0
        mv      a1, a0
        li      a0, 8
        li      a2, 0
        ecall
        beqz    a0, 1f
        addi    s2, s2, 1
        ret
1:      addi    s5, s5, 1
        ret

# Sv39: entries 0 and 2 map our device, ROM and RAM one to one, entry 1 goes through level1 and level0.
paging_on:
        la      t0, root
        li      t1, LEAF
        sd      t1, 0(t0)
        li      t2, 0x20000000          # 2 GiB >> 12 << 10
        add     t1, t1, t2
        sd      t1, 16(t0)
        srli    t1, t0, 12
        li      t2, 8 << 60
        or      t1, t1, t2
        csrw    satp, t1
        sfence.vma
        ret

# The three ways to make WINDOW lead to the page at a0.
point_leaf:
        srli    a0, a0, 12
        slli    a0, a0, 10
        ori     t1, a0, LEAF
        la      t0, level0
        sd      t1, 0(t0)
        mv      a0, t0
point_level0:
        srli    a0, a0, 12
        slli    a0, a0, 10
        ori     t1, a0, 1
        la      t0, level1
        sd      t1, 0(t0)
        mv      a0, t0
point_level1:
        srli    a0, a0, 12
        slli    a0, a0, 10
        ori     t1, a0, 1
        la      t0, root
        sd      t1, 8(t0)
        sfence.vma
        ret

# Print the text at a0 and the three counters.
verdict:
        addi    sp, sp, -16
        sd      ra, 0(sp)
        call    print
        mv      a0, s2
        call    print_number
        la      a0, text_reads
        call    print
        mv      a0, s3
        call    print_number
        la      a0, text_writes
        call    print
        mv      a0, s4
        call    print_number
        la      a0, text_fetches
        call    print
        ld      ra, 0(sp)
        addi    sp, sp, 16
        ret

# Print a0 in decimal.
print_number:
        addi    sp, sp, -48
        sd      ra, 0(sp)
        addi    t0, sp, 47
        sb      zero, 0(t0)
        li      t1, 10
1:      remu    t2, a0, t1
        addi    t2, t2, '0'
        addi    t0, t0, -1
        sb      t2, 0(t0)
        divu    a0, a0, t1
        bnez    a0, 1b
        mv      a0, t0
        call    print
        ld      ra, 0(sp)
        addi    sp, sp, 48
        ret

# Print the text at a0 on the emulated UART.
print:
        li      t0, UART
1:      lbu     t1, 0(a0)
        beqz    t1, 3f
2:      lbu     t2, 5(t0)
        andi    t2, t2, 0x20
        beqz    t2, 2b
        sb      t1, 0(t0)
        addi    a0, a0, 1
        j       1b
3:      ret

# Remember the cause; go on after the instruction, or at the return address when it was a fetch (1, 12, 2 when
# foreign bytes were executed).
        .balign 4, 0
trap:
        csrr    s10, scause
        addi    t5, s10, -1
        beqz    t5, 1f
        addi    t5, s10, -12
        beqz    t5, 1f
        addi    t5, s10, -2
        beqz    t5, 1f
        csrr    t6, sepc
        addi    t6, t6, 4
        csrw    sepc, t6
        sret
1:      csrw    sepc, ra
        sret

hello:          .asciz  "hostile guest: everything outside its regions is attacked\n"
text_low:       .asciz  "every 2 MiB below 4 GiB: "
text_powers:    .asciz  "around every power of two: "
text_edges:     .asciz  "beside its own regions: "
text_random:    .asciz  "1024 random addresses of 41 bits: "
text_leaf:      .asciz  "own leaves that point outside: "
text_level0:    .asciz  "level-0 tables outside: "
text_level1:    .asciz  "level-1 tables outside: "
text_device:    .asciz  "level-0 table in a device: "
text_rom:       .asciz  "accessed and dirty marks in ROM: "
text_firmware:  .asciz  "firmware asked to print foreign memory: "
text_reads:     .asciz  " reads, "
text_writes:    .asciz  " writes, "
text_fetches:   .asciz  " fetches refused\n"
total:          .asciz  "hostile guest: accesses that went through: "
newline:        .asciz  "\n"

        .balign 8, 0
edges:          .dword  UART - 8, UART - 0x1000, UART + 0x1000, UART + 0x1ff8
                .dword  ROM - 8, ROM - 0x1000, ROM + 0x1000, ROM + 0x1ff8
                .dword  RAM - 8, RAM - 0x1000, RAM + RAM_SIZE, RAM + RAM_SIZE + 0xff8
                .dword  -8, 0

        .balign 4096, 0
root:           .zero   4096
level1:         .zero   4096
level0:         .zero   4096
loot:           .zero   65536
loot_end:       .zero   4096
stack_top:
