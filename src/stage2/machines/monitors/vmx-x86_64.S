# The hypervisor of an emulated x86-64 machine with VMX and EPT (Intel SDM Vol. 3C).
# link at 0xf0000; it is the machine's ROM, so it runs from the first instruction on. `machines.mailbox` has the
# protocol, `machines.bochs` the rest of the memory map and what crosses the disk.
#
# RAM is not shared with Python: a disk is. Its first sectors are the mailbox, what follows is the rest of the window
# of RAM that begins with the mailbox. A command comes by reading it, an answer goes by writing it, and a byte to COM1
# says that it is there. Python stops the machine while it has nothing to do.
#
# A probe is one VM entry at the guest's load, store or jump; whatever happens ends in an exit: VMCALL when the access
# was made, otherwise the fault. A guest that runs on is stopped by the preemption timer. There are no VPIDs, so every
# VM entry begins without linear mappings.

    .equ BASE, 0xf0000

# --- the memory map, as in machines/bochs.py ------------------------------------------------------------------------
    .equ PML4, 0x1000
    .equ PDPT, 0x2000
    .equ DIRECTORIES, 0x3000            # four, for the lowest 4 GiB
    .equ TSS, 0x7000                    # all zero
    .equ STACK_END, 0x9000
    .equ VMXON, 0xa000
    .equ VMCS, 0xb000
    .equ IDT, 0xc000
    .equ LOOP_LIST, 0xd000              # the loop over the probes, while the guest has the registers
    .equ LOOP_RESULTS, 0xd008
    .equ LOOP_COUNT, 0xd010
    .equ GUEST_RAX, 0xd018
    .equ MAILBOX, 0x18000000
    .equ GUEST_CODE, 0x21000000

# --- the mailbox ----------------------------------------------------------------------------------------------------
    .equ MAGIC_VALUE, 0x5354414745320001
    .equ MAGIC, MAILBOX + 0x00
    .equ SEQUENCE, MAILBOX + 0x08
    .equ ACKNOWLEDGE, MAILBOX + 0x10
    .equ EVENT, MAILBOX + 0x18
    .equ LIST, MAILBOX + 0x28
    .equ COUNT, MAILBOX + 0x30
    .equ RESULTS, MAILBOX + 0x38
    .equ SENT_SECTORS, MAILBOX + 0x48   # what to read, the mailbox included
    .equ REPLY_SECTOR, MAILBOX + 0x50   # where the reply begins
    .equ WORDS, MAILBOX + 0x58          # list of words: address, value
    .equ WORD_COUNT, MAILBOX + 0x60
    .equ SCAN_START, MAILBOX + 0x68     # where every word that is not zero is to be found afterwards
    .equ SCAN_END, MAILBOX + 0x70
    .equ FOUND, MAILBOX + 0x78          # list of those: address, value; the end of the reply
    .equ INFO, MAILBOX + 0x80
    .equ FOUND_COUNT, MAILBOX + 0xb8    # how many there is room for; afterwards how many there are
    .equ LOAD_EPTP, MAILBOX + 0x100
    .equ LOAD_CR0, MAILBOX + 0x108
    .equ LOAD_CR3, MAILBOX + 0x110
    .equ LOAD_CR4, MAILBOX + 0x118
    .equ LOAD_EFER, MAILBOX + 0x120
    .equ CODE_KERNEL, MAILBOX + 0x128   # GVA of the guest's code for CPL 0
    .equ CODE_USER, MAILBOX + 0x130     # and for CPL 3
    .equ MAILBOX_SECTORS, 8
    .equ SECTOR_SHIFT, 9
    .equ READY, 0
    .equ FAILED, 2
    # A probe: address, value, kind, HPA of the word to show once the access was made. A result: outcome, value (that word,
    # or rax), six words of syndrome.
    .equ PROBE_VALUE, 8
    .equ PROBE_KIND, 16
    .equ PROBE_SHOWN, 24
    .equ PROBE_BYTES, 32
    .equ RESULT_VALUE, 8
    .equ RESULT_SYNDROME, 16
    .equ RESULT_BYTES, 64
    .equ ACCESS, 3
    .equ UNPRIVILEGED_BIT, 2
    .equ EXITED_BIT, 32                 # outcome: the exit reason with this bit
    .equ NO_ENTRY_BIT, 33               # or the VM-instruction error with this one
    .equ ENTRY_SHIFT, 4                 # log2 of the bytes of the guest's code for an access

