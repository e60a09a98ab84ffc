"""Interrupts of AArch64 guests on the Unicorn engine: a GICv2, the virtual timer by virtual time, WFI."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from assembler import build
from guest_bench import GuestBench

import stage2.engines.unicorn.arm.abi as arm_abi
from stage2.address import Gpa, Range
from stage2.engines.unicorn.arm.machine import ArmMachine
from stage2.errors import EngineError
from stage2.flags import MappingFlags, MapType
from stage2.images.guest_tree import GicPlace
from stage2.space.region import MemoryRegion
from stage2.vm.gic.v2 import CPU_INTERFACE_BYTES, DISTRIBUTOR_BYTES, GicV2
from stage2.vm.gic.v3 import GicV3
from stage2.vm.pl011 import Pl011
from stage2.vm.vm import RunResult, Vm

BASE, RESULTS = 0x8000_0000, 0x8020_0000
GICD, GICC, SERIAL = 0x800_0000, 0x801_0000, 0x900_0000
TIMER, PORT = 27, 33

# x19 is the distributor, x20 the CPU interface, x21 the results, x22 counts interrupts. A handler notes what it
# acknowledged and the timer's control register, masks timer and port, and ends the interrupt.
SOURCE = f"""
        .globl _start
_start: ldr x19, ={GICD:#x}
        ldr x20, ={GICC:#x}
        ldr x21, ={RESULTS:#x}
        ldr x23, ={SERIAL:#x}
        mov x22, #0
        adr x0, vectors
        msr vbar_el1, x0
        mov w0, #1
        str w0, [x19]                   // GICD_CTLR
        mov w0, #0xff
        str w0, [x20, #4]               // GICC_PMR
        mov w0, #1
        str w0, [x20]                   // GICC_CTLR
        mov w0, #-1
        str w0, [x19, #0x100]           // GICD_ISENABLER0 and 1
        str w0, [x19, #0x104]
        b guest
        .macro off
        ldr x0, =0x84000008
        hvc #0
        .endm
        .macro result number, register
        str \\register, [x21, #8 * \\number]
        .endm
        .balign 2048
vectors:
        .space 0x280                    // IRQ at EL1 with SP_EL1
irq:    ldr w9, [x20, #0xc]             // GICC_IAR
        add x10, x21, #0x100
        add x10, x10, x22, lsl #4
        mrs x11, cntv_ctl_el0
        stp x9, x11, [x10]
        add x22, x22, #1
        mov x11, #3
        msr cntv_ctl_el0, x11
        str wzr, [x23, #0x38]           // UARTIMSC
        str w9, [x20, #0x10]            // GICC_EOIR
        eret
        .balign 0x400
guest:
"""
SLEEP = """
        mrs x1, cntvct_el0
        ldr x0, =1000000
        msr cntv_tval_el0, x0
        mov x0, #1
        msr cntv_ctl_el0, x0
        mrs x2, cntv_tval_el0
        mrs x3, cntv_ctl_el0
"""


class Bench(GuestBench[ArmMachine]):
    """A VM with a GICv2 and a PL011."""

    fmt, ram, entry = "arm-s2-4k-40", BASE, BASE

    def __init__(self) -> None:
        super().__init__(ArmMachine)

    def vm_with_interrupts(self) -> Vm:
        spans = [Range.sized(GICD, DISTRIBUTOR_BYTES), Range.sized(GICC, CPU_INTERFACE_BYTES)]
        serial = Range.sized(SERIAL, 0x1000)
        vm = self.vm_with(
            *(MemoryRegion(Gpa(span.start), span.size, MappingFlags(0), MapType.EMULATED) for span in (*spans, serial))
        )
        gic = vm.gic = GicV2(1)
        vm.gic_place = GicPlace(2, *spans)
        vm.bus.attach(spans[0], gic.distributor)
        vm.bus.attach(spans[1], gic.cpu_interface)
        vm.bus.attach(serial, Pl011("serial", vm.console, lambda level: gic.set_level(0, PORT, level)))
        return vm

    def run(self, body: str, *, stop_at: int | None = None) -> RunResult:
        return self.run_image(self.vm_with_interrupts(), build("aarch64-linux-gnu-", SOURCE + body, BASE), stop_at)

    def taken(self, count: int) -> list[tuple[int, int]]:
        """What the handler noted of so many interrupts."""
        return [(self.word(RESULTS + 0x100 + 16 * n), self.word(RESULTS + 0x108 + 16 * n)) for n in range(count)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_a_guest_that_waits_is_woken_by_its_timer_at_its_time(bench: Bench) -> None:
    bench.run(SLEEP + """
        msr daifclr, #2
1:      wfi
        cbz x22, 1b
        mrs x4, cntvct_el0
        sub x4, x4, x1
        mrs x5, cntfrq_el0
        ldr w6, [x20, #0xc]
        result 0, x2
        result 1, x3
        result 2, x4
        result 3, x5
        result 4, x6
        result 5, x22
        off
    """)  # fmt: skip
    left, control, passed, frequency, acknowledged, count = (bench.word(RESULTS + 8 * n) for n in range(6))
    assert 999_000 < left <= 1_000_000
    assert control == 1
    assert 1_000_000 <= passed < 1_001_000
    assert (frequency, acknowledged, count) == (10_000_000, 1023, 1)
    assert bench.taken(1) == [(TIMER, 5)]


def test_a_wait_ends_with_a_pending_interrupt_that_is_masked(bench: Bench) -> None:
    bench.run(SLEEP + """
        wfi
        mrs x2, isr_el1
        ldr w3, [x20, #0x18]            // GICC_HPPIR
        mov x0, #3
        msr cntv_ctl_el0, x0
        isb
        b 1f
1:      mrs x4, isr_el1
        ldr w5, [x20, #0x18]
        msr daifclr, #2
        result 0, x2
        result 1, x3
        result 2, x4
        result 3, x5
        result 4, x22
        off
    """)  # fmt: skip
    assert [bench.word(RESULTS + 8 * n) for n in range(5)] == [0x80, TIMER, 0, 1023, 0]


def test_a_guest_interrupts_itself_and_is_interrupted_by_its_serial_port(bench: Bench) -> None:
    result = bench.run("""
        msr daifclr, #2
        ldr w0, =0x02000005
        str w0, [x19, #0xf00]           // GICD_SGIR
        b 1f
1:      mov w0, #0x20
        str w0, [x23, #0x38]            // UARTIMSC
        mov w0, #'!'
        str w0, [x23]
        b 1f
1:      result 0, x22
        off
    """)  # fmt: skip
    assert (result.exit, bench.vm.console.text) == ("off", "!")
    assert bench.word(RESULTS) == 2
    assert [intid for intid, _ in bench.taken(2)] == [5, PORT]


def test_a_timer_that_is_set_to_the_past_or_far_away_is_met_or_not(bench: Bench) -> None:
    bench.run("""
        msr daifclr, #2
        mov x0, #1
        msr cntv_cval_el0, xzr
        msr cntv_ctl_el0, x0
        b 1f
1:      mov x1, x22
        mov x0, #-1
        msr cntv_cval_el0, x0
        mov x0, #1
        msr cntv_ctl_el0, x0
        b 1f
1:      mrs x2, cntv_ctl_el0
        mov x3, #4096                   // 256 ticks pass
2:      subs x3, x3, #1
        b.ne 2b
        mov w0, #-5
        msr cntv_tval_el0, x0
        b 1f
1:      result 0, x1
        result 1, x2
        result 2, x22
        off
    """)
    assert [bench.word(RESULTS + 8 * n) for n in range(3)] == [1, 1, 2]


def test_a_guest_that_waits_for_nothing_can_be_stopped(bench: Bench) -> None:
    result = bench.run("""
        mov x0, #1
        result 0, x0
1:      wfi
        b 1b
    """, stop_at=RESULTS)  # fmt: skip
    assert (result.exit, result.reason) == ("interrupted", "the guest is at work")


def test_a_controller_whose_cpu_interface_is_system_registers_is_refused(bench: Bench) -> None:
    vm = bench.vm_with()
    vm.gic = GicV3()
    with pytest.raises(EngineError) as refused:
        ArmMachine(vm)
    assert str(refused.value) == (
        "VM test: the unicorn engine serves a GICv2 with its CPU interface: declare an InterruptController of 0x20000 "
        "bytes"
    )


@pytest.mark.parametrize("name", ["ENV_REGISTERS", "REGISTER_ENCODING"])
def test_a_library_whose_timer_registers_are_elsewhere_is_noticed(
    name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm = bench.vm_with_interrupts()
    monkeypatch.setattr(arm_abi, name, getattr(arm_abi, name) + 8)
    with pytest.raises(EngineError, match="is not where it was measured to be; is this another build"):
        ArmMachine(vm)
