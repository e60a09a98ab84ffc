"""The PL011 and the 16550, against Arm DDI 0183 and the PC16550D data sheet, and the device for tests."""

from __future__ import annotations

from stage2.vm.console import Console
from stage2.vm.devices import TestDevice
from stage2.vm.pl011 import Pl011
from stage2.vm.uart16550 import Uart

DR, FR, LCR_H, CR, IFLS, IMSC, RIS, MIS, ICR = 0x00, 0x18, 0x2C, 0x30, 0x34, 0x38, 0x3C, 0x40, 0x44
RX, TX, RT = 1 << 4, 1 << 5, 1 << 6
IDLE = 0x90
"""FR: both FIFOs are empty."""


class Line:
    """What an interrupt line did."""

    def __init__(self) -> None:
        self.level = False

    def __call__(self, level: bool) -> None:
        self.level = level


def pl011() -> tuple[Pl011, Console, Line]:
    console, line = Console(), Line()
    return Pl011("serial", console, line), console, line


def uart() -> tuple[Uart, Console, Line]:
    console, line = Console(), Line()
    return Uart("com", console, line), console, line


def test_a_pl011_says_what_it_is() -> None:
    port, *_ = pl011()
    assert [port.read(offset, 4) for offset in range(0xFE0, 0x1000, 4)] == [0x11, 0x10, 0x34, 0, 0x0D, 0xF0, 5, 0xB1]
    assert (port.read(FR, 4), port.read(IFLS, 4), port.read(0x800, 4)) == (IDLE, 0x12, 0)


def test_a_pl011_prints_and_tells_that_it_has() -> None:
    port, console, line = pl011()
    for byte in b"hi":
        port.write(DR, 1, byte)
    assert console.text == "hi"
    assert (port.read(RIS, 4), port.read(MIS, 4), line.level) == (TX, 0, False)
    port.write(IMSC, 4, TX)
    assert (port.read(MIS, 4), line.level) == (TX, True)
    port.write(ICR, 4, TX)
    assert (port.read(RIS, 4), line.level) == (0, False)


def test_a_pl011_that_is_off_keeps_what_it_is_to_send() -> None:
    port, console, _ = pl011()
    port.write(CR, 4, 0)
    for byte in b"ab":
        port.write(DR, 4, byte)
    assert (console.text, port.read(FR, 4)) == ("", 0x30)
    port.write(CR, 4, 0x301)
    assert (console.text, port.read(FR, 4)) == ("a", IDLE)


def test_a_pl011_tells_of_what_comes_in_by_its_level_or_after_a_while() -> None:
    port, _, line = pl011()
    port.write(IMSC, 4, RX | RT)
    port.receive(b"ab")
    assert (port.read(RIS, 4), port.read(FR, 4), line.level) == (RX, 0xC0, True)
    assert (port.read(DR, 4), port.read(RIS, 4), line.level) == (0x61, 0, False)
    port.write(LCR_H, 4, 0x10)
    port.receive(b"xy")
    assert (port.read(RIS, 4), port.read(FR, 4)) == (RT, 0x80)
    port.receive(bytes(30))
    assert port.read(RIS, 4) == RX | RT
    assert [port.read(DR, 4) for _ in range(3)] == [ord("x"), ord("y"), 0]
    for _ in range(29):
        assert line.level
        port.read(DR, 4)
    assert (port.read(FR, 4), line.level) == (IDLE, False)


def test_a_pl011_in_loopback_hears_itself() -> None:
    port, console, _ = pl011()
    port.write(CR, 4, 0x381)
    port.write(DR, 4, 0x55)
    assert (console.text, port.read(DR, 4)) == ("", 0x55)


def test_a_16550_prints_and_is_never_busy() -> None:
    port, console, line = uart()
    for byte in b"hi":
        port.write(0, 1, byte)
    assert (console.text, port.read(5, 1), port.read(2, 1), line.level) == ("hi", 0x60, 1, False)


def test_a_16550_is_pending_until_its_identification_is_read() -> None:
    port, _, line = uart()
    port.write(2, 1, 1)
    port.write(1, 1, 2)
    assert line.level
    assert (port.read(2, 1), line.level) == (0xC2, False)
    assert port.read(2, 1) == 0xC1
    port.write(0, 1, 0x61)
    assert line.level
    port.write(1, 1, 0)
    assert not line.level


def test_a_16550_tells_of_what_comes_in_first() -> None:
    port, _, line = uart()
    port.write(1, 1, 3)
    port.receive(b"ab")
    assert (port.read(2, 1), port.read(5, 1)) == (4, 0x61)
    assert (port.read(0, 1), port.read(0, 1)) == (0x61, 0x62)
    assert (port.read(2, 1), line.level) == (2, False)


def test_a_16550s_divisor_hides_its_data() -> None:
    port, console, _ = uart()
    port.write(3, 1, 0x83)
    port.write(0, 1, 0x0C)
    port.write(1, 1, 0)
    assert (port.read(0, 1), console.text) == (0x0C, "")
    port.write(3, 1, 3)
    assert port.read(0, 1) == 0


def test_a_16550_in_loopback_leads_its_outputs_back() -> None:
    port, console, _ = uart()
    port.write(4, 1, 0x1A)
    port.write(0, 1, 0x61)
    assert (port.read(6, 1), port.read(0, 1), console.text) == (0x90, 0x61, "")


def test_the_test_device_counts_reads_and_keeps_what_is_written() -> None:
    device = TestDevice("test")
    device.write(8, 8, 0x1122_3344_5566_7788)
    device.write(0, 8, 99)
    assert (device.read(0, 8), device.read(0, 4), device.read(10, 2), device.read(16, 4)) == (1, 2, 0x5566, 0)
