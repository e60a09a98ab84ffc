// The monitor of a whole AArch64 system: it runs at EL2, lets guests run at EL1, and tells Python why one stopped.
// link at 0x40200000
//
// Its doorbells are 16550s on PCI, whose registers no stage-2 table maps: a guest cannot ring them, nor ask the host for
// anything, as it could with semihosting. While Python deals with an exit the core spins on ACKNOWLEDGE; a guest that
// waits for an interrupt sleeps in QEMU.
//
// SP is GUEST in the core's mailbox. A guest's x0 to x30, ELR_EL2 and SPSR_EL2 stand at GUEST, and behind them what an exception
// of EL1 and a walk of its tables need; all other registers of EL1 and EL0 stay in the core.
//
// A guest that owns the interrupt controller has HCR_EL2.IMO clear, and interrupts are none of ours. Of one whose
// controller is emulated they come here: its virtual timer's is told to Python and stays active until the guest has
// dealt with it (GICv3: IHI 0069 4.1, EOI mode 1; GICv2: IHI 0048 3.2); a timer of EL2 ticks meanwhile, so that Python
// can make a guest stop that does not by itself.

    // The mailbox: offsets of machines/mailbox.py.
    .equ MAILBOX,     0x40100000
    .equ MAILBOX_AT, 0
    .include "mailbox.inc"
    .equ KICK, 0x48
    .equ SEND, 0x50
    .equ WAITED, 0x58
    .equ PARKED, 0x78               // not 0: the core sleeps between looks at ACKNOWLEDGE
    .equ GUEST, 0x300
    .equ EL1, 0x108                 // from GUEST on: VBAR, ESR, FAR, ELR, SPSR, SCTLR, TCR, TTBR0, TTBR1, MAIR of EL1
    .equ EXIT,  1                   // event
    .equ INVALIDATE, 3              // commands: do LIST's COUNT operations
    .equ RUN,   4                   // the same, then let the guest run
    .equ START, 5
    .equ PARK,  6
    .equ SAVE,  7
    .equ RESTORE, 8
    .equ RENEW, 9
    .equ REST, 0x600                // what SAVE and RESTORE are about, see machines/arm_board.py
    .equ VECTORS_OF, REST + 176     // q0 to q31
    .equ TAKEN, 0                   // bits of RUN's FLAGS: EL1 takes an exception: load its ESR, FAR, ELR and SPSR
    .equ INTERRUPT, 1               // a virtual interrupt is pending
    .equ FAST,  2                   // a virtual fast interrupt is
    .equ DONE,  3                   // the timer's interrupt is dealt with
    .equ TIMER, 1                   // why a guest stopped, where it was no exception
    .equ KICKED, 2
    .equ DOOR_CONFIG, 0x4010008000  // configuration space of PCI device 1 (QEMU virt: ECAM at 0x40_1000_0000)
    .equ DOOR_PORT, 0x1000          // BAR 0 of core 0's door, in the window of ports at 0x3eff0000
    .equ DOOR, 0x3eff1000
    .equ GICD, 0x08000000           // QEMU virt: distributor, GICv2's CPU interface, GICv3's redistributors
    .equ GICC, 0x08010000
    .equ GICR, 0x080a0000
    .equ SENT,  15                  // interrupts of ours: the SGI that kicks, EL2's timer, the virtual timer
    .equ TICK,  26
    .equ VIRTUAL_TIMER, 27

    .text
    .globl _start
_start:
    msr     daifset, #15
    adr     x0, vectors
    msr     vbar_el2, x0
    mrs     x0, mpidr_el1
    and     x9, x0, #0xff           // the core's number
    mov     x28, #MAILBOX
    add     x28, x28, x9, lsl #12
    add     x0, x28, #GUEST
    mov     sp, x0
    mov     x0, #0x33ff
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    msr     mdcr_el2, xzr
    mov     x0, #3
    msr     cnthctl_el2, x0
    msr     cntvoff_el2, xzr
    mrs     x0, midr_el1
    msr     vpidr_el2, x0
    mrs     x0, id_aa64pfr0_el1
    ubfx    x0, x0, #24, #4
    cbz     x0, 1f
    mrs     x0, S3_4_C12_C9_5       // ICC_SRE_EL2
    orr     x0, x0, #0xf
    msr     S3_4_C12_C9_5, x0
    isb
