"""Where a VM's images lie beside each other and in its memory: the rules S2206 and S2210 to S2215.

Linux, Documentation/arch/arm64/booting.rst ("4. Call the kernel image"): image_size bytes from the start of the kernel
are its own, the ramdisk lies in one window with it, bit 3 of the flags. Kernels of RISC-V say their size likewise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..address import GIB, SIZE_2M, Range, align_down, format_size
from ..config.regions import PlannedVm
from ..images.kernel import KernelImage
from ..place import Place
from ..ranges import RangeMap
from .finding import Finding, Location, Party, Rule, Severity, found_at

OUTSIDE_REGION = Rule(
    "S2206", Severity.ERROR, "an image is larger than the memory it is put into",
    "The memory that it uses beyond, such as a kernel's .bss, is not there: it is not loaded, or the guest faults.",
)  # fmt: skip
NOT_AT_HAND = Rule(
    "S2210", Severity.NOTE, "images are not at hand",
    "What depends on them cannot be checked: architecture, size, place and contents.",
)  # fmt: skip
UNREADABLE = Rule(
    "S2211", Severity.ERROR, "an image cannot be read, or is nothing that a guest starts from",
    "The VM is refused, or the guest executes bytes that are no code.",
)  # fmt: skip
MEET = Rule(
    "S2212", Severity.ERROR, "two images are put into the same memory",
    "Whichever is loaded first is damaged; what a kernel zeroes (.bss) is gone before it is read.",
)  # fmt: skip
RAMDISK_WINDOW = Rule(
    "S2213", Severity.ERROR, "the ramdisk is too far from an arm64 kernel",
    "The kernel maps both in one window of 32 GiB: it does not find its root file system, or stops (booting.rst, 4).",
)  # fmt: skip
MEMORY_BELOW = Rule(
    "S2214", Severity.NOTE, "an arm64 kernel that cannot use the memory below it",
    "By its header (flags, bit 3) its linear mapping begins where it lies itself: the guest has less RAM than the file "
    "gives it.",
)  # fmt: skip
RULES = (OUTSIDE_REGION, NOT_AT_HAND, UNREADABLE, MEET, RAMDISK_WINDOW, MEMORY_BELOW)

_WINDOW = 32 * GIB
_ANYWHERE_FLAG = 1 << 3


@dataclass(frozen=True, slots=True)
class PutImage:
    """An image where it goes.

    Args:
        role: `kernel`, `bios`, `dtb`, `ramdisk`, or `ROM 'name'`.
        spans: the memory that its parts take, GPAs.
        place: where the file names it.
    """

    role: str
    spans: tuple[Range, ...]
    place: Place

    def party(self, span: Range) -> Party:
        return Party(f"the {self.role}", span, "GPA")


def put_kernel(vm: PlannedVm, kernel: KernelImage) -> PutImage | None:
    """A kernel where its own header or the VM's file puts it, with the memory that it uses beyond its file; None where
    nothing says where.
    """
    base = 0 if kernel.absolute else vm.kernel.kernel.load_addr
    if base is None:
        return None
    path = vm.kernel.kernel.path
    spans = tuple(Range.sized(base + part.address, part.size) for part in kernel.segments if part.size)
    return PutImage("kernel", spans, vm.kernel.kernel.place if path is None else path.place)


def check_places(vm: PlannedVm, images: Sequence[PutImage]) -> Iterator[Finding]:
    """Images inside the memory they are put into, and apart from each other."""
    taken: RangeMap[PutImage] = RangeMap(merge=False)
    memory: RangeMap[None] = RangeMap()
    for region in vm.plan.regions:
        if region.map_type.takes_images:
            memory.add(region.range, None)
    for image in images:
        for span in image.spans:
            yield from _room(vm, memory, image, span)
            yield from _apart(taken, image, span)
            for hole in taken.gaps(span):
                taken.add(hole, image)


def _room(vm: PlannedVm, memory: RangeMap[None], image: PutImage, span: Range) -> Iterator[Finding]:
    held = next((one for one in vm.plan.regions if one.map_type.takes_images and one.range.contains(span.start)), None)
    if held is None or not memory.gaps(span):
        return
    more = span.end - held.range.end
    yield found_at(
        OUTSIDE_REGION,
        f"the {image.role} needs {span} of memory, which ends {more:#x} bytes beyond {held.label} {held.range}",
        image.place,
        (Party(image.role, span, "GPA"), Party(held.label, held.range, "GPA")),
        f"make the region at least {span.end - held.range.start:#x} bytes",
    )


def _apart(taken: RangeMap[PutImage], image: PutImage, span: Range) -> Iterator[Finding]:
    for held, other in taken.overlapping(span):
        shared = held.intersection(span)
        if other is image or shared is None:
            continue
        one, two = image.party(span), other.party(next(whole for whole in other.spans if whole.covers(held)))
        places = (Location.of(image.place, one.name), Location.of(other.place, two.name))
        fix = f"put the {image.role} at {two.span.end:#x} or above, or below {two.span.start:#x}" if two.span else ""
        yield Finding(MEET, f"{one} overlaps {two} in {shared}", (one, two), shared, places, fix)
        return


def check_arm_window(vm: PlannedVm, kernel: KernelImage, images: Sequence[PutImage]) -> Iterator[Finding]:
    """An arm64 kernel and its ramdisk, and the RAM below the kernel."""
    base = vm.kernel.kernel.load_addr
    if kernel.arch != "aarch64" or kernel.header is None or base is None:
        return
    spans = {image.role: image for image in images}
    ramdisk, own = spans.get("ramdisk"), spans.get("kernel")
    if ramdisk is not None and own is not None:
        one, two = own.spans[0], ramdisk.spans[0]
        start, end = align_down(min(one.start, two.start), GIB), max(one.end, two.end)
        if end - start > _WINDOW:
            yield found_at(
                RAMDISK_WINDOW,
                f"the ramdisk GPA {two} and the kernel GPA {one} are not in one window of 32 GiB that begins at a "
                "multiple of 1 GiB",
                ramdisk.place, (ramdisk.party(two), own.party(one)), "put the ramdisk closer to the kernel",
            )  # fmt: skip
    if kernel.header.image_size and not kernel.header.flags & _ANYWHERE_FLAG:
        floor = align_down(base, SIZE_2M)
        below = [one.range for one in vm.plan.regions if one.map_type.is_ram and one.range.start < floor]
        lost = sum(min(span.end, floor) - span.start for span in below)
        if lost:
            first = below[0]
            yield found_at(
                MEMORY_BELOW,
                f"the kernel is put at {base:#x} and cannot use the RAM below: {format_size(lost)} from "
                f"{first.start:#x} on are lost",
                vm.kernel.kernel.place, (Party("RAM", Range(first.start, min(first.end, floor)), "GPA"),),
                "put it at the start of the VM's RAM, or use a kernel of 4.6 or later",
            )  # fmt: skip
