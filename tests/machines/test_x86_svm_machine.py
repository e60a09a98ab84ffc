"""QEMU's SVM as a machine: the monitor comes up, sleeps while nothing is asked, survives, and leaves nothing."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from opening import machine_fixture, or_skip
from stage2.address import Hpa
from stage2.errors import MachineError
from stage2.flags import Access
from stage2.machines import mailbox, x86_svm
from stage2.machines.mailbox import Command
from stage2.machines.x86_svm import EXIT_GP, EXIT_INTR, Guest, X86SvmMachine
from waiting import comes_to_rest

ROOT, ROOT_1 = 0x2800_0000, 0x2801_0000
DATA = 0x4000_0000
CODE = 0x30_0000_0000
EXIT_HLT = 0x78
machine = machine_fixture(X86SvmMachine, scope="function")


def enter(machine: X86SvmMachine) -> None:
    """A guest whose GVAs, GPAs and HPAs are equal below 2 GiB, and whose code is at CODE."""
    store = machine.memory.store_u64
    for root in (ROOT, ROOT_1):
        store(Hpa(root), root + 0x1000 | 7)
        for gigabyte in range(2):
            store(Hpa(root + 0x1000 + 8 * gigabyte), gigabyte << 30 | 0x87)
    # The 1 GiB block that holds the guest's code, as seen by the guest from CODE on.
    store(Hpa(ROOT_1 + 0x1000 + 8 * (CODE >> 30)), 0x87)
    code = CODE + x86_svm.GUEST_CODE.start
    machine.enter(
        Guest(
            cr0=x86_svm.CR0, cr3=ROOT_1, cr4=x86_svm.CR4, efer=x86_svm.EFER, nested_cr3=ROOT, asid=1,
            host_cr4=x86_svm.CR4, host_efer=x86_svm.EFER, code_kernel=code, code_user=code,
        )
    )  # fmt: skip


def fetch(machine: X86SvmMachine, code: bytes, *, user: bool = False) -> tuple[int, int]:
    """Outcome and value of a fetch that finds this code."""
    machine.memory.write(Hpa(DATA), code.ljust(64, b"\x90"))
    kind = Access.FETCH | (mailbox.UNPRIVILEGED if user else 0)
    found = machine.probe(*(np.array([word], np.uint64) for word in (DATA, DATA, kind)))[0]
    return int(found["outcome"]), int(found["value"])


def test_the_processor_is_what_the_oracle_counts_on(machine: X86SvmMachine) -> None:
    _, svm, widths, ebx, ecx = machine.features()
    assert svm & 1, "nested paging"
    assert widths & 0xFF == x86_svm.PHYSICAL_BITS
    assert widths >> 8 & 0xFF == 57
    assert ebx >> 7 & 1, "SMEP"
    assert ebx >> 20 & 1, "SMAP"
    assert ecx >> 16 & 1, "5 levels"


def test_a_monitor_that_waits_uses_no_cpu(machine: X86SvmMachine) -> None:
    enter(machine)
    fetch(machine, b"\xb8\x01\x00\x00\x00\x0f\x0b")
    assert machine.pid is not None
    assert comes_to_rest(machine.pid)


def test_a_stray_byte_is_no_command(machine: X86SvmMachine) -> None:
    sequence = machine.word(mailbox.SEQUENCE)
    machine.cores[0].door.send(b"..")
    # Its byte comes behind the stray ones; had one of them been taken for a command, there were more answers than one.
    machine.command(Command.NOTHING)
    assert machine.word(mailbox.SEQUENCE) == sequence + 1


def test_an_exception_of_the_monitor_is_reported_and_it_goes_on(machine: X86SvmMachine) -> None:
    with pytest.raises(MachineError, match=r"the monitor met an exception \(probe\): 0xe "):
        machine.command(Command.PROBE, list=1 << 40, count=1, results=x86_svm.RESULTS)
    machine.command(Command.NOTHING)


@pytest.mark.parametrize("user", [False, True])
def test_a_fetch_runs_the_code_it_finds(machine: X86SvmMachine, user: bool) -> None:
    enter(machine)
    assert fetch(machine, b"\xb8\x34\x12\x00\x00\x0f\x0b", user=user) == (0, 0x1234)


def test_code_that_python_changed_is_not_run_as_it_was(machine: X86SvmMachine) -> None:
    enter(machine)
    for value in range(1, 5):
        assert fetch(machine, b"\xb8" + value.to_bytes(4, "little") + b"\x0f\x0b") == (0, value)


def test_a_guest_that_runs_away_is_stopped(machine: X86SvmMachine) -> None:
    enter(machine)
    assert fetch(machine, b"\xeb\xfe")[0] == EXIT_INTR
    assert fetch(machine, b"\xb8\x01\x00\x00\x00\x0f\x0b") == (0, 1)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (b"\xf4", EXIT_HLT),
        (b"\xe6\x80", 0x7B),
        (b"\x0f\x30", 0x7C),
        (b"\x0f\xa2", 0x72),
        (b"\x0f\x01\xd9", 0x81),
        (b"\x00\x00", EXIT_GP),
    ],
    ids=["hlt", "out", "wrmsr", "cpuid", "vmmcall", "nothing"],
)
def test_whatever_a_guest_runs_ends_in_an_exit(machine: X86SvmMachine, code: bytes, outcome: int) -> None:
    enter(machine)
    assert fetch(machine, code)[0] == outcome


def test_the_host_changes_between_4_and_5_levels(machine: X86SvmMachine) -> None:
    for cr4 in (x86_svm.CR4 | x86_svm.CR4_LA57, x86_svm.CR4, x86_svm.CR4 | x86_svm.CR4_LA57):
        machine.load([x86_svm.EFER, cr4, 0, 0])
        machine.command(Command.NOTHING)


def test_a_machine_that_died_is_an_error_at_once(machine: X86SvmMachine) -> None:
    assert machine.pid is not None
    os.kill(machine.pid, signal.SIGKILL)
    with pytest.raises(MachineError, match="qemu-system-x86_64"):
        machine.command(Command.NOTHING)


def test_nothing_is_left_after_close() -> None:
    or_skip(X86SvmMachine).close()
    before = sorted(os.listdir("/proc/self/fd"))
    machine = or_skip(X86SvmMachine)
    pid = machine.pid
    machine.close()
    machine.close()
    assert not Path(f"/proc/{pid}").exists()
    assert sorted(os.listdir("/proc/self/fd")) == before
