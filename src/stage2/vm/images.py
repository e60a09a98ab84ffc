"""A VM's images as its file names them: read, understood and judged, without a VM to put them into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..address import MIB, Range
from ..check.finding import Finding
from ..check.guest_images import check_kernel
from ..check.guest_tree import check_tree
from ..config.images import ImagePath
from ..config.regions import PlannedVm
from ..config.vm import VmConfig
from ..errors import ImageError
from ..images.fetch import fetched
from ..images.kernel import KernelImage, inspect
from ..images.wrappers import MAX_IMAGE

_LINUX_BANNER = b"Linux version "


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
        return any(_LINUX_BANNER in segment.data for segment in self.kernel.segments)


def read_images(config: VmConfig) -> VmImages:
    """Read everything a VM's file names.

    Raises:
        ImageError: an image is missing, unreadable, too large or damaged; the text names file, line and key.
    """
    kernel = config.kernel.kernel
    if kernel.path is None:
        raise kernel.place.error("no kernel: set kernel_path, or give --kernel", ImageError)
    try:
        understood = inspect(_read(kernel.path, "kernel"))
    except ImageError as error:
        raise _at(kernel.path, error) from None
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
    kernel = config.kernel
    ranges = {
        image.role: Range.sized(image.load_addr, len(images.others[image.role]))
        for image in (kernel.bios, kernel.ramdisk)
        if image is not None and image.load_addr is not None and images.others.get(image.role)
    }
    found = check_kernel(config, images.kernel, arch, ranges.get("bios"))
    blob = images.others.get("dtb")
    if blob is not None and kernel.dtb is not None and kernel.dtb.path is not None:
        tree, load_addr = kernel.dtb.path.place, kernel.dtb.load_addr
        found += check_tree(config, blob, tree, load_addr, ranges.get("ramdisk"), arch or images.arch)
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
    guest = fetched(path.fetched or "")
    if role not in ("kernel", "ramdisk"):
        raise ImageError(f"a fetched guest has a kernel and a ramdisk, no {role}")
    return guest.kernel if role == "kernel" else guest.ramdisk


def _at(path: ImagePath, error: ImageError) -> ImageError:
    """The error with the place that names the image, unless it has one."""
    return error if error.file is not None else path.error(error.problem)
