# The monitor of a whole x86-64 system with SVM and nested paging (AMD APM Vol. 2, chapter 15): it lets a guest run
# and tells Python why it stopped.
# link at 0x7fc00000; reset-x86_64.S enters it in 64-bit mode, with the tables of machines/x86_board.py, which map 4 GiB
# to itself.
#
# Python writes and reads the VMCB itself. A guest's registers that are not in it stand at GUEST, by their numbers in
# instructions (RAX and RSP are in the VMCB); FPU, debug and extended control registers stay in the CPU. Its interrupts
# go straight into it, for GIF is clear whenever it does not run.
#
# The doorbell is a 16550 on ports that the guest's permission map withholds: a guest cannot ring it. While Python deals
# with an exit the CPU spins on ACKNOWLEDGE; a guest that waits for an interrupt sleeps in QEMU.
    .include "run-x86_64.inc"
    .equ MAILBOX_AT, 0
    .include "mailbox.inc"
    .equ MAGIC_VALUE, 0x5354414745320001
    .equ KICK, 0x48
    .equ WAITED, 0x58
    .equ GUEST, 0x300
    .equ EXIT, 1                        # event
    .equ RUN,  4                        # commands
    .equ START, 5                       # let the core begin whose number FLAGS is
    .equ PARK, 6                        # and LOAD: all cores have begun
    .equ WATCH, 10                      # kick the cores that Python wants to exit, for ever
    .equ ASKED, 1                       # of KICK: Python wants it; the NMI is on its way
    .equ SENT, 2
    .equ CORES, 3                       # that may run guests
    .equ OF_CORE, 0x1000                # bytes of each core in every list of pages
    .equ DOOR, 0xe00                    # ports of the first core's doorbell; 8 of each

    # The VMCB (APM Vol. 2, appendix B), from a mailbox on.
    .equ BLOCK, VMCBS - MAILBOXES
    .equ EXITCODE, 0x070
    .equ RAX, 0x5f8
    .equ EXIT_NMI, 0x61
    .equ EXIT_CPUID, 0x72

    .equ MSR_VM_HSAVE_PA, 0xc0010117
    .equ CONFIG_ADDRESS, 0xcf8          # of PCI
    .equ CONFIG_DATA, 0xcfc
    .equ LOCAL_APIC, 0xfee00000
    .equ ICR_LOW, 0x300
    .equ ICR_HIGH, 0x310
    .equ PENDING, 1 << 12
    .equ INIT, 0x4500
    .equ KICKED, 0x4400                 # an NMI
    .equ EOI, 0x0b0
    .equ SPURIOUS, 0x0f0                # and the APIC is on
    .equ TIMER, 0x320                   # periodic
    .equ TIMER_COUNT, 0x380
    .equ TIMER_DIVIDE, 0x3e0
    .equ TICK_NS, 5000000               # QEMU's local APICs count nanoseconds
    .equ SIPI, 0x46ff                   # to begin at 0xff000: the board's ROM has a jump to reset-x86_64.S there
    .equ HPET, 0xfed00000               # IA-PC HPET Specification 1.0a, 2.3
    .equ HPET_PERIOD, 0x004
    .equ HPET_CONFIG, 0x010
    .equ HPET_COUNTER, 0x0f0
    .equ MEMORY_MAP, 0x80000090         # of the memory controller: what lies behind 0xc0000 to 0xfffff

    .text
    .globl _start
    .code64
_start:
    clgi
    cld
    mov $1, %eax
    cpuid
    shr $24, %ebx                       # number of the core
    imul $OF_CORE, %ebx, %ebp
    lea STACKS + OF_CORE(%rbp), %esp
    lea SAVES(%rbp), %eax
    xor %edx, %edx
    mov $MSR_VM_HSAVE_PA, %ecx
    wrmsr
    add $MAILBOXES, %ebp                # RBP is the core's mailbox from here on
    call fill_idt
    # INFO: SVM features, physical and virtual address widths, ticks of the time-stamp counter in a second.
    mov $0x8000000a, %eax
    cpuid
    mov %rdx, INFO + 0x00(%rbp)
    mov $0x80000008, %eax
    cpuid
    mov %rax, INFO + 0x08(%rbp)
    cmp $MAILBOXES, %ebp                # the first core measures for all
    jne 2f
    mov $HPET, %esi
    mov HPET_PERIOD(%rsi), %ecx         # femtoseconds of a tick
    movabs $1000000000000, %rax         # of a millisecond
    xor %edx, %edx
    div %rcx
    mov %rax, %rdi
    orl $1, HPET_CONFIG(%rsi)
    mov HPET_COUNTER(%rsi), %rbx
    add %rbx, %rdi
    call read_ticks
    mov %rax, %r8
