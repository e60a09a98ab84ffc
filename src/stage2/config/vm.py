"""A VM file of AxVisor, of every generation, with our own tables.

What the file says is kept as it is; `regions.plan_regions` makes the guest's memory of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from pathlib import Path

from ..flags import RWX, MapType
from ..place import Place
from .devices import Devices, read_devices
from .document import NO_TREE, Document, Item, Notice, Table, in_order
from .extensions import (
    ARCHITECTURES,
    OUR_TABLES,
    Extensions,
    RegionDeclaration,
    RomDeclaration,
    ShareDeclaration,
    SpaceOptions,
    read_extensions,
    read_options,
)
from .generation import Generation, find_generations
from .guest_config import GuestType, read_guest_cpus, read_guest_devices, read_guest_type, refuse_guest_tables
from .kernel_config import KernelConfig, read_guest_kernel, read_kernel
from .memory_regions import REGION_SHAPE, read_memory_regions
from .wording import shown

MAX_CPUS = 512
"""Limit: virtual CPUs of one VM."""
MAX_VM_ID = 0xFFFF_FFFF
UNDECIDED = "undecided"
"""The kind of a notice about memory that may mean one thing to the seed and another to head."""

_TABLES = "a VM file has [base], [kernel] and [devices]"
_MIXED = (
    "it is of the present format, and the device lists are of one before: upstream refuses a file that has both; "
    "`stage2 migrate` writes it in the present format"
)
_DIRECT = "the kernel is entered at entry_point"
_TG_KERNEL = {
    "enable_bios": "a BIOS is used when bios_path names one",
    "boot_protocol": _DIRECT,
    "uefi_firmware_path": _DIRECT,
}
_TG_DEVICES = {
    "address_space_policy": 'only what the file lists is mapped, as under upstream\'s policy "virtualized"',
    "passthrough_ports": "I/O ports are not passed through",
    "passthrough": _MIXED,
    "disabled": _MIXED,
    "virtual": "emulated devices are read from emu_devices",
}


class VmType(IntEnum):
    """`base.vm_type`; upstream takes every other number for RTOS."""

    HOST = 0
    RTOS = 1
    LINUX = 2


@dataclass(frozen=True, slots=True)
class VmConfig:
    """One VM as its file declares it.

    Args:
        file: path as the user named it.
        id, name: from `[base]`.
        vm_type: in the formats before the present one; None in that.
        guest_type: in the present format; None in those before.
        cpu_num: number of virtual CPUs.
        phys_cpu_ids, phys_cpu_sets: hardware ids, and one mask for each virtual CPU; None when not given.
        dedicated_cpus: no other VM's virtual CPUs run on the CPUs of the masks.
        arch: `riscv64`, `aarch64`, `x86_64`, or None when the file names none (upstream's never do).
        generations: which of upstream's formats the file may be written in; it was read as the first of them.
        kernel: entry point and images.
        memory: `memory_regions`, in the file's order.
        devices: the device lists.
        extensions: our own tables.
        notices: what a user should know about the file.
        place: of `[base]`, for errors about the VM as a whole.
        id_place: where the id stands; None where the file leaves it out.
    """

    file: str
    id: int
    name: str
    vm_type: VmType | None
    guest_type: GuestType | None
    cpu_num: int
    phys_cpu_ids: tuple[int, ...] | None
    phys_cpu_sets: tuple[int, ...] | None
    dedicated_cpus: bool
    arch: str | None
    generations: tuple[Generation, ...]
    kernel: KernelConfig
    memory: tuple[RegionDeclaration, ...]
    devices: Devices
    extensions: Extensions
    notices: tuple[Notice, ...]
    place: Place
    id_place: Place | None

    @property
    def generation(self) -> Generation:
        """The format that the file was read as."""
        return self.generations[0]

    @property
    def is_undecided(self) -> bool:
        """Whether nothing tells if it is of the seed or of head, and its memory may differ between them."""
        return any(notice.kind == UNDECIDED for notice in self.notices)

    @property
    def kind(self) -> str:
        """What the guest is, by its type: `linux`, `rtos`, `host`, `virtualized`, `passthrough`."""
        if self.guest_type is not None:
            return self.guest_type.value
        assert self.vm_type is not None, "one of the two types is known"
        return self.vm_type.name.lower()

    @property
    def options(self) -> SpaceOptions:
        """Defaults for the whole address space."""
        return self.extensions.options

    @property
    def roms(self) -> tuple[RomDeclaration, ...]:
        return self.extensions.roms

    @property
    def shares(self) -> tuple[ShareDeclaration, ...]:
        return self.extensions.shares

    @property
    def label(self) -> str:
        """How reports call the VM."""
        return f"VM {self.id} {shown(self.name)}"


def read_vm(document: Document, generation: Generation | None = None, ours: Document | None = None) -> VmConfig:
    """Read a VM file. Whether its memory fits together is checked by `regions.plan_regions`.

    Args:
        document: the file.
        generation: the format it is in; None for what the file says, or shows.
        ours: the file beside it with our own tables, when there is one.

    Raises:
        ConfigError: a key is missing or a value is wrong.
    """
    if ours is not None:
        for key in OUR_TABLES:
            if document.root.value(key) is not None:
                raise document.root.need(key).error(
                    f"is a table of ours, and there is {ours.file} for these: move it there"
                )
    tables = (ours or document).root
    options = read_options(tables)
    generations = find_generations(document.root, generation, options.generation)
    if generations == (Generation.PRESENT,):
        vm = _read_present(document, tables if ours is not None else None, options)
    else:
        vm = _read_older(document, tables, options, generations)
    _require_devices(vm)
    if ours is None:
        return vm
    ours.root.note_unknown()
    return replace(vm, notices=in_order((*vm.notices, *ours.notices)))


def _read_older(
    document: Document, tables: Table, options: SpaceOptions, generations: tuple[Generation, ...]
) -> VmConfig:
    root = document.root
    base = root.need("base", _TABLES).table()
    kernel = root.need("kernel", _TABLES).table()
    devices = root.table("devices")

    vm_id = base.need("id", "a number of its own for each VM").integer(maximum=MAX_VM_ID)
    name = base.need("name").name()
    vm_type = _vm_type(base.find("vm_type"))
    cpu_num = base.integer("cpu_num", 1, 1, MAX_CPUS)
    cpu_ids = _cpu_list(base, "phys_cpu_ids", cpu_num)
    cpu_sets = _cpu_list(base, "phys_cpu_sets", cpu_num)
    arch = base.optional_choice("arch", ARCHITECTURES)
    if arch is not None and options.arch not in (None, arch):
        raise base.need("arch").error(f"is {arch}, and [stage2] arch is {options.arch}: keep one")
    arch = arch or options.arch

    memory = read_memory_regions(kernel, generations[0])
    _note_undecided(kernel, generations, memory)
    extensions = read_extensions(tables, options)
    _require_memory(kernel, memory, extensions)
    config = read_kernel(kernel)
    device_lists = read_devices(devices, generations, arch)

    base.note_unused(dict.fromkeys(("guest_type", "dedicated_cpus"), _MIXED))
    kernel.note_unused(_TG_KERNEL)
    devices.note_unused(_TG_DEVICES)
    for table in (root, base, kernel, devices):
        table.note_unknown()
    return VmConfig(
        file=document.file,
        id=vm_id,
        name=name,
        vm_type=vm_type,
        guest_type=None,
        cpu_num=cpu_num,
        phys_cpu_ids=cpu_ids,
        phys_cpu_sets=cpu_sets,
        dedicated_cpus=False,
        arch=arch,
        generations=generations,
        kernel=config,
        memory=memory,
        devices=device_lists,
        extensions=extensions,
        notices=in_order(document.notices),
        place=base.place,
        id_place=_place_of(base.find("id")),
    )


def _place_of(item: Item | None) -> Place | None:
    return None if item is None else item.place


def _read_present(document: Document, tables: Table | None, options: SpaceOptions) -> VmConfig:
    """Upstream's defaults stand for what the file leaves out: id 0, no name, no vCPU, the kernel at 0."""
    root = document.root
    base, kernel, devices = root.table("base"), root.table("kernel"), root.table("devices")
    vm_id = base.integer("id", 0, maximum=MAX_VM_ID)
    name = base.optional_text("name") or ""
    if not name:
        name = f"vm{vm_id}"
        base.item.notice(f"the VM has no name: it is called {name} here")
    guest_type = read_guest_type(base)
    cpu_num = base.integer("cpu_num", 0, 0, MAX_CPUS)
    cpu_ids = _cpu_list(base, "phys_cpu_ids", cpu_num)
    cpu_sets = _cpu_list(base, "phys_cpu_sets", cpu_num)
    cpus = read_guest_cpus(base, cpu_sets)
    if cpu_num == 0:
        base.item.notice("the VM has no vCPU (cpu_num is 0 when it is left out) and cannot run: one is taken here")
    memory = read_memory_regions(kernel, Generation.PRESENT)
    config = read_guest_kernel(kernel)
    lists = read_guest_devices(devices, guest_type)
    refuse_guest_tables(root, {"base": base, "kernel": kernel, "devices": devices}, companion_name(document.file))
    extensions = Extensions(options, (), (), ()) if tables is None else read_extensions(tables, options)
    _require_memory(kernel, memory, extensions)
    if guest_type is GuestType.PASSTHROUGH:
        item = base.find("guest_type") or base.need("vm_type")
        item.notice(
            "upstream maps the whole window one to one, host RAM of the hypervisor and of other VMs with it; the "
            "tables made here hold the host's devices alone",
            "whole-window",
        )
        item.notice(
            "everything of the host that a guest may have is passed through one to one: without the host's device "
            "tree nothing of that is mapped here",
            NO_TREE,
        )
    return VmConfig(
        file=document.file,
        id=vm_id,
        name=name,
        vm_type=None,
        guest_type=guest_type,
        cpu_num=max(1, cpu_num),
        phys_cpu_ids=cpu_ids,
        phys_cpu_sets=cpu_sets,
        dedicated_cpus=cpus.dedicated,
        arch=extensions.options.arch,
        generations=(Generation.PRESENT,),
        kernel=config,
        memory=memory,
        devices=lists,
        extensions=extensions,
        notices=in_order(document.notices),
        place=base.place,
        id_place=_place_of(base.find("id")),
    )


def _note_undecided(kernel: Table, generations: tuple[Generation, ...], memory: tuple[RegionDeclaration, ...]) -> None:
    """Say that a file is read as the seed's for want of a sign, where it would mean something else at head."""
    if len(generations) == 1:
        return
    differing = [
        region.name for region in memory if region.map_type is not MapType.MAP_ALLOC or region.flags.permissions != RWX
    ]
    if not differing:
        return
    names = ", ".join(differing[:4]) + (", ..." if len(differing) > 4 else "")
    kernel.need("memory_regions").notice(
        f"nothing tells whether this is of the seed or of head, and it is read as the seed's: since head {names} would "
        "have other flags or another place; [stage2] generation or --generation says which it is",
        UNDECIDED,
    )


def companion_name(file: str) -> str:
    """The file of our own tables that belongs to a VM file: `NAME.stage2.toml` beside `NAME.toml`."""
    return str(Path(file).with_suffix(".stage2.toml"))


def _require_devices(vm: VmConfig) -> None:
    """Refuse what `[stage2.dma]` says of devices that the VM is not given; any path may be of a node below one."""
    if not vm.options.dma:
        return
    names = [device.name for device in vm.devices.mapped] + [node.path for node in vm.devices.nodes]
    names += [one.name for one in (*vm.memory, *vm.extensions.regions) if one.map_type is MapType.MMIO]
    named = dict.fromkeys(names)
    for said in vm.options.dma.values():
        if said.device not in named and not said.device.startswith("/"):
            known = ", ".join(map(shown, list(named)[:8])) or "none"
            raise said.place.error(f"no device of this VM is called {shown(said.device)}; its devices are: {known}")


def _require_memory(kernel: Table, memory: tuple[RegionDeclaration, ...], extensions: Extensions) -> None:
    if not memory and not extensions.regions:
        raise kernel.place.error(f"the VM has no memory: give memory_regions = [{REGION_SHAPE}, ...]")


def _vm_type(item: Item | None) -> VmType:
    if item is None:
        return VmType.RTOS
    number = item.integer()
    if number in tuple(VmType):
        return VmType(number)
    text = f"type {shown(number)} is unknown and taken for 1 (RTOS), as upstream does; 0 is host, 2 Linux"
    item.notice(text, "vm-type")
    return VmType.RTOS


def _cpu_list(base: Table, key: str, cpu_num: int) -> tuple[int, ...] | None:
    item = base.find(key)
    if item is None:
        return None
    numbers = tuple(element.integer() for element in item.elements("an array of integers"))
    if len(numbers) != cpu_num:
        item.notice(f"{len(numbers)} entries for {cpu_num} virtual CPUs", "cpu-list")
    return numbers
