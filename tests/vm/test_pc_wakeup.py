"""The mailbox by which a PC's operating system starts its other CPUs."""

from __future__ import annotations

from stage2.vm.pc_wakeup import WakeupMailbox


def mailbox() -> tuple[WakeupMailbox, list[tuple[int, int]]]:
    woken: list[tuple[int, int]] = []
    return WakeupMailbox([3, 1, 2], lambda cpu, address: woken.append((cpu, address))), woken


def ask(box: WakeupMailbox, apic: int, vector: int, command: int = 1) -> None:
    box.write(4, 4, apic)
    box.write(8, 8, vector)
    box.write(0, 2, command)


def test_a_cpu_is_started_once_and_the_command_is_taken() -> None:
    box, woken = mailbox()
    ask(box, 1, 0x9_8000)
    assert woken == [(1, 0x9_8000)]
    assert box.read(0, 2) == 0
    assert box.read(4, 4) == 1
    ask(box, 1, 0x9_9000)
    assert woken == [(1, 0x9_8000)], "it runs"
    assert box.read(0, 2) == 1, "nobody takes the command"


def test_the_first_cpu_an_unknown_one_and_another_command_start_nothing() -> None:
    box, woken = mailbox()
    ask(box, 3, 0x9_8000)
    ask(box, 7, 0x9_8000)
    ask(box, 2, 0x9_8000, command=0)
    box.write(0x800, 8, 1)
    assert woken == []
    assert box.read(0x800, 8) == 0
