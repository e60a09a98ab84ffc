"""Bochs as a machine: the monitor comes up, is stopped while nothing is asked, survives, and leaves nothing."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from opening import machine_fixture
from stage2.address import Hpa
from stage2.errors import HostToolError, MachineError, OutOfRangeError
from stage2.flags import Access
from stage2.formats.x86.register_fields import EPT_VPID_CAP
from stage2.machines import bochs
from stage2.machines.bochs import (
    DATA,
    EXITED,
    MODE_BASED_EXECUTE,
    NO_ENTRY,
    TABLES,
    BochsMachine,
    Guest,
    Model,
)
from waiting import comes_to_rest, until

EPT, GUEST = TABLES.start, TABLES.start + 0x10_0000
"""Root tables."""
CODE = 0x80_0000_0000 + bochs.GUEST_CODE
EXCEPTION, CPUID, HLT, VMCALL, IO, WRMSR, TIMER = 0, 10, 12, 18, 30, 32, 52
"""Basic exit reasons."""
OPCODE, PROTECTION = 6, 13
machine = machine_fixture(BochsMachine)


def tables(machine: BochsMachine) -> Guest:
    """Tables that make the guest's GVAs, GPAs and HPAs equal below 2 GiB, and show its code to it at CODE."""
    machine.memory.zero(TABLES)
    store = machine.memory.store_u64
    for root, table, block in ((EPT, 0x07, 0xB7), (GUEST, 0x27, 0xE7)):
        store(Hpa(root), root + 0x1000 | table)
        for gigabyte in range(2):
            store(Hpa(root + 0x1000 + 8 * gigabyte), gigabyte << 30 | block)
    store(Hpa(GUEST + 8), GUEST + 0x2000 | 0x27)
    store(Hpa(GUEST + 0x2000), 0xE3)
    return Guest(EPT | 0x1E, bochs.CR0, GUEST, bochs.CR4, bochs.EFER, code_kernel=CODE, code_user=CODE)


def words(*found: int) -> np.ndarray:
    return np.array(found, np.uint64)


def fetch(machine: BochsMachine, code: bytes) -> tuple[int, int, int]:
    """Outcome, value and interruption of a fetch that finds this code."""
    guest = tables(machine)
    machine.memory.write(Hpa(DATA.start), code.ljust(64, b"\x90"))
    found = machine.run(guest, words(DATA.start), words(0), words(Access.FETCH), shown=words(0))[0]
    return int(found["outcome"]), int(found["value"]), int(found["syndrome"][bochs.INTERRUPTION])


def test_the_processor_is_what_the_oracle_counts_on(machine: BochsMachine) -> None:
    found = machine.capabilities
    assert (found.physical_bits, found.linear_bits) == (40, 48)
    has = {field.name for field in EPT_VPID_CAP if field.extract(found.ept_vpid)}
    assert {"execute-only", "4 levels", "WB", "2 MiB", "1 GiB", "INVEPT", "A/D", "INVEPT 2"} <= has
    assert "5 levels" not in has
    newer = not machine.version.startswith("2.")
    assert ("advanced information" in has) == newer
    assert bool(found.secondary >> 32 & MODE_BASED_EXECUTE) == newer


def test_its_version_is_told(machine: BochsMachine) -> None:
    assert re.fullmatch(r"\d+\.\d+(\.\S+)?", machine.version)


def test_a_machine_that_waits_uses_no_cpu(machine: BochsMachine) -> None:
    fetch(machine, b"\xf4")
    assert machine.pid is not None
    assert comes_to_rest(machine.pid)


def test_a_fetch_runs_the_code_it_finds(machine: BochsMachine) -> None:
    for value in (0x1234, 5, 0xFFFF_FFFF):
        assert fetch(machine, b"\xb8" + value.to_bytes(4, "little") + b"\x0f\x01\xc1")[:2] == (0, value)


def test_memory_is_taken_over_and_brought_back(machine: BochsMachine) -> None:
    guest = tables(machine)
    before = machine.memory.read(Hpa(TABLES.start), 0x20_0000)
    read, written, untouched = DATA.start + 0x1008, DATA.start + 0x3FFF_FFF8, DATA.start + 0x2000_0000
    machine.memory.store_u64(Hpa(read), 0x1122_3344_5566_7788)
    machine.memory.store_u64(Hpa(untouched), 77)
    found = machine.run(
        guest, words(read, written, read + 8), words(0, 99, 0), words(Access.READ, Access.WRITE, Access.READ),
        shown=words(0, written, 0),
    )  # fmt: skip
    assert found["outcome"].tolist() == [0, 0, 0]
    assert found["value"].tolist() == [0x1122_3344_5566_7788, 99, 0]
    after = [machine.memory.load_u64(Hpa(hpa)) for hpa in (read, written, untouched, read + 8)]
    assert after == [0x1122_3344_5566_7788, 99, 77, 0]
    assert machine.memory.read(Hpa(TABLES.start), 0x20_0000) == before
    machine.memory.zero(DATA)


def test_what_a_guest_writes_into_tables_is_brought_back(machine: BochsMachine) -> None:
    guest = tables(machine)
    place = GUEST + 0x1800
    machine.run(guest, words(place), words(123), words(Access.WRITE), shown=words(0))
    assert machine.memory.load_u64(Hpa(place)) == 123


def test_a_batch_finds_nothing_of_the_one_before(machine: BochsMachine) -> None:
    guest = tables(machine)
    place = DATA.start + 0x5000
    machine.run(guest, words(place), words(4), words(Access.WRITE), shown=words(place))
    machine.memory.zero(DATA)
    found = machine.run(guest, words(place), words(0), words(Access.READ), shown=words(0))
    assert (found["outcome"].tolist(), found["value"].tolist()) == ([0], [0])


