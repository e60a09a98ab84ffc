/* The first process of a machine whose Linux makes two VMs by KVM and lets both spin, so that the machine can be dumped
 * while their second-stage tables are alive. One source for riscv64, aarch64 and x86_64.
 *
 * A VM writes (GPA ^ key) near the end of every 64th page of its writable slots, its key being KEY plus the VM's number.
 * After that this process tells, for each such page, its GPA, its HPA by /proc/self/pagemap and the value in it. */
#include "linux.h"

#include <linux/kvm.h>

#define STEP 0x40000
#define OFFSET 0xff8
#define KEY 0x4b564d4cUL
#define VMS 2

/* Slots, the same in each VM: 16 MiB whose lower half is huge pages, 4 MiB of small pages, 64 KiB that are read-only. */
#define MIXED 0x80000000
#define MIXED_END 0x81000000
#define HUGE_BYTES 0x800000UL
#define SMALL 0x90000000
#define SMALL_END 0x90400000
#define FIXED 0xa0000000
#define FIXED_BYTES 0x10000UL
/* A device address of no slot: a write here leaves the guest. */
#define LEAVE 0x10000000

#define WORD_(value) #value
#define WORD(value) WORD_(value)

/* The guest begins with its key in a register (a0, x0, esi), translation off, at the first byte of the first slot. It
 * touches its pages, reads the read-only slot, leaves once, and spins. When it leaves its key is in a0, x0 or eax, and
 * stays there. */
extern const char guest[], guest_end[];
#if defined(__riscv)
__asm__(".section .rodata\n.option push\n.option norvc\n.option norelax\n"
	"guest:\n"
	"	li t0, " WORD(MIXED) "\n	li t1, " WORD(MIXED_END) "\n	jal touch\n"
	"	li t0, " WORD(SMALL) "\n	li t1, " WORD(SMALL_END) "\n	jal touch\n"
	"	li t0, " WORD(FIXED) "\n	ld t1, (t0)\n"
	"	li t0, " WORD(LEAVE) "\n	sw t1, (t0)\n"
	"spin:	j spin\n"
	"touch:	li t2, " WORD(OFFSET) "\n	add t2, t2, t0\n	xor t3, t0, a0\n	sd t3, (t2)\n"
	"	li t2, " WORD(STEP) "\n	add t0, t0, t2\n	bltu t0, t1, touch\n	ret\n"
	"guest_end:\n.option pop\n.previous\n");
#elif defined(__aarch64__)
__asm__(".section .rodata\n.balign 4\n"
	"guest:\n"
	"	mov x1, #" WORD(MIXED) "\n	mov x2, #" WORD(MIXED_END) "\n	bl touch\n"
	"	mov x1, #" WORD(SMALL) "\n	movz x2, #" WORD(SMALL_END) " >> 16, lsl #16\n	bl touch\n"
	"	mov x1, #" WORD(FIXED) "\n	ldr x2, [x1]\n"
	"	mov x1, #" WORD(LEAVE) "\n	str w2, [x1]\n"
	"spin:	b spin\n"
	"touch:	eor x3, x1, x0\n	str x3, [x1, #" WORD(OFFSET) "]\n"
	"	add x1, x1, #" WORD(STEP) "\n	cmp x1, x2\n	b.lo touch\n	ret\n"
	"guest_end:\n.previous\n");
#elif defined(__x86_64__)
__asm__(".section .rodata\n.code32\n"
	"guest:\n"
	"	movl $" WORD(MIXED) ", %ebx\n	movl $" WORD(MIXED_END) ", %ecx\n	jmp touch\n"
	"small:	movl $" WORD(SMALL) ", %ebx\n	movl $" WORD(SMALL_END) ", %ecx\n"
	"touch:	movl %ebx, %eax\n	xorl %esi, %eax\n	movl %eax, " WORD(OFFSET) "(%ebx)\n"
	"	addl $" WORD(STEP) ", %ebx\n	cmpl %ecx, %ebx\n	jb touch\n"
	"	cmpl $" WORD(SMALL_END) ", %ecx\n	jne small\n"
	"	movl $" WORD(FIXED) ", %ebx\n	movl (%ebx), %edx\n	movl %esi, %eax\n"
	"	movl $" WORD(LEAVE) ", %ebx\n	movl %edx, (%ebx)\n"
	"spin:	jmp spin\n"
	"guest_end:\n.code64\n.previous\n");
#endif

static void load_modules(void)
{
	/* As the ramdisk has them: in the order in which they need each other. */
	char path[] = "/modules/0";
	for (int file; (file = open_file(path, O_RDONLY)) >= 0; path[sizeof(path) - 2]++) {
		must(CALL(finit_module, file, "", 0), path);
		CALL(close, file);
	}
}

static u64 hpa_of(const void *address)
{
	u64 entry = 0;
	int file = must(open_file("/proc/self/pagemap", O_RDONLY), "pagemap");
	must(CALL(pread64, file, &entry, sizeof(entry), (u64)address / 4096 * sizeof(entry)), "pagemap");
	CALL(close, file);
	return entry >> 63 ? (entry & ((1UL << 55) - 1)) * 4096 : 0;
}

