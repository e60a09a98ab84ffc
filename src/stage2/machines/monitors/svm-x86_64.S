# The hypervisor of an emulated x86-64 machine with SVM and nested paging (AMD APM Vol. 2, chapter 15).
# link at 0x100000; started by Multiboot in 32-bit protected mode. `machines.mailbox` has the protocol,
# `machines.x86_svm` the rest of the memory map: it writes the host's tables and both VMCBs.
#
# A probe is one VMRUN. For data RIP is the guest's load or store, for a fetch it is the probe's address; whatever
# happens ends in an exit: VMMCALL after data, #UD after a fetch when the access was made, otherwise the fault. A guest that runs on is stopped by the
# fifth tick of the timer.

# --- the memory map, as in machines/x86_svm.py ----------------------------------------------------------------------
    .equ MAILBOX, 0x200000
    .equ MAILBOX_AT, MAILBOX
    .include "mailbox.inc"
    .equ VMCB_KERNEL, 0x201000          # the guest at CPL 0
    .equ VMCB_USER, 0x202000            # and at CPL 3
    .equ HOST_SAVE, 0x203000
    .equ IDT, 0x20c000
    .equ TICKS, 0x20d000                # of the timer since the probe began; no code is in this page
    .equ STACK_END, 0x20f000
    .equ GUEST_CODE, 0x220000
    .equ PML4, 0x211000
    .equ PML5, 0x210000

# --- the mailbox ----------------------------------------------------------------------------------------------------
    .equ MAGIC_VALUE, 0x5354414745320001
    .equ HOST_EFER, MAILBOX + 0x100     # LOAD: EFER of the host: NXE is the nested tables' too
    .equ HOST_CR4, MAILBOX + 0x108      # LOAD: CR4 of the host: LA57 is the nested tables' too
    .equ CODE_KERNEL, MAILBOX + 0x110   # LOAD: GVA of the guest's code for CPL 0
    .equ CODE_USER, MAILBOX + 0x118     # LOAD: and for CPL 3
    .equ KEEP_TLB, 1                    # FLAGS of LOAD
    # A probe: address, value, kind. A result: outcome, value, six words of syndrome.
    .equ PROBE_VALUE, 8
    .equ PROBE_KIND, 16
    .equ RESULT_VALUE, 8
    .equ RESULT_SYNDROME, 16
    .equ WRITE, 1
    .equ FETCH, 2
    .equ ACCESS, 3
    .equ UNPRIVILEGED, 4
    # Operations of INVALIDATE.
    .equ INVLPGA, 1                     # the operand is the GVA; otherwise TLB_CONTROL of the next VMRUN

# --- the VMCB (APM Vol. 2, appendix B) ------------------------------------------------------------------------------
    .equ VMCB_ASID, 0x058
    .equ VMCB_TLB_CONTROL, 0x05c
    .equ VMCB_EXITCODE, 0x070
    .equ VMCB_EXITINFO1, 0x078
    .equ VMCB_EXITINFO2, 0x080
    .equ VMCB_EXITINTINFO, 0x088
    .equ VMCB_RIP, 0x578
    .equ VMCB_RAX, 0x5f8
    .equ VMCB_CR2, 0x640
    .equ FLUSH_ALL, 1                   # of TLB_CONTROL
    .equ EXIT_INTR, 0x60
    .equ EXIT_UD, 0x46
    .equ EXIT_VMMCALL, 0x81

# --- the processor and the board ------------------------------------------------------------------------------------
    .equ MSR_EFER, 0xc0000080
    .equ MSR_VM_HSAVE_PA, 0xc0010117
    .equ EFER_LME_NXE_SVME, 0x1900
    .equ CR0_PG_WP_NE_PE, 0x80010021
    .equ CR4_PAE_OSFXSR, 0x220
    .equ CR4_LA57, 1 << 12
    .equ CODE_32, 0x08
    .equ CODE_64, 0x10
    .equ DATA, 0x18
    .equ COM1, 0x3f8
    .equ PIC_1, 0x20
    .equ PIC_2, 0xa0
    .equ TIMER, 0x40
    .equ IRQ_BASE, 0x20                 # vector of IRQ 0, the timer; IRQ 4 is COM1
    .equ RUNAWAY_TICKS, 5
    .equ COM1_ONLY, 0xef                # masks of the first PIC
    .equ COM1_AND_TIMER, 0xee
    .equ NOWHERE, 1 << 63               # not canonical: an access there is a #GP

    .section .text
    .globl _start
    .code32
    .align 4