def test_a_batch_of_many_probes_is_answered_one_by_one(machine: BochsMachine) -> None:
    guest = tables(machine)
    places = np.arange(bochs.PROBES_AT_ONCE, dtype=np.uint64) * np.uint64(0x1_0008) % np.uint64(DATA.size)
    places = places + np.uint64(DATA.start) & ~np.uint64(7)
    machine.memory.words[((places - np.uint64(TABLES.start)) >> np.uint64(3)).astype(np.int64)] = places
    zeros = np.zeros_like(places)
    found = machine.run(guest, places, zeros, zeros, shown=zeros)
    machine.memory.zero(DATA)
    assert not found["outcome"].any()
    assert (found["value"] == places).all()


def test_more_than_the_disk_holds_is_refused(machine: BochsMachine) -> None:
    many = np.zeros(1 << 20, np.uint64)
    with pytest.raises(MachineError, match="more than the disk holds"):
        machine.run(tables(machine), many, many, many, shown=many)


def test_a_word_outside_memory_cannot_be_shown(machine: BochsMachine) -> None:
    for hpa in (TABLES.start - 8, TABLES.end, DATA.end, 1 << 40):
        with pytest.raises(OutOfRangeError, match="is in neither"):
            machine.run(tables(machine), words(0), words(0), words(0), shown=words(hpa))


@pytest.mark.parametrize(
    ("code", "reason", "vector"),
    [
        (b"\xeb\xfe", TIMER, 0),
        (b"\xf4", HLT, 0),
        (b"\xe6\x80", IO, 0),
        (b"\x0f\x30", WRMSR, 0),
        (b"\x0f\xa2", CPUID, 0),
        (b"\x0f\x0b", EXCEPTION, OPCODE),
        (b"\x0f\x22\xd8", 28, 0),
        (b"\xcd\x80", EXCEPTION, PROTECTION),
    ],
    ids=["loop", "hlt", "out", "wrmsr", "cpuid", "ud2", "mov cr3", "int"],
)
def test_whatever_a_guest_runs_ends_in_an_exit(machine: BochsMachine, code: bytes, reason: int, vector: int) -> None:
    outcome, _, interruption = fetch(machine, code)
    assert (outcome, interruption & 0xFF) == (EXITED | reason, vector)
    assert fetch(machine, b"\xb8\x01\x00\x00\x00\x0f\x01\xc1")[:2] == (0, 1)


def test_a_guest_that_cannot_be_entered_is_reported(machine: BochsMachine) -> None:
    guest = tables(machine)
    entry_failure, not_launched = EXITED | 1 << 31 | 33, NO_ENTRY | 5
    wrong = Guest(guest.eptp, guest.cr0, 1 << 50, guest.cr4, guest.efer, guest.code_kernel, guest.code_user)
    found = machine.run(wrong, words(0, 0), words(0, 0), words(0, 0), shown=words(0, 0))
    assert found["outcome"].tolist() == [entry_failure, not_launched]


def test_an_exception_of_the_monitor_is_reported_and_it_goes_on(
    machine: BochsMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = tables(machine)
    with monkeypatch.context() as patch:
        patch.setattr(bochs, "MAILBOX", 1 << 40)  # so lists are said to be where no memory is
        with pytest.raises(MachineError, match=r"the monitor met an exception \(vector, stack, CR2: 0xe "):
            machine.run(guest, words(DATA.start), words(0), words(0), shown=words(0))
    assert fetch(machine, b"\xb8\x07\x00\x00\x00\x0f\x01\xc1")[:2] == (0, 7)


def test_another_processor_is_refused(machine: BochsMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bochs, "FOUR_LEVELS", Model("corei5_arrandale_m520", 48))
    with pytest.raises(MachineError, match="corei5_arrandale_m520 is not as known: 40 physical, 48 linear"):
        BochsMachine()


def test_a_bochs_without_display_says_what_to_install(machine: BochsMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    right = bochs._configuration
    monkeypatch.setattr(bochs, "_configuration", lambda *given: right(*given).replace("library: term", "library: none"))
    with pytest.raises(HostToolError, match="has no display: install Debian's package bochs-term"):
        BochsMachine()


def test_a_machine_that_takes_too_long_is_an_error(machine: BochsMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    with BochsMachine() as other, monkeypatch.context() as patch:
        guest = tables(other)
        # It is not woken, so it never answers.
        patch.setattr(os, "kill", lambda _pid, _signal: None)
        with pytest.raises(MachineError, match=r"did not answer within 0\.001 s \(batch\)"):
            other.run(guest, words(0), words(0), words(0), shown=words(0), seconds=0.001)


def test_a_machine_that_died_is_an_error_at_once(machine: BochsMachine) -> None:
    with BochsMachine() as other:
        assert other.pid is not None
        os.kill(other.pid, signal.SIGKILL)
        with pytest.raises(MachineError, match="bochs-bin ended"):
            other.run(tables(other), words(0), words(0), words(0), shown=words(0))


def test_nothing_is_left_after_close(machine: BochsMachine) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    other = BochsMachine()
    pid = other.pid
    other.close()
    other.close()
    assert not Path(f"/proc/{pid}").exists()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_stopped_bochs_dies_with_python(machine: BochsMachine) -> None:
    program = "import signal; from stage2.machines.bochs import BochsMachine as B; m = B(); print(m.pid, flush=True); "
    with subprocess.Popen([sys.executable, "-c", program + "signal.pause()"], stdout=subprocess.PIPE) as python:
        assert python.stdout is not None
        pid = int(python.stdout.readline())
        python.kill()
    until(lambda: not Path(f"/proc/{pid}").exists(), f"Bochs outlived us: pid {pid}")
