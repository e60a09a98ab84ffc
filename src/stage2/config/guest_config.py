"""`GuestConfig`, the format of upstream's VM files since July 2026: `[base]` and `[devices]`, and what is refused.

Facts: `GuestConfig` of upstream's `axvmconfig` (rcore-os/tgoskits) and its page on guest configuration. Upstream
refuses keys it does not know in every table of fixed shape, and so do we, with the line.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from ..place import Place
from .devices import Devices, InterruptMode, PassthroughNode, node_path
from .document import Item, Table
from .extensions import OUR_TABLES
from .virtual_devices import VirtualDevice, read_virtual_devices
from .wording import hint, shown

_MIGRATE = "`stage2 migrate` writes this file in the present format"
_GONE = {
    "base": {"arch": 'arch is ours: write [stage2] arch = "..." in {ours}'},
    "kernel": {"disk_path": f"it is gone, a virtio-blk of [[devices.virtual]] takes its place; {_MIGRATE}"},
    "devices": {
        "emu_devices": f"it is gone, [[devices.virtual]] takes its place; {_MIGRATE}",
        "interrupt_mode": f"it is gone, [base] guest_type decides; {_MIGRATE}",
        "passthrough_devices": f"it is gone, passthrough = [{{ path = ... }}] takes its place; {_MIGRATE}",
        "passthrough_addresses": f"it is gone, passthrough = [{{ path = ... }}] takes its place; {_MIGRATE}",
        "passthrough_ports": f"it is gone; {_MIGRATE}",
        "excluded_devices": f"it is gone, disabled = [{{ path = ... }}] takes its place; {_MIGRATE}",
        "address_space_policy": f"it is gone, [base] guest_type takes its place; {_MIGRATE}",
    },
    "": {},
}
"""For each table, keys that it does not have, and what to do about them."""


class GuestType(Enum):
    """`base.guest_type`: what of the host a guest begins with."""

    VIRTUALIZED = "virtualized"
    PASSTHROUGH = "passthrough"

    @property
    def interrupt_mode(self) -> InterruptMode:
        return InterruptMode.PASSTHROUGH if self is GuestType.PASSTHROUGH else InterruptMode.EMULATED


_GUEST_TYPES = {kind.value: kind for kind in GuestType}
_OLD_NUMBERS = {0: GuestType.PASSTHROUGH, 1: GuestType.PASSTHROUGH, 2: GuestType.VIRTUALIZED}


@dataclass(frozen=True, slots=True)
class GuestCpus:
    """The CPUs of a guest in the present format.

    Args:
        dedicated: no other VM's vCPUs run on them.
        place: of `dedicated_cpus`, None where the file does not say it.
    """

    dedicated: bool
    place: Place | None


def read_guest_type(base: Table) -> GuestType:
    """Read `guest_type`, or `vm_type` as it was called.

    Raises:
        ConfigError: there is no such type, or both keys are there.
    """
    item, old = base.find("guest_type"), base.find("vm_type")
    if item is not None and old is not None:
        raise old.error(f"is the old name of guest_type, which is in line {item.place.line} too: keep that one")
    item = item or old
    if item is None:
        return GuestType.VIRTUALIZED
    if not isinstance(item.value, int):
        return item.choice(_GUEST_TYPES)
    number = item.integer()
    if number not in _OLD_NUMBERS:
        raise item.error(
            f"type {shown(number)} does not exist: 0 and 1 mean passthrough, 2 means virtualized; "
            'write guest_type = "passthrough" or "virtualized"'
        )
    return _OLD_NUMBERS[number]


def read_guest_cpus(base: Table, cpu_sets: tuple[int, ...] | None) -> GuestCpus:
    """Read `dedicated_cpus`.

    Raises:
        ConfigError: it is true, and no masks say which CPUs they are.
    """
    item = base.find("dedicated_cpus")
    if item is None:
        return GuestCpus(False, None)
    dedicated = item.boolean()
    if dedicated and not cpu_sets:
        raise item.error("needs phys_cpu_sets, one mask of host CPUs for each virtual CPU")
    if dedicated and cpu_sets and 0 in cpu_sets:
        mask = base.need("phys_cpu_sets").elements()[cpu_sets.index(0)]
        raise mask.error("mask 0 names no CPU, and dedicated_cpus needs one for each virtual CPU")
    return GuestCpus(dedicated, item.place)


def read_guest_devices(devices: Table, guest_type: GuestType) -> Devices:
    """Read `[devices]`.

    Raises:
        ConfigError: upstream would refuse an entry.
    """
    passthrough, disabled = (_nodes(devices, key) for key in ("passthrough", "disabled"))
    given = {node.path: node for node in passthrough}
    for node in disabled:
        if node.path in given:
            raise node.place.error(f"{shown(node.path)} is passed through by {given[node.path].place} too: keep one")
    virtual = read_virtual_devices(devices)
    _note_virtual(virtual, devices)
    return Devices((), (), passthrough, (), disabled, guest_type.interrupt_mode, virtual)


def _note_virtual(virtual: tuple[VirtualDevice, ...], devices: Table) -> None:
    if virtual:
        names = ", ".join(device.id for device in virtual[:4]) + (", ..." if len(virtual) > 4 else "")
        devices.need("virtual").notice(
            f"upstream chooses the addresses of {names} when the VM starts: they are in no region here"
        )


def _nodes(devices: Table, key: str) -> tuple[PassthroughNode, ...]:
    found = []
    for entry in devices.elements(key, 'an array of { path = "/device-tree/path" }'):
        table = entry.table()
        item = table.need("path", "a path of the host's device tree")
        path = node_path(item)
        if path == "/":
            raise item.error('"/" is the whole device tree: name a node, or leave the list empty for everything')
        refuse_unknown(table, f"an entry of {key}", {})
        found.append(PassthroughNode(path, item.place))
    return tuple(found)


def refuse_guest_tables(root: Table, tables: dict[str, Table], ours: str) -> None:
    """Refuse what upstream's tables do not have.

    Args:
        root: the file.
        tables: its tables, by name, after they were read.
        ours: the file that our own tables belong in.

    Raises:
        ConfigError: there is a key nobody asked for.
    """
    for key in OUR_TABLES:
        if root.value(key) is not None:
            raise root.need(key).error(
                f"is a table of ours, and upstream refuses a file in the present format that has it: move it to {ours}"
            )
    refuse_unknown(root, "the file", _advice("", ours))
    for name, table in tables.items():
        refuse_unknown(table, f"[{name}]", _advice(name, ours))


def _advice(table: str, ours: str) -> dict[str, str]:
    return {key: text.replace("{ours}", ours) for key, text in _GONE[table].items()}


def refuse_unknown(table: Table, what: str, advice: dict[str, str]) -> None:
    """Refuse the first key of a table that nobody asked for.

    Raises:
        ConfigError: there is one.
    """
    unknown = table.unknown()
    if not unknown:
        return
    key = unknown[0]
    item: Item = table.need(key)
    told = advice.get(key)
    known = [name for name in table.asked if name != key]
    raise item.error(
        f"upstream refuses this key, for {what} has none of that name in the present format"
        + (f": {told}" if told is not None else hint(key, known) or ": take it out")
    )