# --- the VMCS (SDM appendix B) --------------------------------------------------------------------------------------
    .equ EPTP, 0x201a
    .equ GUEST_PHYSICAL, 0x2400
    .equ GUEST_EFER, 0x2806
    .equ HOST_EFER, 0x2c02
    .equ PIN_CONTROLS, 0x4000
    .equ PRIMARY_CONTROLS, 0x4002
    .equ EXCEPTIONS, 0x4004
    .equ EXIT_CONTROLS, 0x400c
    .equ ENTRY_CONTROLS, 0x4012
    .equ SECONDARY_CONTROLS, 0x401e
    .equ INSTRUCTION_ERROR, 0x4400
    .equ EXIT_REASON, 0x4402
    .equ EXIT_INTERRUPTION, 0x4404
    .equ EXIT_ERROR_CODE, 0x4406
    .equ INTERRUPTIBILITY, 0x4824
    .equ ACTIVITY, 0x4826
    .equ PREEMPTION_TIMER, 0x482e
    .equ QUALIFICATION, 0x6400
    .equ GUEST_LINEAR, 0x640a
    .equ GUEST_CR0, 0x6800
    .equ GUEST_CR3, 0x6802
    .equ GUEST_CR4, 0x6804
    .equ GUEST_RSP, 0x681c
    .equ GUEST_RIP, 0x681e
    .equ GUEST_RFLAGS, 0x6820
    .equ GUEST_CS, 0x802
    .equ GUEST_SS, 0x804
    .equ GUEST_CS_RIGHTS, 0x4816
    .equ GUEST_SS_RIGHTS, 0x4818
    .equ HOST_CR0, 0x6c00
    .equ HOST_CR3, 0x6c02
    .equ HOST_CR4, 0x6c04
    .equ REASON_VMCALL, 18
    .equ TICKS, 20000                   # of the preemption timer; a probe takes a few

    .equ CODE_32, 0x08
    .equ DATA, 0x10
    .equ CODE_64, 0x18
    .equ TASK, 0x20
    .equ COM1, 0x3f8
    .equ ATA, 0x1f0
    .equ ATA_READ, 0x20
    .equ ATA_WRITE, 0x30

    .macro write_field field, source
    mov $\field, %edx
    vmwrite \source, %rdx
    .endm
    .macro read_field field, target
    mov $\field, %edx
    vmread %rdx, \target
    .endm

# --- from reset to long mode ----------------------------------------------------------------------------------------
    .code16
    .globl _start
_start:
    cli
    in $0x92, %al                       # the A20 gate
    or $2, %al
    out %al, $0x92
    lgdtl %cs:gdt_pointer - BASE
    mov $0x21, %eax                     # PE, NE; caches on
    mov %eax, %cr0
    ljmpl $CODE_32, $protected

    .code32
protected:
    mov $DATA, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    cld
    # Everything below 4 GiB is at its own address, in pages of 2 MiB.
    xor %eax, %eax
    mov $PML4, %edi
    mov $(STACK_END - PML4) / 4, %ecx
    rep stosl
    movl $PDPT + 3, PML4
    mov $DIRECTORIES + 3, %eax
    mov $PDPT, %edi
1:  mov %eax, (%edi)
    add $8, %edi
    add $0x1000, %eax
    cmp $PDPT + 4 * 8, %edi
    jne 1b
    mov $0x83, %eax
    mov $DIRECTORIES, %edi
2:  mov %eax, (%edi)
    add $8, %edi
    add $0x200000, %eax
    cmp $DIRECTORIES + 4 * 0x1000, %edi
    jne 2b
    mov $PML4, %eax
    mov %eax, %cr3
    mov $0x2020, %eax                   # PAE, VMXE
    mov %eax, %cr4
    mov $0xc0000080, %ecx               # EFER
    mov $0x900, %eax                    # LME, NXE
    xor %edx, %edx
    wrmsr
    mov $0x80000021, %eax
    mov %eax, %cr0
    ljmp $CODE_64, $long

    .code64
long:
    mov $DATA, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    mov $STACK_END, %esp
    # An exception of the monitor's own is reported, not lost.
    mov $IDT, %edi
    mov $vectors, %ebx
