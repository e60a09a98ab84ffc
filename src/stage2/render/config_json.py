"""Configuration files as JSON objects, for `stage2 show --json`. Addresses and sizes are integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ..address import Range
from ..check.finding import Finding
from ..config.board import BoardConfig
from ..config.defconfig import DefConfig
from ..config.devices import EmulatedDevice, PassthroughDevice, PassthroughNode
from ..config.document import Notice
from ..config.kernel_config import GuestImage
from ..config.kernel_sizes import KernelSizes
from ..config.platform import PlatformConfig, ReservedMemory
from ..config.regions import PlannedVm
from ..config.virtual_devices import VirtualDevice
from ..forecast.map_ranges import Stage2Map
from ..formats.record import Format
from ..space.json_shapes import range_json, region_type_json
from ..space.region import MemoryRegion
from .findings import finding_json
from .stage2_map import map_json

Json = dict[str, object]


def show_json(
    vms: Sequence[tuple[PlannedVm, Format | None, Stage2Map | None]],
    platforms: Sequence[PlatformConfig],
    board: BoardConfig | None,
    files: Sequence[Json],
    together: str | None,
    findings: Sequence[Finding] = (),
    notices: Sequence[Notice] = (),
) -> Json:
    """Everything that `show` was given.

    Args:
        vms: each VM with the format of its tables, None where that is not known yet, and the map that will be, None
            without the host's device tree.
        platforms: the platform files; with several there is no host to speak of.
        board: the board file that stands for the host.
        files: what `file_json` says of each file.
        together: why the VMs cannot be run together; None when they can.
        findings: what is to be known of their images.
        notices: what is to be known of them together.
    """
    return {
        "vms": [{**vm_json(vm, fmt), "map": None if found is None else map_json(found)} for vm, fmt, found in vms],
        "platform": platform_json(platforms[0]) if len(platforms) == 1 else None,
        "board": None if board is None else board_json(board),
        "files": list(files),
        "together": together,
        "together_notices": notices_json(notices),
        "findings": [finding_json(finding) for finding in findings],
    }


def file_json(file: str, kind: str, facts: Json) -> Json:
    """One file of the command line: what kind it is, and what it says unless it is a VM, which stands elsewhere."""
    return {"file": file, "kind": kind, **facts}


def vm_json(vm: PlannedVm, fmt: Format | None = None) -> Json:
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
        "vm_type": None if vm.vm_type is None else vm.vm_type.name.lower(),
        "guest_type": None if vm.guest_type is None else vm.guest_type.value,
        "dedicated_cpus": vm.dedicated_cpus,
        "cpu_num": vm.cpu_num,
        "generations": [generation.value for generation in vm.generations],
        "entry_point": vm.kernel.entry_point,
        "cmdline": vm.kernel.cmdline,
        "interrupt_mode": lists.interrupt_mode.value,
        "regions": [region_json(region) | {"assumed": vm.plan.is_assumed(region)} for region in vm.plan.regions],
        "devices": [
            *(_passthrough(device) for device in lists.mapped),
            *(_node(node) for node in lists.unresolved),
            *(_emulated(device) for device in lists.emulated),
            *(_virtual(device) for device in lists.virtual),
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
        "notices": notices_json(vm.notices),
    }


def region_json(region: MemoryRegion) -> Json:
    """A region; `hpa` is None where frames are given at run time or nothing is mapped."""
    host = region.host_range
    return {
        "name": region.name,
        "start": int(region.start),
        "size": region.size,
        "range": range_json("GPA", region.range),
        **region_type_json(region.map_type, region.flags),
        "hpa": None if host is None else host.start,
        "populate": None if region.populate is None else region.populate.value,
        "on_violation": None if region.violation is None else region.violation.value,
        "source": str(region.place or ""),
    }


def platform_json(platform: PlatformConfig) -> Json:
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
        "kernel_sizes": _kernel_sizes(platform.kernel_sizes),
        "ticks_per_sec": platform.ticks_per_sec,
        "phys_virt_offset": platform.phys_virt_offset,
        "phys_bus_offset": platform.phys_bus_offset,
        "kernel_aspace": None if aspace is None else {**range_json("HVA", aspace), "size": aspace.size},
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
        "reserved": [{**span_json, "who": one.who} for one, span_json in _reserved(platform)],
        "extra": dict(platform.extra),
        "notices": notices_json(platform.notices),
    }


def _kernel_sizes(sizes: KernelSizes) -> Json:
    return {**asdict(sizes), "given": sorted(sizes.given)}


def defconfig_json(config: DefConfig) -> Json:
    """A defconfig as a JSON object."""
    return {
        "smp": config.smp,
        "ticks_per_sec": config.ticks_per_sec,
        "task_stack_size": config.task_stack_size,
        "notices": notices_json(config.notices),
    }


def board_json(board: BoardConfig) -> Json:
    """A board file as a JSON object."""
    return {
        "target": board.target,
        "arch": board.arch,
        "features": list(board.features),
        "four_levels": board.four_levels,
        "vm_configs": list(board.vm_configs),
        "meaning": board.meaning,
        "notices": notices_json(board.notices),
    }


def notices_json(notices: Sequence[Notice]) -> list[Json]:
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
    return [{**range_json("HPA", span), "size": span.size} for span in spans]


def _reserved(platform: PlatformConfig) -> list[tuple[ReservedMemory, Json]]:
    spans = _spans([one.span for one in platform.reserved])
    return list(zip(platform.reserved, spans, strict=True))


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


def _virtual(device: VirtualDevice) -> Json:
    """`gpa` is None: upstream chooses it when the VM starts."""
    return {
        "name": device.id,
        "kind": "virtual",
        "type": device.model,
        "gpa": None,
        "hpa": None,
        "size": None,
        "irq": None,
        "source": str(device.place),
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
