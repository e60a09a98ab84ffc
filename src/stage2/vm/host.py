"""A host with VMs on it: physical memory, its frames and owners, and the VMs built from their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..address import SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from ..config.board import BoardConfig
from ..config.conflict import raise_it
from ..config.cpu import NamedCpu
from ..config.defconfig import DefConfig
from ..config.document import Notice
from ..config.extensions import SpaceOptions
from ..config.load import choose_arch, choose_format
from ..config.platform import PlatformConfig, default_platform
from ..config.regions import PlannedVm
from ..config.stage2_format import NamedFormat
from ..config.together import Together, check_together
from ..config.vm import VmConfig
from ..errors import ConfigError, OutOfRangeError, OwnerConflictError, Stage2Error
from ..flags import MapType
from ..forecast.placing import on_host
from ..formats.record import Format
from ..hypervisor.layout import KernelLayout, of_platform
from ..images.host_tree import HostTree
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner, OwnerKind
from ..memory.physical import PhysicalMemory
from ..self_drawn import SelfDrawn
from ..space.address_space import AddressSpace
from ..space.policy import FaultAround
from ..space.region import MemoryRegion, Populate
from ..tlb.identifiers import Identifiers
from .as_declared import Unheld, refuse_but_memory
from .channels import ChannelTable
from .console import Console
from .emulated import attach_devices
from .reserving import reserve, reserve_platforms, table_window
from .vm import Vm

if TYPE_CHECKING:
    from ..hypervisor.space import HypervisorSpace
    from ..prove.theorem import Proof
    from ..tlb.trace import EditTrace
    from .isolation import Iommu

PAGE_SIZES = {"auto": None, "4k": SIZE_4K, "2m": SIZE_2M, "1g": SIZE_1G}
"""The values of --page-size and what they mean in bytes; None leaves the choice to the address space."""
_VMID_BITS = 14
"""Of VMIDs that every format has room for: hgatp's are the fewest."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line may say about the host and how memory is given; None leaves it to the files.

    Args:
        populate: when RAM gets frames.
        page_size: bytes of the largest leaf.
        format: the format of the stage-2 tables.
        cpu: the processor that the tables are for.
        defconfig: how the hypervisor is built: its CPUs and its ticks.
        tables_at: host memory that the VMs' tables are taken from, and nothing else is; None for anywhere.
        reserved: host memory that nothing is taken from.
        shared_memory: host memory is a memory file, which another process may have as its RAM.
        as_declared: map regions also where their host memory is none, or another's; for proofs, never to run.
        fault_around: what a fault populates in VMs whose files do not say, and that have no memory limit.
    """

    populate: Populate | None = None
    page_size: int | None = None
    format: NamedFormat | None = None
    cpu: NamedCpu | None = None
    defconfig: DefConfig | None = None
    tables_at: Range | None = None
    reserved: tuple[Range, ...] = ()
    shared_memory: bool = False
    as_declared: bool = False
    fault_around: FaultAround | None = None

    def __repr__(self) -> str:
        said = [
            f"{one.name}={getattr(self, one.name)!r}" for one in fields(self) if getattr(self, one.name) != one.default
        ]
        return f"Options({', '.join(said)})"


class Host(SelfDrawn):
    """The machine that VMs are built on.

    What the hypervisor's own kernel occupies is given to no VM; its layout is computed from the platform.

    Args:
        platform: its memory; `configs` are the files of its VMs, as they lie on it, `tree` is its device tree, where
            whoever made it has one, and `unheld` the regions that are mapped without being theirs to have.
        defconfig: how the hypervisor is built; None leaves it to the platform.
        shared_memory: its memory is a memory file.
    """

    def __init__(
        self, platform: PlatformConfig, defconfig: DefConfig | None = None, *, shared_memory: bool = False
    ) -> None:
        if defconfig is not None:
            platform = replace(platform.with_cpus(defconfig.smp), ticks_per_sec=defconfig.ticks_per_sec)
        self.platform = platform
        self.memory = PhysicalMemory(platform.memory, backing="memfd" if shared_memory else "anonymous")
        self.frames = FrameAllocator(self.memory)
        self.kernel = None if platform.kernel_paddr is None else of_platform(platform)
        self.notices: list[Notice] = []
        if self.kernel is not None:
            self._set_kernel_aside(self.kernel)
        self.channels = ChannelTable(self.frames)
        self.identifiers = Identifiers(_VMID_BITS)
        self.vms: list[Vm] = []
        self.configs: list[PlannedVm] = []
        self.tree: HostTree | None = None
        self.unheld = Unheld(self)
        self.sockets: dict[str, Path] = {}
        """Unix sockets on which an emulated board listens to whoever looks in, by QEMU's option: "qmp", "gdb"."""

    def _set_kernel_aside(self, kernel: KernelLayout) -> None:
        assert kernel.hpa is not None, "a computed kernel is loaded somewhere"
        for ram in self.memory.ranges:
            part = ram.intersection(kernel.hpa)
            if part is not None:
                self.frames.claim(part, owner=Owner(OwnerKind.HYPERVISOR))
        place = self.platform.kernel_place
        if place is not None and any(part.assumed for part in kernel.parts):
            text = f"the hypervisor's kernel is taken to occupy {kernel.hpa}: [hypervisor] may say its parts' sizes"
            self.notices.append(Notice(text, place))

    def prove(self, own: HypervisorSpace | None = None, *, iommu: Iommu | None = None) -> Proof:
        """Prove or refute the isolation of the VMs, on the bytes of the tables as they are now.

        Args:
            own: the hypervisor's own tables, where it has some (`own_space`).
            iommu: what stands between devices and memory: `{"usb": table}` or `{"vm1/usb": table}` with a `PageTable`
                on this host's memory, "shared" in its place for the stage-2 tables of the device's VM, and "shared"
                alone for these and every device.

        Raises:
            ConfigError: `iommu` names no device of a VM, or tables that no IOMMU walks.
        """
        from .isolation import prove_host

        return prove_host(self, own, iommu)

    def close(self) -> None:
        """End all VMs and give the memory back. Harmless when repeated."""
        for vm in self.vms:
            vm.close()
        self.vms.clear()
        self.memory.close()

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Host({self.memory!r}, {len(self.vms)} VMs)"


