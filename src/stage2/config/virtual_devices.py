"""`[[devices.virtual]]`: the devices that upstream's present format asks for by model.

Facts: `VirtualDeviceRequest` of upstream's `axvmconfig`, and the options of its virtio-blk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..place import Place
from .document import Item, Table
from .wording import hint, shown

MODELS = ("pl011-mmio", "uart16550-mmio", "uart16550-pio", "ivc-channel", "virtio-blk", "virtio-net")
"""What upstream's catalogue has; any other model is refused when the VM is prepared."""
CONSOLES = ("pl011-mmio", "uart16550-mmio", "uart16550-pio")
"""The models that are serial ports."""
MAIN_CONSOLE = "console0"
"""The id that stands for the machine's own console and replaces it."""
_HOST_CONSOLE = "host-console"
_RESOURCES = (
    "irq_id",
    "base_gpa",
    "base_hpa",
    "legacy_base_gpa",
    "legacy_length",
    "mmio_base",
    "pio_base",
    "msi_device_id",
    "msi_event_id",
    "lpi_id",
)
"""Options that name what upstream's planner gives out, and so are refused."""
_BLOCK_OPTIONS = ("path", "filesystem", "transport", "backend", "capacity", "capacity_sectors")
_MAC_BYTES = 6
_ID = re.compile(r"[A-Za-z0-9._@-]+")
_MODEL = re.compile(r"[a-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class VirtualDevice:
    """A device that the hypervisor plays; upstream's planner chooses its addresses.

    Args:
        id: its name in the VM.
        model: what it is, one of `MODELS`.
        options: the model's own.
        place: where it was declared.
    """

    id: str
    model: str
    options: Mapping[str, object]
    place: Place

    @property
    def is_console(self) -> bool:
        return self.model in CONSOLES


def read_virtual_devices(devices: Table) -> tuple[VirtualDevice, ...]:
    """Read `[[devices.virtual]]`.

    Raises:
        ConfigError: upstream would refuse an entry.
    """
    found: list[VirtualDevice] = []
    ids: dict[str, VirtualDevice] = {}
    on_host: VirtualDevice | None = None
    for table in devices.tables("virtual"):
        device = _device(table)
        if device.id in ids:
            raise table.need("id").error(
                f"the id {shown(device.id)} is taken by {ids[device.id].place}: give each virtual device its own"
            )
        ids[device.id] = device
        if device.options.get("backend") == _HOST_CONSOLE:
            if on_host is not None:
                raise table.need("backend").error(
                    f'{shown(on_host.id)} of {on_host.place} has the backend "{_HOST_CONSOLE}" already: one device '
                    "of a VM may have the host's console"
                )
            on_host = device
        found.append(device)
    return tuple(found)


def _device(table: Table) -> VirtualDevice:
    id_item = table.need("id", "a name of its own")
    model_item = table.need("model", "one of " + ", ".join(MODELS))
    id, model = id_item.text(), model_item.text()
    if not _ID.fullmatch(id):
        raise id_item.error(f"{shown(id)} is no id: letters, digits and - _ . @ are allowed")
    if not _MODEL.fullmatch(model):
        raise model_item.error(f"{shown(model)} is no model: lower-case letters, digits and - . are allowed")
    for key in table.keys:
        if key in _RESOURCES:
            raise table.need(key).error(
                "upstream's planner chooses addresses and interrupts of virtual devices and refuses this option: "
                "leave it out"
            )
    if model not in MODELS:
        raise model_item.error(f"upstream has no model {shown(model)}{hint(model, MODELS)}: it has {', '.join(MODELS)}")
    options = {key: table.value(key) for key in table.keys if key not in ("id", "model")}
    if model == "virtio-blk":
        _check_block(table, options)
    mac = table.find("guest_mac")
    if mac is not None and model == "virtio-net":
        _check_mac(mac)
    return VirtualDevice(id, model, options, table.place)


def _check_block(table: Table, options: Mapping[str, object]) -> None:
    for key in options:
        if key not in _BLOCK_OPTIONS:
            raise table.need(key).error(
                f"virtio-blk has no such option{hint(key, _BLOCK_OPTIONS)}: it has {', '.join(_BLOCK_OPTIONS)}"
            )


def _check_mac(item: Item) -> None:
    for part in item.tuple_of(f"an array of {_MAC_BYTES} bytes", _MAC_BYTES):
        part.integer(maximum=0xFF)
