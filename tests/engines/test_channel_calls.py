"""Channels as guests use them: SBI calls of two running guests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from assembler import BASE, assemble

from stage2.address import GIB, MIB, Gpa, Range
from stage2.engines.unicorn.riscv.machine import RiscvMachine
from stage2.flags import RWX, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, ViolationPolicy
from stage2.vm.channels import ChannelTable
from stage2.vm.sbi import CHANNELS
from stage2.vm.vm import Boot, RunResult, Vm
from waiting import HANG_S

MACROS = f"""
        .macro call function, first, second, third
        li a7, {CHANNELS:#x}
        li a6, \\function
        li a0, \\first
        li a1, \\second
        li a2, \\third
        ecall
        .endm
"""


class Bench:
    def __init__(self) -> None:
        self.memory = PhysicalMemory([Range.sized(0x1_0000_0000, GIB)])
        self.frames = FrameAllocator(self.memory)
        self.channels = ChannelTable(self.frames)
        self.vms = [self.vm(number) for number in (1, 2)]

    def vm(self, number: int) -> Vm:
        space = AddressSpace.create("sv39x4", self.frames, name=f"vm{number}", violation=ViolationPolicy.STOP)
        space.map(MemoryRegion(Gpa(BASE), 8 * MIB, RWX, MapType.MAP_ALLOC))
        vm = Vm(f"vm{number}", number, "riscv64", space, channels=self.channels)
        vm.boot = Boot(Gpa(BASE))
        return vm

    def run(self, vm: Vm, body: str) -> RunResult:
        vm.memory.write(BASE, assemble(MACROS + body))
        machine = RiscvMachine(vm)
        try:
            return machine.run()
        finally:
            machine.close()

    def words(self, vm: Vm, count: int) -> list[int]:
        data = vm.memory.read(BASE + 4 * MIB, 8 * count)
        return [int.from_bytes(data[i : i + 8], "little", signed=True) for i in range(0, 8 * count, 8)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    for vm in bench.vms:
        vm.close()
    assert bench.frames.used_bytes == 0
    bench.memory.close()


def test_one_guest_publishes_and_another_reads_and_may_not_write(bench: Bench) -> None:
    publisher, subscriber = bench.vms
    result = bench.run(
        publisher,
        """
        call 0, 0x77, 5000, 0
        li t0, 0x1000
        add t0, t0, a1
        li t1, 0x5ec0de
        sd t1, 0(t0)
        off
        """,
    )
    assert result.exit == "off"
    result = bench.run(
        subscriber,
        """
        li s0, 0x80400000
        call 1, 1, 0x77, 0
        mv s1, a1
        sd a0, 0(s0)
        li t0, 0x1000
        add t0, t0, s1
        ld t1, 0(t0)
        sd t1, 8(s0)
        call 4, 1, 0x77, 0
        sd a1, 16(s0)
        call 1, 1, 0x77, 0
        sd a0, 24(s0)
        call 1, 1, 0x78, 0
        sd a0, 32(s0)
        call 0, 1, 0x1000, 2
        sd a0, 40(s0)
        call 9, 0, 0, 0
        sd a0, 48(s0)
        sd zero, 0(s1)
        off
        """,
    )
    assert bench.words(subscriber, 7) == [0, 0x5EC0DE, 0x2000, -4, -4, -3, -2]
    assert result.exit == "stopped"
    assert "write of GPA" in result.reason
    assert "channel 0x77 of VM 1" in result.reason


def test_what_a_guest_unsubscribed_from_is_a_hole_at_once(bench: Bench) -> None:
    publisher, subscriber = bench.vms
    assert bench.run(publisher, "call 0, 1, 0x1000, 1\n off").exit == "off"
    result = bench.run(
        subscriber,
        """
        call 1, 1, 1, 0
        mv s1, a1
        sd s1, 0(s1)
        call 3, 1, 1, 0
        ld t1, 0(s1)
        off
        """,
    )
    assert result.exit == "stopped"
    assert "hole" in result.reason
    assert result.reason.startswith("read of GPA")


def test_two_running_guests_pass_a_word_back_and_forth(bench: Bench) -> None:
    from threading import Thread

    ping, pong = bench.vms
    results: dict[str, RunResult] = {}

    def play(name: str, vm: Vm, body: str) -> None:
        results[name] = bench.run(vm, body)

    # Ping counts odd numbers, pong even ones; each waits for the other's.
    first = Thread(
        target=play,
        args=(
            "ping",
            ping,
            """
        call 0, 5, 0x1000, 1
        li t0, 1
        li t2, 101
1:      sd t0, 0(a1)
        addi t0, t0, 1
2:      ld t1, 0(a1)
        bne t1, t0, 2b
        addi t0, t0, 1
        blt t0, t2, 1b
        off
        """,
        ),
    )
    second = Thread(
        target=play,
        args=(
            "pong",
            pong,
            """
0:      call 1, 1, 5, 0
        bnez a0, 0b
        li t0, 1
        li t2, 101
1:      ld t1, 0(a1)
        bne t1, t0, 1b
        addi t0, t0, 1
        sd t0, 0(a1)
        addi t0, t0, 1
        blt t0, t2, 1b
        off
        """,
        ),
    )
    for thread in (first, second):
        thread.start()
    for thread in (first, second):
        thread.join(HANG_S)
        assert not thread.is_alive()
    assert {name: result.exit for name, result in results.items()} == {"ping": "off", "pong": "off"}
