"""Putting a VM's images into its memory, and telling the guest where things are."""

from __future__ import annotations

from ..address import SIZE_2M, SIZE_4K, Gpa, Range, align_down, align_up
from ..config.images import ImagePath
from ..config.kernel_config import GuestImage
from ..config.vm import VmConfig
from ..errors import ConfigError, ImageError, Stage2Error
from ..flags import MapType
from ..images.devicetree import Description, riscv_blob
from ..images.fdt import Node, flatten
from ..images.guest_tree import GuestBoard, bare_board, guest_tree
from ..images.kernel import BZIMAGE
from ..images.linux_x86 import BOOT_PARAMS, BzImage, unpack_bzimage
from ..ranges import RangeMap
from ..space.region import MemoryRegion
from .gic.v3 import affinities_of
from .images import VmImages
from .pc_boot import pieces
from .plic import SOURCES
from .vm import Boot, Vm

DEFAULT_CMDLINE = "earlycon=sbi console=hvc0 panic=-1"
"""Kernel command line where neither file nor command line gives one."""
BOARD_CMDLINE = "earlycon panic=-1"
"""The same on a board, whose tree says where the console is."""
TIMER_HZ = 10_000_000
"""Frequency of the guest's `time` CSR."""


def load_images(vm: Vm, config: VmConfig, images: VmImages, board: Node | None = None) -> None:
    """Copy the images into the VM's memory, make a device tree if none is given, and set where the guest starts.

    Args:
        vm, config, images: the VM and what it is given.
        board: the device tree of the board whose parts it has; None where the engine is no board.

    Raises:
        ImageError: an image does not fit into the VM's memory, or two of them overlap.
    """
    # Of an x86 board the tree is ours alone: ACPI tells its guest.
    loader = _Loader(vm, config, None if vm.arch == "x86_64" else board)
    kernel = config.kernel
    for gpa, data in images.roms.items():
        rom = next(rom for rom in config.extensions.roms if rom.gpa == gpa)
        loader.put(f"ROM {rom.name}", gpa, data, len(data), rom.image)
    base = 0 if images.kernel.absolute else kernel.kernel.load_addr
    if base is None:
        raise kernel.kernel.place.error("kernel_load_addr is missing", ImageError)
    bz_image = None
    segments = images.kernel.segments
    if images.kernel.kind == BZIMAGE:
        bz_image = _unpacked(images, kernel.kernel)
        loader.entry = bz_image.kernel.entry or 0
        base, segments = 0, bz_image.kernel.segments
    for segment in segments:
        loader.put("kernel", base + segment.address, segment.data, segment.size, kernel.kernel.path)
    if kernel.bios is not None and "bios" in images.others:
        data = images.others["bios"]
        if kernel.bios.load_addr is None:
            raise kernel.bios.place.error("bios_load_addr is missing", ImageError)
        loader.put("bios", kernel.bios.load_addr, data, len(data), kernel.bios.path)
    ramdisk = loader.ramdisk(kernel.ramdisk, images.others.get("ramdisk"))
    if bz_image is not None:
        vm.boot = loader.pc_linux(bz_image, ramdisk)
        return
    device_tree = loader.device_tree(kernel.dtb, images.others.get("dtb"), ramdisk)
    vm.boot = Boot(Gpa(kernel.entry_point), device_tree)


def _unpacked(images: VmImages, kernel: GuestImage) -> BzImage:
    try:
        return unpack_bzimage(images.kernel.segments[0].data)
    except ImageError as error:
        raise kernel.place.error(str(error), ImageError) from None


