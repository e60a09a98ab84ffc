"""Where upstream's allocator puts identical memory, and what moves with it.

Since AxVisor's head the GPA of an identical region is a placeholder: the allocator gives host memory, aligned to 2 MiB,
and its HPA becomes the GPA. Which memory cannot be known, so it is assumed: first fit, in host RAM that nobody has.
Facts: axvm's memory regions; `BootImagePlan` of axvm and the loader of x86's Linux (rcore-os/tgoskits).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from ..address import GIB, SIZE_2M, SIZE_4K, Range, align_up
from ..flags import MapType
from ..ranges import RangeMap
from .boot import BootProtocol
from .conflict import Claim, ConflictError
from .document import Notice
from .extensions import RegionDeclaration
from .extent import GPA_LIMIT, HPA_LIMIT
from .generation import Generation
from .kernel_config import GuestImage, KernelConfig
from .vm import VmConfig
from .wording import shown

_WITHOUT_HOST = Range(GIB, min(GPA_LIMIT, HPA_LIMIT))
"""Where memory goes that cannot lie where it is written, as long as no platform says what the host has."""
_BIOS_SPACE = SIZE_2M
"""What upstream leaves free for a BIOS below a kernel that it moves."""

_MOST_LOOKS = 1 << 14
"""Limit: pieces of host memory that are looked at for one region."""

Starts = Mapping[str, int]
"""The name of an identical region of `memory_regions`, and its first HPA, which is its first GPA."""


def movable(vm: VmConfig) -> tuple[RegionDeclaration, ...]:
    """The regions of a VM whose place the allocator decides."""
    if not vm.generation.moves_identical:
        return ()
    return tuple(region for region in vm.memory if region.map_type is MapType.MAP_IDENTICAL)


def identical_starts(
    vms: Sequence[VmConfig], memory: Sequence[Range] | None = None, taken: Sequence[Range] = ()
) -> list[Starts]:
    """Where the identical memory of VMs lies: first fit, one VM after the other.

    Args:
        vms: the VMs, in the order in which they are started.
        memory: the host's RAM; None where nothing says, and then a region lies where it is written if it can.
        taken: host memory that nobody gets.

    Raises:
        ConfigError: a region finds no room.
    """
    held: RangeMap[None] = RangeMap()
    for span in taken:
        held.set(span, None)
    for vm in vms:
        for span in _fixed_hpas(vm):
            held.set(span, None)
    found: list[Starts] = []
    for vm in vms:
        starts: dict[str, int] = {}
        regions = movable(vm)
        if regions:
            own: RangeMap[None] = RangeMap()
            for span in _other_gpas(vm):
                own.set(span, None)
            for region in regions:
                span = Range.sized(_place(region, memory, (held, own)), region.size)
                starts[region.name] = span.start
                held.set(span, None)
        found.append(starts)
    return found


def first_fit(size: int, memory: Sequence[Range], held: Sequence[RangeMap[None]]) -> int | None:
    """Where upstream's allocator is assumed to put memory: the lowest multiple of 2 MiB from which on all is free.

    Args:
        size: bytes.
        memory: the host's RAM.
        held: what of it is not free.

    Returns:
        The first address; None where there is no room, or memory is in more pieces than are looked at.
    """
    looked = 0
    for ram in sorted(memory):
        start = align_up(ram.start, SIZE_2M)
        while start + size <= ram.end:
            met = [span for spans in held for span, _ in spans.overlapping(Range.sized(start, size))]
            if not met:
                return start
            looked += len(met)
            if looked > _MOST_LOOKS:
                return None
            start = align_up(max(span.end for span in met), SIZE_2M)
    return None


def _place(region: RegionDeclaration, memory: Sequence[Range] | None, held: Sequence[RangeMap[None]]) -> int:
    written = Range.sized(region.gpa, region.size)
    if memory is None and written.start % SIZE_2M == 0 and not any(spans.overlapping(written) for spans in held):
        return written.start
    start = first_fit(region.size, [_WITHOUT_HOST] if memory is None else memory, held)
    if start is not None:
        return start
    known = "the host" if memory is None else "host RAM " + ", ".join(str(span) for span in memory[:4])
    problem = (
        f"no {region.size:#x} bytes in one piece are free in {known} for identical memory {shown(region.name)}: make "
        "it smaller, or use map_type 0"
    )
    raise ConflictError("no-room", problem, (Claim(f"RAM {shown(region.name)}", region.place),))


def _fixed_hpas(vm: VmConfig) -> Iterator[Range]:
    """Host memory that a VM has at addresses its file says."""
    moved = {id(region) for region in movable(vm)}
    for region in (*vm.memory, *vm.extensions.regions):
        if id(region) in moved:
            continue
        if region.map_type.is_identity:
            yield Range.sized(region.gpa, region.size)
        elif region.hpa is not None:
            yield Range.sized(region.hpa, region.size)
    for device in vm.devices.mapped:
        yield Range.sized(device.hpa, device.size).widened(SIZE_4K)


def _other_gpas(vm: VmConfig) -> Iterator[Range]:
    """Where in a VM no identical memory can lie, for something else does."""
    moved = {id(region) for region in movable(vm)}
    for region in (*vm.memory, *vm.extensions.regions):
        if id(region) not in moved:
            yield Range.sized(region.gpa, region.size)
    for share in vm.shares:
        yield Range.sized(share.gpa, share.size)
    for rom in vm.roms:
        yield Range.sized(rom.gpa, rom.size or SIZE_4K)
    for device in vm.devices.mapped:
        yield Range.sized(device.gpa, device.size).widened(SIZE_4K)
    for emulated in vm.devices.emulated:
        if emulated.size and not emulated.on_ports:
            yield Range.sized(emulated.gpa, emulated.size).widened(SIZE_4K)


def placed_memory(vm: VmConfig, starts: Starts) -> tuple[RegionDeclaration, ...]:
    """`memory_regions` with the identical ones where they are taken to lie."""
    return tuple(replace(region, gpa=starts[region.name]) if region.name in starts else region for region in vm.memory)


def placement_notices(vm: VmConfig, starts: Starts) -> Iterator[Notice]:
    """What is to be known of each identical region whose place is assumed."""
    for region in movable(vm):
        start = starts[region.name]
        written, span = Range.sized(region.gpa, region.size), Range.sized(start, region.size)
        where = "where it is written" if span == written else f"at {span}"
        seed = "" if span == written else f"; the seed would have it at {written}, as written"
        yield Notice(
            f"since head the GPA of identical memory is a placeholder and upstream's allocator decides: "
            f"{shown(region.name)} is assumed to lie {where}, HPA and GPA{seed}",
            region.place,
        )


def placed_kernel(vm: VmConfig, starts: Starts) -> tuple[KernelConfig, list[Notice]]:
    """`[kernel]` with the addresses that upstream makes of those in the file, and what was done to them.

    Upstream moves the kernel to the start of the first region if that is identical, the entry point along with it;
    with UEFI nothing moves. A kernel that is entered below its own address is x86's Linux, which a stub there starts:
    it and its ramdisk lie as far into the region as their addresses say. The present format moves every ramdisk.
    """
    kernel = vm.kernel
    main = vm.memory[0] if vm.memory else None
    load = kernel.kernel.load_addr
    if main is None or main.name not in starts or load is None:
        return kernel, []
    base = starts[main.name]
    notices: list[Notice] = []
    if kernel.boot is not None and kernel.boot.protocol is BootProtocol.UEFI:
        if base != main.gpa:
            notices.append(Notice(f"no address moves along with {shown(main.name)}: UEFI's stay", kernel.entry_place))
        return kernel, notices
    ramdisk, dtb, entry = kernel.ramdisk, kernel.dtb, kernel.entry_point
    if entry < load:
        new_load = base + load
        ramdisk = _moved(ramdisk, base)
    else:
        new_load = base + (_BIOS_SPACE if has_bios(kernel) else 0)
        entry += new_load - load
        if vm.generation is Generation.PRESENT:
            ramdisk = _moved(ramdisk, base - main.gpa)
    if new_load != load:
        at_entry = f" and entered at {entry:#x}" if entry != kernel.entry_point else ""
        notices.append(
            Notice(
                f"upstream moves the kernel with {shown(main.name)}: it is loaded at {new_load:#x}{at_entry}; the seed "
                "would load it as written",
                kernel.kernel.place,
            )
        )
    if ramdisk is not None and ramdisk is not kernel.ramdisk:
        notices.append(Notice(f"the ramdisk moves along, to {ramdisk.load_addr:#x}", ramdisk.place))
    elif ramdisk is not None and ramdisk.load_addr is not None and base != main.gpa:
        notices.append(Notice(f"the ramdisk does not move along with {shown(main.name)}", ramdisk.place))
    if dtb is not None and dtb.load_addr is not None and not entry < new_load:
        notices.append(Notice("not used: upstream puts the device tree into identical memory where it fits", dtb.place))
        dtb = replace(dtb, load_addr=None)
    moved = replace(
        kernel, entry_point=entry, kernel=replace(kernel.kernel, load_addr=new_load), ramdisk=ramdisk, dtb=dtb
    )
    return moved, notices


def has_bios(kernel: KernelConfig) -> bool:
    """Whether a BIOS starts the kernel; where the present format names none, upstream has one of its own."""
    if kernel.boot is not None:
        return kernel.boot.protocol is BootProtocol.MULTIBOOT
    return kernel.bios is not None and kernel.bios.load_addr is not None


def _moved(image: GuestImage | None, distance: int) -> GuestImage | None:
    if image is None or image.load_addr is None or not distance or image.load_addr + distance < 0:
        return image
    return replace(image, load_addr=image.load_addr + distance)


def with_images(kernel: KernelConfig, images: KernelConfig) -> KernelConfig:
    """`[kernel]` with the addresses of one and the images and command line of another."""

    def one(mine: GuestImage | None, other: GuestImage | None) -> GuestImage | None:
        return other if mine is None or other is None else replace(mine, path=other.path)

    return replace(
        kernel,
        kernel=replace(kernel.kernel, path=images.kernel.path),
        bios=one(kernel.bios, images.bios),
        dtb=one(kernel.dtb, images.dtb),
        ramdisk=one(kernel.ramdisk, images.ramdisk),
        cmdline=images.cmdline,
    )
