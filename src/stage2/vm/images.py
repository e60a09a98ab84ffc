"""A VM's images as its file names them: read, understood and judged, without a VM to put them into."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..address import MIB, Range
from ..check.finding import Finding, Location, found_at
from ..check.guest_images import BZ_IMAGE, WRONG_ARCH, check_kernel
from ..check.guest_tree import check_tree
from ..check.image_places import (
    NOT_AT_HAND,
    UNREADABLE,
    PutImage,
    check_arm_window,
    check_places,
    put_kernel,
)
from ..config.boot import BootProtocol
from ..config.images import ImagePath
from ..config.placement import has_bios
from ..config.regions import PlannedVm
from ..config.vm import VmConfig
from ..config.wording import shown
from ..errors import ImageError
from ..images.fetch import fetched, is_fetched
from ..images.kernel import BZIMAGE, KernelImage, inspect
from ..images.wrappers import MAX_IMAGE

_FETCHED_ROLES = ("kernel", "ramdisk")


@dataclass(frozen=True, slots=True)
class VmImages:
    """The images of a VM, read and understood but not yet in memory.

    Args:
        kernel: the kernel.
        others: role (`bios`, `dtb`, `ramdisk`) to bytes.
        roms: GPA to bytes.
    """

    kernel: KernelImage
    others: dict[str, bytes]
    roms: dict[int, bytes]

    @property
    def arch(self) -> str | None:
        """The architecture that the kernel's header names."""
        return self.kernel.arch

    @property
    def is_linux(self) -> bool:
        """Whether the kernel holds Linux's banner; others have the same header."""
        return self.kernel.is_linux


def read_kernel(config: VmConfig) -> KernelImage:
    """Read the kernel that a VM's file names.

    Raises:
        ImageError: as `read_images`.
    """
    kernel = config.kernel.kernel
    if kernel.path is None:
        raise kernel.place.error("no kernel: set kernel_path, or give --kernel", ImageError)
    try:
        return inspect(_read(kernel.path, "kernel"))
    except ImageError as error:
        raise _at(kernel.path, error) from None


def read_images(config: VmConfig) -> VmImages:
    """Read everything a VM's file names.

    Raises:
        ImageError: an image is missing, unreadable, too large or damaged; the text names file, line and key.
    """
    understood = read_kernel(config)
    others = {}
    for image in (config.kernel.bios, config.kernel.dtb, config.kernel.ramdisk):
        if image is not None and image.path is not None:
            others[image.role] = _read(image.path, image.role)
    return VmImages(understood, others, {rom.gpa: _read(rom.image, "rom") for rom in config.extensions.roms})


def check_images(config: PlannedVm, images: VmImages, arch: str | None) -> list[Finding]:
    """What is wrong with a VM's images, or with where its file puts them (`check.guest_images`, `check.guest_tree`).

    Args:
        config: the file.
        images: what it names.
        arch: the VM's architecture, None where nothing but the kernel says.
    """
    return _judged(config, images.kernel, images.others, images.roms, arch)


def check_at_hand(vms: Sequence[PlannedVm], arch_of: Callable[[PlannedVm], str | None]) -> Iterator[Finding]:
    """What is wrong with VMs' images, as far as these are at hand: those that are not are a note.

    Args:
        vms: the VMs.
        arch_of: the architecture of one; None where nothing says it.
    """
    understood = lru_cache(maxsize=4)(inspect)  # VMs often have one kernel, and unpacking it takes its time
    for vm in vms:
        missing: list[tuple[str, ImagePath]] = []
        kernel, others, roms = None, {}, {}
        for role, gpa, path in _named(vm):
            if role == "kernel" and vm.kernel.boot is not None and vm.kernel.boot.protocol is BootProtocol.UEFI:
                continue  # what firmware starts is its own matter
            try:
                if not _is_at_hand(path, role):
                    missing.append((role, path))
                    continue
                data = _read(path, role)
                if role == "kernel":
                    kernel = understood(data)
                elif gpa is None:
                    others[role] = data
                else:
                    roms[gpa] = data
            except ImageError as error:
                yield found_at(UNREADABLE, f"the {role}: {error.problem}", path.place)
        if missing:
            yield _not_at_hand(vm, missing)
        for finding in _judged(vm, kernel, others, roms, arch_of(vm)):
            # It is not for the engines here; entered below itself, it is started by upstream's own stub.
            if finding.rule is not BZ_IMAGE or vm.kernel.entry_point >= (vm.kernel.kernel.load_addr or 0):
                yield finding


