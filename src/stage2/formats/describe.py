"""Entries in words: which fields an entry has and what each of them says. Plain Python, for every format alike.

What a field's bits decide is asked of the format's own `decode`, so no rule of a format is repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .outcome import LEAF, MISCONFIGURED, NONE, TABLE, EntryKind
from .record import Field, Format

_KIND_NAMES = {LEAF: "leaf", TABLE: "table"}


@dataclass(frozen=True, slots=True)
class FieldValue:
    """One field of one entry.

    Args:
        bits: bit numbers as manuals write them (`53:10`, `7`).
        name: the manual's name.
        value: the field's number.
        meaning: one sentence for this value.
        reserved: hardware demands zero here, and it is not zero.
    """

    bits: str
    name: str
    value: int
    meaning: str
    reserved: bool = False


def describe_entry(
    fmt: Format, entry: int, level: int, kind: EntryKind | int, controls: int | None = None
) -> list[FieldValue]:
    """The fields of an entry that say something, lowest bits first.

    Of an entry that is not present, only the bits that make it so are listed. Fields that are zero and have no
    sentence for zero are left out; reserved bits are listed when they are set.

    Args:
        fmt: the format.
        entry: the raw 64 bits.
        level: 0 for the smallest page.
        kind: what `decode` said the entry is.
        controls: the regime's control bits; None takes the format's defaults.
    """
    controls = fmt.default_controls if controls is None else controls
    likely = _likely_kind(fmt, entry, level, controls) if kind == MISCONFIGURED else int(kind)
    found = []
    for field in _fields(fmt, level, likely):
        value = field.extract(entry)
        if kind == NONE and not _decides(fmt, field, entry, level, controls):
            continue
        if value == 0 and field.reserved:
            continue
        if value == 0 and 0 not in field.values and not _decides(fmt, field, entry, level, controls):
            continue
        found.append(FieldValue(field.bits, field.name, value, field.explain(value), field.reserved))
    return sorted(found, key=lambda item: int(item.bits.rpartition(":")[2]))


def describe_misconfiguration(fmt: Format, entry: int, level: int, controls: int | None = None) -> str:
    """One sentence on why a present entry is misconfigured.

    Args:
        fmt: the format.
        entry: the raw 64 bits, which `decode` calls misconfigured.
        level: 0 for the smallest page.
        controls: the regime's control bits; None takes the format's defaults.
    """
    controls = fmt.default_controls if controls is None else controls
    likely = _likely_kind(fmt, entry, level, controls)
    broken = [field for field in _fields(fmt, level, likely) if field.reserved and field.extract(entry)]
    if broken:
        bits = ", ".join(f"{field.name} (bits {field.bits})" for field in broken)
        return f"reserved bits are set: {bits}"
    size = fmt.leaf_size(level)
    if _kind(fmt, entry & ~fmt.pack_address(size - 1), level, controls) == LEAF:
        return f"its address is no multiple of {size:#x}, the size of a leaf at level {level}"
    if level == 0 and _kind(fmt, entry, 1, controls) == TABLE:
        return "it points to a table, and below level 0 there is none"
    return f"its combination of permissions, type or address is reserved ({fmt.manual})"


def _kind(fmt: Format, entry: int, level: int, controls: int) -> int:
    return fmt.decode(entry, level, controls)[0]


def _fields(fmt: Format, level: int, kind: int) -> Iterator[Field]:
    """The fields that an entry of this kind has at this level; for NONE those that every kind has."""
    names = {_KIND_NAMES[kind]} if kind in _KIND_NAMES else set(_KIND_NAMES.values())
    for field in fmt.fields:
        if field.levels is not None and level not in field.levels:
            continue
        if names <= field.kinds or (kind == NONE and not field.reserved and "leaf" in field.kinds):
            yield field


def _decides(fmt: Format, field: Field, entry: int, level: int, controls: int) -> bool:
    """Whether the entry would be of another kind if this field were the opposite."""
    mask = (1 << (field.high + 1)) - (1 << field.low)
    return _kind(fmt, entry ^ mask, level, controls) != _kind(fmt, entry, level, controls)


def _likely_kind(fmt: Format, entry: int, level: int, controls: int) -> int:
    """What a misconfigured entry was meant to be: what it is once its reserved bits are cleared."""
    for kind in (TABLE, LEAF):
        cleared = entry
        for field in _fields(fmt, level, kind):
            if field.reserved:
                cleared &= ~((1 << (field.high + 1)) - (1 << field.low))
        if _kind(fmt, cleared, level, controls) == kind:
            return kind
    return LEAF
