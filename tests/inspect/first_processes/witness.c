/* The first process of a guest that only has to live: it tells where its kernel is, and spins, so that the CPU is often
 * in it. */
#include "linux.h"

__attribute__((used, noreturn)) void first_process(void)
{
	mount_all();
	tell_kernel();
	text("lab: ready");
	end_line();
	for (;;)
		__asm__ volatile("");
}
