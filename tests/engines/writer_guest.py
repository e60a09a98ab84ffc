"""A guest of each architecture that writes pages, counts, computes with floats and prints, for ever the same."""

from __future__ import annotations

import hashlib
from pathlib import Path

from assembler import PREFIX, build

from stage2.address import GIB, MIB, Gpa, Range
from stage2.engines.run import machine_for
from stage2.engines.unicorn.machine import Machine
from stage2.flags import RWX, MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate
from stage2.vm.snapshots.snapshot import Snapshot
from stage2.vm.uart16550 import Uart
from stage2.vm.vm import Boot, RunResult, Vm

RAM, UART = 0x8000_0000, 0x1000_0000
PAGES = 64
"""Pages that one CPU writes to, each at random; they begin 2 MiB into RAM, those of the second CPU 1 MiB later."""
FORMATS = {"riscv64": "sv39x4", "aarch64": "arm-s2-4k-40", "x86_64": "npt4"}

_RISCV = f"""
        .option norvc
        .globl _start
_start: mv      s11, a0                 # the hart
        li      t0, 1 << 13
        csrs    sstatus, t0             # floats on
        li      t0, 1 << 5
        csrs    sie, t0
        li      s8, {RAM + 2 * MIB}
        slli    t0, s11, 20
        add     s7, s8, t0              # the pages of this hart
        addi    s0, s11, 1
        li      s1, 0
        bnez    s11, again
        li      a7, 0x48534d            # start the other one, if there is one
        li      a6, 0
        li      a0, 1
        la      a1, _start
        ecall
again:  li      t0, 1103515245
        mul     s0, s0, t0
        li      t0, 12345
        add     s0, s0, t0
        srli    t0, s0, 16
        andi    t0, t0, {PAGES - 1}
        slli    t0, t0, 12
        add     t0, t0, s7
        sd      s0, 8(t0)
        fcvt.d.l ft0, s0
        fadd.d  ft1, ft1, ft0
        fsd     ft1, 16(t0)
1:      lr.d    t0, (s8)                # a counter of all harts
        j       2f                      # the guest can be left here, with a reservation
2:      addi    t0, t0, 1
        sc.d    t1, t0, (s8)
        bnez    t1, 1b
        addi    s1, s1, 1
        andi    t0, s1, 15
        bnez    t0, again
        srli    a0, s0, 20
        andi    a0, a0, 15
        addi    a0, a0, 'a'
        li      a7, 1
        ecall                           # print
        andi    t0, s1, 63
        bnez    t0, again
        rdtime  a0
        addi    a0, a0, 20
        li      a7, 0x54494d45
        li      a6, 0
        ecall                           # sleep until the timer
1:      wfi
        csrr    t0, sip
        andi    t0, t0, 1 << 5
        beqz    t0, 1b
        j       again
"""
_ARM = f"""
        .globl _start
_start: mov     x0, #3 << 20
        msr     cpacr_el1, x0           // floats on
        isb
        ldr     x8, ={RAM + 2 * MIB}
        ldr     x7, ={UART}
        mov     x20, #1
        mov     x21, #0
again:  ldr     x0, =1103515245
        mul     x20, x20, x0
        ldr     x0, =12345
        add     x20, x20, x0
        lsr     x0, x20, #16
        and     x0, x0, #{PAGES - 1}
        add     x0, x8, x0, lsl #12
        str     x20, [x0, #8]
        scvtf   d0, x20
        fadd    d1, d1, d0
        str     d1, [x0, #16]
1:      ldxr    x0, [x8]
        b       2f                      // the guest can be left here, with its monitor closed
2:      add     x0, x0, #1
        stxr    w1, x0, [x8]
        cbnz    w1, 1b
        add     x21, x21, #1
        tst     x21, #15
        b.ne    again
        lsr     x0, x20, #20
        and     x0, x0, #15
        add     x0, x0, #'a'
        strb    w0, [x7]
        b       again
        .ltorg
"""
_X86 = f"""
        .code32
        .globl _start
_start: mov     %cr4, %eax
        or      $0x200, %eax            # floats on
        mov     %eax, %cr4
        fninit
        mov     $1, %esi
        xor     %edi, %edi
        mov     ${RAM + 2 * MIB}, %ebx
again:  imul    $1103515245, %esi, %esi
        add     $12345, %esi
        mov     %esi, %eax
        shr     $16, %eax
        and     ${PAGES - 1}, %eax
        shl     $12, %eax
        add     %ebx, %eax
        mov     %esi, 8(%eax)
        cvtsi2sd %esi, %xmm0
        addsd   %xmm0, %xmm1
        movsd   %xmm1, 16(%eax)
        fld1
        fadds   8(%ebx)
        fstps   24(%eax)
        lock incl (%ebx)
        inc     %edi
        test    $15, %edi
        jne     again
        mov     %esi, %eax
        shr     $20, %eax
        and     $15, %eax
        add     $'a', %eax
        mov     $0x3f8, %edx
        out     %al, %dx
        jmp     again
"""
_SOURCES = {
    "riscv64": (PREFIX, _RISCV, ["-march=rv64g_zifencei"], ["--no-relax"]),
    "aarch64": ("aarch64-linux-gnu-", _ARM, [], []),
    "x86_64": ("x86_64-linux-gnu-", _X86, ["--32"], ["-m", "elf_i386"]),
}
_images: dict[str, bytes] = {}


