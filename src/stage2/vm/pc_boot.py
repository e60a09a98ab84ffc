"""What an x86 Linux finds in its memory when it starts: `boot_params`, its first tables, and ACPI's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..address import SIZE_4K, Range
from ..config.vm import VmConfig
from ..errors import ImageError
from ..images import linux_x86
from ..images.acpi import HPET, IO_APIC, LOCAL_APIC, Pc, acpi_tables, is_pc
from .pc_ports import EVENTS, POWER, RESET, RESET_VALUE

DEFAULT_CMDLINE = "console=ttyS0 panic=-1"
_ACPI = 0xE_0000
WAKEUP = Range.sized(0xFEC1_0000, SIZE_4K)
"""GPA of the mailbox by which a guest starts its other CPUs: among a PC's own devices, where no RAM is."""


def pieces(
    image: linux_x86.BzImage,
    config: VmConfig,
    memory: Sequence[Range],
    ramdisk: Range | None,
    cores: Sequence[int],
    backed: Callable[[Range], bool],
) -> Iterator[tuple[str, int, bytes]]:
    """What to put into memory besides kernel and ramdisk: its name, GPA and bytes.

    Args:
        image, config: the kernel and the VM's file.
        memory: RAM, GPAs.
        ramdisk: where it lies.
        cores: the board's core of each CPU; empty where that is not known.
        backed: whether the guest has a device's registers.

    Raises:
        ImageError: the guest has no interrupt controllers, or its command line is too long.
    """
    if not is_pc(backed):
        raise config.place.error(
            f"an x86 Linux needs a local APIC and an I/O APIC: pass {LOCAL_APIC} and {IO_APIC} through", ImageError
        )
    line = (DEFAULT_CMDLINE if config.kernel.cmdline is None else config.kernel.cmdline).encode()
    if len(line) > image.cmdline_most:
        raise config.place.error(
            f"the command line has {len(line)} bytes; this kernel takes {image.cmdline_most}", ImageError
        )
    pc = Pc(
        cpus=cores or range(config.cpu_num),
        wakeup=WAKEUP.start,
        local_apic=LOCAL_APIC.start,
        io_apic=IO_APIC.start,
        hpet=HPET.start if backed(HPET) else None,
        events=EVENTS,
        control=POWER,
        reset=(RESET, RESET_VALUE),
        clock=True,
    )
    told = linux_x86.boot_params(image, memory=memory, ramdisk=ramdisk, rsdp=_ACPI)
    yield "GDT", linux_x86.GDT, linux_x86.GDT_BYTES
    yield "boot_params", linux_x86.BOOT_PARAMS, told
    yield "first page tables", linux_x86.TABLES, linux_x86.identity_tables()
    yield "command line", linux_x86.COMMAND_LINE, line + b"\0"
    yield "ACPI tables", _ACPI, acpi_tables(pc, _ACPI)
