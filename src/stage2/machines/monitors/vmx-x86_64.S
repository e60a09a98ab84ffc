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

    .include "vmx-layout.inc"
    .include "vmx-start.inc"

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
    mov $0x48b, %ecx                    # the bits that must be 1 and those that may be
    rdmsr
    or LOAD_SECONDARY, %eax
    and %edx, %eax
    write_field SECONDARY_CONTROLS, %rax
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
    add $PROBE_SIZE, %rsi
    add $RESULT_SIZE, %rdi
    dec %rcx
    jnz next
all_done:
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

    .include "vmx-disk.inc"
    .include "vmx-fields.inc"

no_context:
    .quad 0, 0
vmxon_pointer:
    .quad VMXON
vmcs_pointer:
    .quad VMCS