def build(
    configs: Sequence[PlannedVm],
    *,
    platform: PlatformConfig | BoardConfig | None = None,
    archs: Sequence[str | None] = (),
    arch: str | None = None,
    options: Options | None = None,
    sink: Callable[[str, str], None] | None = None,
    trace: EditTrace | None = None,
) -> Host:
    """Build the address spaces of VMs on one host. Images are loaded by `boot.load_images`.

    Args:
        configs: the VMs.
        platform: the host; None for the documented default, large enough for them. A board file stands for that
            default too, and says the architecture and whether tables have four levels.
        archs: architecture of each VM, as its kernel's header says; None or missing where that is unknown.
        arch: what the user said (--arch).
        options: how memory is given.
        sink: called with (VM name, text) as guests print.
        trace: where every store to the VMs' tables is written down, from the first on.

    Raises:
        ConfigError: they contradict each other or the host, or nobody names an architecture.
        OutOfMemoryError: the host is too small.
    """
    if isinstance(platform, (str, os.PathLike)):
        raise ConfigError(f"platform={str(platform)!r} is a path: give load_platform({str(platform)!r})")
    options = options or Options()
    taken = [*options.reserved, *([] if options.tables_at is None else [options.tables_at])]
    configs = on_host(configs, platform, taken)
    together = check_together(configs, refuse_but_memory if options.as_declared else raise_it)
    known = [*archs, *[None] * (len(configs) - len(archs))]
    chosen = [
        choose_arch(vm, arch, platform, options.format) or found for vm, found in zip(configs, known, strict=True)
    ]
    for vm, name, found in zip(configs, chosen, known, strict=True):
        if found is not None and name != found:
            raise vm.kernel.kernel.place.error(f"the kernel's header says {found}, but the VM is to be {name}")
        if name is None:
            raise vm.place.error(
                "no architecture: AxVisor's VM files name none. Say --arch riscv64, x86_64 or aarch64, give a "
                '--platform, or add arch = "..." to [base]'
            )
    names = [name or "" for name in chosen]
    formats = [
        choose_format(vm, name, platform, options.format, options.cpu) for vm, name in zip(configs, names, strict=True)
    ]
    host = Host(
        platform if isinstance(platform, PlatformConfig) else default_platform(configs, chosen[0]),
        options.defconfig,
        shared_memory=options.shared_memory,
    )
    try:
        host.configs = configs
        host.notices.extend(together.notices)
        _build_all(host, configs, names, formats, options, together, sink, trace)
    except BaseException:
        host.close()
        raise
    return host


