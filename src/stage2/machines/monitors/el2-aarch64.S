// The monitor of an AArch64 machine: it runs at EL2 and does what the mailbox says (machines/mailbox.py).
// link at 0x40200000
//
// A guest executes one instruction at a time. MDSCR_EL1.SS and SPSR_EL2.SS let it do one, and then, or when that one is
// an exception that EL1 would take, a software step exception comes to EL2 (Arm ARM DDI 0487, D2.10 "Software Step").
// So a guest cannot run away, EL1 needs no vectors, and its syndrome is read here before anything overwrites it.
//
// EL2's own regimes are probed the same way: with SCTLR_EL2 loaded, the one instruction is executed at EL2 (MDSCR_EL1.KDE
// lets it step itself) or, under HCR_EL2.E2H and TGE, at EL0. Its tables must map this image where it is, to be executed
// by EL2. The MMU of EL2 is on from the instruction before until the exception after it; nothing else here is translated.
//
// A guest may spoil every register but SP_EL2, so whatever must outlive its instruction is in memory, at SP_EL2. x28
// holds the mailbox outside of PROBE.

    // The mailbox: offsets of machines/mailbox.py.
    .equ MAILBOX,     0x40100000
    .equ MAILBOX_AT, 0
    .include "mailbox.inc"
    // Behind what the protocol knows: the monitor's own words, which outlive a guest's instruction.
    .equ OWN, MAILBOX + 0x600       // SP_EL2 stands here
    .equ NEXT,    0x00              // the entry of the list that is being done, and the list's end
    .equ RESULT,  0x10              // where its result goes
    .equ EL1,     0x20              // SPSR_EL2 for a privileged access, and for an unprivileged one
    .equ CODE,    0x30              // the guest's address of its window: a load, and 4 bytes on a store
    .equ VECTORS, 0x38              // VBAR_EL1
    .equ SCTLR,   0x40              // SCTLR_EL2 while EL2's own tables are probed; 0: a guest is
    .equ KIND,    0x48              // of the probe that is being made

    .equ KEEP_TLB,   0              // bit of FLAGS
    .equ FETCH,      2              // kinds of a probe: access in bits 1:0
    .equ UNPRIVILEGED, 2            // bit numbers in a kind
    .equ TRANSLATE,    3
    .equ OPERATION_SIZE, 16

    .equ TAKEN_BY_EL1, 1            // outcomes besides 0, made
    .equ TAKEN_BY_EL2, 2
    .equ STRANGE,      3
    .equ PAR_FAILED,   1            // of a translation by EL2's own regimes

    .equ WINDOW, 0x40300000         // physical address of the guest's window

    .equ EC_IABT, 0x20              // exception classes in ESR_EL2
    .equ EC_DABT, 0x24
    .equ EC_DABT_OWN, 0x25          // from EL2 itself, as those below with bit 0 set
    .equ CM, 8                      // bit of its syndrome: a cache maintenance or AT instruction did it
    .equ EC_STEP, 0x32
    .equ EC_BRK,  0x3c

    .equ SYS_WRITEC, 3              // semihosting: the doorbell
    .equ SYS_READC,  7

    .text
    .globl _start
_start:
    b       start

    .balign 64
// What a probe of EL2's own regimes executes, numbered as in aarch64.py. The register is x0, the value x1.
own_instructions:
    ldr     x1, [x0]
    str     x1, [x0]
    ldtr    x1, [x0]
    sttr    x1, [x0]
    at      s1e2r, x0
    at      s1e2w, x0
    at      s1e1rp, x0
    at      s1e1wp, x0
    at      s1e0r, x0
    at      s1e0w, x0