class _Loader:
    """Places images in one VM's memory and keeps them apart."""

    def __init__(self, vm: Vm, config: VmConfig, board: Node | None) -> None:
        self._vm, self._config, self._board = vm, config, board
        self.entry = config.kernel.entry_point
        """Where the kernel begins, whose RAM the other images are put into."""
        self._taken: RangeMap[str] = RangeMap(merge=False)
        self._ram = [region for region in vm.space.memory_regions if region.map_type.is_ram]

    def put(self, what: str, gpa: int, data: bytes, size: int, path: ImagePath | None) -> Range:
        """Copy an image to a GPA; `size` is the memory it needs, its own bytes and zeros after them."""

        def refused(problem: str) -> ConfigError:
            return self._config.place.error(problem, ImageError) if path is None else path.error(problem)

        try:
            span = Range.sized(gpa, max(size, 1))
        except Stage2Error as error:
            raise refused(f"the {what} cannot be at {gpa:#x}: {error}") from None
        for held, other in self._taken.overlapping(span):
            raise refused(f"the {what} at {span} overlaps the {other} at {held}; move one of them")
        if self._vm.space.undeclared(span):
            raise refused(f"the {what} at {span} ({span.size:#x} bytes) does not fit: memory is {self._memory_text()}")
        self._taken.add(span, what)
        try:
            self._vm.memory.write(gpa, data)
        except Stage2Error as error:
            raise refused(f"the {what} at {span} cannot be loaded: {error}") from None
        return span

    def ramdisk(self, image: GuestImage | None, data: bytes | None) -> Range | None:
        """Load the ramdisk where the file says, or as high as it fits in the RAM of the kernel."""
        if image is None or not data:
            return None
        address = image.load_addr
        if address is None:
            address = self._high("ramdisk", len(data), SIZE_4K, image)
        return self.put("ramdisk", address, data, len(data), image.path)

    def device_tree(self, image: GuestImage | None, data: bytes | None, ramdisk: Range | None) -> Gpa | None:
        """Load the DTB that the file names, or one made for the VM."""
        if data is None:
            board = self._board
            if board is None and self._vm.gic is not None:
                board = bare_board(affinities_of(self._vm.cpu_count))
            if board is not None:
                data = flatten(guest_tree(board, self._of_board(ramdisk)))
            elif self._vm.arch == "riscv64":
                data = riscv_blob(self._description(ramdisk))
            else:
                return None
        address = image.load_addr if image is not None else None
        if address is None:
            address = self._high("device tree", len(data), SIZE_2M, image)
        path = image.path if image is not None else None
        return Gpa(self.put("device tree", address, data, len(data), path).start)

    def pc_linux(self, image: BzImage, ramdisk: Range | None) -> Boot:
        """Tell an x86 Linux what it has, and where it starts."""
        for what, gpa, data in pieces(
            image, self._config, self._memory(), ramdisk, self._vm.cores, self._vm.has_registers
        ):
            self.put(what, gpa, data, len(data), None)
        assert image.kernel.entry is not None, "unpack_bzimage asks for one"
        return Boot(Gpa(image.kernel.entry), boot_params=Gpa(BOOT_PARAMS))

    def _memory(self) -> list[Range]:
        """RAM that the guest is told of."""
        return [region.range for region in self._ram if region.map_type is not MapType.MAP_RESERVED]

    def _of_board(self, ramdisk: Range | None) -> GuestBoard:
        config = self._config
        return GuestBoard(
            memory=self._memory(),
            cpus=self._vm.cores or range(config.cpu_num),
            bootargs=BOARD_CMDLINE if config.kernel.cmdline is None else config.kernel.cmdline,
            ramdisk=ramdisk,
            reserved=[region.range for region in self._ram if region.map_type is MapType.MAP_RESERVED],
            backed=self._vm.has_registers,
            gic=self._vm.gic_place,
            serial=self._vm.serial,
        )

    def _description(self, ramdisk: Range | None) -> Description:
        config = self._config
        return Description(
            model=f"stage2 VM {config.name}",
            memory=self._memory(),
            cpus=config.cpu_num,
            timer_hz=TIMER_HZ,
            bootargs=DEFAULT_CMDLINE if config.kernel.cmdline is None else config.kernel.cmdline,
            ramdisk=ramdisk,
            serial=self._vm.serial,
            reserved=[region.range for region in self._ram if region.map_type is MapType.MAP_RESERVED],
            plic=None if self._vm.plic_place is None else (self._vm.plic_place, SOURCES),
        )

    def _high(self, what: str, size: int, align: int, image: GuestImage | None) -> int:
        """The highest free place of an image in the region that holds the kernel's entry."""
        place = self._config.place if image is None else image.place
        region = self._vm.space.region_at(self.entry)
        if region is None or not region.map_type.is_ram:
            raise place.error(f"no place for the {what}: the entry point is not in RAM", ImageError)
        for gap in reversed(self._taken.gaps(region.range)):
            address = align_down(gap.end - align_up(size, SIZE_4K), align) if gap.size >= size else -1
            if address >= gap.start:
                return address
        raise place.error(
            f"no place for the {what}: {size:#x} bytes do not fit beside the other images into {region}", ImageError
        )

    def _memory_text(self) -> str:
        return ", ".join(str(region) for region in self._regions()) or "none"

    def _regions(self) -> list[MemoryRegion]:
        return [region for region in self._vm.space.memory_regions if region.map_type.takes_images]