def _build_all(
    host: Host,
    configs: Sequence[PlannedVm],
    archs: Sequence[str],
    formats: Sequence[Format],
    options: Options,
    together: Together,
    sink: Callable[[str, str], None] | None,
    trace: EditTrace | None,
) -> None:
    # Memory at fixed HPAs is set aside before anything is allocated, so that nothing else lands in it.
    reserve(host, options.reserved)
    reserve_platforms(host, configs)
    window = None if options.tables_at is None else table_window(host, options.tables_at)
    names = [_owner_name(config, configs) for config in configs]
    held = [
        _hold(host, config, host.unheld if options.as_declared else None, name)
        for config, name in zip(configs, names, strict=True)
    ]
    shares = _take_shares(host, together, max(fmt.page_size for fmt in formats))
    vmids = _vmids(host.identifiers, configs)
    for config, arch, fmt, owner in zip(configs, archs, formats, names, strict=True):
        name = config.name
        console = Console(None if sink is None else (lambda text, name=name: sink(name, text)))  # type: ignore[misc]
        cpu = options.cpu or config.options.cpu
        space = AddressSpace(
            fmt,
            host.frames,
            name=owner,
            identifier=vmids[config.id],
            populate=options.populate or config.options.populate,
            violation=config.options.violation,
            largest=options.page_size or config.options.page_size,
            limit=config.options.memory_limit,
            fault_around=_fault_around(config.options, options),
            promote=config.options.promote,
            processor=None if cpu is None else cpu.on(arch),
            table_frames=window,
        )
        if trace is not None:
            trace.watch(space.page_table, space.name)
        vm = Vm(
            name,
            config.id,
            arch,
            space,
            console=console,
            cpu_count=config.cpu_num,
            channels=host.channels,
            timer_events=config.options.timer_events,
            ticks_per_sec=host.platform.ticks_per_sec,
            identifiers=host.identifiers,
            write_xor_execute=config.options.write_xor_execute,
        )
        host.vms.append(vm)
    for fixed in (True, False):
        for vm, config, spans in zip(host.vms, configs, held, strict=True):
            for region in config.plan.regions:
                if region.map_type.fixed_hpa is not fixed:
                    continue
                if region.range in spans:
                    # Each only when its turn comes: tables of the others must not land in it.
                    host.frames.free(region.range, owner=_set_aside(config))
                _map(host, vm, config, options, shares, region)
    for vm, config in zip(host.vms, configs, strict=True):
        if options.as_declared:
            host.unheld.map_window(vm.space, config)
        attach_devices(vm, config)


