# The monitor of a whole RISC-V system: it runs in HS-mode over OpenSBI, lets a guest run in VS-mode, and tells Python why
# it stopped (Privileged, "Hypervisor" Extension; SBI 2.0).
# link at 0x80200000
#
# OpenSBI brings one hart here, whichever it likes; hart 0 goes on, and Python has the others started. Each has a mailbox
# and a doorbell of its own, by its number. The doorbell is a 16550 on PCI, whose registers no G-stage table maps: a guest can neither ring it nor ask the host for
# anything. While Python deals with an exit the hart spins on ACKNOWLEDGE; a guest that waits sleeps in QEMU.
#
# A guest's x1 to x31 stand at GUEST, and behind them pc, status and what its supervisor mode has of its own (`STATE`).
# It takes its own exceptions and interrupts. Its timer is vstimecmp where the hart has Sstc; elsewhere it is kept here
# and rung by hvip. Calls of SBI's timer extension are answered here, all others by Python.
#
# A tick of 10 ms is always on: Python stops a hart that does not exit by itself through KICK. Interrupts that Python
# has for a guest that runs are put into PENDING, and taken at the next tick, or at once when another hart wakes this.

    .option norvc
    .option norelax

    # The mailbox: offsets of machines/mailbox.py, and our own words.
    .equ MAILBOX,     0x80100000        # of hart 0; a page each
    .equ MAILBOX_AT, 0
    .include "mailbox.inc"
    .equ KICK,        0x48              # not 0 makes the hart exit at its next tick; it clears the word
    .equ SEND,        0x50              # for RUN: harts, a bit each, that are to look at KICK and PENDING at once
    .equ WAITED,      0x58              # ours: for how many ticks Python dealt with the last event
    .equ PENDING,     0x60              # bits of hvip to set; the hart clears the word
    .equ GUEST, 0x300
    .equ PC,          GUEST + 8*32      # sepc; STATE from here on
    .equ CLOCK,       GUEST + 8*48      # when the guest's timer interrupts next
    .equ FLOATS,      GUEST + 8*49      # f0 to f31 and fcsr
    .equ TIME,        GUEST + 8*82      # what it reads as time,
    .equ DELTA,       GUEST + 8*83      # and by how much that is ahead of ours
    .equ PAGE, 4096
    .equ FS, 3 << 13                    # sstatus
    .equ DOOR,        0x700             # ours: where the doorbell's registers are,
    .equ SSTC,        0x708             # whether the hart has Sstc,
    .equ HART,        0x710             # its number, as a bit,
    .equ HARTS,       0x718             # the harts of its guest, a bit each,
    .equ PARKED,      0x720             # and whether it sleeps between looks at ACKNOWLEDGE
    .equ HZ,          10000000          # QEMU virt: of the clock
    .equ EXIT,  1                       # event
    .equ RUN,   4                       # command: do LIST's COUNT operations, then let the guest run
    .equ START, 5                       # command: start the hart whose number FLAGS is
    .equ PARK,  6                       # command: wait for the next one asleep
    .equ SAVE,  7                       # command: FLOATS, TIME and DELTA of the guest into the mailbox
    .equ RESTORE, 8                     # command: FLOATS and DELTA back from there, and drop all translations
    .equ RENEW, 9                       # command: store all words of the COUNT pages of LIST anew

    .equ CONFIG, 0x30000000             # QEMU virt: configuration space of PCI, 32 KiB a device; device 1 for hart 0
    .equ PORTS,  0x03000000             # its window of ports
    .equ FIRST_PORT, 0x1000             # of hart 0; 256 ports each

    .equ MAGIC_HIGH,  0x53544147        # "STAG"
    .equ MAGIC_LOW,   0x45320001        # "E2", version 1

    .equ STIMECMP,  0x14d
    .equ VSTIMECMP, 0x24d
    .equ HENVCFG,   0x60a
    .equ STCE,      63                  # bit of henvcfg
    .equ EXCEPTIONS, 0xb1ff             # all that a guest may take itself: calls of VS-mode and guest-page faults come here
    .equ VSSI, 1 << 2
    .equ VSTI, 1 << 6
    .equ VSEI, 1 << 10
    .equ SSI,  1 << 1
    .equ STI,  1 << 5
    .equ TICK, HZ / 100                 # 10 ms
    .equ GUEST_CALL, 10
    .equ LOAD_FAULT, 21
    .equ STORE_FAULT, 23

    .equ SBI_TIME, 0x54494d45
    .equ SBI_IPI,  0x735049
    .equ SBI_HSM,  0x48534d
    .equ SBI_RFENCE, 0x52464e43

    # What a guest's supervisor mode has besides registers, in the order of Python's `Context`; from GUEST's word 32 on.
    .macro STATE do
    \do sepc, 32
    \do sstatus, 33
    \do hstatus, 34
    \do vsstatus, 35
    \do vstvec, 36
    \do vsepc, 37
    \do vscause, 38
    \do vstval, 39
    \do vsatp, 40
    \do vsscratch, 41
    \do vsie, 42
    \do hvip, 43
    \do scounteren, 44
    \do 0x10a, 45                       # senvcfg, which HS- and VS-mode share
    .endm
    .macro SAVE csr, word
    csrr    t0, \csr
    sd      t0, GUEST + 8*\word(s0)
    .endm
    .macro RESTORE csr, word
    ld      t0, GUEST + 8*\word(s0)
    csrw    \csr, t0
    .endm

    .globl _start
_start:                                 # a0: hart
    beqz    a0, hart
    li      a0, 0
    call    start
    li      a6, 1                       # hart_stop
    li      a7, SBI_HSM
    ecall
start:                                  # a0: hart; again and again while it has not quite stopped yet
    mv      t2, a0
1:  mv      a0, t2
    la      a1, hart
    li      a2, 0
    li      a6, 0                       # hart_start
    li      a7, SBI_HSM
    ecall
    bnez    a0, 1b
    ret
hart:                                   # s0: mailbox, and sscratch too
    la      t0, failed
    csrw    stvec, t0
    slli    t0, a0, 12
    li      s0, MAILBOX
    add     s0, s0, t0
    csrw    sscratch, s0
    csrw    satp, zero
    csrw    sie, zero
    li      t0, 1
    sll     t0, t0, a0
    sd      t0, HART(s0)
    sd      t0, HARTS(s0)

    slli    t0, a0, 8                   # the doorbell: its ports, and let it answer
    li      t1, FIRST_PORT
    add     t0, t0, t1
    addi    t2, a0, 1
    slli    t2, t2, 15
    li      t1, CONFIG
    add     t1, t1, t2
    sw      t0, 0x10(t1)
    lhu     t2, 4(t1)
    ori     t2, t2, 1
    sh      t2, 4(t1)
    lwu     t2, 0(t1)
    sd      t2, INFO+0(s0)
    li      t1, PORTS
    add     t0, t0, t1
    sd      t0, DOOR(s0)

    li      t0, EXCEPTIONS
    csrw    hedeleg, t0
    li      t0, VSSI | VSTI | VSEI
    csrw    hideleg, t0
    li      t0, 7
    csrw    hcounteren, t0
    csrw    htimedelta, zero
    csrw    hgeie, zero
    csrw    hvip, zero
    li      t0, -1
    sd      t0, CLOCK(s0)
    sd      zero, SSTC(s0)
    sd      zero, PARKED(s0)
    la      t0, 1f                      # no Sstc: the register does not exist, or firmware keeps it
    csrw    stvec, t0
    li      t0, -1
    csrw    STIMECMP, t0
    slli    t0, t0, STCE
    csrw    HENVCFG, t0
    csrr    t0, HENVCFG
    srli    t0, t0, STCE
    beqz    t0, 1f
    li      t0, -1
    csrw    VSTIMECMP, t0
    li      t0, 1
    sd      t0, SSTC(s0)
    .balign 4
1:  la      t0, failed
    csrw    stvec, t0
    ld      t0, SSTC(s0)
    sd      t0, INFO+8(s0)
    li      t0, HZ
    sd      t0, INFO+16(s0)
    li      t0, (MAGIC_HIGH << 32) | MAGIC_LOW
    sd      t0, MAGIC(s0)

# --- events and commands ------------------------------------------------------------------------------------

ready:
    li      t0, READY
ring:                                   # t0: the event
    sd      t0, EVENT(s0)
    ld      s1, SEQUENCE(s0)
    addi    s1, s1, 1
    fence   rw, rw
    sd      s1, SEQUENCE(s0)
    fence   iorw, iorw
    rdtime  t1
    ld      t2, DOOR(s0)
    li      t0, '.'
    sb      t0, 0(t2)
1:  ld      t0, ACKNOWLEDGE(s0)
    beq     t0, s1, 2f
    .word   0x0100000f                  # pause
    ld      t0, PARKED(s0)
    beqz    t0, 1b
    call    arm                         # it ends the sleep; HS-mode takes no interrupts
    wfi
    rdtime  t1
    j       1b
2:  fence   rw, rw
    sd      zero, PARKED(s0)
    rdtime  t0
    sub     t0, t0, t1
    sd      t0, WAITED(s0)
    ld      t0, COMMAND(s0)
    li      t1, RUN
    beq     t0, t1, run
    li      t1, LOAD
    beq     t0, t1, load
    li      t1, INVALIDATE
    beq     t0, t1, fences
    li      t1, START
    beq     t0, t1, other
    li      t1, SAVE
    beq     t0, t1, save
    li      t1, RESTORE
    beq     t0, t1, restore
    li      t1, RENEW
    beq     t0, t1, renew
    li      t1, PARK
    bne     t0, t1, ready
    li      t0, STI
    csrw    sie, t0
    sd      t0, PARKED(s0)
    j       ready
fences:
    call    invalidate
    j       ready
other:
    ld      a0, FLAGS(s0)
    call    start
    j       ready

load:
    ld      t0, REGISTERS+0(s0)
    csrw    hgatp, t0
    ld      t0, REGISTERS+8(s0)
    sd      t0, HARTS(s0)
    hfence.gvma
    hfence.vvma
    j       ready

save:
    li      t0, FS
    csrs    sstatus, t0
    .irp    r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    fsd     f\r, FLOATS+8*\r(s0)
    .endr
    csrr    t0, fcsr
    sd      t0, FLOATS+8*32(s0)
    rdtime  t0
    csrr    t1, htimedelta
    add     t0, t0, t1
    sd      t0, TIME(s0)
    sd      t1, DELTA(s0)
    j       ready
restore:
    li      t0, FS
    csrs    sstatus, t0
    .irp    r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    fld     f\r, FLOATS+8*\r(s0)
    .endr
    ld      t0, FLOATS+8*32(s0)
    csrw    fcsr, t0
    ld      t0, DELTA(s0)
    csrw    htimedelta, t0
    hfence.gvma
    hfence.vvma
    fence.i
    j       ready

renew:                                  # QEMU keeps translated code until it sees a store there; it sees none of Python's
    ld      s2, LIST(s0)
    ld      s3, COUNT(s0)
    li      t2, PAGE
1:  beqz    s3, ready
    ld      t0, 0(s2)
    addi    s2, s2, 8
    addi    s3, s3, -1
    add     t1, t0, t2
2:  amoor.d zero, zero, (t0)
    addi    t0, t0, 8
    bltu    t0, t1, 2b
    j       1b

invalidate:                             # LIST's COUNT operations; the VMID is that in hgatp
    ld      s2, LIST(s0)
    ld      s3, COUNT(s0)
    beqz    s3, 2f
    mv      s4, ra
    csrr    s5, hgatp
    slli    s5, s5, 6
    srli    s5, s5, 50
    ld      s6, HARTS(s0)
    ld      s7, HART(s0)
1:  ld      t0, 0(s2)
    ld      a1, 8(s2)
    addi    s2, s2, 16
    addi    s3, s3, -1
    slli    t0, t0, 3
    la      t3, operations              # eight bytes each
    beq     s6, s7, 3f
    la      t3, elsewhere
3:  add     t3, t3, t0
    jalr    t3
    bnez    s3, 1b
    mv      ra, s4
2:  ret
operations:                             # on this hart, the only one of its guest
    hfence.gvma zero, s5
    ret
    hfence.gvma a1, s5
    ret
    hfence.vvma
    ret
    fence.i
    ret
elsewhere:                              # on all harts of the guest, this one too: OpenSBI asks them
    j       1f
    nop
    j       2f
    nop
    j       3f
    nop
    li      a6, 0                       # remote_fence_i
    j       4f
1:  li      a2, 0                       # all addresses
    li      a3, -1
    j       5f
2:  slli    a2, a1, 2
    li      a3, 4096
5:  mv      a4, s5
    li      a6, 3                       # remote_hfence_gvma_vmid
    j       4f
3:  li      a2, 0
    li      a3, -1
    li      a6, 6                       # remote_hfence_vvma, of the VMID in hgatp
4:  mv      a0, s6
    li      a1, 0
    li      a7, SBI_RFENCE
    ecall
    ret

    .balign 4
failed:                                 # an exception of our own
    csrr    s0, sscratch
    csrr    t0, scause
    sd      t0, INFO+0(s0)
    csrr    t0, sepc
    sd      t0, INFO+8(s0)
    csrr    t0, stval
    sd      t0, INFO+16(s0)
    csrr    t0, htval
    sd      t0, INFO+24(s0)
    csrr    t0, hstatus
    sd      t0, INFO+32(s0)
    li      t0, FAILED
    j       ring

# --- the guest ----------------------------------------------------------------------------------------------

