"""Configuration files as tables: what was understood of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rich.console import RenderableType
from rich.text import Text

from ..address import Range, format_size
from ..config.board import BoardConfig
from ..config.defconfig import DefConfig
from ..config.document import Notice
from ..config.images import ImagePath
from ..config.platform import PlatformConfig
from ..config.regions import PlannedVm, RegionPlan
from ..config.stage2_format import arch_of
from ..config.vm import VmConfig
from ..formats.record import Format
from ..space.region import MemoryRegion
from .plain import about, counted, span_text
from .tables import facts, indented, stack, table, text

_MAX_REGIONS = 1000
"""Limit: rows of one table that are printed; JSON has them all."""


def render_vm(vm: PlannedVm, fetched: Collection[str] = (), fmt: Format | None = None) -> RenderableType:
    """A VM file: its regions, devices, images and notices.

    Args:
        vm: the file.
        fetched: names of the guests that `stage2 fetch` has brought.
        fmt: the format of its stage-2 tables, None where that is not known yet.
    """
    regions = vm.plan.regions
    ram = sum(region.size for region in regions if region.map_type.is_ram)
    rows = [
        ("file", vm.file),
        ("kind", f"{vm.kind} guest, {counted(vm.cpu_num, 'vCPU')}, {about(ram)} of RAM"),
        ("arch", _arch(vm, fmt)),
        ("entry", f"{vm.kernel.entry_point:#x}"),
    ]
    if fmt is not None:
        rows.append(("stage 2", f"{fmt.name}: {fmt.title}"))
    if vm.kernel.cmdline is not None:
        rows.append(("cmdline", vm.kernel.cmdline))
    parts: list[RenderableType] = [text(f"VM {vm.id} {vm.name}", "bold"), indented(facts(rows))]
    parts += _section("regions", _region_table(vm.plan))
    parts += _section("devices", _device_table(vm))
    parts += _section("images", _image_table(vm, fetched))
    parts += _section("shares", _share_table(vm))
    parts += _notices(vm.notices)
    return stack(parts)


def _arch(vm: VmConfig, fmt: Format | None) -> str:
    if vm.arch is not None:
        return vm.arch
    if fmt is not None:
        return f"{arch_of(fmt)}, though not by this file"
    return "not named: --arch, a platform file or the kernel's header says"


def render_platform(platform: PlatformConfig) -> RenderableType:
    """A platform file."""
    rows = [
        ("file", platform.file or "none: the default host"),
        ("arch", platform.arch or "any"),
        ("memory", _spans(platform.memory) + f" ({about(platform.memory_size)})"),
    ]
    numbers = {
        "kernel image": platform.kernel_paddr,
        "UART": platform.uart_paddr,
        "PCI ECAM": platform.pci_ecam_base,
        "GIC distributor": platform.gicd_paddr,
        "GIC redistributor": platform.gicr_paddr,
        "GIC CPU interface": platform.gicc_paddr,
        "RTC": platform.rtc_paddr,
    }
    rows += [("reserved", f"{span_text(one.span.start, one.span.end)} by {one.who}") for one in platform.reserved]
    rows += [(name, f"HPA {value:#x}") for name, value in numbers.items() if value is not None]
    if platform.timer_frequency is not None:
        rows.append(("timer", f"{platform.timer_frequency:,} Hz"))
    rows += [(name, f"{value:#x}" if isinstance(value, int) else value) for name, value in platform.extra]
    parts: list[RenderableType] = [text(f"Platform {platform.platform}", "bold"), indented(facts(rows))]
    lists = (("MMIO", platform.mmio), ("VirtIO", platform.virtio_mmio), ("PCI", platform.pci_ranges))
    found = [
        (kind, f"{span.start:#x}", f"{span.end:#x}", format_size(span.size))
        for kind, spans in lists
        for span in spans[:_MAX_REGIONS]
    ]
    if found:
        parts += _section("devices", table(("kind", "start", "end", "size"), found, right=("start", "end", "size")))
    parts += _notices(platform.notices)
    return stack(parts)


def render_defconfig(config: DefConfig) -> RenderableType:
    """A defconfig."""
    rows = [
        ("file", config.file or "none: the defaults"),
        ("smp", counted(config.smp, "host CPU")),
        ("ticks-per-sec", f"{config.ticks_per_sec} Hz"),
        ("task-stack-size", format_size(config.task_stack_size)),
    ]
    return stack((text("Defconfig", "bold"), indented(facts(rows)), *_notices(config.notices)))


def render_board(board: BoardConfig) -> RenderableType:
    """A board file."""
    rows = [
        ("file", board.file),
        ("meaning", board.meaning),
        ("target", board.target),
        ("features", ", ".join(board.features) or "none"),
        ("stage 2", "four-level tables" if board.four_levels else "the fewest levels that reach a VM's memory"),
        ("VM files", ", ".join(board.vm_configs) or "none"),
    ]
    return stack((text("Board", "bold"), indented(facts(rows)), *_notices(board.notices)))


# --- inside ------------------------------------------------------------------------------------------------


def _section(title: str, content: RenderableType | None) -> list[RenderableType]:
    return [] if content is None else [Text(), indented(text(title, "italic")), indented(content)]


def _notices(notices: Sequence[Notice]) -> list[RenderableType]:
    if not notices:
        return []
    rows = [
        (f"line {notice.place.line}", ": ".join(filter(None, (notice.place.key, notice.text)))) for notice in notices
    ]
    return _section("notices", facts(rows))


def _spans(spans: Sequence[Range]) -> str:
    return ", ".join(span_text(span.start, span.end) for span in spans)


def _region_table(plan: RegionPlan) -> RenderableType:
    regions = plan.regions
    rows = [
        (
            f"{region.start:#x}",
            f"{region.end:#x}",
            format_size(region.size),
            region.flags.short,
            region.map_type.value,
            "assumed" if plan.is_assumed(region) else _host_address(region),
            region.label,
        )
        for region in regions[:_MAX_REGIONS]
    ]
    columns = ("GPA", "end", "size", "flags", "type", "HPA", "name")
    found = table(columns, rows, right=("GPA", "end", "size", "HPA"))
    more = len(regions) - len(rows)
    return found if more <= 0 else stack((found, text(f"and {more:,} more (--json has all)")))


def _host_address(region: MemoryRegion) -> str:
    host = region.host_range
    if host is not None:
        return "= GPA" if host == region.range else f"{host.start:#x}"
    return "any" if region.map_type.is_mapped else "none"


def _device_table(vm: VmConfig) -> RenderableType | None:
    lists = vm.devices
    rows: list[tuple[str, ...]] = []
    for device in lists.mapped:
        where = "= GPA" if device.hpa == device.gpa else f"{device.hpa:#x}"
        irq = "" if device.irq is None else str(device.irq)
        rows.append(("passed through", f"{device.gpa:#x}", format_size(device.size), where, irq, device.name))
    rows += [("passed through", "", "", "", "", f"{node.path} (device tree node)") for node in lists.unresolved]
    for emulated in lists.emulated:
        at = f"port {emulated.gpa:#x}" if emulated.on_ports else f"{emulated.gpa:#x}" if emulated.size else ""
        size = format_size(emulated.size) if emulated.size else ""
        irq = "" if emulated.irq is None else str(emulated.irq)
        rows.append(("emulated", at, size, "", irq, f"{emulated.name} ({emulated.type_name})"))
    rows += [("virtual", "", "", "", "", f"{device.id} ({device.model})") for device in lists.virtual]
    rows += [("kept off", "", "", "", "", f"{node.path} (device tree node)") for node in lists.disabled]
    if not rows:
        return None
    return table(
        ("kind", "GPA", "size", "HPA", "IRQ", "name"), rows[:_MAX_REGIONS], right=("GPA", "size", "HPA", "IRQ")
    )


def _image_table(vm: VmConfig, fetched: Collection[str]) -> RenderableType | None:
    rows = []
    for image in vm.kernel.images:
        if image.path is not None:
            at = "loader's choice" if image.load_addr is None else f"{image.load_addr:#x}"
            rows.append((image.role, at, _presence(image.path, fetched), _image_text(image.path)))
    rows += [("rom", f"{rom.gpa:#x}", _presence(rom.image, fetched), _image_text(rom.image)) for rom in vm.roms]
    return table(("role", "GPA", "there", "image"), rows, right=("GPA",)) if rows else None


def _presence(image: ImagePath, fetched: Collection[str]) -> Text:
    if image.fetched is not None:
        return text("yes", "green") if image.fetched in fetched else text("not fetched", "yellow")
    return text("yes", "green") if image.find() is not None else text("missing", "yellow")


def _image_text(image: ImagePath) -> str:
    """The image as written, and where it was looked for if it is not there."""
    there = image.fetched is not None or image.find() is not None
    return image.text if there else f"{image.text} ({image.sought})"


def _share_table(vm: VmConfig) -> RenderableType | None:
    rows = [
        (f"{share.gpa:#x}", format_size(share.size), share.flags.short, share.name, ", ".join(map(str, share.peers)))
        for share in vm.shares
    ]
    return table(("GPA", "size", "flags", "name", "with VMs"), rows, right=("GPA", "size")) if rows else None