header:                                 # Multiboot 0.6.96, with addresses (bit 16), for this is no ELF file
    .long 0x1badb002, 0x00010000, -(0x1badb002 + 0x00010000)
    .long header, header, 0, 0, _start

_start:
    cli
    cld
    lgdt gdt_pointer
    mov $STACK_END, %esp
    xor %ebx, %ebx
    mov $start_64, %esi
    ljmp $CODE_32, $enter_long_mode

# Paging is off. Turn it on with the tables that EBX (0 or CR4_LA57) asks for, and go to ESI.
enter_long_mode:
    mov $DATA, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    lea CR4_PAE_OSFXSR(%ebx), %eax
    mov %eax, %cr4
    mov $PML4, %eax
    test %ebx, %ebx
    jz 1f
    mov $PML5, %eax
1:  mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $EFER_LME_NXE_SVME, %eax
    wrmsr
    mov $CR0_PG_WP_NE_PE, %eax
    mov %eax, %cr0
    ljmp $CODE_64, $1f
    .code64
1:  mov %esi, %esi
    jmp *%rsi

# CR4.LA57 can change only while paging is off, which 64-bit code cannot turn off: EBX as above; goes to ESI.
    .code64
leave_long_mode:
    pushq $CODE_32
    pushq $1f
    lretq
    .code32
1:  mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    jmp enter_long_mode
    .code64

start_64:
    call fill_idt
    call set_up_interrupts
    mov $guest_code, %esi
    mov $GUEST_CODE, %edi
    mov $(guest_end - guest_code), %ecx
    rep movsb
    mov $MSR_VM_HSAVE_PA, %ecx
    mov $HOST_SAVE, %eax
    xor %edx, %edx
    wrmsr
    # Features: SVM revision and features, physical and virtual address widths, structured features.
    mov $0x8000000a, %eax
    cpuid
    mov %rax, INFO + 0x00
    mov %rdx, INFO + 0x08
    mov $0x80000008, %eax
    cpuid
    mov %rax, INFO + 0x10
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    mov %rbx, INFO + 0x18
    mov %rcx, INFO + 0x20
    movabs $MAGIC_VALUE, %rax
    mov %rax, MAGIC

# --- commands -------------------------------------------------------------------------------------------------------
ready:
    mov $READY, %edi
announce:                               # EDI is the event
    mov $STACK_END, %esp
    mov %rdi, EVENT
    incq SEQUENCE
    mov $COM1, %dx
    mov $'.', %al
    out %al, %dx
wait:                                   # sleep until a byte is there; the shadow of STI covers HLT
    cli
    mov $COM1 + 5, %dx
    in %dx, %al
    test $1, %al
    jnz 1f
    sti
    hlt
    jmp wait
1:  mov $COM1, %dx
    in %dx, %al
    mov ACKNOWLEDGE, %rax
    cmp %rax, SEQUENCE
    jne wait
    mov COMMAND, %rax
    cmp $LOAD, %rax
    je load
    cmp $PROBE, %rax
    je probe
    cmp $INVALIDATE, %rax
    je invalidate
    jmp ready

load:
    testq $KEEP_TLB, FLAGS
    jnz 1f
    movb $FLUSH_ALL, VMCB_KERNEL + VMCB_TLB_CONTROL
    movb $FLUSH_ALL, VMCB_USER + VMCB_TLB_CONTROL
1:  mov HOST_CR4, %rbx
    and $CR4_LA57, %ebx
    mov %cr4, %rax
    xor %rbx, %rax
    test $CR4_LA57, %eax
    mov $1f, %esi
    jnz leave_long_mode
