"""How upstream's present format starts a guest, and what each way needs.

Facts: the boot protocol matrix of upstream's `axvmconfig` and of its page on guest configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..place import Place
from .document import Table


class BootProtocol(Enum):
    """`kernel.boot_protocol`."""

    DIRECT = "direct"
    MULTIBOOT = "multiboot"
    UEFI = "uefi"


_PROTOCOLS = {protocol.value: protocol for protocol in BootProtocol}
_ARCHITECTURES = {BootProtocol.MULTIBOOT: ("x86_64",), BootProtocol.UEFI: ("x86_64", "loongarch64")}
"""The architectures of a protocol; what is not here is for all."""


@dataclass(frozen=True, slots=True)
class Boot:
    """How the guest is started.

    Args:
        protocol: said, or what `enable_bios` stands for.
        place: where the file says so, `[kernel]` where it does not.
        needs_cmdline: the file has no cmdline, which x86's direct boot needs.
    """

    protocol: BootProtocol
    place: Place
    needs_cmdline: bool

    @property
    def firmware_key(self) -> str | None:
        """Which key names the firmware when both do; None where the guest is started without any."""
        if self.protocol is BootProtocol.DIRECT:
            return None
        return "uefi_firmware_path" if self.protocol is BootProtocol.UEFI else "bios_path"


def read_boot(kernel: Table) -> Boot:
    """Read `enable_bios` and `boot_protocol`, and check that what they need is there.

    Raises:
        ConfigError: upstream would refuse the combination.
    """
    switch, named = kernel.find("enable_bios"), kernel.find("boot_protocol")
    firmware = switch is not None and switch.boolean()
    protocol = BootProtocol.MULTIBOOT if firmware else BootProtocol.DIRECT
    item = named if named is not None else switch
    if named is not None:
        protocol = named.choice(_PROTOCOLS)
        if (protocol is BootProtocol.DIRECT) == firmware:
            said = "true" if firmware else "false" if switch is not None else "not set"
            needed = "false" if firmware else "true"
            raise named.error(
                f'"{protocol.value}" and enable_bios, which is {said}, contradict each other: '
                f"set enable_bios = {needed}"
            )
    place = kernel.place if item is None else item.place
    bios, uefi = kernel.find("bios_path"), kernel.find("uefi_firmware_path")
    address = kernel.find("bios_load_addr")
    if protocol is BootProtocol.UEFI:
        if bios is None and uefi is None:
            raise place.error('boot protocol "uefi" needs uefi_firmware_path, the firmware (or bios_path)')
        if address is None:
            raise place.error('boot protocol "uefi" needs bios_load_addr, the GPA where the firmware is put')
    elif protocol is BootProtocol.MULTIBOOT and bios is not None and address is None:
        raise bios.error("bios_path needs bios_load_addr, the GPA where the BIOS is put")
    return Boot(protocol, place, kernel.find("cmdline") is None)


def require_boot(boot: Boot | None, arch: str) -> None:
    """Raise ConfigError unless a guest of this architecture can be started so; None is of a format before."""
    if boot is None:
        return
    archs = _ARCHITECTURES.get(boot.protocol, (arch,))
    if arch not in archs:
        raise boot.place.error(
            f'boot protocol "{boot.protocol.value}" is for {" and ".join(archs)} only, and this VM is {arch}: '
            "use direct boot (enable_bios = false)"
        )
    if boot.protocol is BootProtocol.DIRECT and arch == "x86_64" and boot.needs_cmdline:
        raise boot.place.error('direct boot on x86_64 needs cmdline, the kernel\'s command line: cmdline = "..."')
