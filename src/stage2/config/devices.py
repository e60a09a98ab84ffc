"""The device lists of a VM file: passed-through devices, emulated devices, bare address ranges.

The number of an emulated device's type means different things in different generations of upstream's files; see
`generation` for how the right meaning is found. The present format names models instead: `virtual_devices`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..place import Place
from .document import Item, Table
from .extent import GPA_LIMIT, HPA_LIMIT, read_bytes, require_below
from .generation import EMULATED_TYPES, Generation
from .virtual_devices import VirtualDevice
from .wording import shown

PORT_SPACE = 0x1_0000
"""I/O ports of x86; an emulated device that ends at or below this number sits on ports, not in memory."""


class InterruptMode(Enum):
    """How interrupts of passed-through devices reach the guest."""

    NO_IRQ = "no_irq"
    EMULATED = "emulated"
    PASSTHROUGH = "passthrough"


_INTERRUPT_MODES = {
    "no_irq": InterruptMode.NO_IRQ,
    "no": InterruptMode.NO_IRQ,
    "none": InterruptMode.NO_IRQ,
    "emulated": InterruptMode.EMULATED,
    "emu": InterruptMode.EMULATED,
    "passthrough": InterruptMode.PASSTHROUGH,
    "pt": InterruptMode.PASSTHROUGH,
}

_EMULATED_SHAPE = "[name, base_gpa, length, irq_id, emu_type, [config numbers]]"
_PASSTHROUGH_SHAPE = '[name, base_gpa, base_hpa, length, irq_id] or ["/device-tree/path"]'


@dataclass(frozen=True, slots=True)
class PassthroughDevice:
    """Registers of a real device, mapped into the guest.

    Args:
        name: as in the file.
        gpa, hpa: where the guest sees it and where it is; they need not be page aligned.
        size: bytes, above 0.
        irq: the interrupt, None where the file has none.
        place: where it was declared.
        gpa_place: where its GPA stands; None where it is declared by other means.
    """

    name: str
    gpa: int
    hpa: int
    size: int
    irq: int | None
    place: Place
    gpa_place: Place | None = None


@dataclass(frozen=True, slots=True)
class PassthroughNode:
    """A node of the host's device tree that is passed through; the file itself has no address of it."""

    path: str
    place: Place


@dataclass(frozen=True, slots=True)
class EmulatedDevice:
    """A device the hypervisor plays.

    Args:
        name: as in the file.
        gpa: first guest physical address, or first I/O port when `on_ports`.
        size: bytes or ports; 0 when the device has no registers.
        irq: the interrupt.
        number: its type in the file.
        type_names: what the number means: one name, or one for each generation the file may be written in.
        config: further numbers; their meaning depends on the type.
        on_ports: the device sits on x86 I/O ports and takes no guest physical memory.
        place: where it was declared.
    """

    name: str
    gpa: int
    size: int
    irq: int
    number: int
    type_names: tuple[str, ...]
    config: tuple[int, ...]
    on_ports: bool
    place: Place

    @property
    def type_name(self) -> str:
        return " or ".join(self.type_names)


@dataclass(frozen=True, slots=True)
class Devices:
    """All of `[devices]`.

    Args:
        emulated, passthrough: the two lists; `nodes` are the passthrough entries that are only a device-tree path.
        addresses: `passthrough_addresses`, identity mapped, named after their place in the file.
        disabled: nodes that are not passed through (`disabled`, before that `excluded_devices`).
        interrupt_mode: as in the file; `NO_IRQ` when it says nothing, as upstream. In the present format the guest's
            type decides.
        virtual: the present format's `[[devices.virtual]]`.
        resolved: the registers that come with `nodes` by the host's device tree; None where there is none.
    """

    emulated: tuple[EmulatedDevice, ...]
    passthrough: tuple[PassthroughDevice, ...]
    nodes: tuple[PassthroughNode, ...]
    addresses: tuple[PassthroughDevice, ...]
    disabled: tuple[PassthroughNode, ...]
    interrupt_mode: InterruptMode
    virtual: tuple[VirtualDevice, ...] = ()
    resolved: tuple[PassthroughDevice, ...] | None = None

    @property
    def unresolved(self) -> tuple[PassthroughNode, ...]:
        """The nodes whose addresses nobody knows."""
        return self.nodes if self.resolved is None else ()

    @property
    def mapped(self) -> tuple[PassthroughDevice, ...]:
        """All that is passed through and has addresses."""
        return (*self.passthrough, *self.addresses, *(self.resolved or ()))

    @property
    def excluded(self) -> tuple[str, ...]:
        """The paths of `disabled`."""
        return tuple(node.path for node in self.disabled)


