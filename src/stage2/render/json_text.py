"""The JSON of every command: the conventions that `docs/json.md` states, kept in one place."""

from __future__ import annotations

import json
from typing import Any

ADDRESS_KEYS = frozenset({
    "gpa", "gva", "hpa", "hva", "pc", "start", "end", "root", "table", "slot", "slot_hpa", "entry", "output", "address",
    "controls", "load", "load_addr", "entry_point", "kernel_paddr", "kernel_vaddr", "phys_virt_offset",
    "phys_bus_offset", "pci_ecam_base", "uart_paddr", "gicc_paddr", "gicd_paddr", "gicr_paddr", "rtc_paddr",
})  # fmt: skip
"""Keys whose integers have hexadecimal text beside them, under the key with `_hex`."""
SCHEMA_KEY = "schema"


def json_text(kind: str, found: Any) -> str:
    """What a command prints.

    Args:
        kind: of the answer, which names its schema: `walk`, `show`.
        found: the answer; an object is told its schema.
    """
    whole = with_hex(found)
    return json.dumps({**whole, SCHEMA_KEY: schema_name(kind)} if isinstance(whole, dict) else whole, indent=2)


def schema_name(kind: str) -> str:
    """What the answer says of its schema: the name and the version."""
    return f"stage2/{kind}/1"


def with_hex(found: Any) -> Any:
    """The same with hexadecimal text beside every address; null where the address is."""
    if isinstance(found, list):
        return [with_hex(item) for item in found]
    if not isinstance(found, dict):
        return found
    whole: dict[str, Any] = {}
    for key, value in found.items():
        whole[key] = with_hex(value)
        twin = f"{key}_hex"
        if key in ADDRESS_KEYS and twin not in found and (value is None or type(value) is int):
            whole[twin] = None if value is None else f"{value:#x}"
    return whole