3:  mov %ebx, %eax
    and $0xffff, %eax
    or $CODE_64 << 16, %eax
    mov %eax, (%rdi)
    mov %ebx, %eax
    mov $0x8e00, %ax
    mov %rax, 4(%rdi)
    movl $0, 12(%rdi)
    add $16, %edi
    add $8, %ebx
    cmp $vectors_end, %ebx
    jne 3b
    lidt idt_pointer
    mov $COM1 + 3, %dx                  # divisor 1, then 8 bits, no parity
    mov $0x83, %al
    out %al, %dx
    mov $COM1, %dx
    mov $1, %al
    out %al, %dx
    inc %edx
    dec %eax
    out %al, %dx
    mov $COM1 + 3, %dx
    mov $3, %al
    out %al, %dx
    mov $0x3f6, %dx                     # the disk is polled: no interrupts
    mov $2, %al
    out %al, %dx
    mov $0x3a, %ecx                     # IA32_FEATURE_CONTROL: VMX, and locked
    rdmsr
    test $1, %al
    jnz 4f
    or $5, %eax
    wrmsr
4:  mov $0x480, %ecx                    # IA32_VMX_BASIC: the revision
    rdmsr
    mov %eax, VMXON
    mov %eax, VMCS
    vmxon vmxon_pointer
    jbe stop
    # What this processor can do: EPT and VPID, secondary controls, address widths, features.
    mov $0x48c, %ecx
    call read_msr
    mov %rax, INFO
    mov $0x48b, %ecx
    call read_msr
    mov %rax, INFO + 8
    mov $0x80000008, %eax
    cpuid
    mov %rax, INFO + 16
    mov $7, %eax
    xor %ecx, %ecx
    cpuid
    shl $32, %rcx
    or %rcx, %rbx
    mov %rbx, INFO + 24
    movabs $MAGIC_VALUE, %rax
    mov %rax, MAGIC
    xor %r12d, %r12d                    # number of the event
    mov %r12, REPLY_SECTOR              # no reply but the mailbox
    mov %r12, FOUND_COUNT
    movq $MAILBOX, FOUND

# --- one command after the other ------------------------------------------------------------------------------------
ready:
    xor %eax, %eax                      # READY
ring:
    mov %rax, EVENT
    inc %r12
    mov %r12, SEQUENCE
    mov FOUND_COUNT, %rcx               # the reply ends with the list of words that were found
    shl $4, %rcx
    add FOUND, %rcx
    sub $MAILBOX - (1 << SECTOR_SHIFT) + 1, %rcx
    shr $SECTOR_SHIFT, %rcx
    mov REPLY_SECTOR, %rbx
    sub %rbx, %rcx
    jbe 1f
    mov $ATA_WRITE, %r8d
    call disk
1:  xor %ebx, %ebx
    mov $MAILBOX_SECTORS, %ecx
    mov $ATA_WRITE, %r8d
    call disk
    mov $COM1, %edx
    mov $'.', %al
    out %al, %dx
2:  xor %ebx, %ebx                      # stopped, as a rule, until there is a command
    mov $MAILBOX_SECTORS, %ecx
    mov $ATA_READ, %r8d
    call disk
    cmp %r12, ACKNOWLEDGE
    jne 2b
    mov $MAILBOX_SECTORS, %ebx
    mov SENT_SECTORS, %rcx
    sub %rbx, %rcx
    jbe 3f
    mov $ATA_READ, %r8d
    call disk
3:  call place
    call set_up
    call probe
    call take
    jmp ready

# Put the words of the list, and the guest's code, into memory.
place:
    mov WORDS, %rsi
    mov WORD_COUNT, %rcx
    jrcxz 2f
1:  mov (%rsi), %rdi
    mov 8(%rsi), %rax
    mov %rax, (%rdi)
    add $16, %rsi
    loop 1b
2:  mov $guest, %esi
    mov $GUEST_CODE, %edi
    mov $guest_end - guest, %ecx
    rep movsb
    ret

# Take them back: the words of the list as they are now, then whatever else is in the scanned range. Memory is zero
# afterwards.
take:
    mov WORDS, %rsi
    mov WORD_COUNT, %rcx
    jrcxz 2f
1:  mov (%rsi), %rdi
    mov (%rdi), %rax
    mov %rax, 8(%rsi)
    add $16, %rsi
    loop 1b