def _map(
    host: Host, vm: Vm, config: VmConfig, options: Options, shares: dict[tuple[str, str], Hpa], region: MemoryRegion
) -> None:
    largest = options.page_size or config.options.page_size
    if options.as_declared:
        host.unheld.add_if_ram(vm.space.name, region)
    if host.unheld.map(vm.space, region, largest):
        return
    if region.map_type is MapType.SHARE:
        region = replace(region, hpa=shares[config.name, region.name])
    if options.populate is not None and region.map_type.may_be_lazy:
        region = replace(region, populate=options.populate)
    try:
        vm.space.map(region)
    except Stage2Error as error:
        refused = _at(region, config, f"{region} cannot be given: {error}")
        if not options.as_declared or not isinstance(error, OwnerConflictError) or region.host_range is None:
            raise refused from None
        host.unheld.add(vm.space.name, region, refused)
        host.unheld.map(vm.space, region, largest)


def _set_aside(config: VmConfig) -> Owner:
    return Owner(OwnerKind.RESERVED, f"set aside for VM {config.id} {config.name}")


def _fault_around(said: SpaceOptions, options: Options) -> FaultAround | None:
    """A VM with a limit may touch little of much: it is given nothing that it does not ask for."""
    if said.fault_around is not None or said.memory_limit is not None:
        return said.fault_around
    return options.fault_around


def _owner_name(config: VmConfig, configs: Sequence[VmConfig]) -> str:
    """What a VM's memory is owned under: its name, with the id where another VM has the same name."""
    alone = "(id " not in config.name and sum(other.name == config.name for other in configs) == 1
    return config.name if alone else f"{config.name} (id {config.id})"


def _vmids(identifiers: Identifiers, configs: Sequence[VmConfig]) -> dict[int, int]:
    """A VMID for each VM's id: the id itself where it fits, else a free one. Two VMs never have the same, and none
    has 0: Intel reserves VPID 0 (SDM 30.1), Arm's hypervisors use VMID 0 for the host.

    Raises:
        ConfigError: there are more VMs than VMIDs.
    """
    found = {}
    # Those whose id fits come first, so that none of the others takes it.
    for config in sorted(configs, key=lambda config: config.id >> identifiers.bits != 0):
        try:
            found[config.id] = identifiers.acquire(config.id, wanted=config.id).number
        except OutOfRangeError as error:
            raise config.place.error(f"{len(configs)} VMs are more than VMIDs tell apart: {error}") from None
    return found


def _hold(host: Host, config: PlannedVm, unheld: Unheld | None, name: str) -> list[Range]:
    """Claim the RAM behind a VM's identical and reserved regions until they are mapped.

    Args:
        host, config: where, and whose.
        unheld: takes what cannot be had; None refuses it.
        name: what the VM's memory is owned under.
    """
    spans = []
    for region in config.plan.regions:
        if not region.map_type.is_identity:
            continue
        exists = host.memory.contains(region.start, region.size)
        if not exists and not region.map_type.owns_frames:
            continue
        try:
            if not exists:
                ram = ", ".join(str(span) for span in host.memory.ranges)
                raise _at(region, config, f"{region} needs host memory that does not exist: RAM is {ram}")
            host.frames.claim(region.range, owner=_set_aside(config))
        except OwnerConflictError as error:
            _refuse(_at(region, config, f"{region} cannot be given: {error}"), unheld, name, region)
        except ConfigError as error:
            _refuse(error, unheld, name, region)
        else:
            spans.append(region.range)
    return spans


def _refuse(error: ConfigError, unheld: Unheld | None, name: str, region: MemoryRegion) -> None:
    if unheld is None:
        raise error from None
    unheld.add(name, region, error)


def _take_shares(host: Host, together: Together, page: int) -> dict[tuple[str, str], Hpa]:
    """Memory for each agreed share, by (VM name, share name); it begins at a multiple of `page` bytes."""
    taken = {}
    for share in together.shares:
        align = max(SIZE_2M if share.size >= SIZE_2M else SIZE_4K, page)
        hpa = host.frames.allocate(share.size, align=align, owner=Owner(OwnerKind.SHARE, share.name))
        for config, _ in share.members:
            taken[config.name, share.name] = hpa
    return taken


def _at(region: MemoryRegion, config: VmConfig, problem: str) -> ConfigError:
    return (region.place or config.place).whole_line.error(problem)