1:  mov HPET_COUNTER(%rsi), %rbx
    cmp %rdi, %rbx
    jb 1b
    call read_ticks
    sub %r8, %rax
    imul $1000, %rax, %rax
    mov %rax, INFO + 0x10(%rbp)
    andl $~1, HPET_CONFIG(%rsi)
    movq $0, HPET_COUNTER(%rsi)
2:  movabs $MAGIC_VALUE, %rax
    mov %rax, MAGIC(%rbp)
ready:
    mov $READY, %edi
announce:                               # EDI is the event
    mov %rdi, EVENT(%rbp)
    incq SEQUENCE(%rbp)
    mov %ebp, %edx
    sub $MAILBOXES, %edx
    shr $9, %edx
    add $DOOR, %edx
    mov %edx, %esi
    call read_ticks
    mov %rax, %rdi
    mov %esi, %edx
    mov $'.', %al
    out %al, %dx
1:  pause
    mov ACKNOWLEDGE(%rbp), %rax
    cmp %rax, SEQUENCE(%rbp)
    jne 1b
    call read_ticks
    sub %rdi, %rax
    mov %rax, WAITED(%rbp)
    mov COMMAND(%rbp), %rax
    cmp $PARK, %rax
    je park
    cmp $LOAD, %rax
    je load
    cmp $WATCH, %rax
    je watch
    cmp $START, %rax
    je start
    cmp $RUN, %rax
    jne ready
    lea BLOCK(%rbp), %rax
    vmload %rax
    mov GUEST + 8 * 1(%rbp), %rcx
    mov GUEST + 8 * 2(%rbp), %rdx
    mov GUEST + 8 * 3(%rbp), %rbx
    mov GUEST + 8 * 6(%rbp), %rsi
    mov GUEST + 8 * 7(%rbp), %rdi
    mov GUEST + 8 * 8(%rbp), %r8
    mov GUEST + 8 * 9(%rbp), %r9
    mov GUEST + 8 * 10(%rbp), %r10
    mov GUEST + 8 * 11(%rbp), %r11
    mov GUEST + 8 * 12(%rbp), %r12
    mov GUEST + 8 * 13(%rbp), %r13
    mov GUEST + 8 * 14(%rbp), %r14
    mov GUEST + 8 * 15(%rbp), %r15
    mov GUEST + 8 * 5(%rbp), %rbp
    vmrun %rax
    vmsave %rax
    mov %rbp, GUEST + 8 * 5 - BLOCK(%rax)
    lea -BLOCK(%rax), %rbp
    mov %rcx, GUEST + 8 * 1(%rbp)
    mov %rdx, GUEST + 8 * 2(%rbp)
    mov %rbx, GUEST + 8 * 3(%rbp)
    mov %rsi, GUEST + 8 * 6(%rbp)
    mov %rdi, GUEST + 8 * 7(%rbp)
    mov %r8, GUEST + 8 * 8(%rbp)
    mov %r9, GUEST + 8 * 9(%rbp)
    mov %r10, GUEST + 8 * 10(%rbp)
    mov %r11, GUEST + 8 * 11(%rbp)
    mov %r12, GUEST + 8 * 12(%rbp)
    mov %r13, GUEST + 8 * 13(%rbp)
    mov %r14, GUEST + 8 * 14(%rbp)
    mov %r15, GUEST + 8 * 15(%rbp)
    mov %rax, %rsi
    mov $EXIT, %edi
    mov EXITCODE(%rsi), %rax
    cmp $EXIT_NMI, %rax
    je take_nmi
    cmp $EXIT_CPUID, %rax
    jne announce
    # INFO: what this CPU answers.
    mov RAX(%rsi), %eax
    mov GUEST + 8 * 1(%rbp), %ecx
    cpuid
    mov %rax, INFO + 0x00(%rbp)
    mov %rbx, INFO + 0x08(%rbp)
    mov %rcx, INFO + 0x10(%rbp)
    mov %rdx, INFO + 0x18(%rbp)
    jmp announce

