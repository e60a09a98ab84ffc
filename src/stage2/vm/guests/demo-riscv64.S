# The demo guest: S-mode, own Sv39 tables, touches every kind of region and says what it saw.
# Assemble as `make guests` does; the bytes are checked in beside this file.

        .option norvc                   # every instruction is 4 bytes: the trap handler can step over one
        .option norelax                 # alignment is made here, not by the linker
        .equ    UART, 0x10000000
        .equ    ROM,  0x20000000
        .equ    HOLE, 0x30000000
        .equ    LAZY, 0x80200000
        .equ    SAME, 0x90000000
        .equ    PAGES, 64

        .section .text
        .globl  _start
_start:
        la      sp, stack_top
        la      t0, trap
        csrw    stvec, t0

        # Sv39 with three 1 GiB leaves, input = output: 0, 1 and 2 GiB; readable, writable, executable, A and D set.
        la      t0, root
        li      t1, 0xcf
        sd      t1, 0(t0)
        li      t2, 0x10000000          # 1 GiB >> 12 << 10
        add     t1, t1, t2
        sd      t1, 8(t0)
        add     t1, t1, t2
        sd      t1, 16(t0)
        srli    t0, t0, 12
        li      t1, 8 << 60
        or      t0, t0, t1
        csrw    satp, t0
        sfence.vma
        la      a0, hello
        call    print

        # Lazy RAM: every first write is a stage-2 fault that gives the page a frame.
        li      s0, LAZY
        li      s1, PAGES
        li      s2, 4096
1:      sd      s0, 0(s0)
        add     s0, s0, s2
        addi    s1, s1, -1
        bnez    s1, 1b
        li      s0, LAZY
        li      s1, PAGES
        li      s3, 1
1:      ld      t0, 0(s0)
        beq     t0, s0, 2f
        li      s3, 0
2:      add     s0, s0, s2
        addi    s1, s1, -1
        bnez    s1, 1b
        la      a0, lazy
        call    verdict

        # Identical: the host finds these bytes at the same address.
        li      s0, SAME
        li      t0, 0x600d600d
        sd      t0, 0(s0)
        ld      t1, 0(s0)
        sub     t0, t0, t1
        seqz    s3, t0
        la      a0, same
        call    verdict

        # ROM: readable; a write changes nothing.
        li      s0, ROM
        lwu     t0, 0(s0)
        li      t1, 0x214d4f52          # "ROM!"
        sub     t2, t0, t1
        seqz    s3, t2
        sw      zero, 0(s0)
        lwu     t0, 0(s0)
        sub     t2, t0, t1
        seqz    t2, t2
        and     s3, s3, t2
        la      a0, rom
        call    verdict

        # A hole: the bus answers with an error, so the guest gets a load access fault (cause 5).
        li      s10, 0
        li      s0, HOLE
        ld      t0, 0(s0)
        addi    t0, s10, -5
        seqz    s3, t0
        la      a0, hole
        call    verdict

        # A device is never executable: instruction access fault (cause 1).
        li      s10, 0
        li      s0, UART
        jalr    s0
        addi    t0, s10, -1
        seqz    s3, t0
        la      a0, fetch
        call    verdict

        la      a0, done
        call    print
        li      a7, 0x53525354          # SBI system reset: shutdown, no reason
        li      a6, 0
        li      a0, 0
        li      a1, 0
        ecall
1:      j       1b

# Print the text at a0, then "ok" or "FAILED" by s3.
verdict:
        addi    sp, sp, -16
        sd      ra, 0(sp)
        call    print
        la      a0, ok
        bnez    s3, 1f
        la      a0, failed
1:      call    print
        ld      ra, 0(sp)
        addi    sp, sp, 16
        ret

# Print the text at a0: every register access of the UART traps to the emulated device.
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

# Remember the cause; go on after the instruction, or at the return address when it was a fetch.
        .balign 4, 0
trap:
        csrr    s10, scause
        addi    t5, s10, -1
        beqz    t5, 1f
        csrr    t6, sepc
        addi    t6, t6, 4
        csrw    sepc, t6
        sret
1:      csrw    sepc, ra
        sret

hello:  .asciz  "demo guest: S-mode, Sv39 on\n"
lazy:   .asciz  "lazy RAM: 64 pages written and read back ... "
same:   .asciz  "identical memory: written and read back ... "
rom:    .asciz  "ROM: content found, a write changes nothing ... "
hole:   .asciz  "hole: load access fault received ... "
fetch:  .asciz  "device: fetch refused ... "
done:   .asciz  "demo guest: done\n"
ok:     .asciz  "ok\n"
failed: .asciz  "FAILED\n"

        .balign 4096, 0
root:   .zero   4096
        .zero   4096
stack_top:
