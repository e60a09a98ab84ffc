// The monitor of a whole AArch64 system: it runs at EL2, lets a guest run at EL1, and tells Python why it stopped.
// link at 0x40200000
//
// Its doorbell is a 16550 on PCI, whose registers no stage-2 table maps: a guest cannot ring it, nor ask the host for
// anything, as it could with semihosting. While Python deals with an exit the CPU spins on ACKNOWLEDGE; a guest that
// waits for an interrupt sleeps in QEMU.
//
// A guest's x0 to x30, ELR_EL2 and SPSR_EL2 stand at GUEST, and behind them what an exception of EL1 and a walk of its
// tables need; all other registers of EL1 and EL0 stay in the CPU.

    // The mailbox: offsets of machines/mailbox.py.
    .equ MAILBOX,     0x40100000
    .equ MAILBOX_AT, 0
    .include "mailbox.inc"
    .equ GUEST, 0x300
    .equ EL1, 0x108                 // from GUEST on: VBAR, ESR, FAR, ELR, SPSR, SCTLR, TCR, TTBR0, TTBR1, MAIR of EL1
    .equ TAKEN, 0                   // bit of RUN's FLAGS: EL1 takes an exception: load its ESR, FAR, ELR and SPSR
    .equ EXIT,  1                   // event
    .equ RUN,   4                   // command: do LIST's COUNT operations, then let the guest run
    .equ DOOR_CONFIG, 0x4010008000  // configuration space of PCI device 1 (QEMU virt: ECAM at 0x40_1000_0000)
    .equ DOOR_PORT, 0x1000          // its BAR 0, in the window of ports at 0x3eff0000
    .equ DOOR, 0x3eff1000

    .text
    .globl _start
_start:
    msr     daifset, #15
    adr     x0, vectors
    msr     vbar_el2, x0
    mov     x28, #MAILBOX
    mov     x0, #0x33ff
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    msr     mdcr_el2, xzr
    mov     x0, #3
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x0, mpidr_el1
    msr     vmpidr_el2, x0
    mrs     x0, id_aa64pfr0_el1
    ubfx    x0, x0, #24, #4
    cbz     x0, 1f
    mrs     x0, S3_4_C12_C9_5
    orr     x0, x0, #0xf
    msr     S3_4_C12_C9_5, x0
    isb
