"""The firmware of an Arm guest, as DEN 0022 says what it answers."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from stage2.vm.psci import Psci

_NEGATIVE = 1 << 64


class Machine:
    """CPUs that do nothing but note what firmware did with them."""

    affinities: Sequence[int] = (0, 1, 0x100)

    def __init__(self) -> None:
        self.done: list[tuple[object, ...]] = []

    def cpu_on(self, cpu: int, entry: int, context: int) -> None:
        self.done.append(("on", cpu, entry, context))

    def cpu_off(self, cpu: int) -> None:
        self.done.append(("off", cpu))

    def power_off(self, reason: str) -> None:
        self.done.append((reason,))


@pytest.mark.parametrize(
    ("arguments", "answer"),
    [
        ((0x8400_0000, 0, 0, 0), 0x10001),
        ((0x8400_000A, 0x8400_0008, 0, 0), 0),
        ((0x8400_000A, 0x8400_0002, 0, 0), 0),
        ((0x8400_000A, 0x8400_0005, 0, 0), -1),
        ((0xC400_0003, 0, 0x8000_0000, 0), -4),
        ((0xC400_0003, 2, 0x8000_0000, 0), -2),
        ((0xC400_0004, 0, 0, 0), 0),
        ((0xC400_0004, 0x100, 0, 0), 1),
        ((0xC400_0004, 7, 0, 0), -2),
        ((0xC400_0004, 0, 1, 0), -2),
        ((0x1234, 0, 0, 0), -1),
    ],
)
def test_what_changes_nothing_is_answered(arguments: tuple[int, ...], answer: int) -> None:
    machine = Machine()
    assert Psci(machine).call(arguments) == answer % _NEGATIVE
    assert not machine.done


def test_a_cpu_is_started_once_and_again_when_it_has_gone() -> None:
    machine = Machine()
    firmware = Psci(machine)
    assert firmware.call((0xC400_0003, 0x100, 0x4008_0000, 7)) == 0
    assert firmware.call((0xC400_0003, 0x100, 0x4008_0000, 7)) == -4 % _NEGATIVE
    assert firmware.call((0xC400_0004, 0x100, 0, 0)) == 0
    assert firmware.call((0x8400_0002, 0, 0, 0), cpu=2) is None
    assert firmware.call((0xC400_0004, 0x100, 0, 0)) == 1
    assert firmware.call((0x8400_0003, 0x100, 0x4000_0000, 8), cpu=0) == 0
    assert machine.done == [("on", 2, 0x4008_0000, 7), ("off", 2), ("on", 2, 0x4000_0000, 8)]


@pytest.mark.parametrize(
    ("function", "said"), [(0x8400_0008, "shutdown"), (0x8400_0009, "reboot"), (0x8400_0002, "shutdown")]
)
def test_a_guest_is_done_when_it_says_so_or_its_last_cpu_goes(function: int, said: str) -> None:
    machine = Machine()
    Psci(machine).call((function, 0, 0, 0))
    assert machine.done == [(said,)]
