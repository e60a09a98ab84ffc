"""The host: a platform file of AxVisor's seed, or the documented default when none is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ..address import GIB, MIB, SIZE_2M, SIZE_4K, Range, align_down, align_up, format_size, is_aligned
from ..errors import ConfigError
from ..flags import MapType
from ..place import Place
from ..ranges import RangeMap
from .defconfig import TICKS_PER_SEC, read_ticks
from .document import Document, Item, Notice, Table
from .extensions import ARCHITECTURES
from .extent import HPA_LIMIT, read_bytes, read_pages, require_pages
from .kernel_sizes import ASSUMED, KernelSizes, read_kernel_sizes, require_cpus
from .regions import PlannedVm
from .wording import hint

DEFAULT_POOL_BASE = 4 * GIB
"""Lowest HPA of the default host's memory pool: above what guests usually call their RAM, so that HPA != GPA."""
MAX_DEFAULT_MEMORY = 1 << 46
"""Limit: bytes of the default host's RAM (64 TiB): what one process can reserve addresses for."""
_POOL_EXTRA = 64 * MIB
MAX_EXTRA = 100
"""Limit: keys of one board only that are kept."""

_RANGE_SHAPE = "[base_paddr, size]"
_ADDRESSES = ("pci-ecam-base", "uart-paddr", "gicc-paddr", "gicd-paddr", "gicr-paddr", "rtc-paddr")
_NUMBERS = ("pci-bus-end", "uart-irq", "timer-frequency")


@dataclass(frozen=True, slots=True)
class ReservedMemory:
    """Host RAM that no VM gets, unless its file says so with map_type 2.

    Args:
        span: where.
        who: says so: `board.dtb:/reserved-memory/firmware@80000000`.
    """

    span: Range
    who: str


@dataclass(frozen=True, slots=True)
class PlatformConfig:
    """The host a VM runs on; None where the file says nothing.

    Args:
        file: path as the user named it; None for the default platform.
        arch, platform, family: names.
        memory: host RAM, sorted and disjoint.
        reserved: what of it is reserved.
        four_levels: four-level stage-2 tables are asked for.
        takes_no_interrupts: the hypervisor on it uses no interrupt controller, which is then its VMs' to have.
        kernel_paddr, kernel_vaddr: where the hypervisor's image is.
        kernel_place: where the file says so.
        kernel_sizes: how large its parts are, said or assumed.
        ticks_per_sec: the scheduler's ticks in Hz, where no defconfig says.
        phys_virt_offset, phys_bus_offset: host virtual minus physical address, bus minus physical address.
        kernel_aspace: the hypervisor's virtual addresses.
        mmio, virtio_mmio, pci_ranges: device registers, in the file's order.
        pci_ecam_base, pci_bus_end, uart_paddr, uart_irq, gicc_paddr, gicd_paddr, gicr_paddr, rtc_paddr,
            psci_method, timer_frequency: as in the file; the frequency is in Hz.
        extra: keys only some boards have, with their values.
        notices: what a user should know about the file.
    """

    file: str | None
    arch: str | None
    platform: str
    family: str
    memory: tuple[Range, ...]
    kernel_paddr: int | None = None
    kernel_vaddr: int | None = None
    phys_virt_offset: int | None = None
    phys_bus_offset: int | None = None
    kernel_aspace: Range | None = None
    mmio: tuple[Range, ...] = ()
    virtio_mmio: tuple[Range, ...] = ()
    pci_ranges: tuple[Range, ...] = ()
    pci_ecam_base: int | None = None
    pci_bus_end: int | None = None
    uart_paddr: int | None = None
    uart_irq: int | None = None
    gicc_paddr: int | None = None
    gicd_paddr: int | None = None
    gicr_paddr: int | None = None
    rtc_paddr: int | None = None
    psci_method: str | None = None
    timer_frequency: int | None = None
    extra: tuple[tuple[str, int | str], ...] = ()
    kernel_place: Place | None = None
    kernel_sizes: KernelSizes = ASSUMED
    ticks_per_sec: int = TICKS_PER_SEC
    notices: tuple[Notice, ...] = ()
    reserved: tuple[ReservedMemory, ...] = ()
    four_levels: bool = False
    takes_no_interrupts: bool = False

    def with_cpus(self, smp: int | None) -> PlatformConfig:
        """The same host with another number of CPUs, as `--smp` says; None leaves it as it is.

        Raises:
            ConfigError: no host has so many.
        """
        if smp is None:
            return self
        return replace(self, kernel_sizes=replace(self.kernel_sizes, smp=require_cpus(smp)))

    @property
    def memory_size(self) -> int:
        """Bytes of host RAM."""
        return sum(span.size for span in self.memory)


