"""Configurations as plain dictionaries, for `stage2 show --json`. Addresses and sizes are integers."""

from __future__ import annotations

from collections.abc import Sequence

from ..address import Range
from ..flags import MappingFlags, MapType
from ..formats.record import Format
from ..space.region import MemoryRegion
from .devices import EmulatedDevice, PassthroughDevice, PassthroughNode
from .document import Notice
from .platform import PlatformConfig
from .regions import PlannedVm
from .vm import GuestImage

Json = dict[str, object]


def describe_vm(vm: PlannedVm, fmt: Format | None = None) -> Json:
    """Everything a VM's file was understood to say.

    Args:
        vm: the file.
        fmt: the format of its stage-2 tables, None where that is not known yet.
    """
    lists = vm.devices
    return {
        "name": vm.name,
        "id": vm.id,
        "file": vm.file,
        "arch": vm.arch,
        "stage2_format": None if fmt is None else fmt.name,
        "vm_type": vm.vm_type.name.lower(),
        "cpu_num": vm.cpu_num,
        "generations": [generation.value for generation in vm.generations],
        "entry_point": vm.kernel.entry_point,
        "cmdline": vm.kernel.cmdline,
        "interrupt_mode": lists.interrupt_mode.value,
        "regions": [describe_region(region) for region in vm.plan.regions],
        "devices": [
            *(_passthrough(device) for device in (*lists.passthrough, *lists.addresses)),
            *(_node(node) for node in lists.nodes),
            *(_emulated(device) for device in lists.emulated),
        ],
        "excluded_devices": list(lists.excluded),
        "images": [
            *(_image(image) for image in vm.kernel.images if image.path is not None),
            *(
                {"role": "rom", "path": rom.image.text, "load_addr": rom.gpa, "source": str(rom.place)}
                for rom in vm.roms
            ),
        ],
        "shares": [
            {
                "name": share.name,
                "gpa": share.gpa,
                "size": share.size,
                "access": share.flags.short[:2].strip("-"),
                "peers": list(share.peers),
                "source": str(share.place),
            }
            for share in vm.shares
        ],
        "notices": describe_notices(vm.notices),
    }


def describe_region(region: MemoryRegion) -> Json:
    """A region; `hpa` is None where frames are given at run time or nothing is mapped."""
    host = region.host_range
    return {
        "name": region.name,
        "start": int(region.start),
        "size": region.size,
        **region_type(region.map_type, region.flags),
        "hpa": None if host is None else host.start,
        "populate": None if region.populate is None else region.populate.value,
        "on_violation": None if region.violation is None else region.violation.value,
        "source": str(region.place or ""),
    }


def region_type(map_type: MapType, flags: MappingFlags) -> Json:
    """A region's type and flags as every JSON has them: upstream's numbers, and the names beside them."""
    number = map_type.number
    return {
        "flags": int(flags),
        "flags_text": flags.short,
        "map_type": map_type.value if number is None else number,
        "type": map_type.value,
    }


def describe_platform(platform: PlatformConfig) -> Json:
    """The host; `file` is None for the default platform."""
    aspace = platform.kernel_aspace
    return {
        "file": platform.file,
        "arch": platform.arch,
        "platform": platform.platform,
        "family": platform.family,
        "memory": _spans(platform.memory),
        "kernel_paddr": platform.kernel_paddr,
        "kernel_vaddr": platform.kernel_vaddr,
        "phys_virt_offset": platform.phys_virt_offset,
        "phys_bus_offset": platform.phys_bus_offset,
        "kernel_aspace": None if aspace is None else _spans([aspace])[0],
        "mmio": _spans(platform.mmio),
        "virtio_mmio": _spans(platform.virtio_mmio),
        "pci_ranges": _spans(platform.pci_ranges),
        "pci_ecam_base": platform.pci_ecam_base,
        "pci_bus_end": platform.pci_bus_end,
        "uart_paddr": platform.uart_paddr,
        "uart_irq": platform.uart_irq,
        "gicc_paddr": platform.gicc_paddr,
        "gicd_paddr": platform.gicd_paddr,
        "gicr_paddr": platform.gicr_paddr,
        "rtc_paddr": platform.rtc_paddr,
        "psci_method": platform.psci_method,
        "timer_frequency": platform.timer_frequency,
        "extra": dict(platform.extra),
        "notices": describe_notices(platform.notices),
    }


def describe_notices(notices: Sequence[Notice]) -> list[Json]:
    """Notices as dictionaries."""
    return [
        {
            "file": notice.place.file,
            "line": notice.place.line,
            "key": notice.place.key,
            "text": notice.text,
        }
        for notice in notices
    ]


def _spans(spans: Sequence[Range]) -> list[Json]:
    return [{"start": span.start, "size": span.size} for span in spans]


def _passthrough(device: PassthroughDevice) -> Json:
    return {
        "name": device.name,
        "kind": "passthrough",
        "gpa": device.gpa,
        "hpa": device.hpa,
        "size": device.size,
        "irq": device.irq,
        "source": str(device.place),
    }


def _node(node: PassthroughNode) -> Json:
    return {
        "name": node.path,
        "kind": "passthrough",
        "gpa": None,
        "hpa": None,
        "size": None,
        "irq": None,
        "source": str(node.place),
    }


def _emulated(device: EmulatedDevice) -> Json:
    return {
        "name": device.name,
        "kind": "emulated",
        "gpa": None if device.on_ports else device.gpa,
        "port": device.gpa if device.on_ports else None,
        "hpa": None,
        "size": device.size,
        "irq": device.irq,
        "type": device.type_name,
        "type_number": device.number,
        "config": list(device.config),
        "source": str(device.place),
    }


def _image(image: GuestImage) -> Json:
    return {
        "role": image.role,
        "path": None if image.path is None else image.path.text,
        "load_addr": image.load_addr,
        "source": str(image.place),
    }
