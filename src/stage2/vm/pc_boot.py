"""What an x86 Linux finds in its memory when it starts: `boot_params`, its first tables, and ACPI's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ..address import SIZE_4K, Range
from ..config.vm import VmConfig
from ..errors import ImageError
from ..images import linux_x86
from ..images.acpi import Pc, acpi_tables
from .pc_ports import EVENTS, POWER, RESET, RESET_VALUE

DEFAULT_CMDLINE = "console=ttyS0 panic=-1"
LOCAL_APIC, IO_APIC, HPET = (Range.sized(at, SIZE_4K) for at in (0xFEE0_0000, 0xFEC0_0000, 0xFED0_0000))
"""Where every PC has them."""
_ACPI = 0xE_0000


def is_pc(backed: Callable[[Range], bool]) -> bool:
    """Whether a guest is given a PC's interrupt controllers, and with them its timers and its first serial port.

    Args:
        backed: whether the guest has a device's registers.
    """
    return backed(LOCAL_APIC) and backed(IO_APIC)


def pieces(
    image: linux_x86.BzImage,
    config: VmConfig,
    memory: Sequence[Range],
    ramdisk: Range | None,
    backed: Callable[[Range], bool],
) -> Iterator[tuple[str, int, bytes]]:
    """What to put into memory besides kernel and ramdisk: its name, GPA and bytes.

    Args:
        image, config: the kernel and the VM's file.
        memory: RAM, GPAs.
        ramdisk: where it lies.
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
        cpus=config.cpu_num,
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