start:                                  # INIT and SIPI (Intel SDM Vol. 3A, 10.4.4.1)
    mov $LOCAL_APIC, %esi
    mov FLAGS(%rbp), %eax
    shl $24, %eax
    mov %eax, ICR_HIGH(%rsi)
    movl $INIT, ICR_LOW(%rsi)
    call delivered
    mov FLAGS(%rbp), %eax
    shl $24, %eax
    mov %eax, ICR_HIGH(%rsi)
    movl $SIPI, ICR_LOW(%rsi)
    call delivered
    jmp ready
delivered:                              # wait until the interrupt is on its way, and a while
    mov $0x1000, %ecx
1:  pause
    testl $PENDING, ICR_LOW(%rsi)
    jnz 1b
    loop 1b
    ret

load:                                   # RAM from 0xc0000 on, where a PC's firmware is, and ours for cores that begin
    mov $MEMORY_MAP, %eax
    mov $CONFIG_ADDRESS, %dx
    out %eax, %dx
    mov $0x33333330, %eax
    mov $CONFIG_DATA, %dx
    out %eax, %dx
    mov $MEMORY_MAP + 4, %eax
    mov $CONFIG_ADDRESS, %dx
    out %eax, %dx
    mov $0x00333333, %eax
    mov $CONFIG_DATA, %dx
    out %eax, %dx
    jmp ready

# A core without a guest: its own timer wakes it to look at every core's KICK. A guest that runs has no way to hold an
# NMI back: it exits (APM 15.13.3).
watch:
    mov $LOCAL_APIC, %esi
    movl $0x120, SPURIOUS(%rsi)
    movl $0xb, TIMER_DIVIDE(%rsi)
    movl $0x20021, TIMER(%rsi)
    movl $TICK_NS, TIMER_COUNT(%rsi)
    stgi
1:  sti
    hlt
    cli
    xor %ecx, %ecx
2:  imul $OF_CORE, %ecx, %edi
    cmpq $ASKED, MAILBOXES + KICK(%rdi)
    jne 3f
    movq $SENT, MAILBOXES + KICK(%rdi)
    mov %ecx, %eax
    shl $24, %eax
    mov %eax, ICR_HIGH(%rsi)
    movl $KICKED, ICR_LOW(%rsi)
3:  inc %ecx
    cmp $CORES, %ecx
    jne 2b
    jmp 1b

park:                                   # GIF is clear: nothing wakes it
    cli
    hlt
    jmp park

read_ticks:                             # the time-stamp counter in RAX
    rdtsc
    shl $32, %rdx
    or %rdx, %rax
    ret

take_nmi:                               # it stays pending until GIF is set (APM 15.13.3)
    stgi
    nop
    clgi
    jmp announce

# --- exceptions of the monitor's own --------------------------------------------------------------------------------
fill_idt:                               # an interrupt gate for each of `entries`, 16 bytes each
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
    lidt idt_pointer(%rip)
    ret

    .align 16
entries:
    .set vector, 0
    .rept 32
    .align 16
    .if vector == 2
    iretq
    .endif
    push $vector
    jmp exception
    .set vector, vector + 1
    .endr
    .align 16
    iretq                               # spurious
    .align 16
    push %rax                           # the timer
    mov $LOCAL_APIC, %eax
    movl $0, EOI(%rax)
    pop %rax
    iretq
    .align 16
entries_end:

# INFO: vector, the four words on top of the stack (an error code, if the vector has one, RIP, CS, ...), CR2. RBP is the
# core's mailbox.
exception:
    pop INFO + 0x00(%rbp)
    pop INFO + 0x08(%rbp)
    pop INFO + 0x10(%rbp)
    pop INFO + 0x18(%rbp)
    pop INFO + 0x20(%rbp)
    mov %cr2, %rax
    mov %rax, INFO + 0x28(%rbp)
    mov $FAILED, %edi
    jmp announce

    .align 8
idt_pointer:
    .word entries_end - entries - 1
    .quad IDT