start:
    msr     daifset, #15
    adr     x0, vectors
    msr     vbar_el2, x0
    mov     x28, #MAILBOX
    add     x0, x28, #OWN - MAILBOX
    mov     sp, x0
    mov     x0, #0x22ff             // CPTR_EL2: only what is always one; SVE and SME would trap
    msr     cptr_el2, x0
    msr     hstr_el2, xzr
    msr     oslar_el1, xzr          // a locked OS lock would suppress software steps
    mov     x0, #1 << 8             // MDCR_EL2.TDE: debug exceptions come here
    msr     mdcr_el2, x0
    mov     x0, #1 << 13 | 1        // MDSCR_EL1.KDE and SS; EL2 steps itself only where PSTATE.D is clear
    msr     mdscr_el1, x0
    ldr     x0, guest               // both of the guest's instructions
    mov     x1, #WINDOW
    str     x0, [x1]
    mrs     x0, id_aa64mmfr0_el1
    mrs     x1, id_aa64mmfr1_el1
    stp     x0, x1, [x28, #INFO]
    mrs     x0, id_aa64mmfr2_el1
    str     x0, [x28, #INFO + 16]
    ldr     x0, magic
    str     x0, [x28, #MAGIC]
    mov     x0, #READY

// Tell Python of event x0, and wait for a command.
event:
    str     x0, [x28, #EVENT]
    ldr     x19, [x28, #SEQUENCE]
    add     x19, x19, #1
    dmb     ish
    str     x19, [x28, #SEQUENCE]
    dmb     ish
    mov     w0, #SYS_WRITEC
    adr     x1, bell
    hlt     #0xf000
1:  mov     w0, #SYS_READC          // the CPU sleeps in here
    mov     x1, #0
    hlt     #0xf000
    ldr     x0, [x28, #ACKNOWLEDGE]
    cmp     x0, x19
    b.ne    1b
    dmb     ish
    ldr     x0, [x28, #COMMAND]
    cmp     x0, #LOAD
    b.eq    load
    cmp     x0, #PROBE
    b.eq    probe
    cmp     x0, #INVALIDATE
    b.eq    invalidate
ready:
    mov     x0, #READY
    b       event

// --- LOAD: registers in the order of aarch64.py ------------------------------------------------------------------
load:
    ldp     x0, x1, [x28, #REGISTERS]
    msr     hcr_el2, x0
    isb                             // with E2H, the names of EL1's registers are EL2's
    ldr     x2, [x28, #REGISTERS + 128]
    str     x2, [sp, #SCTLR]
    cbnz    x2, load_own
    msr     vtcr_el2, x1
    ldp     x0, x1, [x28, #REGISTERS + 16]
    msr     vttbr_el2, x0
    msr     sctlr_el1, x1
    ldp     x0, x1, [x28, #REGISTERS + 32]
    mrs     x2, tcr_el1             // QEMU drops its TLB whenever this is written
    cmp     x0, x2
    b.eq    1f
    msr     tcr_el1, x0
1:  msr     ttbr0_el1, x1
    ldp     x0, x1, [x28, #REGISTERS + 48]
    msr     ttbr1_el1, x0
    msr     mair_el1, x1
    ldp     x0, x1, [x28, #REGISTERS + 64]
    msr     vbar_el1, x0
    str     x0, [sp, #VECTORS]
    str     x1, [sp, #CODE]
    ldp     x0, x1, [x28, #REGISTERS + 80]
    stp     x0, x1, [sp, #EL1]
    isb
    ldr     x0, [x28, #FLAGS]
    tbnz    x0, #KEEP_TLB, ready
    dsb     ish
    tlbi    alle1is
    dsb     ish
    isb
    b       ready

// EL2's own; SCTLR_EL2 waits until a probe is made.
load_own:
    ldr     x0, [x28, #REGISTERS + 72]
    str     x0, [sp, #CODE]
    ldp     x0, x1, [x28, #REGISTERS + 80]
    stp     x0, x1, [sp, #EL1]
    ldp     x0, x1, [x28, #REGISTERS + 96]
    msr     tcr_el2, x0
    msr     ttbr0_el2, x1
    ldp     x0, x1, [x28, #REGISTERS + 112]
    msr     ttbr1_el2, x0
    msr     mair_el2, x1
    isb
    dsb     ish
    tlbi    alle2is
    dsb     ish
    isb
    b       ready

// --- PROBE ---------------------------------------------------------------------------------------------------------
// The value of a fetch is the physical address of its word, or 0: the word is stored back first, because emulators keep
// the code they translated until a store of the machine's own goes to it, and Python's do not count.
probe:
    ldr     x20, [x28, #LIST]
    ldr     x21, [x28, #COUNT]
    ldr     x22, [x28, #RESULTS]
    add     x21, x20, x21, lsl #5   // PROBE_SIZE
more:
    cmp     x20, x21
    b.eq    done
    ldp     x0, x1, [x20]
    ldr     x2, [x20, #16]
    ldr     x7, [sp, #SCTLR]
    cbnz    x7, probe_own
    tbnz    x2, #TRANSLATE, translate
    stp     x20, x21, [sp, #NEXT]
    str     x22, [sp, #RESULT]
    ldp     x3, x4, [sp, #EL1]
    tst     x2, #1 << UNPRIVILEGED
    csel    x3, x3, x4, eq
    msr     spsr_el2, x3
    and     x2, x2, #3
    cmp     x2, #FETCH
    b.eq    1f
    ldr     x4, [sp, #CODE]
    add     x4, x4, x2, lsl #2
    msr     elr_el2, x4
    eret
1:  cbz     x1, 2f
    ldr     x4, [x1]
    str     x4, [x1]
2:  msr     elr_el2, x0
    eret

// UNPRIVILEGED: at EL0, by the image's second mapping. SCTLR_EL2 is x7.
probe_own:
    stp     x20, x21, [sp, #NEXT]
    str     x22, [sp, #RESULT]
    str     x2, [sp, #KIND]
    ldp     x3, x4, [sp, #EL1]
    ldr     x5, [sp, #CODE]
    adr     x6, own_instructions
    tst     x2, #1 << UNPRIVILEGED
    csel    x3, x3, x4, eq
    csel    x6, x6, x5, eq
    msr     spsr_el2, x3
    and     x2, x2, #3
    cmp     x2, #FETCH
    b.eq    1f
    ldr     x3, [x20, #24]
    add     x0, x6, x3, lsl #2
    msr     elr_el2, x0
    ldr     x0, [x20]
    b       3f
1:  cbz     x1, 2f
    ldr     x4, [x1]
    str     x4, [x1]
2:  msr     elr_el2, x0
3:  msr     sctlr_el2, x7
    isb
    eret

done:
    mov     x28, #MAILBOX
    b       ready

// What became of a guest's instruction; x1 is what it loaded.
lower_sync:
    mrs     x9, sctlr_el2
    tbnz    x9, #0, own_done
    mrs     x2, esr_el2
    mrs     x3, far_el2
    mrs     x4, hpfar_el2
    mrs     x5, elr_el2
    mrs     x6, esr_el1
    mrs     x7, far_el1
    ldp     x20, x21, [sp, #NEXT]
    ldr     x22, [sp, #RESULT]
    lsr     x8, x2, #26
    mov     x0, #TAKEN_BY_EL2
    cmp     x8, #EC_DABT
    b.eq    1f
    cmp     x8, #EC_IABT
    b.eq    1f
    mov     x0, #STRANGE
    cmp     x8, #EC_BRK             // a fetch, made: the instruction says which
    b.ne    2f
    mov     x0, #0
    and     x1, x2, #0xffff
    b       1f
2:  cmp     x8, #EC_STEP
    b.ne    1f
    ldr     x9, [sp, #VECTORS]
    sub     x9, x5, x9
    cmp     x9, #0x800              // 16 vectors of 0x80 bytes
    cset    x0, lo                  // TAKEN_BY_EL1, or made
1:
store_result:
    stp     x0, x1, [x22]
    stp     x2, x3, [x22, #16]
    stp     x4, x5, [x22, #32]
    stp     x6, x7, [x22, #48]
    add     x20, x20, #PROBE_SIZE
    add     x22, x22, #RESULT_SIZE
    b       more

// What became of an instruction of EL2's own regimes; x9 is SCTLR_EL2, and this still runs by their tables.
own_done:
    bic     x9, x9, #1
    msr     sctlr_el2, x9
    isb
    mov     x9, #MAILBOX
    add     x9, x9, #OWN - MAILBOX
    mov     sp, x9
    mrs     x2, esr_el2
    mrs     x3, far_el2
    mrs     x4, hpfar_el2
    mrs     x5, elr_el2
    mov     x6, #0
    mov     x7, #0
    ldp     x20, x21, [sp, #NEXT]
    ldr     x22, [sp, #RESULT]
    lsr     x8, x2, #26
    mov     x0, #0
    cmp     x8, #EC_BRK
    b.ne    1f
    and     x1, x2, #0xffff
    b       2f
1:  and     x8, x8, #~1             // the same from EL2 and from below
    cmp     x8, #EC_STEP
    b.ne    1f
    ldr     x9, [sp, #KIND]
    tbz     x9, #TRANSLATE, 2f
    mrs     x1, par_el1
    and     x0, x1, #1              // PAR_FAILED
    b       2f
1:  mov     x0, #TAKEN_BY_EL2
    cmp     x8, #EC_DABT
    b.eq    2f
    cmp     x8, #EC_IABT
    b.eq    2f
    mov     x0, #STRANGE
2:  b       store_result

// An AT instruction; the result is PAR_EL1, without syndrome. If its walk meets an external abort, that comes as an
// exception from here, and is the result.
translate:
    and     x2, x2, #(1 << UNPRIVILEGED) | 3
    adr     x3, 1f
    add     x3, x3, x2, lsl #3
    br      x3
1:  at      s12e1r, x0
    b       2f
    at      s12e1w, x0
    b       2f
    .rept   2                       // there is no AT for fetches
    b       done
    nop
    .endr
    at      s12e0r, x0
    b       2f
    at      s12e0w, x0
2:  isb
    mrs     x1, par_el1
    and     x0, x1, #1
    stp     x0, x1, [x22]
    add     x20, x20, #PROBE_SIZE
    add     x22, x22, #RESULT_SIZE
    b       more

// --- INVALIDATE: numbers in the order of aarch64.py ------------------------------------------------------------------
invalidate:
    ldr     x20, [x28, #LIST]
    ldr     x21, [x28, #COUNT]
    add     x21, x20, x21, lsl #4   // OPERATION_SIZE
1:  cmp     x20, x21
    b.eq    ready
    ldp     x2, x0, [x20], #OPERATION_SIZE
    cmp     x2, #(operations_end - operations) / 8
    b.hs    ready
    adr     x3, operations
    add     x3, x3, x2, lsl #3
    dsb     ish
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
    b       2f
    tlbi    vae1is, x0
    b       2f
    tlbi    vale1is, x0
    b       2f
    tlbi    vaae1is, x0
    b       2f
    tlbi    vaale1is, x0
    b       2f
    tlbi    aside1is, x0
    b       2f
operations_end:
2:  dsb     ish
    isb
    b       1b

// --- exceptions ----------------------------------------------------------------------------------------------------
own_sync:
    mrs     x9, sctlr_el2
    tbnz    x9, #0, own_done
    mrs     x2, esr_el2
    lsr     x8, x2, #26
    cmp     x8, #EC_DABT_OWN
    b.ne    failed
    tbz     x2, #CM, failed
    mrs     x3, far_el2
    mov     x0, #TAKEN_BY_EL2
    stp     x0, xzr, [x22]
    stp     x2, x3, [x22, #16]
    add     x20, x20, #PROBE_SIZE
    add     x22, x22, #RESULT_SIZE
    b       more

// One of the monitor's own, or one that nothing here can cause.
failed:
    mov     x28, #MAILBOX
    mrs     x0, esr_el2
    mrs     x1, far_el2
    stp     x0, x1, [x28, #INFO]
    mrs     x0, elr_el2
    mrs     x1, hpfar_el2
    stp     x0, x1, [x28, #INFO + 16]
    mov     x0, #FAILED
    b       event

    .balign 8
magic:
    .quad   0x5354414745320001
guest:
    ldr     x1, [x0]
    str     x1, [x0]
bell:
    .ascii  "!"

    .balign 0x800
vectors:
    .rept   4                       // from EL2 with SP_EL0
    b       failed
    .balign 0x80
    .endr
    b       own_sync                // from EL2 itself
    .balign 0x80
    .rept   3
    b       failed
    .balign 0x80
    .endr
    b       lower_sync              // from a guest in AArch64: synchronous, then IRQ, FIQ, SError
    .balign 0x80
    .rept   7                       // and from one in AArch32
    b       failed
    .balign 0x80
    .endr