2:  mov SCAN_START, %rdi
    mov SCAN_END, %r8
    mov FOUND, %rsi
    mov FOUND_COUNT, %rbx
    mov %rbx, %rdx
3:  cmp %r8, %rdi                       # most of it is zero: 16 words at a time
    jae 7f
    mov (%rdi), %rax
    .set offset, 8
    .rept 15
    or offset(%rdi), %rax
    .set offset, offset + 8
    .endr
    jnz 4f
    add $16 * 8, %rdi
    jmp 3b
4:  mov $16, %ecx
5:  mov (%rdi), %rax
    test %rax, %rax
    jz 6f
    test %rdx, %rdx
    jz 7f                               # there is no room; Python sees that all of it is full
    mov %rdi, (%rsi)
    mov %rax, 8(%rsi)
    movq $0, (%rdi)
    add $16, %rsi
    dec %rdx
6:  add $8, %rdi
    loop 5b
    jmp 3b
7:  sub %rdx, %rbx
    mov %rbx, FOUND_COUNT
    mov WORDS, %rsi
    mov WORD_COUNT, %rcx
    jrcxz 9f
    xor %eax, %eax
8:  mov (%rsi), %rdi
    mov %rax, (%rdi)
    add $16, %rsi
    loop 8b
9:  ret

# A new VMCS from the list below and the mailbox; no translation is left over.
set_up:
    vmclear vmcs_pointer
    jbe stop
    vmptrld vmcs_pointer
    jbe stop
    mov $fields, %esi
1:  mov (%rsi), %r8
    mov 8(%rsi), %ebx
    mov 12(%rsi), %ecx
    jrcxz 2f
    rdmsr                               # a control: the bits that must be 1 and those that may be
    or %r8d, %eax
    and %edx, %eax
    mov %rax, %r8
2:  vmwrite %r8, %rbx
    jbe stop
    add $16, %esi
    cmp $fields_end, %esi
    jne 1b
    mov %cr0, %rax
    write_field HOST_CR0, %rax
    mov %cr3, %rax
    write_field HOST_CR3, %rax
    mov %cr4, %rax
    write_field HOST_CR4, %rax
    mov LOAD_EPTP, %rax
    write_field EPTP, %rax
    mov LOAD_CR0, %rax
    write_field GUEST_CR0, %rax
    mov LOAD_CR3, %rax
    write_field GUEST_CR3, %rax
    mov LOAD_CR4, %rax
    write_field GUEST_CR4, %rax
    mov LOAD_EFER, %rax
    write_field GUEST_EFER, %rax
    mov $2, %eax                        # all contexts
    invept no_context, %rax
    ret

# Make the probes of the list.
probe:
    mov LIST, %rsi
    mov RESULTS, %rdi
    mov COUNT, %rcx
    test %rcx, %rcx
    jz all_done
    xor %r13d, %r13d                    # whether the VMCS is launched
next:
    mov %rsi, LOOP_LIST
    mov %rdi, LOOP_RESULTS
    mov %rcx, LOOP_COUNT
    mov PROBE_KIND(%rsi), %r8
    mov CODE_KERNEL, %r9
    mov $CODE_64, %eax
    mov $0xa09b, %ebx
    mov $DATA, %r10d
    mov $0xc093, %r11d
    bt $UNPRIVILEGED_BIT, %r8
    jnc 1f
    mov CODE_USER, %r9
    or $3, %eax
    or $0x60, %ebx
    or $3, %r10d
    or $0x60, %r11d
1:  write_field GUEST_CS, %rax
    write_field GUEST_CS_RIGHTS, %rbx
    write_field GUEST_SS, %r10
    write_field GUEST_SS_RIGHTS, %r11
    and $ACCESS, %r8d
    shl $ENTRY_SHIFT, %r8d
    add %r8, %r9
    write_field GUEST_RIP, %r9
    xor %eax, %eax
    write_field GUEST_RSP, %rax
    write_field INTERRUPTIBILITY, %rax
    write_field ACTIVITY, %rax
    mov $2, %eax
    write_field GUEST_RFLAGS, %rax
    mov (%rsi), %rbx
    mov PROBE_VALUE(%rsi), %rax
    test %r13d, %r13d
    jnz 2f
    inc %r13d
    vmlaunch
    jmp no_entry
2:  vmresume
no_entry:
    read_field INSTRUCTION_ERROR, %rax
    bts $NO_ENTRY_BIT, %rax
    mov %rax, (%rdi)
    jmp another