1:  ldr     x1, =DOOR_CONFIG
    mov     w0, #DOOR_PORT
    str     w0, [x1, #0x10]
    ldrh    w0, [x1, #4]
    orr     w0, w0, #1
    strh    w0, [x1, #4]
    ldr     w0, [x1]
    str     x0, [x28, #INFO]
    mrs     x0, id_aa64mmfr0_el1
    str     x0, [x28, #INFO+8]
    ldr     x0, =0x5354414745320001
    str     x0, [x28, #MAGIC]
    mov     x0, #READY
event:
    str     x0, [x28, #EVENT]
    ldr     x19, [x28, #SEQUENCE]
    add     x19, x19, #1
    dmb     ish
    str     x19, [x28, #SEQUENCE]
    dmb     ish
    ldr     x1, =DOOR
    mov     w0, #'.'
    strb    w0, [x1]
1:  ldr     x0, [x28, #ACKNOWLEDGE]
    cmp     x0, x19
    b.eq    2f
    yield
    b       1b
2:  dmb     ish
    ldr     x0, [x28, #COMMAND]
    cmp     x0, #LOAD
    b.eq    load
    cmp     x0, #RUN
    b.eq    run
    mov     x0, #READY
    b       event
load:
    ldp     x0, x1, [x28, #REGISTERS]
    msr     hcr_el2, x0
    msr     vtcr_el2, x1
    ldp     x0, x1, [x28, #REGISTERS+16]
    msr     vttbr_el2, x0
    msr     sctlr_el1, x1
    isb
    dsb     ish
    tlbi    alle1is
    dsb     ish
    isb
    mov     x0, #READY
    b       event
run:
    ldr     x20, [x28, #LIST]
    ldr     x21, [x28, #COUNT]
    cbz     x21, 4f
    add     x21, x20, x21, lsl #4
    dsb     ish
1:  cmp     x20, x21
    b.eq    3f
    ldp     x2, x0, [x20], #16
    adr     x3, operations
    add     x3, x3, x2, lsl #3
    br      x3
operations:
    tlbi    ipas2e1is, x0
    b       2f
    tlbi    ipas2le1is, x0
    b       2f
    tlbi    vmalle1is
    b       2f
    tlbi    vmalls12e1is
    b       2f
    tlbi    alle1is
2:  dsb     ish
    b       1b
3:  isb
4:  add     x30, x28, #GUEST
    ldr     x0, [x28, #FLAGS]
    tbz     x0, #TAKEN, 5f
    ldp     x0, x1, [x30, #EL1 + 8]
    msr     esr_el1, x0
    msr     far_el1, x1
    ldp     x0, x1, [x30, #EL1 + 24]
    msr     elr_el1, x0
    msr     spsr_el1, x1
5:  ldp     x0, x1, [x30, #248]
    msr     elr_el2, x0
    msr     spsr_el2, x1
    ldp     x0, x1, [x30]
    ldp     x2, x3, [x30, #16]
    ldp     x4, x5, [x30, #32]
    ldp     x6, x7, [x30, #48]
    ldp     x8, x9, [x30, #64]
    ldp     x10, x11, [x30, #80]
    ldp     x12, x13, [x30, #96]
    ldp     x14, x15, [x30, #112]
    ldp     x16, x17, [x30, #128]
    ldp     x18, x19, [x30, #144]
    ldp     x20, x21, [x30, #160]
    ldp     x22, x23, [x30, #176]
    ldp     x24, x25, [x30, #192]
    ldp     x26, x27, [x30, #208]
    ldp     x28, x29, [x30, #224]
    ldr     x30, [x30, #240]
    eret
lower:
    msr     tpidr_el2, x30
    mov     x30, #MAILBOX
    add     x30, x30, #GUEST
    stp     x0, x1, [x30]
    stp     x2, x3, [x30, #16]
    stp     x4, x5, [x30, #32]
    stp     x6, x7, [x30, #48]
    stp     x8, x9, [x30, #64]
    stp     x10, x11, [x30, #80]
    stp     x12, x13, [x30, #96]
    stp     x14, x15, [x30, #112]
    stp     x16, x17, [x30, #128]
    stp     x18, x19, [x30, #144]
    stp     x20, x21, [x30, #160]
    stp     x22, x23, [x30, #176]
    stp     x24, x25, [x30, #192]
    stp     x26, x27, [x30, #208]
    stp     x28, x29, [x30, #224]
    mrs     x0, tpidr_el2
    mrs     x1, elr_el2
    stp     x0, x1, [x30, #240]
    mrs     x0, spsr_el2
    mrs     x1, vbar_el1
    stp     x0, x1, [x30, #EL1 - 8]
    mrs     x0, esr_el1
    mrs     x1, far_el1
    stp     x0, x1, [x30, #EL1 + 8]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [x30, #EL1 + 24]
    mrs     x0, sctlr_el1
    mrs     x1, tcr_el1
    stp     x0, x1, [x30, #EL1 + 40]
    mrs     x0, ttbr0_el1
    mrs     x1, ttbr1_el1
    stp     x0, x1, [x30, #EL1 + 56]
    mrs     x0, mair_el1
    str     x0, [x30, #EL1 + 72]
    mov     x28, #MAILBOX
    mrs     x0, esr_el2
    mrs     x1, far_el2
    stp     x0, x1, [x28, #INFO]
    mrs     x0, hpfar_el2
    str     x0, [x28, #INFO+16]
    mov     x0, #EXIT
    b       event
own:
    mov     x28, #MAILBOX
    mrs     x0, esr_el2
    mrs     x1, far_el2
    stp     x0, x1, [x28, #INFO]
    mrs     x0, elr_el2
    str     x0, [x28, #INFO+16]
    mov     x0, #FAILED
    b       event
    .ltorg
    .balign 2048
vectors:
    .rept 8
    b own
    .balign 128
    .endr
    b lower
    .balign 128
    .rept 3
    b lower
    .balign 128
    .endr
    .rept 4
    b own
    .balign 128
    .endr
