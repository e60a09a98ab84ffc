/* What a first process needs of Linux, without a C library: system calls, lines on the console, and what /proc knows
 * of the kernel's own memory. One header for riscv64, aarch64 and x86_64. */
#pragma once

#include <asm/ioctl.h>
#include <asm/signal.h>
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <stddef.h>

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long u64;

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#if defined(__riscv)
__asm__(".globl _start\n_start: j first_process\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start: b first_process\n");
#elif defined(__x86_64__)
__asm__(".globl _start\n_start: call first_process\n");
#else
#error "an architecture without an entry"
#endif

static long system_call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__riscv)
	register long a7 __asm__("a7") = number;
	register long a0 __asm__("a0") = a;
	register long a1 __asm__("a1") = b;
	register long a2 __asm__("a2") = c;
	register long a3 __asm__("a3") = d;
	register long a4 __asm__("a4") = e;
	register long a5 __asm__("a5") = f;
	__asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
	return a0;
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = number;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	register long x4 __asm__("x4") = e;
	register long x5 __asm__("x5") = f;
	__asm__ volatile("svc #0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#else
	long answer;
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(answer) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return answer;
#endif
}

#define CALL_6(number, a, b, c, d, e, f, ...) \
	system_call(number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define CALL(name, ...) CALL_6(__NR_##name, __VA_ARGS__, 0, 0, 0, 0, 0, 0)

/* The compiler may call these for structures, whatever it was told. */
void *memset(void *to, int value, u64 size)
{
	for (u64 i = 0; i < size; i++)
		((volatile u8 *)to)[i] = value;
	return to;
}

void *memcpy(void *to, const void *from, u64 size)
{
	for (u64 i = 0; i < size; i++)
		((volatile u8 *)to)[i] = ((const u8 *)from)[i];
	return to;
}

static u64 length(const char *text)
{
	u64 size = 0;
	while (text[size])
		size++;
	return size;
}

static int same(const char *one, const char *other)
{
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

/* A line is written at once, so that the kernel's own messages do not come between its words. */
static char line[256];
static u32 line_size;

static void text(const char *word)
{
	while (*word && line_size < sizeof(line) - 1)
		line[line_size++] = *word++;
}

static void number(u64 value)
{
	text(" 0x");
	int digits = 1;
	while (digits < 16 && value >> 4 * digits)
		digits++;
	while (digits--) {
		char digit[2] = { "0123456789abcdef"[value >> 4 * digits & 15], 0 };
		text(digit);
	}
}

static void end_line(void)
{
	text("\n");
	CALL(write, 1, line, line_size);
	line_size = 0;
}

static void wait_for_ever(void)
{
	for (;;)
		CALL(ppoll, NULL, 0, NULL, NULL);
}

static long must(long answer, const char *what)
{
	if (answer < 0) {
		text("lab: failed: ");
		text(what);
		number(-answer);
		end_line();
		wait_for_ever();
	}
	return answer;
}

static int open_file(const char *path, int flags)
{
	return CALL(openat, AT_FDCWD, path, flags);
}

/* The ramdisk's folders are there; the kernel has opened /dev/console as 0, 1 and 2 if the ramdisk has it. */
static void mount_all(void)
{
	CALL(mount, "proc", "/proc", "proc");
	CALL(mount, "dev", "/dev", "devtmpfs");
}

/* Call `each` for the lines of a file of /proc, without their ends, until it answers 0. */
static void lines_of(const char *path, int (*each)(char *line))
{
	static char buffer[65536];
	u64 held = 0;
	long got;
	int file = must(open_file(path, O_RDONLY), path);
	while ((got = CALL(read, file, buffer + held, sizeof(buffer) - held)) > 0) {
		u64 end = held + got, from = 0;
		for (u64 at = held; at < end; at++)
			if (buffer[at] == '\n') {
				buffer[at] = 0;
				if (!each(buffer + from))
					goto enough;
				from = at + 1;
			}
		memcpy(buffer, buffer + from, end - from);
		held = end - from;
	}
enough:
	CALL(close, file);
}

static u64 read_hex(const char *digits)
{
	u64 value = 0;
	for (; (*digits >= '0' && *digits <= '9') || (*digits >= 'a' && *digits <= 'f'); digits++)
		value = value << 4 | (*digits <= '9' ? *digits - '0' : *digits - 'a' + 10);
	return value;
}

/* What this kernel calls its beginning, its text and its own root, and one string that nothing changes at boot. */
static const char *const told[] = { "_text", "_stext", "linux_banner", "swapper_pg_dir", "init_top_pgt", "init_task" };
#if defined(__x86_64__)
static int left_to_tell = COUNT(told) - 1; /* no swapper_pg_dir */
#else
static int left_to_tell = COUNT(told) - 1; /* no init_top_pgt */
#endif

static int tell_symbol(char *entry)
{
	/* "ffffffc080000000 T _text", and " [module]" behind those of modules, which end the search. */
	const char *name = entry;
	for (int spaces = 0; *name && spaces < 2; name++)
		spaces += *name == ' ';
	for (u32 i = 0; i < COUNT(told); i++)
		if (same(name, told[i])) {
			text("lab: symbol ");
			text(name);
			number(read_hex(entry));
			end_line();
			left_to_tell--;
		}
	return left_to_tell;
}

static int tell_code(char *entry)
{
	/* "  40210000-411fffff : Kernel code" */
	u64 size = length(entry);
	const char *ending = " : Kernel code";
	if (size < length(ending) || !same(entry + size - length(ending), ending))
		return 1;
	while (*entry == ' ')
		entry++;
	text("lab: code");
	number(read_hex(entry));
	end_line();
	return 0;
}

/* Where the kernel is: the addresses of some symbols, and the HPA (a guest's GPA) of its code. */
static void tell_kernel(void)
{
	lines_of("/proc/kallsyms", tell_symbol);
	lines_of("/proc/iomem", tell_code);
}
