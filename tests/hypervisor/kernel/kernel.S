/* A kernel with something in every section of the layout and no code that runs: it is the same for every
   architecture. */
    .section .text.boot, "ax"
    .globl _start
_start:
    .4byte 0
    .section .text.rest, "ax"
    .fill 5000, 1, 0
    .section .rodata, "a"
    .fill 100, 1, 1
    .section .data.boot_page_table, "aw"
    .balign 4096
    .fill 4096, 1, 0
    .section .data, "aw"
    .fill 300, 1, 2
    .section .tdata, "awT", %progbits
    .fill 40, 1, 3
    .section .tbss, "awT", %nobits
    .zero 24
    .section .percpu.first, "aw", %progbits
    .globl counter
counter:
    .8byte 7
    .fill 92, 1, 4
    .section .bss.stack, "aw", %nobits
    .zero 0x8000
    .section .bss, "aw", %nobits
    .zero 5000
