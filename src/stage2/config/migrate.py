"""A VM file of one of the formats before, written in upstream's present one.

The text is edited, not made anew, so that comments, order and spelling of what stays are kept. What the present format
has no words for is told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Array, Item, Table

from ..errors import ConfigError
from ..flags import RWX, MapType
from ..place import Place
from .devices import EmulatedDevice, InterruptMode
from .document import Document, Notice, in_order, parse_document
from .extensions import OUR_TABLES
from .generation import Generation
from .guest_config import GuestType
from .toml_edit import Edit, edited, like, node_list, with_headers_of, without_generation
from .vm import VmConfig, read_vm
from .wording import shown

_BASE = ("id", "name", "cpu_num", "phys_cpu_ids", "phys_cpu_sets", "dedicated_cpus")
_KERNEL = (
    "entry_point",
    "kernel_path",
    "kernel_load_addr",
    "enable_bios",
    "boot_protocol",
    "bios_path",
    "uefi_firmware_path",
    "bios_load_addr",
    "dtb_path",
    "dtb_load_addr",
    "ramdisk_path",
    "ramdisk_load_addr",
    "image_location",
    "cmdline",
    "memory_regions",
)
_BIOS = ("bios_path", "bios_load_addr")
_NO_ID = re.compile(r"[^A-Za-z0-9._@-]+")
_PROTOCOLS = {
    "direct": "direct",
    "kernel": "direct",
    "multiboot": "multiboot",
    "bios": "multiboot",
    "axvm-bios": "multiboot",
    "uefi": "uefi",
    "efi": "uefi",
}
"""What tg called the boot protocols, and their names now."""
_POLICIES = {"passthrough": GuestType.PASSTHROUGH, "pt": GuestType.PASSTHROUGH}
_MODELS = {"IVCChannel": "ivc-channel", "VirtioBlk": "virtio-blk", "VirtioNet": "virtio-net"}
"""What was an emulated device and is a virtual one now."""
_MACHINES = (
    "Console",
    "InterruptController",
    "GicdV2",
    "GICR",
    "GPPT",
    "GPPTRedistributor",
    "GPPTDistributor",
    "GPPTITS",
    "PPPTGlobal",
    "X86IoApic",
    "X86Pit",
    "LoongArchPchPic",
)
"""What every machine of the present format has by itself."""


@dataclass(frozen=True, slots=True)
class Migration:
    """A VM file in the present format.

    Args:
        text: the file.
        ours: our own tables, for `NAME.stage2.toml` beside it; empty where there are none.
        lost: what could not be carried over, and what means something else now.
    """

    text: str
    ours: str
    lost: tuple[Notice, ...]


def migrate(text: str, document: Document, vm: VmConfig, ours: str = "") -> Migration:
    """Write a VM file in the present format.

    Args:
        text: the file's text.
        document: the same, read.
        vm: what it says.
        ours: the text of the file beside it that has our own tables, when there is one.

    Raises:
        ConfigError: it is in the present format already, or a table is written so that it cannot be edited.
    """
    if vm.generation is Generation.PRESENT:
        raise ConfigError("is in the present format already", file=document.file)
    return _Migrator(text, document, vm).run(ours)


class _Migrator:
    def __init__(self, text: str, document: Document, vm: VmConfig) -> None:
        try:
            self._text, self._toml = text, tomlkit.parse(text)
        except TOMLKitError as error:
            raise ConfigError(f"cannot be edited: {error}", file=document.file) from None
        self._document, self._vm = document, vm
        self._lost: list[Notice] = []
        self._type = self._guest_type()

    def run(self, ours: str) -> Migration:
        moved = self._our_tables()
        self._edit("base", self._base, self._more_base())
        self._edit("kernel", self._kernel, self._more_kernel())
        self._edit("devices", self._devices, self._more_devices())
        for key in [key for key in self._toml if key not in ("base", "kernel", "devices")]:
            self._lose(self._place(key), "unknown to upstream: left out")
            del self._toml[key]
        self._memory()
        self._notes()
        text = with_headers_of(self._toml.as_string(), self._text)
        self._check(text)
        return Migration(text, without_generation(ours) or moved, in_order(self._lost))

    def _edit(self, name: str, edit: Edit, more: Mapping[str, Item]) -> None:
        table = self._toml.get(name)
        if isinstance(table, Table):
            self._toml[name] = edited(table, edit, more)
        elif table is not None:
            raise self._place(name).error(f"is in several pieces or in one line: write it as one table [{name}]")
        else:
            self._toml.append(name, edited(None, edit, more))

    def _place(self, *path: str | int) -> Place:
        positions = self._document.positions
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
        return Place(self._document.file, positions.line(path), key)

    def _lose(self, place: Place, text: str) -> None:
        self._lost.append(Notice(text, place))

    # [base]

    def _guest_type(self) -> GuestType:
        """What maps the same of the host: nothing but what is listed, unless the whole device tree is."""
        if any(node.path == "/" for node in self._vm.devices.nodes):
            return GuestType.PASSTHROUGH
        devices = self._document.root.table("devices")
        return _POLICIES.get(str(devices.value("address_space_policy")), GuestType.VIRTUALIZED)

    def _base(self, key: str, item: Item) -> tuple[str, Item] | None:
        if key == "vm_type":
            return "guest_type", tomlkit.item(self._type.value)
        if key == "dedicated_cpus" and not self._vm.phys_cpu_sets:
            self._lose(self._place("base", key), "left out: it needs phys_cpu_sets")
            return None
        if key in _BASE:
            return key, item
        if key not in ("arch", "guest_type"):
            self._lose(self._place("base", key), "unknown to upstream: left out")
        return None

    def _more_base(self) -> Mapping[str, Item]:
        return {"guest_type": tomlkit.item(self._type.value), "cpu_num": tomlkit.item(self._vm.cpu_num)}

    # [kernel]

    def _kernel(self, key: str, item: Item) -> tuple[str, Item] | None:
        if key == "disk_path":
            if item.unwrap() != "":
                self._lose(
                    self._place("kernel", key),
                    "gone: a virtual device has the disk now, [[devices.virtual]] with an id, model = "
                    f'"virtio-blk" and path = {shown(item.unwrap())}',
                )
            return None
        if key not in _KERNEL:
            self._lose(self._place("kernel", key), "unknown to upstream: left out")
            return None
        if key == "boot_protocol":
            return key, like(_PROTOCOLS.get(str(item), "direct"), item)
        unused = key.endswith("_path") and key != "kernel_path" and item.unwrap() == ""
        return None if unused or (key in _BIOS and self._drops_bios) else (key, item)

    @property
    def _drops_bios(self) -> bool:
        """Whether the VM has a BIOS that upstream would refuse."""
        return self._has_bios and self._vm.arch not in (None, "x86_64")

    @property
    def _has_bios(self) -> bool:
        """Whether the VM is started by a BIOS though nothing but its path and address says so."""
        return self._vm.kernel.bios is not None and self._vm.generation is not Generation.TG

    def _more_kernel(self) -> Mapping[str, Item]:
        if not self._has_bios:
            return {}
        if self._drops_bios:
            bios = self._vm.kernel.bios
            place = self._place("kernel") if bios is None else bios.place
            self._lose(place, f"the BIOS is left out: on {self._vm.arch} the kernel is started directly")
            return {}
        return {"enable_bios": tomlkit.item(True)}

    def _memory(self) -> None:
        kernel = self._toml["kernel"]
        assert isinstance(kernel, Table), "it was made just now"
        rows = kernel.get("memory_regions")
        if not isinstance(rows, Array):
            return
        for number in reversed(range(len(self._vm.memory))):
            region = self._vm.memory[number]
            if region.map_type is MapType.MMIO:
                self._lose(region.place, "left out: a region with the device bit would be RAM now; upstream skipped it")
                del rows[number]
            elif not self._vm.generation.moves_identical:
                if region.map_type is MapType.MAP_IDENTICAL:
                    self._lose(
                        region.place,
                        f"{shown(region.name)} was at HPA {region.gpa:#x}; now the allocator decides where it is, and "
                        "the kernel moves with it (map_type 2 keeps the address, of memory that nobody allocates)",
                    )
                if region.flags.permissions != RWX:
                    self._lose(region.place, f"the flags {region.flags.short} are not used any more: RAM is rwxu--")

    def _notes(self) -> None:
        """What upstream lacks in the file, and what it was taken for."""
        if len(self._vm.generations) > 1:
            self._lose(self._place(), "nothing tells whether this is of the seed or of head: --generation says it")
        ramdisk, first = self._vm.kernel.ramdisk, self._vm.memory[0] if self._vm.memory else None
        identical = first is not None and first.map_type is MapType.MAP_IDENTICAL
        if identical and self._vm.generation.moves_identical and ramdisk is not None and ramdisk.load_addr is not None:
            self._lose(ramdisk.place, "the ramdisk moves with the memory now")
        if self._vm.kernel.image_location is None:
            self._lose(self._place("kernel"), 'image_location is missing, and upstream needs it: "memory" or "fs"')
        if self._vm.arch == "x86_64" and self._vm.kernel.bios is None and self._vm.kernel.cmdline is None:
            self._lose(self._place("kernel"), "cmdline is missing, and direct boot on x86_64 needs it")

    # [devices]

    def _devices(self, key: str, item: Item) -> tuple[str, Item] | None:
        known = ("emu_devices", "interrupt_mode", "passthrough_devices", "passthrough_addresses", "excluded_devices")
        if key not in (*known, "address_space_policy", "passthrough_ports"):
            self._lose(self._place("devices", key), "left out: the device lists of the format before count")
        elif key == "passthrough_ports" and item:
            self._lose(self._place("devices", key), "gone: I/O ports are not passed through by number any more")
        return None

    def _more_devices(self) -> Mapping[str, Item]:
        lists = self._vm.devices
        whole = self._type is GuestType.PASSTHROUGH
        paths = [node.path for node in lists.nodes]
        # With everything passed through a list would narrow it down to its entries.
        off = [node.path for node in lists.disabled if node.path not in paths or whole]
        more: dict[str, Item] = {"passthrough": node_list([] if whole else paths), "disabled": node_list(off)}
        for device in (*lists.passthrough, *lists.addresses):
            self._lose(
                device.place,
                f"{shown(device.name)} at HPA {device.hpa:#x} is left out: devices are passed through by their path in "
                'the host\'s device tree now, passthrough = [{ path = "/..." }]',
            )
        if lists.interrupt_mode not in (InterruptMode.NO_IRQ, self._type.interrupt_mode):
            self._lose(
                self._place("devices", "interrupt_mode"),
                f"gone: a {self._type.value} guest has the mode {self._type.interrupt_mode.value}, not "
                f"{lists.interrupt_mode.value}",
            )
        tables = tomlkit.aot()
        ids: set[str] = set()
        for emulated in lists.emulated:
            model = self._model(emulated)
            if model is None:
                continue
            entry = tomlkit.table()
            entry.add("id", self._id(emulated, ids))
            entry.add("model", model)
            tables.append(entry)
        if len(tables):
            more["virtual"] = tables
        return more

    def _model(self, device: EmulatedDevice) -> str | None:
        """The model that an emulated device is now, None for one that cannot be."""
        label = f"{shown(device.name)} ({device.type_name})"
        if len(device.type_names) > 1:
            self._lose(device.place, f"{label} is left out: nothing tells which of the two it is; --generation does")
            return None
        (name,) = device.type_names
        if name in _MODELS:
            at = f" at GPA {device.gpa:#x}" if device.size else ""
            self._lose(device.place, f"{label}{at}: upstream chooses its address and its interrupt now")
            return _MODELS[name]
        if name in _MACHINES:
            self._lose(device.place, f"{label} is left out: the machine has its own, at an address of its own")
        else:
            self._lose(device.place, f"{label} is left out: upstream has no such virtual device")
        return None

    def _id(self, device: EmulatedDevice, taken: set[str]) -> str:
        """A device's name, of the letters that an id may have, and unlike the others."""
        name = wanted = _NO_ID.sub("-", device.name)
        while name in taken:
            name = f"{wanted}-{len(taken) + 1}"
        taken.add(name)
        if name != device.name:
            self._lose(device.place, f"{shown(device.name)} is called {shown(name)} now")
        return name

    # our own tables

    def _our_tables(self) -> str:
        """Take our tables out of the file; as text for the file beside it."""
        beside = tomlkit.document()
        for key in OUR_TABLES:
            item = self._toml.get(key)
            if item is None:
                continue
            if isinstance(item, Table | AoT):
                beside.append(key, item)
            del self._toml[key]
        self._forget_dma(beside.get("stage2"))
        if self._vm.arch is not None and self._vm.options.arch is None:
            found = beside.get("stage2")
            stage2 = edited(
                found if isinstance(found, Table) else None,
                lambda key, item: (key, item),
                {"arch": tomlkit.item(self._vm.arch)},
            )
            if found is None:
                beside.append("stage2", stage2)
            else:
                beside["stage2"] = stage2
        return without_generation(beside.as_string())

    def _forget_dma(self, options: object) -> None:
        """Take out of `[stage2.dma]` what is said of devices that are left out."""
        said = options.get("dma") if isinstance(options, Table) else None
        if not isinstance(options, Table) or not isinstance(said, Mapping):
            return
        gone = {device.name for device in (*self._vm.devices.passthrough, *self._vm.devices.addresses)}
        for statement in self._vm.options.dma.values():
            if statement.device in gone:
                options["dma"].remove(statement.device)
                self._lose(statement.place, "left out with its device: [stage2.dma] may name its node instead")
        if not said:
            options.remove("dma")

    def _check(self, text: str) -> None:
        """Say what upstream would not take of the new file."""
        try:
            read_vm(parse_document(text, self._document.file, self._document.folder), Generation.PRESENT)
        except ConfigError as error:
            self._lose(self._place(), f"the new file is not whole yet: {error.problem}")
