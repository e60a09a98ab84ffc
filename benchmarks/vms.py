"""What a second VM costs the first: guests alone and two at once, each VM on its own thread.

Run with `python -m benchmarks.vms [--rounds N] [--linux]`. Figures are of the VMs' own threads, from the kernel's
accounts (/proc/thread-self/schedstat), so that what else the machine does hardly shows: how long a thread executed, and
how long it was held up by the other VM, which is wall clock less executing less waiting for a CPU, less the same of a
VM alone. Where nothing holds them up and each has a core, two VMs take as long as one.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stage2.address import GIB, MIB, SIZE_4K, Gpa, Range
from stage2.engines.unicorn.riscv.machine import RiscvMachine
from stage2.flags import RWX, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate
from stage2.vm.vm import Boot, Vm

RAM = Gpa(0x8000_0000)
DATA = RAM + 2 * MIB
"""Where guests read and write; the program is below."""
T0, T1, T2, T3, T4, A7 = 5, 6, 7, 28, 29, 17
SHUTDOWN = 8
"""SBI's legacy call."""


def upper(register: int, value: int) -> int:
    """lui register, value >> 12"""
    return value & 0xFFFF_F000 | register << 7 | 0x37


def add_number(target: int, source: int, value: int) -> int:
    """addi target, source, value"""
    return (value & 0xFFF) << 20 | source << 15 | target << 7 | 0x13


def add(target: int, one: int, other: int) -> int:
    return other << 20 | one << 15 | target << 7 | 0x33


def shift_left(target: int, source: int, bits: int) -> int:
    """slli target, source, bits"""
    return bits << 20 | source << 15 | 1 << 12 | target << 7 | 0x13


def load_word(target: int, address: int) -> int:
    """ld target, 0(address)"""
    return address << 15 | 3 << 12 | target << 7 | 0x03


def store_word(source: int, address: int) -> int:
    """sd source, 0(address)"""
    return source << 20 | address << 15 | 3 << 12 | 0x23


def branch_back(register: int, instructions: int) -> int:
    """bnez register, so many instructions back"""
    offset = -4 * instructions
    return (
        (offset >> 12 & 1) << 31 | (offset >> 5 & 0x3F) << 25 | register << 15 | 1 << 12
        | (offset >> 1 & 0xF) << 8 | (offset >> 11 & 1) << 7 | 0x63
    )  # fmt: skip


ECALL = 0x73


def program(rounds: int, pages: int, step: int = SIZE_4K) -> bytes:
    """A guest that writes and reads a word of each of `pages` pages, `rounds` times, and powers off.

    Args:
        rounds: below 2^31 and a multiple of 4096, or below 2048.
        pages: the same.
        step: bytes from word to word, 0 or a page.
    """

    def number(register: int, value: int) -> int:
        return upper(register, value) if value >> 11 else add_number(register, 0, value)

    words = [
        number(T0, rounds),
        number(T4, step),
        # DATA has bit 31 set, which lui would extend.
        add_number(T1, 0, DATA >> 21),
        shift_left(T1, T1, 21),
        number(T2, pages),
        # Written first, as guests do with fresh memory: the host has one page of zeros for all that only read.
        store_word(T0, T1),
        load_word(T3, T1),
        add_number(T3, T3, 1),
        add(T1, T1, T4),
        add_number(T2, T2, -1),
        branch_back(T2, 5),
        add_number(T0, T0, -1),
        branch_back(T0, 10),
        add_number(A7, 0, SHUTDOWN),
        ECALL,
    ]
    return b"".join(word.to_bytes(4, "little") for word in words)


@dataclass(frozen=True, slots=True)
class Guest:
    """A guest that does one thing.

    Args:
        name: what it does.
        code: its program.
        ram: bytes that it has.
        populate: when.
    """

    name: str
    code: bytes
    ram: int
    populate: Populate


GUESTS = (
    Guest("computes: writes and reads one word 2^28 times", program(1 << 16, 1 << 12, 0), 8 * MIB, Populate.EAGER),
    Guest("misses its TLB: a word of 2^12 pages, 2^9 times", program(1 << 9, 1 << 12), 32 * MIB, Populate.EAGER),
    Guest("faults: a word of 2^17 lazy pages, once", program(1, 1 << 17), GIB, Populate.LAZY),
)


@dataclass(frozen=True, slots=True)
class Times:
    """Of a VM's thread, in seconds.

    Args:
        wall: from its start to its end.
        executed: it was on a CPU.
        queued: it waited for one.
    """

    wall: float
    executed: float
    queued: float

    @property
    def held(self) -> float:
        """It waited for something else: the GIL, a lock, sleep."""
        return max(self.wall - self.executed - self.queued, 0.0)