1:  mov $MSR_EFER, %ecx
    mov HOST_EFER, %eax
    xor %edx, %edx
    wrmsr
    jmp ready

invalidate:
    mov LIST, %rsi
    mov COUNT, %rdx
1:  test %rdx, %rdx
    jz ready
    mov 8(%rsi), %rax
    cmpq $INVLPGA, (%rsi)
    je 2f
    mov %al, VMCB_KERNEL + VMCB_TLB_CONTROL
    mov %al, VMCB_USER + VMCB_TLB_CONTROL
    jmp 3f
2:  mov VMCB_KERNEL + VMCB_ASID, %ecx
    invlpga %rax, %ecx
3:  add $16, %rsi
    dec %rdx
    jmp 1b

# RSI is the probe, RDI its result, RBP its VMCB, R8 the probes that are left. The guest gets all registers, so they are
# on the stack meanwhile.
probe:
    mov LIST, %rsi
    mov RESULTS, %rdi
    mov COUNT, %r8
    mov $COM1_AND_TIMER, %al
    out %al, $PIC_1 + 1
next_probe:
    test %r8, %r8
    jz probes_done
    movl $0, TICKS
    mov PROBE_KIND(%rsi), %rbx
    mov $VMCB_KERNEL, %ebp
    mov CODE_KERNEL, %rcx
    test $UNPRIVILEGED, %ebx
    jz 1f
    mov $VMCB_USER, %ebp
    mov CODE_USER, %rcx
1:  and $ACCESS, %ebx
    cmp $FETCH, %ebx
    jne run
    # QEMU does not see that Python wrote to a page whose code it has translated; it sees that we do.
    mov PROBE_VALUE(%rsi), %rax
    test %rax, %rax
    jz run
    lock addq $0, (%rax)
run:
    mov (%rsi), %rdx
    mov %rdx, %rax
    cmp $FETCH, %ebx
    jne 1f
    # Should the code not be a target's, what it most likely does is to access memory by RAX.
    mov %rdx, VMCB_RIP(%rbp)
    mov $NOWHERE, %rax
    jmp 2f
1:  mov PROBE_VALUE(%rsi), %rax
    mov %rcx, VMCB_RIP(%rbp)
    cmp $WRITE, %ebx
    jne 2f
    addq $(guest_write - guest_code), VMCB_RIP(%rbp)
2:  mov %rax, VMCB_RAX(%rbp)
    push %rbx
    push %rcx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    clgi
    sti                                 # physical interrupts exit (V_INTR_MASKING): the timer's
    mov %ebp, %eax
    vmrun %rax
    cli
    stgi
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rcx
    pop %rbx
    movb $0, VMCB_TLB_CONTROL(%rbp)
    mov VMCB_EXITCODE(%rbp), %rax
    cmp $EXIT_INTR, %rax
    je interrupted
    mov $EXIT_VMMCALL, %edx
    cmp $FETCH, %ebx
    jne 1f
    mov $EXIT_UD, %edx
1:  cmp %rdx, %rax
    jne record
    xor %eax, %eax
record:
    mov %rax, (%rdi)
    mov VMCB_RAX(%rbp), %rax
    mov %rax, RESULT_VALUE(%rdi)
    mov VMCB_EXITINFO1(%rbp), %rax
    mov %rax, RESULT_SYNDROME + 0x00(%rdi)
    mov VMCB_EXITINFO2(%rbp), %rax
    mov %rax, RESULT_SYNDROME + 0x08(%rdi)
    mov VMCB_EXITINTINFO(%rbp), %rax
    mov %rax, RESULT_SYNDROME + 0x10(%rdi)
    mov VMCB_CR2(%rbp), %rax
    mov %rax, RESULT_SYNDROME + 0x18(%rdi)
    mov VMCB_RIP(%rbp), %rax
    mov %rax, RESULT_SYNDROME + 0x20(%rdi)
    add $PROBE_SIZE, %rsi
    add $RESULT_SIZE, %rdi
    dec %r8
    jmp next_probe