def read_platform(document: Document) -> PlatformConfig:
    """Read a platform file of the seed.

    Raises:
        ConfigError: a key is missing, a value is wrong, the hypervisor's image or a device is where it cannot be.
    """
    root = document.root
    plat = root.need("plat", "a platform file has arch, platform, [plat] and [devices]").table()
    devices = root.table("devices")
    arch = root.need("arch", ", ".join(ARCHITECTURES)).choice(ARCHITECTURES)
    name = root.need("platform", "the platform's name").name()
    base, size = plat.need("phys-memory-base"), plat.need("phys-memory-size")
    memory = Range.sized(*read_pages(base, size, hpa=True))

    kernel_paddr = plat.optional_address("kernel-base-paddr")
    kernel_vaddr = plat.optional_address("kernel-base-vaddr")
    offset = plat.optional_address("phys-virt-offset")
    for key, value in (("kernel-base-paddr", kernel_paddr), ("kernel-base-vaddr", kernel_vaddr)):
        if value is not None:
            require_pages(plat.need(key), value)
    if kernel_paddr is not None and not memory.contains(kernel_paddr):
        raise plat.need("kernel-base-paddr").error(f"{kernel_paddr:#x} is outside the host's memory {memory}")
    if None not in (kernel_paddr, kernel_vaddr, offset) and kernel_vaddr != (kernel_paddr or 0) + (offset or 0):
        plat.need("kernel-base-vaddr").notice("is not kernel-base-paddr + phys-virt-offset")

    hypervisor = root.table("hypervisor")
    ticks = read_ticks(hypervisor)
    sizes = read_kernel_sizes(hypervisor)

    mmio = _ranges(devices, "mmio-regions")
    for item, span in mmio:
        if span.overlaps(memory):
            raise item.error(f"the device {span} overlaps the host's memory {memory}: move or shrink one")
    _note_overlaps(mmio)
    virtio = _ranges(devices, "virtio-mmio-regions")
    _note_overlaps(virtio)
    pci = _ranges(devices, "pci-ranges")
    addresses = {key: devices.optional_address(key) for key in _ADDRESSES}
    _note_addresses(devices, addresses, [span for _, span in mmio])
    numbers = {key: devices.optional_integer(key) for key in _NUMBERS}
    family = plat.optional_text("family") or name
    psci = devices.optional_text("psci-method")
    bus_offset = plat.optional_address("phys-bus-offset")
    aspace = _kernel_aspace(plat)
    extra = _extra(devices)
    for table in (root, plat, devices):
        table.note_unknown()
    return PlatformConfig(
        file=document.file,
        arch=arch,
        platform=name,
        family=family,
        memory=(memory,),
        kernel_paddr=kernel_paddr,
        kernel_vaddr=kernel_vaddr,
        phys_virt_offset=offset,
        phys_bus_offset=bus_offset,
        kernel_aspace=aspace,
        mmio=tuple(span for _, span in mmio),
        virtio_mmio=tuple(span for _, span in virtio),
        pci_ranges=tuple(span for _, span in pci),
        pci_ecam_base=addresses["pci-ecam-base"],
        pci_bus_end=numbers["pci-bus-end"],
        uart_paddr=addresses["uart-paddr"],
        uart_irq=numbers["uart-irq"],
        gicc_paddr=addresses["gicc-paddr"],
        gicd_paddr=addresses["gicd-paddr"],
        gicr_paddr=addresses["gicr-paddr"],
        rtc_paddr=addresses["rtc-paddr"],
        psci_method=psci,
        timer_frequency=numbers["timer-frequency"],
        extra=extra,
        kernel_place=None if kernel_paddr is None else plat.need("kernel-base-paddr").place,
        kernel_sizes=sizes,
        ticks_per_sec=ticks,
        notices=tuple(document.notices),
    )