def _named(vm: VmConfig) -> Iterator[tuple[str, int | None, ImagePath]]:
    """The images that a VM's file names: role, GPA of a ROM, path."""
    for image in vm.kernel.images:
        if image.path is not None:
            yield image.role, None, image.path
    for rom in vm.roms:
        yield f"ROM {shown(rom.name)}", rom.gpa, rom.image


def _is_at_hand(path: ImagePath, role: str) -> bool:
    if path.fetched is None:
        return path.find() is not None
    return role not in _FETCHED_ROLES or is_fetched(path.fetched)


def _not_at_hand(vm: VmConfig, missing: Sequence[tuple[str, ImagePath]]) -> Finding:
    names = [f"the {role} {shown(path.text)}" for role, path in missing]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    are = "are" if len(names) > 1 else "is"
    return Finding(
        NOT_AT_HAND, f"{listed} of {vm.label} {are} not at hand, and not checked",
        locations=tuple(Location.of(path.place, role) for role, path in missing), fix=missing[0][1].sought,
    )  # fmt: skip


def _judged(
    config: PlannedVm,
    kernel: KernelImage | None,
    others: Mapping[str, bytes],
    roms: Mapping[int, bytes],
    arch: str | None,
) -> list[Finding]:
    """What is wrong with the images that are there."""
    put = [] if kernel is None else [image for image in [put_kernel(config, kernel)] if image is not None]
    for image in (config.kernel.bios, config.kernel.dtb, config.kernel.ramdisk):
        data = None if image is None else others.get(image.role)
        if image is not None and image.load_addr is not None and data:
            place = image.place if image.path is None else image.path.place
            put.append(PutImage(image.role, (Range.sized(image.load_addr, len(data)),), place))
    spans = {image.role: image.spans[0] for image in put if image.spans}
    for rom in config.roms:
        if rom.gpa in roms:
            span = Range.sized(rom.gpa, len(roms[rom.gpa]))
            put.append(PutImage(f"ROM {shown(rom.name)}", (span,), rom.image.place))
    found: list[Finding] = []
    suits = True
    if kernel is not None:
        unknown = has_bios(config.kernel) and "bios" not in spans
        found += check_kernel(config, kernel, arch, spans.get("bios"), starts_elsewhere=unknown)
        # What is in a bzImage says itself where it lies.
        suits = kernel.kind != BZIMAGE and not any(finding.rule is WRONG_ARCH for finding in found)
    if suits:
        found += check_places(config, put)
        found += [] if kernel is None else check_arm_window(config, kernel, put)
    tree, blob = config.kernel.dtb, others.get("dtb")
    if blob is not None and tree is not None and tree.path is not None:
        of_kernel = None if kernel is None else kernel.arch
        found += check_tree(config, blob, tree.path.place, tree.load_addr, spans.get("ramdisk"), arch or of_kernel)
    return found


def _read(path: ImagePath, role: str) -> bytes:
    """The bytes of an image file, bounded."""
    try:
        file = _fetched_file(path, role) if path.fetched is not None else path.resolve()
    except ImageError as error:
        raise _at(path, error) from None
    try:
        size = file.stat().st_size
        if size > MAX_IMAGE:
            raise path.error(f"{file} has {size // MIB} MiB; images of up to {MAX_IMAGE // MIB} MiB are read")
        data = file.read_bytes()
    except OSError as error:
        raise path.error(f"{file} cannot be read: {error.strerror}") from None
    if not data:
        raise path.error(f"{file} is empty")
    return data


def _fetched_file(path: ImagePath, role: str) -> Path:
    # Before anybody is sent to fetch one in vain.
    if role not in _FETCHED_ROLES:
        raise ImageError(f"a fetched guest has a kernel and a ramdisk, no {role}")
    guest = fetched(path.fetched or "")
    return guest.kernel if role == "kernel" else guest.ramdisk


def _at(path: ImagePath, error: ImageError) -> ImageError:
    """The error with the place that names the image, unless it has one."""
    return error if error.file is not None else path.error(error.problem)