class Writer:
    """The guest in a VM on a machine, which runs it from one moment of its time to another.

    Args:
        arch: its architecture.
        cpus: how many CPUs it has, which must be 1 but on RISC-V.
        populate: when its RAM gets frames, in leaves of 2 MiB if at once.
        limit: bytes of frames that it may have.
        name: of the VM.
    """

    def __init__(
        self,
        arch: str = "riscv64",
        *,
        cpus: int = 1,
        populate: Populate = Populate.LAZY,
        limit: int | None = None,
        name: str = "writer",
    ) -> None:
        if arch not in _images:
            prefix, text, as_options, ld_options = _SOURCES[arch]
            _images[arch] = build(prefix, text, RAM, as_options, ld_options)
        self.memory = PhysicalMemory([Range.sized(0x1_0000_0000, GIB)])
        self.frames = FrameAllocator(self.memory)
        largest = None if populate is Populate.LAZY else 2 * MIB
        space = AddressSpace.create(
            FORMATS[arch], self.frames, name=name, populate=populate, largest=largest, limit=limit
        )
        space.map(MemoryRegion(Gpa(RAM), 4 * MIB, RWX, MapType.MAP_ALLOC, name="ram"))
        space.map(MemoryRegion(Gpa(UART), 4096, MappingFlags(0), MapType.EMULATED, name="uart"))
        self.vm = Vm(name, 1, arch, space, cpu_count=cpus)
        self.vm.bus.attach(Range.sized(UART, 0x1000), Uart("uart", self.vm.console))
        self.vm.boot = Boot(Gpa(RAM))
        self.vm.memory.write(RAM, _images[arch])
        machine = machine_for(self.vm)
        assert isinstance(machine, Machine)
        self.machine = machine

    @property
    def now(self) -> int:
        """Nanoseconds of the guest's time."""
        return self.machine.clock.now().nanos

    def run_until(self, nanos: int) -> RunResult:
        """Let it run until its time."""
        self.machine.when(nanos, lambda: self.machine.stop("stopped", "its time has come"))
        return self.machine.run()

    def state(self) -> str:
        """All that it is, as a sum."""
        return sum_of(self.vm.snapshot(follow=False))

    def close(self) -> None:
        self.machine.close()
        self.vm.close()
        assert self.frames.used_bytes == 0
        self.memory.close()


def sum_of(snapshot: Snapshot) -> str:
    """Memory, CPUs, timers and console of a snapshot as a sum; how it came to be does not count."""
    digest = hashlib.sha256(snapshot.pages.gpas.tobytes())
    for piece in snapshot.pages.pieces():
        digest.update(piece.tobytes())
    state = snapshot.state
    digest.update(repr((state.machine, state.devices, state.console_position, state.console)).encode())
    return digest.hexdigest()


def store(path: Path, snapshot: Snapshot) -> Snapshot:
    """The same snapshot, by way of a file."""
    snapshot.save(path)
    return Snapshot.open(path)