exit:                                   # r13 is as it was: the guest's code does not touch it
    mov %rax, GUEST_RAX
    mov $1, %r13d
    mov LOOP_LIST, %rsi
    mov LOOP_RESULTS, %rdi
    mov LOOP_COUNT, %rcx
    read_field EXIT_REASON, %rax
    mov GUEST_RAX, %rbx
    cmp $REASON_VMCALL, %eax
    jne 1f
    xor %eax, %eax
    mov PROBE_SHOWN(%rsi), %rdx
    test %rdx, %rdx
    jz 2f
    mov (%rdx), %rbx
    jmp 2f
1:  bts $EXITED_BIT, %rax
2:  mov %rax, (%rdi)
    mov %rbx, RESULT_VALUE(%rdi)
    read_field QUALIFICATION, %rax
    mov %rax, RESULT_SYNDROME(%rdi)
    read_field GUEST_PHYSICAL, %rax
    mov %rax, RESULT_SYNDROME + 8(%rdi)
    read_field GUEST_LINEAR, %rax
    mov %rax, RESULT_SYNDROME + 16(%rdi)
    read_field EXIT_INTERRUPTION, %rax
    mov %rax, RESULT_SYNDROME + 24(%rdi)
    read_field EXIT_ERROR_CODE, %rax
    mov %rax, RESULT_SYNDROME + 32(%rdi)
    read_field GUEST_RIP, %rax
    mov %rax, RESULT_SYNDROME + 40(%rdi)
another:
    add $PROBE_BYTES, %rsi
    add $RESULT_BYTES, %rdi
    dec %rcx
    jnz next
all_done:
    ret

read_msr:                               # ecx -> rax
    rdmsr
    shl $32, %rdx
    or %rdx, %rax
    ret

# Read or write (command r8) ecx sectors from sector ebx on; they stand at the same place of the window. At most 256
# sectors go in one command.
disk:
    mov %rbx, %rdi
    shl $SECTOR_SHIFT, %rdi
    add $MAILBOX, %rdi
    mov %rdi, %rsi
1:  mov $256, %r9d
    cmp %r9d, %ecx
    cmovb %ecx, %r9d
    call disk_idle
    mov $ATA + 2, %edx
    mov %r9d, %eax
    out %al, %dx                        # sectors; 0 stands for 256
    inc %edx
    mov %ebx, %eax
    out %al, %dx
    inc %edx
    shr $8, %eax
    out %al, %dx
    inc %edx
    shr $8, %eax
    out %al, %dx
    inc %edx
    shr $8, %eax
    or $0xe0, %al                       # by block address, drive 0
    out %al, %dx
    inc %edx
    mov %r8d, %eax
    out %al, %dx
    add %r9d, %ebx
    sub %r9d, %ecx
    mov %ecx, %r10d
2:  mov $ATA + 7, %edx
3:  in %dx, %al
    test $1, %al
    jnz stop
    and $0x88, %al                      # not BSY, but DRQ
    cmp $8, %al
    jne 3b
    mov $ATA, %edx
    mov $1 << (SECTOR_SHIFT - 2), %ecx
    cmp $ATA_WRITE, %r8d
    je 4f
    rep insl
    jmp 5f
4:  rep outsl
5:  dec %r9d
    jnz 2b
    mov %r10d, %ecx
    test %ecx, %ecx
    jnz 1b
disk_idle:
    mov $ATA + 7, %edx
6:  in %dx, %al
    test $0x80, %al
    jnz 6b
    ret

# --- when the monitor itself meets an exception: INFO has the vector and the stack of the exception, FAILED is rung ---
    .balign 8
vectors:
    .set number, 0
    .rept 32
    push $number
    jmp failed
    .balign 8
    .set number, number + 1
    .endr
vectors_end:
failed:
    mov %rsp, %rsi
    mov $INFO, %edi
    mov $5, %ecx
    rep movsq
    mov %cr2, %rax
    stosq
    mov $STACK_END, %esp
    movq $0, REPLY_SECTOR
    movq $0, FOUND_COUNT
    movq $MAILBOX, FOUND
    mov $FAILED, %eax
    jmp ring
stop:                                   # what must succeed has failed: the stack says where, for what it is worth
    ud2

# --- the guest: rbx is the address, rax the value ---------------------------------------------------------------------
    .balign 16
