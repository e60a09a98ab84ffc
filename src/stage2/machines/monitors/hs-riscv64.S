# The hypervisor of an emulated RISC-V machine: it runs in HS-mode, and lets a guest make accesses one at a time.
# link at 0x80000000
#
# The machine starts here in M-mode, without firmware: everything is delegated to HS-mode, which is entered at once.
# HS-mode runs under an identity map of its own (Python writes its root), because QEMU tells a page fault of HLV from
# an access fault by the mode in satp. `machines/mailbox.py` says how Python and this program talk; the registers of
# LOAD, the results of PROBE and the operations of INVALIDATE are named in `machines/riscv64.py`.
#
# All guest traps come to `trap`, whatever the guest did; s0 always holds the mailbox, and sscratch does too.

    .option norvc
    .option norelax

    .equ MAILBOX,     0x80100000
    .equ MAILBOX_AT, 0
    .include "mailbox.inc"
    .equ MAP,         0x80101000        # root of the identity map, Sv39
    .equ GUEST_CODE,  0x80200000        # where the guest's code is copied to, a fixture of both stages

    .equ MAGIC_HIGH,  0x53544147        # "STAG"
    .equ MAGIC_LOW,   0x45320001        # "E2", version 1
    .equ VS_CODE,     REGISTERS + 8*5   # GVAs of the guest's code for VS- and VU-mode
    .equ VU_CODE,     REGISTERS + 8*6


    .equ WRITE,       1                 # a probe's kind: the access,
    .equ FETCH,       2
    .equ ACCESS,      3
    .equ USER,        1 << 2            # from VU-mode,
    .equ TRANSLATE,   1 << 3            # by HLV or HSV,
    .equ EXECUTABLE,  1 << 4            # and a load by HLVX
    .equ WRITE_CODE,  16                # offset in the guest's code

    .equ SPV,         1 << 7            # hstatus: sret goes to the guest
    .equ SPVP,        1 << 8            # hstatus: HLV and HSV act as VS-mode
    .equ SPP,         1 << 8            # sstatus: sret goes to supervisor mode
    .equ STIE,        1 << 5            # sie: supervisor timer
    .equ PATIENCE,    5000000           # how long a guest may take: half a second of the 10 MHz clock

    .equ SUPERVISOR_CALL, 9             # mcause: an ecall of HS-mode, which asks M-mode to load menvcfg from a0

    .equ CSR_STIMECMP, 0x14d
    .equ CSR_MENVCFG,  0x30a
    .equ CSR_MSTATEEN0, 0x30c
    .equ CSR_HENVCFG,  0x60a

    .globl _start
_start:                                 # M-mode
    la      t0, 1f                      # Smstateen keeps henvcfg from HS-mode, on a hart that has it
    csrw    mtvec, t0
    li      t0, -1
    csrw    CSR_MSTATEEN0, t0
    .balign 4
1:  la      t0, machine_trap
    csrw    mtvec, t0
    li      s0, MAILBOX
    li      t0, -1                      # PMP: everything is allowed
    csrw    pmpaddr0, t0
    li      t0, 0x1f
    csrw    pmpcfg0, t0
    li      t0, -1                      # every trap and interrupt that can be delegated
    csrw    mideleg, t0
    csrw    mcounteren, t0
    li      t0, ~(1 << SUPERVISOR_CALL) # but the calls of HS-mode
    csrw    medeleg, t0
    csrr    t0, misa                    # what the hart has: MISA, what menvcfg keeps, and below vsatp and hgatp
    sd      t0, INFO+0(s0)
    li      t0, 7 << 61                 # STCE, PBMTE and ADUE, where they exist
    csrw    CSR_MENVCFG, t0
    csrr    t0, CSR_MENVCFG
    sd      t0, INFO+8(s0)
    li      t0, 3 << 11                 # MPP: S
    csrc    mstatus, t0
    li      t0, 1 << 11
    csrs    mstatus, t0
    la      t0, supervisor
    csrw    mepc, t0
    mret

supervisor:                             # HS-mode
    csrw    sscratch, s0
    la      t0, failed
    csrw    stvec, t0
    csrw    hedeleg, zero
    csrw    hideleg, zero
    li      t0, STIE
    csrw    sie, t0
    li      t0, (8 << 60) | (MAP >> 12)
    csrw    satp, t0
    sfence.vma

    li      t0, 8                       # which of MODE 8 to 10 vsatp and hgatp keep, and how wide an identifier
    addi    t1, s0, INFO+16
    li      t4, 11
1:  slli    t2, t0, 60
    li      t3, 0xffff << 44
    or      t2, t2, t3
    csrw    vsatp, zero
    csrw    vsatp, t2
    csrr    t3, vsatp
    sd      t3, 0(t1)
    csrw    hgatp, zero
    csrw    hgatp, t2
    csrr    t3, hgatp
    sd      t3, 24(t1)
    addi    t1, t1, 8
    addi    t0, t0, 1
    bltu    t0, t4, 1b
    csrw    vsatp, zero
    csrw    hgatp, zero

    la      t0, guest                   # the guest's code to its own place
    la      t1, guest_end
    li      t2, GUEST_CODE
