"""Which of upstream's formats a VM file is written in.

Facts: `axvmconfig` of AxVisor's seed and head, its state before `GuestConfig` (tg), and `GuestConfig` itself with the
page on guest configuration in rcore-os/tgoskits (present).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from .document import Table


class Generation(Enum):
    """Which of upstream's formats a file is written in, oldest first."""

    SEED = "seed"
    HEAD = "head"
    TG = "tg"
    PRESENT = "present"

    @property
    def moves_identical(self) -> bool:
        """Whether the GPA of an identical region is a placeholder, and the flags of RAM are not used: since head."""
        return self is not Generation.SEED


GENERATIONS = {generation.value: generation for generation in Generation}
"""What `--generation` and `[stage2] generation` may say."""

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
"""For each generation that has `emu_devices`, the names of the numbers in it."""

_PRESENT_BASE = ("guest_type", "dedicated_cpus")
_PRESENT_DEVICES = ("passthrough", "disabled", "virtual")
_BOOT = ("enable_bios", "boot_protocol", "uefi_firmware_path")
"""Keys that tg and the present format have in `[kernel]`."""
_OLD_DEVICES = (
    "emu_devices",
    "interrupt_mode",
    "passthrough_devices",
    "passthrough_addresses",
    "passthrough_ports",
    "excluded_devices",
    "address_space_policy",
)


def find_generations(root: Table, *stated: Generation | None) -> tuple[Generation, ...]:
    """Which generations a VM file may be of, judged by keys and numbers that only some of them have.

    Args:
        root: the file.
        stated: what the command line says, then what `[stage2] generation` does; the first that says anything
            settles the question.

    Returns:
        One generation when the file shows it. SEED and HEAD when nothing in it tells them apart, or when it has
        marks of both; it is then read as the first of them.
    """
    for generation in stated:
        if generation is not None:
            return (generation,)
    base, kernel, devices = (_bare(root, key) for key in ("base", "kernel", "devices"))
    is_old = "disk_path" in kernel or any(key in devices for key in _OLD_DEVICES)
    present = [*(base.keys() & set(_PRESENT_BASE)), *(devices.keys() & set(_PRESENT_DEVICES))]
    boots = any(key in kernel for key in _BOOT)
    if (present or boots) and not is_old:
        return (Generation.PRESENT,)
    return _older(kernel, devices, newest=bool(present or boots))


def _older(kernel: Mapping[str, object], devices: Mapping[str, object], *, newest: bool) -> tuple[Generation, ...]:
    """Among the generations before the present one; `newest`: the file has keys that came after head."""
    numbers = {entry[4] for entry in _rows(devices, "emu_devices") if len(entry) > 4 and isinstance(entry[4], int)}
    short = any(len(entry) == 1 for entry in _rows(devices, "passthrough_devices"))
    reserved = any(len(entry) == 4 and entry[3] == 2 for entry in _rows(kernel, "memory_regions"))
    newest = newest or "address_space_policy" in devices or "passthrough_ports" in devices
    only_seed = bool(numbers & (_SEED_TYPES.keys() - _TG_TYPES.keys()))
    only_tg = newest or bool(numbers & (_TG_TYPES.keys() - _HEAD_TYPES.keys() - _SEED_TYPES.keys()))
    only_new = reserved or short
    only_new = only_new or any(
        key in devices for key in ("interrupt_mode", "passthrough_addresses", "excluded_devices")
    )
    only_new = only_new or bool(numbers & (_HEAD_TYPES.keys() - _SEED_TYPES.keys()))
    if only_seed and not only_new and not only_tg:
        return (Generation.SEED,)
    if only_tg and not only_seed:
        return (Generation.TG,)
    if only_new and not only_seed:
        # Number 3 is tg's alone among the new ones, and then the file is no head file.
        return (Generation.TG,) if 3 in numbers else (Generation.HEAD,)
    return (Generation.SEED, Generation.HEAD)


def _bare(root: Table, key: str) -> Mapping[str, object]:
    value = root.value(key)
    return value if isinstance(value, dict) else {}


def _rows(table: Mapping[str, object], key: str) -> list[list[object]]:
    """The arrays in the array at `key`; what else is there is no row, and is complained of by who reads it."""
    value = table.get(key)
    return [entry for entry in value if isinstance(entry, list)] if isinstance(value, list) else []