def timed(work: Callable[[], object]) -> Times:
    """Run work on this thread."""

    def accounts() -> tuple[int, int]:
        executed, queued, _ = Path("/proc/thread-self/schedstat").read_text().split()
        return int(executed), int(queued)

    before, began = accounts(), time.perf_counter_ns()
    work()
    wall, after = time.perf_counter_ns() - began, accounts()
    return Times(wall / 1e9, (after[0] - before[0]) / 1e9, (after[1] - before[1]) / 1e9)


def side_by_side(works: Sequence[Callable[[], object]]) -> list[Times]:
    """Run each on a thread of its own, begun together."""
    gate, found, failures = threading.Barrier(len(works)), [], []

    def run(work: Callable[[], object]) -> None:
        try:
            gate.wait()
            found.append(timed(work))
        except BaseException as error:  # noqa: BLE001  # raised again below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return found


def machine(frames: FrameAllocator, guest: Guest, number: int) -> RiscvMachine:
    """A machine with one of the guests in it."""
    space = AddressSpace.create("sv39x4", frames, name=f"vm{number}", populate=guest.populate)
    space.map(MemoryRegion(RAM, guest.ram, RWX, MapType.MAP_ALLOC))
    vm = Vm(f"vm{number}", number, "riscv64", space)
    vm.boot = Boot(RAM)
    vm.memory.write(RAM, guest.code)
    return RiscvMachine(vm)


def at_once(guest: Guest, count: int) -> list[Times]:
    """So many VMs with that guest, each on a thread."""
    with PhysicalMemory([Range.sized(0x1_0000_0000, count * guest.ram + 256 * MIB)]) as memory:
        frames = FrameAllocator(memory)
        machines = [machine(frames, guest, number) for number in range(1, count + 1)]

        def run(one: RiscvMachine) -> None:
            result = one.run()
            if result.exit != "off":
                raise SystemExit(f"{guest.name}: {result.reason}")

        found = side_by_side([lambda one=one: run(one) for one in machines])  # type: ignore[misc]  # one is bound
        for one in machines:
            one.close()
            one.vm.close()
    return found


def linux_at_once(count: int) -> list[Times]:
    """So many lazy Linux guests from boot to power-off."""
    from stage2.config.document import parse_document
    from stage2.config.regions import plan_vm
    from stage2.config.vm import read_vm
    from stage2.vm.boot import load_images
    from stage2.vm.host import Options, build
    from stage2.vm.images import read_images

    example = Path(__file__).resolve().parent.parent / "examples/linux-riscv64.toml"
    texts = [example.read_text().replace("id = 1", f"id = {number}") for number in range(1, count + 1)]
    configs = [plan_vm(read_vm(parse_document(text, str(example)))) for text in texts]
    with build(configs, options=Options(Populate.LAZY)) as host:
        for vm, config in zip(host.vms, configs, strict=True):
            load_images(vm, config, read_images(config))
        machines = [RiscvMachine(vm) for vm in host.vms]
        found = side_by_side([one.run for one in machines])
        for one in machines:
            one.close()
    return found


def report(name: str, run: Callable[[int], list[Times]], rounds: int) -> None:
    """One VM and two at once in turns."""
    run(1)
    alone, pair = [], []
    for _ in range(rounds):
        alone += run(1)
        pair += run(2)
    one = statistics.median(times.executed for times in alone)
    two = statistics.median(times.executed for times in pair)
    held_alone = statistics.median(times.held for times in alone)
    held = statistics.median(times.held for times in pair)
    wall = min(times.wall for times in pair) / min(times.wall for times in alone)
    taken = (two + held) / (one + held_alone)
    print(
        f"{name}\n"
        f"    alone {one:.3f} s executed, {held_alone:.3f} s held up; of two {two:.3f} s and {held:.3f} s each\n"
        f"    two take {taken:.2f} times as long as one, wall clock {wall:.2f} (best of {rounds}), "
        f"so two cores do {2 / taken:.2f} times the work of one",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--linux", action="store_true", help="also boot fetched:linux-riscv64")
    options = parser.parse_args()
    for guest in GUESTS:
        report(guest.name, lambda count, guest=guest: at_once(guest, count), options.rounds)  # type: ignore[misc]
    if options.linux:
        report("boots Linux", linux_at_once, options.rounds)


if __name__ == "__main__":
    main()