1:  ld      t3, 0(t0)
    sd      t3, 0(t2)
    addi    t0, t0, 8
    addi    t2, t2, 8
    bltu    t0, t1, 1b

    li      s7, -1
    li      t0, (MAGIC_HIGH << 32) | MAGIC_LOW
    sd      t0, MAGIC(s0)

# --- events and commands ----------------------------------------------------------------------------------

ready:
    li      t0, READY
ring:                                   # t0: the event
    sd      t0, EVENT(s0)
    ld      s1, SEQUENCE(s0)
    addi    s1, s1, 1
    sd      s1, SEQUENCE(s0)
    fence   rw, rw
    la      a1, byte
    li      a0, 3                       # SYS_WRITEC
    call    semihosting
1:  li      a1, 0
    li      a0, 7                       # SYS_READC waits for a byte
    call    semihosting
    ld      t0, ACKNOWLEDGE(s0)
    bne     t0, s1, 1b
    fence   rw, rw
    ld      t0, COMMAND(s0)
    li      t1, LOAD
    beq     t0, t1, load
    li      t1, PROBE
    beq     t0, t1, probe
    li      t1, INVALIDATE
    beq     t0, t1, invalidate
    j       ready

    .balign 16                          # the three instructions must not be torn apart by a page's end
semihosting:
    slli    x0, x0, 0x1f
    ebreak
    srai    x0, x0, 7
    ret

    .balign 4
failed:                                 # an exception of our own in HS-mode
    csrr    s0, sscratch
    csrr    t0, scause
    sd      t0, INFO+0(s0)
    csrr    t0, sepc
    sd      t0, INFO+8(s0)
    csrr    t0, stval
    sd      t0, INFO+16(s0)
    csrr    t0, htval
    sd      t0, INFO+24(s0)
    csrr    t0, sstatus
    sd      t0, INFO+32(s0)
    csrr    t0, hstatus
    sd      t0, INFO+40(s0)
    li      t0, FAILED
    j       ring

    .balign 4
machine_trap:                           # a call of HS-mode, or an exception in M-mode: of _start, before anything else
    csrr    t0, mcause
    li      t1, SUPERVISOR_CALL
    bne     t0, t1, 1f
    csrw    CSR_MENVCFG, a0
    csrr    t0, mepc
    addi    t0, t0, 4
    csrw    mepc, t0
    mret
1:  li      s0, MAILBOX
    sd      t0, INFO+0(s0)
    csrr    t0, mepc
    sd      t0, INFO+8(s0)
    csrr    t0, mtval
    sd      t0, INFO+16(s0)
    li      t0, FAILED
    j       ring

# --- LOAD -------------------------------------------------------------------------------------------------

load:
    ld      t0, REGISTERS+0(s0)
    csrw    hgatp, t0
    ld      t0, REGISTERS+8(s0)
    csrw    vsatp, t0
    ld      t0, REGISTERS+16(s0)
    csrw    vsstatus, t0
    ld      t0, REGISTERS+24(s0)
    csrw    sstatus, t0
    ld      a0, REGISTERS+56(s0)        # menvcfg first: what it does not have, henvcfg cannot hold
    ecall
    ld      t0, REGISTERS+32(s0)
    csrw    CSR_HENVCFG, t0
    ld      t0, FLAGS(s0)
    andi    t0, t0, 1
    bnez    t0, ready
    hfence.gvma
    hfence.vvma
    sfence.vma
    j       ready

# --- INVALIDATE: number of the operation in the low half of the first word, VMID or ASID in the high half ---

invalidate:
    ld      s2, LIST(s0)
    ld      s4, COUNT(s0)
1:  beqz    s4, ready
    lwu     t0, 0(s2)
    lwu     t2, 4(s2)
    ld      t1, 8(s2)
    addi    s2, s2, 16
    addi    s4, s4, -1
    la      t3, operations              # eight bytes each
    slli    t0, t0, 3
    add     t3, t3, t0
    jalr    t3
    j       1b
operations:
    hfence.gvma
    ret
    hfence.gvma zero, t2
    ret
    hfence.gvma t1, zero
    ret
    hfence.gvma t1, t2
    ret
    hfence.vvma
    ret
    hfence.vvma zero, t2
    ret
    hfence.vvma t1, zero
    ret
    hfence.vvma t1, t2
    ret

# --- PROBE ------------------------------------------------------------------------------------------------
# s2: the probe, s3: its result, s4: how many are left, s5: whether the clock has already interrupted this one.
# s6: hstatus but for the mode, s7: SPVP of the last HLV or HSV, also of the commands before.
# A guest that runs away may change them, so they are kept in memory too.

    .equ KEPT,        0x700

