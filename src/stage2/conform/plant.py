"""Errors planted on purpose in our walker, to show that the suite finds such.

A planted format decodes as the real one and then errs. The tables and the machine know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..errors import ConfigError
from ..formats import outcome
from ..formats.outcome import LEAF, TABLE
from ..formats.record import Format
from ..formats.rules import Decode
from ..formats.u64 import u64
from ..tables.compiled import inlined


def _writable(decode: Decode) -> Decode:
    def planted(entry: int, level: int, controls: int) -> tuple[int, int, int]:
        kind, address, attributes = decode(entry, level, controls)
        if kind == u64(LEAF):
            attributes |= u64(outcome.WRITE | outcome.DIRTY)
        return kind, address, attributes

    return planted


def _address(decode: Decode) -> Decode:
    def planted(entry: int, level: int, controls: int) -> tuple[int, int, int]:
        kind, address, attributes = decode(entry, level, controls)
        if kind == u64(LEAF) and level == u64(1):
            address ^= u64(1 << 30)
        return kind, address, attributes

    return planted


def _reserved(decode: Decode) -> Decode:
    def planted(entry: int, level: int, controls: int) -> tuple[int, int, int]:
        kind, address, attributes = decode(entry, level, controls)
        if kind != u64(LEAF) and kind != u64(TABLE) and entry & u64(0x7) == u64(0x7) and level == u64(0):
            return u64(LEAF), entry & u64(0x7FFF_F000), u64(outcome.ALL_ALLOWED)
        return kind, address, attributes

    return planted


def _hole(decode: Decode) -> Decode:
    def planted(entry: int, level: int, controls: int) -> tuple[int, int, int]:
        if entry == u64(0):
            return u64(LEAF), u64(0), u64(outcome.ALL_ALLOWED)
        return decode(entry, level, controls)

    return planted


PLANTS: dict[str, tuple[str, Callable[[Decode], Decode]]] = {
    "writable": ("every leaf may be written", _writable),
    "address": ("a block leads a gigabyte away", _address),
    "reserved": ("an entry with reserved bits maps a page", _reserved),
    "hole": ("an entry that is zero maps address 0", _hole),
}
"""Name -> what is wrong then, and how."""


@dataclass(frozen=True, slots=True)
class Plant:
    """Puts the wrong format in the place of the right one. It can be sent to another process.

    Args:
        name: one of `PLANTS`.
    """

    name: str

    def __call__(self, fmt: Format) -> Format:
        make = PLANTS[self.name][1]
        return fmt.with_rules(f"{fmt.name} ({self.name})", decode=make(inlined(fmt.decode)))


def plant(name: str) -> Plant:
    """What plants an error.

    Raises:
        ConfigError: there is no such error.
    """
    if name not in PLANTS:
        raise ConfigError(f"--plant {name}: there are {', '.join(PLANTS)}")
    return Plant(name)
