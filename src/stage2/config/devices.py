"""The device lists of a VM file: passed-through devices, emulated devices, bare address ranges.

The number of an emulated device's type means different things in different generations of upstream's files; see
`Generation` for how the right meaning is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from ..place import Place
from .document import Item, Table, shown
from .extent import GPA_LIMIT, HPA_LIMIT, read_bytes, require_below

PORT_SPACE = 0x1_0000
"""I/O ports of x86; an emulated device that ends at or below this number sits on ports, not in memory."""


class Generation(Enum):
    """Which of upstream's formats a file is written in."""

    SEED = "seed"
    HEAD = "head"
    TG = "tg"


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

_SEED_TYPES = {
    0: "Console",
    1: "GicdV2",
    2: "GPPT",
    3: "VirtioBlk",
    4: "VirtioNet",
    5: "VirtioConsole",
    6: "IOMMU",
    7: "ICCSRE",
    8: "SGIR",
    9: "GICR",
    10: "Meta",
}
_HEAD_TYPES = {
    0x00: "Dummy",
    0x01: "InterruptController",
    0x02: "Console",
    0x0A: "IVCChannel",
    0x20: "GPPTRedistributor",
    0x21: "GPPTDistributor",
    0x22: "GPPTITS",
    0x30: "PPPTGlobal",
    0xE1: "VirtioBlk",
    0xE2: "VirtioNet",
    0xE3: "VirtioConsole",
}
_TG_TYPES = _HEAD_TYPES | {0x03: "FwCfg", 0x23: "X86IoApic", 0x24: "X86Pit", 0x25: "LoongArchPchPic"}
EMULATED_TYPES: Mapping[Generation, Mapping[int, str]] = {
    Generation.SEED: _SEED_TYPES,
    Generation.HEAD: _HEAD_TYPES,
    Generation.TG: _TG_TYPES,
}
"""For each generation, the names of the numbers in `emu_devices`."""

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
    """

    name: str
    gpa: int
    hpa: int
    size: int
    irq: int | None
    place: Place


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
        excluded: device-tree paths that are not passed through.
        interrupt_mode: as in the file; `NO_IRQ` when it says nothing, as upstream.
    """

    emulated: tuple[EmulatedDevice, ...]
    passthrough: tuple[PassthroughDevice, ...]
    nodes: tuple[PassthroughNode, ...]
    addresses: tuple[PassthroughDevice, ...]
    excluded: tuple[str, ...]
    interrupt_mode: InterruptMode


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
        _node_path(entry.tuple_of('["/device-tree/path"]', 1)[0])
        for entry in devices.elements("excluded_devices", 'an array of ["/device-tree/path"]')
    ]
    mode = devices.optional_choice("interrupt_mode", _INTERRUPT_MODES) or InterruptMode.NO_IRQ
    return Devices(tuple(emulated), tuple(passthrough), tuple(nodes), tuple(addresses), tuple(excluded), mode)


def find_generations(devices: Table, stated: Generation | None, newer: bool, newest: bool) -> tuple[Generation, ...]:
    """Which generations a file may be written in, judged by keys and numbers only some of them have.

    Args:
        devices: its `[devices]`.
        stated: what `[stage2] generation` says; it settles the question.
        newer: something outside the device lists is unknown to the seed.
        newest: something outside the device lists is known to [tg] only.

    Returns:
        One generation when the file shows it. SEED and HEAD when nothing in it tells them apart, or when it
        has marks of both.
    """
    if stated is not None:
        return (stated,)
    numbers = {
        entry.value[4]
        for entry in devices.elements("emu_devices", f"an array of {_EMULATED_SHAPE}")
        if isinstance(entry.value, list) and len(entry.value) > 4 and isinstance(entry.value[4], int)
    }
    short = any(
        isinstance(entry.value, list) and len(entry.value) == 1
        for entry in devices.elements("passthrough_devices", f"an array of {_PASSTHROUGH_SHAPE}")
    )
    only_seed = bool(numbers & (_SEED_TYPES.keys() - _TG_TYPES.keys()))
    only_tg = newest or bool(numbers & (_TG_TYPES.keys() - _HEAD_TYPES.keys() - _SEED_TYPES.keys()))
    keys = ("interrupt_mode", "passthrough_addresses", "excluded_devices")
    only_new = newer or short or any(devices.find(key) for key in keys)
    only_new = only_new or bool(numbers & (_HEAD_TYPES.keys() - _SEED_TYPES.keys()))
    if only_seed and not only_new and not only_tg:
        return (Generation.SEED,)
    if only_tg and not only_seed:
        return (Generation.TG,)
    if only_new and not only_seed:
        # Number 3 is [tg]'s alone among the new ones, and then the file is no [head] file.
        return (Generation.TG,) if 3 in numbers else (Generation.HEAD,)
    return (Generation.SEED, Generation.HEAD)


def _passthrough(entry: Item) -> PassthroughDevice | PassthroughNode:
    parts = entry.tuple_of(_PASSTHROUGH_SHAPE, 1, 5)
    if len(parts) == 1:
        return PassthroughNode(_node_path(parts[0]), entry.place)
    name = parts[0].name()
    gpa, size = read_bytes(parts[1], parts[3])
    hpa = parts[2].integer()
    require_below(parts[2], hpa, size, HPA_LIMIT)
    return PassthroughDevice(name, gpa, hpa, size, parts[4].integer(maximum=0xFFFF_FFFF), entry.place)


def _node_path(item: Item) -> str:
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
            'say [stage2] generation = "seed" or "head"'
        )
    on_ports = size > 0 and gpa + size <= PORT_SPACE and arch in (None, "x86_64")
    if on_ports:
        entry.notice(f"[{gpa:#x}, {gpa + size:#x}) is taken for x86 I/O ports: no guest physical memory belongs to it")
    elif size == 0:
        entry.notice("has length 0: it traps no guest physical memory")
    config = tuple(value.integer() for value in parts[5].elements("an array of integers"))
    return EmulatedDevice(name, gpa, size, irq, number, names, config, on_ports, entry.place)