probe:
    la      t0, trap
    csrw    stvec, t0
    csrr    s6, hstatus
    li      t0, SPV | SPVP
    not     t0, t0
    and     s6, s6, t0                  # hstatus for HLV as VU-mode
    ld      s2, LIST(s0)
    ld      s3, RESULTS(s0)
    ld      s4, COUNT(s0)
    call    patience
next:
    beqz    s4, probed
    li      s5, 0
again:
    ld      a1, 0(s2)                   # address
    ld      a2, 8(s2)                   # value
    ld      t0, 16(s2)                  # kind
    andi    t1, t0, USER
    seqz    t1, t1                      # 1: supervisor
    slli    t1, t1, 8                   # SPVP and SPP
    andi    t2, t0, ACCESS
    andi    t3, t0, TRANSLATE
    bnez    t3, translate

    # A real access: VS- or VU-mode makes it, and traps.
    ori     t1, t1, SPV
    or      t3, s6, t1
    csrw    hstatus, t3
    li      t4, SPP
    csrc    sstatus, t4
    and     t4, t4, t1
    csrs    sstatus, t4
    li      t3, FETCH
    beq     t2, t3, fetch
    ld      t5, VS_CODE(s0)
    bnez    t4, 1f
    ld      t5, VU_CODE(s0)
1:  slli    t2, t2, 4                   # WRITE_CODE for a write
    add     t5, t5, t2
enter:
    csrw    sepc, t5
    sd      s2, KEPT+0(s0)
    sd      s3, KEPT+8(s0)
    sd      s4, KEPT+16(s0)
    sd      s5, KEPT+24(s0)
    sd      s6, KEPT+32(s0)
    sd      s7, KEPT+40(s0)
    sret

fetch:                                  # the guest runs what stands at the address itself
    ld      t0, 24(s2)                  # QEMU keeps translated code until it sees a store there; it sees none of Python's
    mv      t5, a1
    beqz    t0, enter
    ld      t1, 0(t0)
    sd      t1, 0(t0)
    j       enter

translate:                              # t1: SPVP or 0, t2: the access
    or      t3, s6, t1
    csrw    hstatus, t3
    beq     t1, s7, 1f
    mv      s7, t1                      # QEMU's TLB does not tell whether SPVP was set when an entry was made
    hfence.vvma
1:  bnez    t2, 2f
    andi    t3, t0, EXECUTABLE
    bnez    t3, 3f
    hlv.d   a0, (a1)
    j       made
3:  hlvx.wu a0, (a1)
    j       made
2:  hsv.d   a2, (a1)
made:
    sd      zero, 0(s3)
    sd      a0, 8(s3)
answered:
    addi    s2, s2, PROBE_SIZE
    addi    s3, s3, RESULT_SIZE
    addi    s4, s4, -1
    j       next

probed:
    csrw    hstatus, s6
    la      t0, failed
    csrw    stvec, t0
    j       ready

patience:                               # set the clock; t0 and t1 are lost
    csrr    t0, time
    li      t1, PATIENCE
    add     t0, t0, t1
    csrw    CSR_STIMECMP, t0
    ret

    .balign 4
trap:                                   # of the guest, or of HLV and HSV
    csrr    s0, sscratch
    csrr    t0, hstatus
    andi    t1, t0, SPV
    beqz    t1, 1f                      # HLV and HSV: our registers are our own
    ld      s2, KEPT+0(s0)
    ld      s3, KEPT+8(s0)
    ld      s4, KEPT+16(s0)
    ld      s5, KEPT+24(s0)
    ld      s6, KEPT+32(s0)
    ld      s7, KEPT+40(s0)
1:  csrr    t2, scause
    csrr    t3, stval
    csrr    t4, sepc
    bltz    t2, interrupted
    beqz    t1, 2f
    bne     t3, t4, 2f
    ld      t5, 16(s2)
    andi    t5, t5, ACCESS
    li      t6, FETCH
    beq     t5, t6, 2f
    # The tables do not let the guest run its own code: the same access by HLV or HSV.
    ld      a1, 0(s2)
    ld      a2, 8(s2)
    ld      t0, 16(s2)
    andi    t1, t0, USER
    seqz    t1, t1
    slli    t1, t1, 8
    mv      t2, t5
    j       translate
2:  li      t5, 1
    sd      t5, 0(s3)
    sd      a0, 8(s3)
    sd      t2, 16(s3)
    sd      t3, 24(s3)
    csrr    t5, htval
    sd      t5, 32(s3)
    csrr    t5, htinst
    sd      t5, 40(s3)
    sd      t0, 48(s3)
    sd      t4, 56(s3)
    j       answered

interrupted:                            # once may be bad luck; twice means that the guest does not come back
    call    patience
    csrr    t0, hstatus
    bnez    s5, 2b
    li      s5, 1
    j       again

# --- the guest --------------------------------------------------------------------------------------------

    .balign 16
guest:
    ld      a0, 0(a1)
    ecall
    .balign 16
    sd      a2, 0(a1)                   # at WRITE_CODE
    ecall
    .balign 16
guest_end:
byte:
    .ascii  "."
    .balign 8
