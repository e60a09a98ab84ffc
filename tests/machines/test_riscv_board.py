"""QEMU's RISC-V board and its monitor, with guests of a few instructions whose G-stage is one table."""

from __future__ import annotations

import os
import select
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stage2.address import GIB, MIB, Hpa, Range
from stage2.formats.riscv import entry
from stage2.formats.riscv.syndromes import GUEST_CALL, INTERRUPT
from stage2.machines import mailbox
from stage2.machines.core import Core
from stage2.machines.riscv_board import Context, Exit, RiscvBoard, exit_of, load_rest, save_rest
from stage2.memory.physical import PhysicalMemory
from waiting import HANG_S

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))
from assembler import assemble, require_assembler

ROOT, MEMORY = 0x8100_0000, 0x8200_0000
"""HPAs of the root table, and of 2 MiB that guests see at 2 GiB, 2 MiB a guest."""
GUEST = 0x8000_0000
HGATP = 8 << 60 | 1 << 44 | ROOT >> 12
LEAF = entry.V | entry.R | entry.W | entry.X | entry.U | entry.A | entry.D
TWO_HARTS = 0b11


@pytest.fixture(scope="module")
def shared() -> Iterator[RiscvBoard]:
    if shutil.which(RiscvBoard.PROGRAM) is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs the Debian package {RiscvBoard.PACKAGE}")
        pytest.skip(f"{RiscvBoard.PROGRAM} is not installed")
    memory = PhysicalMemory([Range.sized(GUEST, 128 * MIB)], backing="memfd")
    with RiscvBoard(memory, cores=2) as board:
        yield board
    memory.close()


@pytest.fixture
def board(shared: RiscvBoard) -> Iterator[RiscvBoard]:
    """The board, whose harts wait for us before and after each test."""
    yield shared
    for core in shared.cores:
        if not core.waits:
            stop(core)


def load(board: RiscvBoard, core: Core, body: str, harts: int = 1) -> None:
    """Put a guest into memory that Python alone has written, and its tables into a hart."""
    require_assembler()
    memory = board.memory
    at = MEMORY + core.number * 2 * MIB
    second = ROOT + 0x1_0000 + core.number * 0x1000
    root = ROOT + core.number * 0x4000
    memory.write(Hpa(at), assemble(body))
    memory.store_u64(Hpa(root + 8 * (GUEST // GIB)), entry.pack_address(second) | entry.V)
    memory.store_u64(Hpa(second), entry.pack_address(at) | LEAF)
    core.renew([at])
    core.load([8 << 60 | (1 + core.number) << 44 | root >> 12, harts if harts > 1 else 1 << core.number])
    for number in range(1, Context.F0):
        core.set_guest(number, 0)
    core.set_guest(Context.PC, GUEST)
    core.set_guest(Context.SSTATUS, 2 << 32 | 3 << 13 | 1 << 8)
    core.set_guest(Context.HSTATUS, 2 << 32 | 1 << 8 | 1 << 7)
    core.set_guest(Context.VSSTATUS, 2 << 32 | 3 << 13)
    core.set_guest(Context.CLOCK, (1 << 64) - 1)


def wait_for_exit(core: Core) -> Exit:
    assert select.select([core.door], [], [], HANG_S)[0], "the guest does not exit"
    return exit_of(core)


def stop(core: Core) -> Exit:
    core.set_word(mailbox.KICK, 1)
    return wait_for_exit(core)


CALL = "li a7, 0x10\n ecall\n"
"""One of SBI's base extension: not the timer's, which the monitor answers."""
LOOP = "1: addi s0, s0, 1\n j 1b\n"


@pytest.mark.parametrize("body", [LOOP, "1: wfi\n j 1b\n"], ids=["in a loop", "asleep"])
def test_a_guest_that_never_exits_stops_at_a_kick_and_goes_on_where_it_was(board: RiscvBoard, body: str) -> None:
    core = board.cores[1]
    load(board, core, body)
    core.resume()
    first = stop(core)
    assert first.scause == INTERRUPT | 5
    assert core.word(mailbox.KICK) == 0
    assert GUEST <= first.pc < GUEST + 8
    before = core.guest(8)
    core.resume()
    time.sleep(0.03)
    stop(core)
    assert core.guest(8) > before or body != LOOP


def test_another_hart_stops_it_at_once(board: RiscvBoard) -> None:
    caller, target = board.cores
    load(board, target, LOOP)
    load(board, caller, CALL)
    target.resume()
    target.set_word(mailbox.KICK, 1)
    caller.set_word(mailbox.SEND, 1 << target.number)
    caller.resume()
    assert wait_for_exit(target).scause & INTERRUPT
    assert wait_for_exit(caller).scause == GUEST_CALL


COUNTS = """
        li a7, 0x10
        li t0, 3
        fcvt.d.l fa0, t0
        li t0, 1
        fcvt.d.l fa1, t0
        ecall
        fadd.d fa0, fa0, fa1
        fcvt.l.d a0, fa0
        rdtime a1
        csrr a2, fcsr
        ecall
"""


def test_a_guest_is_put_back_with_all_its_registers_and_its_time(board: RiscvBoard) -> None:
    core = board.cores[0]
    load(board, core, COUNTS)
    core.resume()
    assert wait_for_exit(core).scause == GUEST_CALL
    save_rest(core)
    kept = [core.guest(number) for number in range(1, max(Context) + 1)]
    then = core.guest(Context.TIME)
    for _ in range(2):
        load(board, core, COUNTS)
        for number, value in enumerate(kept, 1):
            core.set_guest(number, value)
        load_rest(core)
        core.set_guest(Context.PC, kept[Context.PC - 1] + 4)
        core.resume()
        assert wait_for_exit(core).scause == GUEST_CALL
        assert core.guest(10) == 4
        assert then <= core.guest(11) < then + 10_000_000
        assert core.guest(12) == kept[Context.FCSR - 1] & 0xFF


def test_code_that_python_has_written_over_runs_once_it_is_renewed(board: RiscvBoard) -> None:
    core = board.cores[0]
    for value in (1, 2, 3):
        load(board, core, f"li a0, {value}\n {CALL}")
        core.resume()
        assert wait_for_exit(core).scause == GUEST_CALL
        assert core.guest(10) == value
