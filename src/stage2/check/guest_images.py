"""What is wrong with a VM's kernel image, or with where its file puts it: the rules S2201 to S2209.

Linux, Documentation/arch/arm64/booting.rst ("4. Call the kernel image"), Documentation/arch/riscv/boot.rst ("Kernel
location") and boot-image-header.rst, Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..address import SIZE_2M, Range, is_aligned
from ..config.regions import PlannedVm
from ..images.acpi import IO_APIC, LOCAL_APIC, is_pc
from ..images.kernel import BZIMAGE, KernelImage, LinuxHeader
from ..place import Place
from .finding import Finding, Party, Rule, Severity, found_at
from .image_places import put_kernel

WRONG_ARCH = Rule(
    "S2201", Severity.ERROR, "the kernel is for another architecture",
    "The CPU does not know its instructions.",
)  # fmt: skip
BZ_IMAGE = Rule(
    "S2202", Severity.ERROR, "a bzImage without a PC's interrupt controllers",
    "Linux on x86 needs the local APIC and the I/O APIC of the CPU that it runs on: without them no time passes there.",
)  # fmt: skip
ARM_BASE = Rule(
    "S2203", Severity.WARNING, "an arm64 kernel does not lie text_offset above a multiple of 2 MiB",
    "Kernels that do not relocate themselves stop before their first message.",
)  # fmt: skip
RISCV_BASE = Rule(
    "S2204", Severity.ERROR, "a RISC-V kernel does not lie at a multiple of 2 MiB",
    "Its first page tables map it in 2 MiB leaves: it stops before its first message.",
)  # fmt: skip
BIG_ENDIAN = Rule(
    "S2205", Severity.WARNING, "the kernel is big-endian",
    "The CPU begins little-endian and the kernel changes over; device tree, ramdisk and devices have to suit that.",
)  # fmt: skip
ENTRY_OUTSIDE = Rule(
    "S2207", Severity.ERROR, "the entry point lies in no image",
    "The first instruction is whatever the memory holds, mostly zeros.",
)  # fmt: skip
ENTRY_ELSEWHERE = Rule(
    "S2208", Severity.WARNING, "the guest does not begin where its kernel does",
    "A kernel is entered at its beginning, or where its ELF header says.",
)  # fmt: skip
PAGE_SIZE = Rule(
    "S2209", Severity.NOTE, "the kernel has pages of another size than 4 KiB",
    "It runs on CPUs with this granule only.",
)  # fmt: skip

RULES = (
    WRONG_ARCH, BZ_IMAGE, ARM_BASE, RISCV_BASE, BIG_ENDIAN, ENTRY_OUTSIDE, ENTRY_ELSEWHERE, PAGE_SIZE,
)  # fmt: skip

_BIG_ENDIAN_FLAG = 1 << 0
_PAGE_SIZES = {1: "4 KiB", 2: "16 KiB", 3: "64 KiB"}
"""Bits 2:1 of an arm64 header's flags; 0 says nothing."""
_OLD_TEXT_OFFSET = 0x8_0000
"""What is to be assumed where image_size is 0: kernels before 3.17 (booting.rst)."""


def check_kernel(
    vm: PlannedVm, kernel: KernelImage, arch: str | None, bios: Range | None, *, starts_elsewhere: bool = False
) -> list[Finding]:
    """Hold a kernel against the VM's file.

    Args:
        vm: the file.
        kernel: what the image is.
        arch: the VM's architecture, None where nothing but the kernel says.
        bios: where a BIOS image lies, which may hold the entry point.
        starts_elsewhere: the guest begins in what is not known, such as a BIOS that is not at hand.
    """
    return list(_findings(vm, kernel, arch, bios, starts_elsewhere))


def _findings(
    vm: PlannedVm, kernel: KernelImage, arch: str | None, bios: Range | None, starts_elsewhere: bool
) -> Iterator[Finding]:
    place = vm.kernel.kernel.place
    path = vm.kernel.kernel.path
    named = place if path is None else path.place
    if kernel.arch is not None and arch is not None and kernel.arch != arch:
        yield found_at(
            WRONG_ARCH, f"the kernel is a {kernel.kind} for {kernel.arch}, and the VM is {arch}", named,
            fix=f"give a kernel for {arch}, or name {kernel.arch}",
        )  # fmt: skip
        return
    if kernel.kind == BZIMAGE:
        given = {region.range for region in vm.plan.regions if region.host_range == region.range}
        if not is_pc(lambda registers: any(span.covers(registers) for span in given)):
            yield found_at(
                BZ_IMAGE, "the kernel is a Linux bzImage, and the VM has no local APIC or no I/O APIC", named,
                fix=f"pass {LOCAL_APIC} and {IO_APIC} through",
            )  # fmt: skip
        return
    put = put_kernel(vm, kernel)
    base = vm.kernel.kernel.load_addr
    if put is None:
        return
    spans = list(put.spans)
    if kernel.header is not None and base is not None:
        yield from _placement(kernel.arch, kernel.header, base, place)
    if not starts_elsewhere:
        yield from _entry(vm, kernel, spans, bios)


def _placement(arch: str | None, header: LinuxHeader, base: int, place: Place) -> Iterator[Finding]:
    if arch == "aarch64":
        offset = header.text_offset if header.image_size else _OLD_TEXT_OFFSET
        if not is_aligned(base - offset, SIZE_2M):
            yield found_at(
                ARM_BASE,
                f"the kernel is put at {base:#x}; its header asks for {offset:#x} above a multiple of 2 MiB",
                place, fix=f"set kernel_load_addr and entry_point to {base - base % SIZE_2M + offset:#x}",
            )  # fmt: skip
        size = _PAGE_SIZES.get(header.flags >> 1 & 3)
        if size not in (None, "4 KiB"):
            yield found_at(PAGE_SIZE, f"the kernel is built for pages of {size}", place)
    if arch == "riscv64" and not is_aligned(base, SIZE_2M):
        yield found_at(
            RISCV_BASE, f"the kernel is put at {base:#x}, which is no multiple of 2 MiB", place,
            fix=f"set kernel_load_addr and entry_point to {base + -base % SIZE_2M:#x}",
        )  # fmt: skip
    if header.flags & _BIG_ENDIAN_FLAG:
        yield found_at(BIG_ENDIAN, "the kernel's header says that it is big-endian", place)


def _entry(vm: PlannedVm, kernel: KernelImage, spans: list[Range], bios: Range | None) -> Iterator[Finding]:
    entry = vm.kernel.entry_point
    if bios is not None and bios.contains(entry):
        return
    if not any(span.contains(entry) for span in spans):
        where = ", ".join(str(span) for span in spans)
        yield found_at(
            ENTRY_OUTSIDE,
            f"entry_point {entry:#x} lies outside the kernel, which is at {where}",
            vm.kernel.entry_place,
            (Party("kernel", spans[0], "GPA"),) if spans else (),
            f"set entry_point to {_beginning(vm, kernel, spans):#x}",
        )  # fmt: skip
    elif (kernel.header is not None or kernel.entry is not None) and entry != _beginning(vm, kernel, spans):
        begins = _beginning(vm, kernel, spans)
        yield found_at(
            ENTRY_ELSEWHERE, f"entry_point is {entry:#x}, and the kernel is entered at {begins:#x}",
            vm.kernel.entry_place, fix=f"set entry_point to {begins:#x}",
        )  # fmt: skip


def _beginning(vm: PlannedVm, kernel: KernelImage, spans: list[Range]) -> int:
    return spans[0].start if kernel.entry is None else kernel.entry
