"""The ACPI tables of a PC with one interrupt controller of each kind, for a guest that is given these.

ACPI Specification 6.5, chapter 5 "ACPI Software Programming Model"; IA-PC HPET Specification 1.0a, 3.2.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..address import SIZE_4K, Range

LOCAL_APIC, IO_APIC, HPET = (Range.sized(at, SIZE_4K) for at in (0xFEE0_0000, 0xFEC0_0000, 0xFED0_0000))
"""Where every PC has these registers."""

_OEM, _OEM_TABLE, _CREATOR = b"STAGE2", b"STAGE2VM", b"STG2"
_FACP_MINOR, _FACP_REVISION, _MADT_REVISION = 4, 6, 5
_LEGACY_DEVICES, _NO_CMOS_CLOCK = 1 << 0, 1 << 5
"""Of IAPC_BOOT_ARCH; without bit 1 there is no keyboard controller, and bit 2 says that there is no VGA."""
_NO_VGA = 1 << 2
_WBINVD, _PROC_C1, _RESET_REGISTER = 1 << 0, 1 << 2, 1 << 10
_IO, _MEMORY = 1, 0
_PCAT = 1 << 0
"""There are two 8259s as well."""
_LOCAL_APIC, _IO_APIC, _OVERRIDE, _WAKEUP = 0, 1, 2, 16
_TIMER_PIN, _SCI, _LEVEL_HIGH = 2, 9, 0xD
SLEEP_OFF = 5
"""SLP_TYP of S5, soft off."""
# Name(_S5, Package(4){SLEEP_OFF, 0, 0, 0}) in AML (20.2).
_S5 = bytes.fromhex("08 5f53355f 12 07 04 0a05 00 00 00")


@dataclass(frozen=True, slots=True)
class Pc:
    """What the tables tell of.

    Args:
        cpus: the numbers of the CPUs' local APICs, the first CPU's first.
        wakeup: GPA of the mailbox by which the others are started, a page; of no use to a single CPU.
        local_apic, io_apic: GPAs of their registers.
        hpet: the same, None where the guest is given none.
        events, control: ports of the PM1a event and control blocks.
        reset: port and value that reset the machine.
        clock: there is a CMOS clock.
    """

    cpus: Sequence[int]
    wakeup: int
    local_apic: int
    io_apic: int
    hpet: int | None
    events: int
    control: int
    reset: tuple[int, int]
    clock: bool


def is_pc(has: Callable[[Range], bool]) -> bool:
    """Whether a guest is given a PC's interrupt controllers, and with them its timers and its first serial port.

    Args:
        has: whether the guest has a device's registers.
    """
    return has(LOCAL_APIC) and has(IO_APIC)


def acpi_tables(pc: Pc, base: int) -> bytes:
    """The tables, to be put at GPA `base`, a multiple of 16; the root pointer (RSDP) comes first."""
    made = bytearray(64)

    def put(table: bytes) -> int:
        made.extend(bytes(-len(made) % 16))
        at = base + len(made)
        made.extend(table)
        return at

    dsdt = put(_table(b"DSDT", 2, _S5))
    pointers = [put(_fadt(pc, dsdt)), put(_madt(pc))]
    if pc.hpet is not None:
        pointers.append(put(_table(b"HPET", 1, struct.pack("<I", _HPET_BLOCK) + _address(_MEMORY, pc.hpet, 64, 0)
                                   + struct.pack("<BHB", 0, _HPET_TICK, 0))))  # fmt: skip
    xsdt = put(_table(b"XSDT", 1, struct.pack(f"<{len(pointers)}Q", *pointers)))
    root = bytearray(struct.pack("<8sB6sBIIQBxxx", b"RSD PTR ", 0, _OEM, 2, 0, 36, xsdt, 0))
    root[8] = -sum(root[:20]) & 0xFF
    root[32] = -sum(root) & 0xFF
    made[: len(root)] = root
    return bytes(made)


_HPET_BLOCK, _HPET_TICK = 0x8086_A201, 100
"""EVENT_TIMER_BLOCK_ID: Intel, 64-bit counter, three comparators, able to replace the PIT; ticks between interrupts."""


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    head = struct.pack(
        "<4sIBB6s8sI4sI", signature, 36 + len(body), revision, 0, _OEM, _OEM_TABLE, 1, _CREATOR, 1
    )  # fmt: skip
    table = bytearray(head + body)
    table[9] = -sum(table) & 0xFF
    return bytes(table)


def _address(space: int, address: int, bits: int, access: int) -> bytes:
    """A Generic Address Structure (5.2.3.2)."""
    return struct.pack("<BBBBQ", space, bits, 0, access, address)


def _fadt(pc: Pc, dsdt: int) -> bytes:
    """5.2.9; no SMI command, so the machine is in ACPI mode from the start."""
    boot = _LEGACY_DEVICES | _NO_VGA | (0 if pc.clock else _NO_CMOS_CLOCK)
    body = bytearray(276 - 36)

    def put(offset: int, layout: str, *values: int) -> None:
        struct.pack_into("<" + layout, body, offset - 36, *values)

    put(40, "I", dsdt)
    put(46, "H", _SCI)
    put(56, "I", pc.events)
    put(64, "I", pc.control)
    put(88, "BB", 4, 2)
    put(96, "HH", 0xFFFF, 0xFFFF)
    put(108, "B", 0x32 if pc.clock else 0)
    put(109, "H", boot)
    put(112, "I", _WBINVD | _PROC_C1 | _RESET_REGISTER)
    body[116 - 36 : 128 - 36] = _address(_IO, pc.reset[0], 8, 1)
    put(128, "B", pc.reset[1])
    put(131, "B", _FACP_MINOR)
    put(140, "Q", dsdt)
    body[148 - 36 : 160 - 36] = _address(_IO, pc.events, 32, 2)
    body[172 - 36 : 184 - 36] = _address(_IO, pc.control, 16, 2)
    return _table(b"FACP", _FACP_REVISION, bytes(body))


def _madt(pc: Pc) -> bytes:
    """5.2.12: the CPUs, the I/O APIC, where the PIT's and the SCI's lines go, and how CPUs are started (5.2.12.19)."""
    body = struct.pack("<II", pc.local_apic, _PCAT)
    for number in pc.cpus:
        body += struct.pack("<BBBBI", _LOCAL_APIC, 8, number, number, 1)
    body += struct.pack("<BBBBII", _IO_APIC, 12, 0, 0, pc.io_apic, 0)
    body += struct.pack("<BBBBIH", _OVERRIDE, 10, 0, 0, _TIMER_PIN, 0)
    body += struct.pack("<BBBBIH", _OVERRIDE, 10, 0, _SCI, _SCI, _LEVEL_HIGH)
    if len(pc.cpus) > 1:
        body += struct.pack("<BBHIQ", _WAKEUP, 16, 0, 0, pc.wakeup)
    return _table(b"APIC", _MADT_REVISION, body)