1:  ldr     x1, =DOOR_CONFIG
    add     x1, x1, x9, lsl #15
    mov     w0, #DOOR_PORT
    add     w0, w0, w9, lsl #6
    str     w0, [x1, #0x10]
    ldrh    w0, [x1, #4]
    orr     w0, w0, #1
    strh    w0, [x1, #4]
    ldr     w0, [x1]
    str     x0, [x28, #INFO]
    mrs     x0, id_aa64mmfr0_el1
    str     x0, [x28, #INFO+8]
    mrs     x0, cntfrq_el0
    str     x0, [x28, #INFO+16]
    ldr     x0, =0x5354414745320001
    str     x0, [x28, #MAGIC]
    mov     x0, #READY
event:                              // x28 is SP, x0 the event
    str     x0, [x28, #EVENT]
    ldr     x19, [x28, #SEQUENCE]
    add     x19, x19, #1
    dmb     ish
    str     x19, [x28, #SEQUENCE]
    dmb     ish
    ubfx    x9, x28, #12, #3
    ldr     x1, =DOOR
    add     x1, x1, x9, lsl #6
    mov     w0, #'.'
    mrs     x20, cntpct_el0
    strb    w0, [x1]
1:  ldr     x0, [x28, #ACKNOWLEDGE]
    cmp     x0, x19
    b.eq    2f
    ldr     x0, [x28, #PARKED]
    cbnz    x0, 3f
    yield
    b       1b
3:  wfi                             // until EL2's timer ticks; one whose interrupts are the guest's sleeps for good
    bl      tick
    b       1b
2:  dmb     ish
    ldr     x0, [x28, #PARKED]
    cbz     x0, 4f
    str     xzr, [x28, #PARKED]
    msr     cntv_ctl_el0, x24
    msr     cntp_ctl_el0, x25
4:  mrs     x0, cntpct_el0
    sub     x0, x0, x20
    str     x0, [x28, #WAITED]
    ldr     x0, [x28, #COMMAND]
    cmp     x0, #RUN
    b.eq    run
    cmp     x0, #INVALIDATE
    b.eq    run
    cmp     x0, #LOAD
    b.eq    load
    cmp     x0, #START
    b.eq    start
    cmp     x0, #PARK
    b.eq    park
    cmp     x0, #SAVE
    b.eq    save
    cmp     x0, #RESTORE
    b.eq    restore
    cmp     x0, #RENEW
    b.eq    renew
ready:
    mov     x0, #READY
    b       event
start:                              // PSCI CPU_ON (DEN 0022), answered by the board's own firmware
    ldr     x0, =0xc4000003
    ldr     x1, [x28, #FLAGS]
    adr     x2, _start
    mov     x3, #0
    smc     #0
    str     x0, [x28, #INFO]
    b       ready
park:                               // its timers would wake the core: they are masked until there is another command
    mrs     x24, cntv_ctl_el0
    orr     x0, x24, #2
    msr     cntv_ctl_el0, x0
    mrs     x25, cntp_ctl_el0
    orr     x0, x25, #2
    msr     cntp_ctl_el0, x0
    isb
    mov     x0, #1
    str     x0, [x28, #PARKED]
    b       ready
save:                               // the registers of EL1 and EL0 that an exit leaves in the core, and its time
    add     x2, x28, #REST
    mrs     x0, sp_el0
    str     x0, [x2, #0]
    mrs     x0, sp_el1
    str     x0, [x2, #8]
    mrs     x0, cpacr_el1
    str     x0, [x2, #16]
    mrs     x0, contextidr_el1
    str     x0, [x2, #24]
    mrs     x0, tpidr_el0
    str     x0, [x2, #32]
    mrs     x0, tpidr_el1
    str     x0, [x2, #40]
    mrs     x0, tpidrro_el0
    str     x0, [x2, #48]
    mrs     x0, par_el1
    str     x0, [x2, #56]
    mrs     x0, afsr0_el1
    str     x0, [x2, #64]
    mrs     x0, afsr1_el1
    str     x0, [x2, #72]
    mrs     x0, amair_el1
    str     x0, [x2, #80]
    mrs     x0, cntkctl_el1
    str     x0, [x2, #88]
    mrs     x0, cntv_ctl_el0
    str     x0, [x2, #96]
    mrs     x0, cntv_cval_el0
    str     x0, [x2, #104]
    mrs     x0, mdscr_el1
    str     x0, [x2, #112]
    mrs     x0, csselr_el1
    str     x0, [x2, #120]
    mrs     x0, fpcr
    str     x0, [x2, #128]
    mrs     x0, fpsr
    str     x0, [x2, #136]
    mrs     x0, actlr_el1
    str     x0, [x2, #144]
    isb
    mrs     x0, cntvct_el0
    str     x0, [x2, #152]
    mrs     x0, cntvoff_el2
    str     x0, [x2, #160]
    add     x2, x28, #VECTORS_OF
    stp     q0, q1, [x2, #0]
    stp     q2, q3, [x2, #32]
    stp     q4, q5, [x2, #64]
    stp     q6, q7, [x2, #96]
    stp     q8, q9, [x2, #128]
    stp     q10, q11, [x2, #160]
    stp     q12, q13, [x2, #192]
    stp     q14, q15, [x2, #224]
    stp     q16, q17, [x2, #256]
    stp     q18, q19, [x2, #288]
    stp     q20, q21, [x2, #320]
    stp     q22, q23, [x2, #352]
    stp     q24, q25, [x2, #384]
    stp     q26, q27, [x2, #416]
    stp     q28, q29, [x2, #448]
    stp     q30, q31, [x2, #480]
    b       ready
restore:                            // these and those behind the guest's registers
    add     x2, x28, #REST
    ldr     x0, [x2, #0]
    msr     sp_el0, x0
    ldr     x0, [x2, #8]
    msr     sp_el1, x0
    ldr     x0, [x2, #16]
    msr     cpacr_el1, x0
    ldr     x0, [x2, #24]
    msr     contextidr_el1, x0
    ldr     x0, [x2, #32]
    msr     tpidr_el0, x0
    ldr     x0, [x2, #40]
    msr     tpidr_el1, x0
    ldr     x0, [x2, #48]
    msr     tpidrro_el0, x0
    ldr     x0, [x2, #56]
    msr     par_el1, x0
    ldr     x0, [x2, #64]
    msr     afsr0_el1, x0
    ldr     x0, [x2, #72]
    msr     afsr1_el1, x0
    ldr     x0, [x2, #80]
    msr     amair_el1, x0
    ldr     x0, [x2, #88]
    msr     cntkctl_el1, x0
    ldr     x0, [x2, #96]
    msr     cntv_ctl_el0, x0
    ldr     x0, [x2, #104]
    msr     cntv_cval_el0, x0
    ldr     x0, [x2, #112]
    msr     mdscr_el1, x0
    ldr     x0, [x2, #120]
    msr     csselr_el1, x0
    ldr     x0, [x2, #128]
    msr     fpcr, x0
    ldr     x0, [x2, #136]
    msr     fpsr, x0
    ldr     x0, [x2, #144]
    msr     actlr_el1, x0
    ldr     x0, [x2, #160]
    msr     cntvoff_el2, x0
    add     x2, x28, #VECTORS_OF
    ldp     q0, q1, [x2, #0]
    ldp     q2, q3, [x2, #32]
    ldp     q4, q5, [x2, #64]
    ldp     q6, q7, [x2, #96]
    ldp     q8, q9, [x2, #128]
    ldp     q10, q11, [x2, #160]
    ldp     q12, q13, [x2, #192]
    ldp     q14, q15, [x2, #224]
    ldp     q16, q17, [x2, #256]
    ldp     q18, q19, [x2, #288]
    ldp     q20, q21, [x2, #320]
    ldp     q22, q23, [x2, #352]
    ldp     q24, q25, [x2, #384]
    ldp     q26, q27, [x2, #416]
    ldp     q28, q29, [x2, #448]
    ldp     q30, q31, [x2, #480]
    add     x2, x28, #GUEST
    add     x2, x2, #EL1
    ldr     x0, [x2, #0]
    msr     vbar_el1, x0
    ldr     x0, [x2, #8]
    msr     esr_el1, x0
    ldr     x0, [x2, #16]
    msr     far_el1, x0
    ldr     x0, [x2, #24]
    msr     elr_el1, x0
    ldr     x0, [x2, #32]
    msr     spsr_el1, x0
    ldr     x0, [x2, #40]
    msr     sctlr_el1, x0
    ldr     x0, [x2, #48]
    msr     tcr_el1, x0
    ldr     x0, [x2, #56]
    msr     ttbr0_el1, x0
    ldr     x0, [x2, #64]
    msr     ttbr1_el1, x0
    ldr     x0, [x2, #72]
    msr     mair_el1, x0
    isb
    b       ready
renew:                              // QEMU keeps translated code until it sees a store there; it sees none of Python's
    ldr     x20, [x28, #LIST]
    ldr     x21, [x28, #COUNT]
1:  cbz     x21, ready
    ldr     x0, [x20], #8
    sub     x21, x21, #1
    add     x1, x0, #4096
2:  ldr     x2, [x0]
    str     x2, [x0], #8
    cmp     x0, x1
    b.ne    2b
    b       1b
load:
    ldp     x0, x1, [x28, #REGISTERS]
    msr     hcr_el2, x0
    msr     vtcr_el2, x1
    ldp     x2, x1, [x28, #REGISTERS+16]
    msr     vttbr_el2, x2
    msr     sctlr_el1, x1
    ldr     x1, [x28, #REGISTERS+32]
    msr     vmpidr_el2, x1
    isb
    dsb     ish
    tlbi    vmalls12e1is
    dsb     ish
    isb
    tbz     x0, #4, ready           // HCR_EL2.IMO
    ubfx    x9, x28, #12, #3
    ldr     x1, =GICD
    mov     w2, #0x8000             // the SGI that kicks, and the two timers
    movk    w2, #0x0c00, lsl #16
    mrs     x0, id_aa64pfr0_el1
    ubfx    x0, x0, #24, #4
    cbz     x0, 1f
    ldr     w0, [x1]                // GICD_CTLR: affinity routing, both groups
    mov     w3, #0x13
    orr     w0, w0, w3
    str     w0, [x1]
    ldr     x1, =GICR
    add     x1, x1, x9, lsl #17
    str     wzr, [x1, #0x14]        // GICR_WAKER
2:  ldr     w0, [x1, #0x14]
    tbnz    w0, #2, 2b              // ChildrenAsleep
    add     x1, x1, #0x10, lsl #12
    mov     w0, #-1
    str     w0, [x1, #0x80]         // GICR_IGROUPR0
    str     w2, [x1, #0x100]        // GICR_ISENABLER0
    mov     x0, #0xff
    msr     S3_0_C4_C6_0, x0        // ICC_PMR_EL1
    mov     x0, #2
    msr     S3_0_C12_C12_4, x0      // ICC_CTLR_EL1.EOImode
    mov     x0, #1
    msr     S3_0_C12_C12_7, x0      // ICC_IGRPEN1_EL1
    isb
    b       3f
1:  str     w2, [x1, #0x100]        // GICD_ISENABLER0
    ldr     w0, [x1]
    orr     w0, w0, #1
    str     w0, [x1]
    ldr     x1, =GICC
    mov     w0, #0xff
    str     w0, [x1, #4]            // GICC_PMR
    mov     w0, #0x201              // GICC_CTLR: enabled, EOI mode 1
    str     w0, [x1]
3:  bl      tick
    b       ready
tick:                               // let EL2's timer come in 10 ms
    mrs     x0, cntfrq_el0
    mov     x1, #100
    udiv    x0, x0, x1
    msr     cnthp_tval_el2, x0
    mov     x0, #1
    msr     cnthp_ctl_el2, x0
    isb
    ret
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
    ldr     x0, [x28, #COMMAND]
    cmp     x0, #INVALIDATE
    b.eq    ready
4:  ldr     x2, [x28, #FLAGS]
    mrs     x0, hcr_el2
    tbz     x0, #4, 5f              // HCR_EL2.IMO
    ubfx    x1, x2, #INTERRUPT, #1
    bfi     x0, x1, #7, #1          // HCR_EL2.VI
    ubfx    x1, x2, #FAST, #1
    bfi     x0, x1, #6, #1          // HCR_EL2.VF
    msr     hcr_el2, x0
    ldr     x0, [x28, #SEND]
    cbz     x0, 6f
    str     xzr, [x28, #SEND]
    bl      send
6:  tbz     x2, #DONE, 5f
    mov     w0, #VIRTUAL_TIMER
    bl      deactivate
5:  add     x30, x28, #GUEST
    tbz     x2, #TAKEN, 7f
    ldp     x0, x1, [x30, #EL1 + 8]
    msr     esr_el1, x0
    msr     far_el1, x1
    ldp     x0, x1, [x30, #EL1 + 24]
    msr     elr_el1, x0
    msr     spsr_el1, x1
7:  ldp     x0, x1, [x30, #248]
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
deactivate:                         // w0: the interrupt; clobbers x1
    mrs     x1, id_aa64pfr0_el1
    ubfx    x1, x1, #24, #4
    cbz     x1, 1f
    msr     S3_0_C12_C11_1, x0      // ICC_DIR_EL1
    isb
    ret
1:  ldr     x1, =GICC
    add     x1, x1, #0x1000
    str     w0, [x1]                // GICC_DIR
    ret
send:                               // x0: cores that get the SGI that kicks, one bit each; clobbers x1
    mrs     x1, id_aa64pfr0_el1
    ubfx    x1, x1, #24, #4
    cbz     x1, 1f
    mov     x1, #SENT
    orr     x0, x0, x1, lsl #24
    msr     S3_0_C12_C11_5, x0      // ICC_SGI1R_EL1: INTID, and a target list of Aff0
    isb
    ret
1:  mov     x1, #SENT
    orr     x0, x1, x0, lsl #16
    ldr     x1, =GICD
    str     w0, [x1, #0xf00]        // GICD_SGIR
    ret
interrupt:                          // an interrupt while the guest ran
    stp     x0, x1, [sp]
    stp     x2, x30, [sp, #16]
    mrs     x1, id_aa64pfr0_el1
    ubfx    x1, x1, #24, #4
    cbz     x1, 1f
    mrs     x2, S3_0_C12_C12_0      // ICC_IAR1_EL1
    and     w0, w2, #0xffffff
    cmp     w0, #1020
    b.hs    back
    msr     S3_0_C12_C12_1, x2      // ICC_EOIR1_EL1: priority drop
    isb
    b       2f
1:  ldr     x1, =GICC
    ldr     w2, [x1, #0xc]          // GICC_IAR
    and     w0, w2, #0x3ff
    cmp     w0, #1020
    b.hs    back
    str     w2, [x1, #0x10]         // GICC_EOIR: priority drop
2:  cmp     w0, #VIRTUAL_TIMER
    mov     x1, #TIMER
    b.eq    4f
    cmp     w0, #TICK
    b.ne    3f
    bl      tick
    mov     w0, #TICK
    bl      deactivate
    sub     x0, sp, #GUEST
    ldr     x0, [x0, #KICK]
    cbz     x0, back
    b       5f
3:  mov     x0, x2
    and     w2, w2, #0x3ff
    bl      deactivate
    cmp     w2, #SENT
    b.ne    back
5:  mov     x1, #KICKED
4:  sub     x0, sp, #GUEST
    str     x1, [x0, #INFO+24]
    ldp     x0, x1, [sp]
    ldp     x2, x30, [sp, #16]
    b       stopped
back:
    ldp     x0, x1, [sp]
    ldp     x2, x30, [sp, #16]
    eret
exception:                          // an exception of the guest's that is ours
    msr     tpidr_el2, x30
    sub     x30, sp, #GUEST
    str     xzr, [x30, #INFO+24]
    b       1f
stopped:
    msr     tpidr_el2, x30
1:  mov     x30, sp
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
    sub     x28, sp, #GUEST
    mrs     x0, esr_el2
    mrs     x1, far_el2
    stp     x0, x1, [x28, #INFO]
    mrs     x2, hpfar_el2
    // After a permission fault of the access itself HPFAR_EL2 is UNKNOWN (DDI 0487 D24.2): stage 1 is asked, by
    // AT S1E1R, where the access was to go.
    str     xzr, [x28, #INFO+32]
    ubfx    x3, x0, #26, #6
    bic     x3, x3, #4
    cmp     x3, #0x20               // instruction or data abort from a lower level
    b.ne    1f
    mov     x3, #0xbc
    and     x3, x0, x3              // S1PTW, and the kind of fault
    cmp     x3, #0x0c
    b.ne    1f
    mrs     x4, par_el1
    at      s1e1r, x1
    isb
    mrs     x3, par_el1
    msr     par_el1, x4
    and     x4, x3, #1
    str     x4, [x28, #INFO+32]     // whether stage 1 leads nowhere any more
    ubfx    x2, x3, #12, #36
    lsl     x2, x2, #4
1:  str     x2, [x28, #INFO+16]
    mov     x0, #EXIT
    b       event
own:
    sub     x28, sp, #GUEST
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
    b exception
    .balign 128
    .rept 2
    b interrupt
    .balign 128
    .endr
    b exception
    .balign 128
    .rept 4
    b own
    .balign 128
    .endr