probes_done:
    mov $COM1_ONLY, %al
    out %al, $PIC_1 + 1
    jmp ready

interrupted:                            # a few times may be chance: make the probe again
    push %rax
    sti
    nop
    cli
    pop %rax
    cmpl $RUNAWAY_TICKS, TICKS
    jb run
    jmp record

# --- the guest's code, copied to GUEST_CODE: RDX is the address, RAX the value --------------------------------------
    .align 16
guest_code:
    mov (%rdx), %rax
    vmmcall
    .align 16
guest_write:
    mov %rax, (%rdx)
    vmmcall
guest_end:

# --- interrupts and exceptions --------------------------------------------------------------------------------------
# Both PICs: vectors from IRQ_BASE, all masked but COM1. COM1: 115200 8N1, no FIFO, an interrupt for a byte
# that came. Timer: 20 times a second.
set_up_interrupts:
    lea setup_ports(%rip), %rsi
    mov $(setup_ports_end - setup_ports) / 3, %ecx
1:  mov (%rsi), %dx
    mov 2(%rsi), %al
    out %al, %dx
    add $3, %rsi
    loop 1b
    ret
    .macro port number, value
    .word \number
    .byte \value
    .endm
setup_ports:
    port PIC_1, 0x11
    port PIC_2, 0x11
    port PIC_1 + 1, IRQ_BASE
    port PIC_2 + 1, IRQ_BASE + 8
    port PIC_1 + 1, 4
    port PIC_2 + 1, 2
    port PIC_1 + 1, 1
    port PIC_2 + 1, 1
    port PIC_1 + 1, COM1_ONLY
    port PIC_2 + 1, 0xff
    port COM1 + 1, 0
    port COM1 + 3, 0x80
    port COM1, 1
    port COM1 + 1, 0
    port COM1 + 3, 3
    port COM1 + 2, 0
    port COM1 + 4, 0x0b
    port COM1 + 1, 1
    port TIMER + 3, 0x34
    port TIMER, 59659 & 0xff
    port TIMER, 59659 >> 8
setup_ports_end:

# An interrupt gate for each of `entries`, 16 bytes each.
fill_idt:
    lea entries(%rip), %rax
    mov $IDT, %edi
    mov $(entries_end - entries) / 16, %ecx
1:  mov %ax, (%rdi)
    movw $CODE_64, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    mov %rax, %rdx
    shr $16, %rdx
    mov %dx, 6(%rdi)
    movq $0, 8(%rdi)
    add $16, %rax
    add $16, %rdi
    loop 1b
    lidt idt_pointer
    ret

    .align 16
entries:
    .set vector, 0
    .rept 32
    .align 16
    push $vector
    jmp exception
    .set vector, vector + 1
    .endr
    .set line, 0
    .rept 16
    .align 16
    .if line == 0
    incl TICKS
    .endif
    jmp interrupt
    .set line, line + 1
    .endr
    .align 16
entries_end:

interrupt:
    push %rax
    mov $0x20, %al                      # end of interrupt, to both
    out %al, $PIC_2
    out %al, $PIC_1
    pop %rax
    iretq

# INFO: vector, the four words on top of the stack (an error code, if the vector has one, RIP, CS, ...), CR2.
exception:
    pop INFO + 0x00
    pop INFO + 0x08
    pop INFO + 0x10
    pop INFO + 0x18
    pop INFO + 0x20
    mov %cr2, %rax
    mov %rax, INFO + 0x28
    stgi
    mov $FAILED, %edi
    jmp announce

# --- data -----------------------------------------------------------------------------------------------------------
    .align 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff            # CODE_32
    .quad 0x00af9b000000ffff            # CODE_64
    .quad 0x00cf93000000ffff            # DATA
gdt_pointer:
    .word gdt_pointer - gdt - 1
    .quad gdt
idt_pointer:
    .word entries_end - entries - 1
    .quad IDT