static char *memory(char *at, u64 size, int flags)
{
	long got = CALL(mmap, at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
	char *found = (char *)must(got, "mmap");
	if (!(flags & MAP_HUGETLB))
		CALL(madvise, found, size, MADV_NOHUGEPAGE);
	return found;
}

static void give(int vm, int slot, u64 gpa, const char *memory, u64 size, int flags)
{
	struct kvm_userspace_memory_region region = {
		.slot = slot, .flags = flags, .guest_phys_addr = gpa, .memory_size = size, .userspace_addr = (u64)memory,
	};
	must(CALL(ioctl, vm, KVM_SET_USER_MEMORY_REGION, &region), "slot");
}

#if !defined(__x86_64__)
static void set_register(int cpu, u64 id, u64 value)
{
	struct kvm_one_reg one = { .id = id, .addr = (u64)&value };
	must(CALL(ioctl, cpu, KVM_SET_ONE_REG, &one), "register");
}
#endif

static void set_up_cpu(int vm, int cpu, u64 key)
{
#if defined(__riscv)
	(void)vm;
	const u64 core = KVM_REG_RISCV | KVM_REG_SIZE_U64 | KVM_REG_RISCV_CORE;
	set_register(cpu, core | KVM_REG_RISCV_CORE_REG(regs.pc), MIXED);
	set_register(cpu, core | KVM_REG_RISCV_CORE_REG(regs.a0), key);
#elif defined(__aarch64__)
	const u64 core = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE;
	struct kvm_vcpu_init init;
	must(CALL(ioctl, vm, KVM_ARM_PREFERRED_TARGET, &init), "target");
	must(CALL(ioctl, cpu, KVM_ARM_VCPU_INIT, &init), "init");
	set_register(cpu, core | KVM_REG_ARM_CORE_REG(regs.pc), MIXED);
	set_register(cpu, core | KVM_REG_ARM_CORE_REG(regs.regs[0]), key);
#else
	/* Protected mode, flat segments, no paging. */
	(void)vm;
	struct kvm_sregs special;
	must(CALL(ioctl, cpu, KVM_GET_SREGS, &special), "sregs");
	struct kvm_segment data = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	special.ds = special.es = special.ss = special.cs = data;
	special.cs.selector = 8;
	special.cs.type = 11;
	special.cr0 |= 1;
	must(CALL(ioctl, cpu, KVM_SET_SREGS, &special), "sregs");
	struct kvm_regs general = { .rip = MIXED, .rflags = 2, .rsi = key };
	must(CALL(ioctl, cpu, KVM_SET_REGS, &general), "regs");
#endif
}

static void tell(int number_of_vm, u64 gpa, const char *page, const char *kind)
{
	text("lab: vm");
	number(number_of_vm);
	number(gpa);
	number(hpa_of(page));
	number(*(volatile const u64 *)(page + OFFSET));
	text(" ");
	text(kind);
	end_line();
}

/* Make a VM, let it run until it leaves, and tell of its pages. The answer is its CPU. */
static int make_vm(int which)
{
	int kvm = must(open_file("/dev/kvm", O_RDWR), "/dev/kvm");
	int vm = must(CALL(ioctl, kvm, KVM_CREATE_VM, 0), "vm");
	/* Reserve more than the slot, and begin it where a huge page can. */
	u64 free = (u64)memory(NULL, MIXED_END - MIXED + 0x200000UL, MAP_NORESERVE);
	char *mixed = memory((char *)((free + 0x1fffffUL) & ~0x1fffffUL), HUGE_BYTES, MAP_HUGETLB | MAP_FIXED);
	char *small = memory(NULL, SMALL_END - SMALL, 0);
	char *fixed = memory(NULL, FIXED_BYTES, 0);
	memset(fixed, 'R', FIXED_BYTES);
	memcpy(mixed, guest, guest_end - guest);
	give(vm, 0, MIXED, mixed, MIXED_END - MIXED, 0);
	give(vm, 1, SMALL, small, SMALL_END - SMALL, 0);
	give(vm, 2, FIXED, fixed, FIXED_BYTES, KVM_MEM_READONLY);
	int cpu = must(CALL(ioctl, vm, KVM_CREATE_VCPU, 0), "vcpu");
	u64 size = must(CALL(ioctl, kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "run size");
	struct kvm_run *run = (void *)must(CALL(mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, cpu, 0), "run");
	set_up_cpu(vm, cpu, KEY + which);
	must(CALL(ioctl, cpu, KVM_RUN, 0), "first run");
	if (run->exit_reason != KVM_EXIT_MMIO || run->mmio.phys_addr != LEAVE)
		must(-(long)run->exit_reason, "the guest left for another reason");
	for (u64 gpa = MIXED; gpa < MIXED_END; gpa += STEP)
		tell(which, gpa, mixed + (gpa - MIXED), gpa - MIXED < HUGE_BYTES ? "huge" : "small");
	for (u64 gpa = SMALL; gpa < SMALL_END; gpa += STEP)
		tell(which, gpa, small + (gpa - SMALL), "small");
	tell(which, FIXED, fixed, "read-only");
	return cpu;
}

static void go_on(int cpu)
{
	for (;;)
		must(CALL(ioctl, cpu, KVM_RUN, 0), "a later run");
}

__attribute__((used, noreturn)) void first_process(void)
{
	mount_all();
	load_modules();
	tell_kernel();
	/* A VM belongs to the address space that made it, so each has a process; they are made one after the other. */
	for (int which = 0; which < VMS - 1; which++) {
		int ends[2];
		char done;
		must(CALL(pipe2, ends, 0), "pipe");
		if (must(CALL(clone, SIGCHLD), "clone") == 0) {
			int cpu = make_vm(which);
			CALL(write, ends[1], "", 1);
			go_on(cpu);
		}
		must(CALL(read, ends[0], &done, 1), "the other process");
	}
	int cpu = make_vm(VMS - 1);
	text("lab: ready");
	end_line();
	go_on(cpu);
	__builtin_unreachable();
}