guest:
    mov (%rbx), %rax
    vmcall
    .balign 1 << ENTRY_SHIFT
    mov %rax, (%rbx)
    vmcall
    .balign 1 << ENTRY_SHIFT
    jmp *%rbx                           # to a `mov eax, number; vmcall`
guest_end:

# --- fields of the VMCS that are always the same: value, field, MSR of what a control allows -----------------------------
    .macro field number, value, msr=0
    .quad \value
    .long \number, \msr
    .endm
    .balign 16
fields:
    field PIN_CONTROLS, 0x40, 0x48d     # the preemption timer
    field PRIMARY_CONTROLS, 0x81808280, 0x48e # secondary controls; HLT, I/O, MOV DR, MOV CR3, INVLPG exit
    field SECONDARY_CONTROLS, 0x2, 0x48b # EPT
    field EXIT_CONTROLS, 0x200200, 0x48f # to long mode, with EFER loaded
    field ENTRY_CONTROLS, 0x8200, 0x490 # to long mode, with EFER loaded
    field EXCEPTIONS, 0xffffffff        # all of them exit, page faults whatever their error code
    field PREEMPTION_TIMER, TICKS
    field 0x4006, 0                     # mask and match of page faults' error codes
    field 0x4008, 0
    field 0x400a, 0                     # no CR3 targets
    field 0x400e, 0                     # no MSRs to store or load
    field 0x4010, 0
    field 0x4014, 0
    field 0x4016, 0                     # no event to inject
    field 0x6000, -1                    # CR0 and CR4 belong to us
    field 0x6002, -1
    field 0x6004, 0
    field 0x6006, 0
    field 0x2800, -1                    # no shadow VMCS
    field 0x2802, 0                     # DEBUGCTL
    field HOST_EFER, 0xd00              # LME, LMA, NXE
    field 0xc00, DATA                   # host selectors: ES, CS, SS, DS, FS, GS, TR
    field 0xc02, CODE_64
    field 0xc04, DATA
    field 0xc06, DATA
    field 0xc08, DATA
    field 0xc0a, DATA
    field 0xc0c, TASK
    field 0x4c00, 0                     # SYSENTER of the host
    field 0x6c10, 0
    field 0x6c12, 0
    field 0x6c06, 0                     # bases of FS, GS, TR, GDT, IDT
    field 0x6c08, 0
    field 0x6c0a, TSS
    field 0x6c0c, gdt
    field 0x6c0e, IDT
    field 0x6c14, STACK_END-8           # RSP: `probe` has been called, nothing else
    field 0x6c16, exit
    field 0x800, 0                      # guest selectors but CS and SS, as null segments
    field 0x806, 0
    field 0x808, 0
    field 0x80a, 0
    field 0x80c, 0
    field 0x80e, TASK
    field 0x4800, 0xffffffff            # limits: ES, CS, SS, DS, FS, GS, LDTR, TR, GDTR, IDTR
    field 0x4802, 0xffffffff
    field 0x4804, 0xffffffff
    field 0x4806, 0xffffffff
    field 0x4808, 0xffffffff
    field 0x480a, 0xffffffff
    field 0x480c, 0
    field 0x480e, 0x67
    field 0x4810, 0
    field 0x4812, 0
    field 0x4814, 0x10000               # access rights: unusable, but of TR
    field 0x481a, 0x10000
    field 0x481c, 0x10000
    field 0x481e, 0x10000
    field 0x4820, 0x10000
    field 0x4822, 0x8b
    field 0x482a, 0                     # SYSENTER of the guest
    field 0x6824, 0
    field 0x6826, 0
    field 0x6806, 0                     # bases
    field 0x6808, 0
    field 0x680a, 0
    field 0x680c, 0
    field 0x680e, 0
    field 0x6810, 0
    field 0x6812, 0
    field 0x6814, 0
    field 0x6816, 0
    field 0x6818, 0
    field 0x681a, 0x400                 # DR7
    field 0x6822, 0                     # no debug exception is pending
fields_end:

no_context:
    .quad 0, 0
vmxon_pointer:
    .quad VMXON
vmcs_pointer:
    .quad VMCS
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff
    .quad 0x00008b0070000067, 0         # the TSS
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long gdt
    .long 0
idt_pointer:
    .word 32 * 16 - 1
    .quad IDT