run:
    call    invalidate
    STATE   RESTORE
    ld      t1, SSTC(s0)
    beqz    t1, 1f
    ld      t0, CLOCK(s0)
    csrw    VSTIMECMP, t0
1:  ld      a0, SEND(s0)
    beqz    a0, 1f
    sd      zero, SEND(s0)
    li      a1, 0
    li      a6, 0
    li      a7, SBI_IPI
    ecall
1:  la      t0, trap
    csrw    stvec, t0
    li      t0, STI | SSI
    csrw    sie, t0
    call    arm
    call    take_pending
enter:
    mv      t6, s0
    .irp    r,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    ld      x\r, GUEST+8*\r(t6)
    .endr
    ld      t6, GUEST+8*31(t6)
    sret

    .balign 4
trap:
    csrrw   t6, sscratch, t6
    .irp    r,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30
    sd      x\r, GUEST+8*\r(t6)
    .endr
    mv      s0, t6
    csrrw   t0, sscratch, s0
    sd      t0, GUEST+8*31(s0)
    csrr    s1, scause
    bltz    s1, interrupt
    li      t0, GUEST_CALL
    beq     s1, t0, firmware
exit:                                   # s1: scause
    sd      s1, INFO+0(s0)
    csrr    t0, stval
    sd      t0, INFO+8(s0)
    csrr    t0, htval
    sd      t0, INFO+16(s0)
    csrr    t1, htinst
    sd      t1, INFO+24(s0)
    sd      zero, INFO+32(s0)
    STATE   SAVE
    ld      t0, SSTC(s0)
    beqz    t0, 1f
    csrr    t0, VSTIMECMP
    sd      t0, CLOCK(s0)
1:  la      t0, failed
    csrw    stvec, t0
    andi    t1, t1, 1
    bnez    t1, 3f                      # htinst tells the instruction
    li      t0, LOAD_FAULT
    beq     s1, t0, 1f
    li      t0, STORE_FAULT
    bne     s1, t0, 3f
1:  la      t0, 2f                      # the guest changed its tables meanwhile: none
    csrw    stvec, t0
    ld      t1, PC(s0)
    hlvx.hu t2, (t1)
    andi    t3, t2, 3
    li      t4, 3
    bne     t3, t4, 4f
    addi    t1, t1, 2
    hlvx.hu t3, (t1)
    slli    t3, t3, 16
    or      t2, t2, t3
4:  sd      t2, INFO+32(s0)
    .balign 4
2:  la      t0, failed
    csrw    stvec, t0
3:  li      t0, EXIT
    j       ring

firmware:                               # a call of VS-mode: the timer is ours, by its own extension or the old call
    ld      t0, GUEST+8*17(s0)
    beqz    t0, 1f
    li      t1, SBI_TIME
    bne     t0, t1, exit
    ld      t0, GUEST+8*16(s0)
    bnez    t0, exit
    sd      zero, GUEST+8*11(s0)
1:  ld      t0, GUEST+8*10(s0)
    sd      zero, GUEST+8*10(s0)
    csrr    t1, sepc
    addi    t1, t1, 4
    csrw    sepc, t1
    ld      t1, SSTC(s0)
    beqz    t1, 2f
    csrw    VSTIMECMP, t0
    j       enter
2:  sd      t0, CLOCK(s0)
    li      t0, VSTI
    csrc    hvip, t0
    call    arm
    j       enter

interrupt:                              # our tick, or another hart
    csrw    sip, zero
    call    arm
    call    take_pending
    ld      t0, KICK(s0)
    beqz    t0, enter
    sd      zero, KICK(s0)
    j       exit

take_pending:
    addi    t0, s0, PENDING
    amoswap.d.aqrl t0, zero, (t0)
    csrs    hvip, t0
    ret

arm:                                    # ring the guest's timer if it is due; set our own clock for what comes next
    rdtime  t0
    li      t1, TICK
    add     a0, t0, t1
    ld      t1, SSTC(s0)
    beqz    t1, 1f
    csrw    STIMECMP, a0
    ret
1:  li      t2, -1
    ld      t1, CLOCK(s0)
    beq     t1, t2, 3f                  # never
    csrr    t3, htimedelta
    add     t4, t0, t3
    sub     t3, t1, t3                  # by our own clock
    bltu    t4, t1, 2f
    li      t3, VSTI
    csrs    hvip, t3
    sd      t2, CLOCK(s0)
    j       3f
2:  bgeu    t3, a0, 3f
    mv      a0, t3
3:  li      a6, 0
    li      a7, SBI_TIME
    ecall
    ret