def read_devices(devices: Table, generations: tuple[Generation, ...], arch: str | None) -> Devices:
    """Read `[devices]`.

    Args:
        devices: the table.
        generations: what the file may be written in (`find_generations`).
        arch: architecture the file names, if any.

    Raises:
        ConfigError: an entry is wrong.
    """
    passthrough: list[PassthroughDevice] = []
    nodes: list[PassthroughNode] = []
    for entry in devices.elements("passthrough_devices", f"an array of {_PASSTHROUGH_SHAPE}"):
        device = _passthrough(entry)
        if isinstance(device, PassthroughNode):
            nodes.append(device)
        else:
            passthrough.append(device)
    emulated = [
        _emulated(entry, generations, arch)
        for entry in devices.elements("emu_devices", f"an array of {_EMULATED_SHAPE}")
    ]
    addresses = []
    for index, entry in enumerate(devices.elements("passthrough_addresses", "an array of [base_gpa, length]")):
        base, length = entry.tuple_of("[base_gpa, length]", 2)
        gpa, size = read_bytes(base, length, hpa=True)
        addresses.append(PassthroughDevice(f"passthrough_addresses[{index}]", gpa, gpa, size, None, entry.place))
    excluded = [
        PassthroughNode(node_path(entry.tuple_of('["/device-tree/path"]', 1)[0]), entry.place)
        for entry in devices.elements("excluded_devices", 'an array of ["/device-tree/path"]')
    ]
    mode = devices.optional_choice("interrupt_mode", _INTERRUPT_MODES) or InterruptMode.NO_IRQ
    return Devices(tuple(emulated), tuple(passthrough), tuple(nodes), tuple(addresses), tuple(excluded), mode)


def _passthrough(entry: Item) -> PassthroughDevice | PassthroughNode:
    parts = entry.tuple_of(_PASSTHROUGH_SHAPE, 1, 5)
    if len(parts) == 1:
        return PassthroughNode(node_path(parts[0]), entry.place)
    name = parts[0].name()
    gpa, size = read_bytes(parts[1], parts[3])
    hpa = parts[2].integer()
    require_below(parts[2], hpa, size, HPA_LIMIT)
    return PassthroughDevice(name, gpa, hpa, size, parts[4].integer(maximum=0xFFFF_FFFF), entry.place, parts[1].place)


def node_path(item: Item) -> str:
    """An absolute path of the host's device tree.

    Raises:
        ConfigError: it does not begin with a slash.
    """
    path = item.text()
    if not path.startswith("/"):
        raise item.error(f"{shown(path)} is no device-tree path: it begins with a slash")
    return path


def _emulated(entry: Item, generations: tuple[Generation, ...], arch: str | None) -> EmulatedDevice:
    parts = entry.tuple_of(_EMULATED_SHAPE, 6)
    name = parts[0].name()
    gpa, size = parts[1].integer(), parts[2].integer()
    require_below(parts[1], gpa, size, GPA_LIMIT)
    irq, number = parts[3].integer(maximum=0xFFFF_FFFF), parts[4].integer()
    names = tuple(
        dict.fromkeys(
            EMULATED_TYPES[generation][number] for generation in generations if number in EMULATED_TYPES[generation]
        )
    )
    if not names:
        known = ", ".join(
            f"{key:#x} {word}" for generation in generations for key, word in EMULATED_TYPES[generation].items()
        )
        which = "/".join(generation.value for generation in generations)
        raise parts[4].error(f"device type {shown(number)} does not exist ({which}): {known}")
    if len(names) > 1:
        meanings = ", ".join(
            f"{EMULATED_TYPES[generation][number]} in a {generation.value} file"
            for generation in generations
            if number in EMULATED_TYPES[generation]
        )
        parts[4].notice(
            f"device type {number} is {meanings}, and nothing tells which this is: "
            'say [stage2] generation = "seed" or "head"',
            "device-type",
        )
    on_ports = size > 0 and gpa + size <= PORT_SPACE and arch in (None, "x86_64")
    if on_ports:
        entry.notice(
            f"[{gpa:#x}, {gpa + size:#x}) is taken for x86 I/O ports: no guest physical memory belongs to it", "ports"
        )
    elif size == 0:
        entry.notice("has length 0: it traps no guest physical memory", "length-0")
    config = tuple(value.integer() for value in parts[5].elements("an array of integers"))
    return EmulatedDevice(name, gpa, size, irq, number, names, config, on_ports, entry.place)