def default_platform(vms: Sequence[PlannedVm], arch: str | None = None) -> PlatformConfig:
    """The host when no platform file is given.

    Its RAM is one pool for everything that takes frames (RAM of MAP_ALLOC, ROMs, shares): their sum, a quarter
    more, and 64 MiB, rounded up to 1 GiB; at the lowest multiple of 1 GiB from 4 GiB up that meets neither the
    VMs' identity mapped memory, nor their devices, nor a GPA of the memory the pool is for. RAM that the VMs map
    one to one is there too, widened to 2 MiB where no device is in the way.

    Raises:
        ConfigError: the VMs want more than 64 TiB, or no host has room for them.
    """
    wanted = _POOL_EXTRA
    shares: dict[str, int] = {}
    identical: list[Range] = []
    devices: list[Range] = []
    taken: list[Range] = []
    for vm in vms:
        for region in vm.plan.regions:
            if region.map_type.is_mapped:
                taken.append(region.range)
            host = region.host_range
            if region.map_type.takes_frames:
                wanted += region.size + region.size // 4
            elif region.map_type is MapType.SHARE:
                shares[region.name] = max(shares.get(region.name, 0), region.size)
            elif host is not None:
                (identical if region.map_type.is_identity else devices).append(host)
    wanted = align_up(wanted + sum(size + size // 4 for size in shares.values()), GIB)
    total = wanted + sum(span.size for span in identical)
    if total > MAX_DEFAULT_MEMORY:
        raise ConfigError(
            f"the VMs want {format_size(total)} of memory; a default host has at most "
            f"{format_size(MAX_DEFAULT_MEMORY)}: make their memory smaller",
            file=vms[0].file if vms else None,
        )
    direct = _identity_memory(identical, devices)
    occupied = union((*taken, *devices, *direct))
    base = DEFAULT_POOL_BASE
    for span in occupied:
        if span.start < base + wanted and base < span.end:
            base = align_up(span.end, GIB)
    if base + wanted > HPA_LIMIT:
        raise ConfigError(
            f"no {format_size(wanted)} of host memory are free beside what the VMs map one to one: "
            "give a platform file",
            file=vms[0].file if vms else None,
        )
    memory = union((*direct, Range.sized(base, wanted)))
    return PlatformConfig(file=None, arch=arch, platform="default", family="default", memory=tuple(memory), notices=())


def union(spans: Iterable[Range]) -> list[Range]:
    """Ranges sorted, with those joined that overlap or touch."""
    merged: list[Range] = []
    for span in sorted(spans):
        if merged and span.start <= merged[-1].end:
            merged[-1] = Range(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return merged


def _identity_memory(identical: Sequence[Range], devices: Sequence[Range]) -> list[Range]:
    """Host RAM for identity mapped regions: whole 2 MiB where no device is, else exactly what is declared."""
    blocks = [Range(align_down(span.start, SIZE_2M), align_up(span.end, SIZE_2M)) for span in identical]
    held: RangeMap[None] = RangeMap()
    for span in union(blocks):
        held.set(span, None)
    for span in union(devices):
        held.remove(span)
    # A device over identity mapped memory of another VM is reported by `check_together`; the RAM stays there.
    for span in identical:
        held.set(span, None)
    return [span for span, _ in held]


def _ranges(devices: Table, key: str) -> list[tuple[Item, Range]]:
    found = []
    for entry in devices.elements(key, f"an array of {_RANGE_SHAPE}"):
        base, size = entry.tuple_of(_RANGE_SHAPE, 2)
        found.append((entry, Range.sized(*read_bytes(base, size, hpa=True))))
    return found


def _note_overlaps(ranges: Sequence[tuple[Item, Range]]) -> None:
    last: tuple[Item, Range] | None = None
    for item, span in sorted(ranges, key=lambda pair: pair[1]):
        if last is not None and span.overlaps(last[1]):
            item.notice(f"{span} overlaps {last[1]} of {last[0].place}")
        if last is None or span.end > last[1].end:
            last = (item, span)


def _note_addresses(devices: Table, addresses: Mapping[str, int | None], mmio: Sequence[Range]) -> None:
    """Registers of single devices that are in none of the regions, or the same as another's; 0 stands for none."""
    seen: dict[int, str] = {}
    for key, address in addresses.items():
        if not address:
            continue
        if mmio and not any(span.contains(address) for span in mmio):
            devices.need(key).notice(f"{address:#x} is in none of mmio-regions, which are mapped", "device-address")
        if address in seen:
            devices.need(key).notice(f"{address:#x} is {seen[address]} too", "device-address")
        seen.setdefault(address, key)


def _kernel_aspace(plat: Table) -> Range | None:
    base, size = plat.find("kernel-aspace-base"), plat.find("kernel-aspace-size")
    if base is None or size is None:
        return None
    start, length = base.address(), size.address()
    if length == 0 or start + length > 1 << 64 or not is_aligned(start | length, SIZE_4K):
        raise size.error(f"{length:#x} from {start:#x} is no range of whole pages within 64 bits")
    return Range.sized(start, length)


def _extra(devices: Table) -> tuple[tuple[str, int | str], ...]:
    """Keys of one board (`cpu-csr-base`, `a1000base-topcrm`): kept when they are a number or a string."""
    extra: list[tuple[str, int | str]] = []
    for key in devices.unknown()[:MAX_EXTRA]:
        if not isinstance(devices.value(key), int | str):
            continue
        item = devices.need(key)
        extra.append((key, item.integer() if isinstance(item.value, int) else item.text()))
        if meant := hint(key, (*_ADDRESSES, *_NUMBERS), 0.85):
            item.notice(f"a key of this board only, kept as it is{meant}")
    return tuple(extra)
