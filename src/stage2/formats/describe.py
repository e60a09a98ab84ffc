"""Entries in words: which fields an entry has and what each of them says. Plain Python, for every format alike.

What a field's bits decide is asked of the format's own `decode`, so no rule of a format is repeated here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .outcome import LEAF, MISCONFIGURED, NONE, TABLE, EntryKind
from .record import Field, Format

_KIND_NAMES = {LEAF: "leaf", TABLE: "table"}
_SMALL = 3
"""Fields of so many bits are tried with every value when an entry is diagnosed."""
_GUESS = 1 << 7
"""Cost of turning a permission, which explains less than clearing all bits that are reserved."""
_NO_REPAIR = 1 << 10
_PERMISSIONS_END = 8
"""Single bits below this one are permissions, where a format has reserved combinations of them."""


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
    likely = _diagnose(fmt, entry, level, controls)[0] if kind == MISCONFIGURED else int(kind)
    found = []
    for field in _fields(fmt, level, likely):
        value = field.extract(entry)
        if kind == NONE and field.low and not _decides(fmt, field, entry, level, controls):
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
    return _diagnose(fmt, entry, level, fmt.default_controls if controls is None else controls)[1]


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
    return _kind(fmt, entry ^ _mask(field), level, controls) != _kind(fmt, entry, level, controls)


def _diagnose(fmt: Format, entry: int, level: int, controls: int) -> tuple[int, str]:
    """What a misconfigured entry was meant to be, and what is wrong with it: the smallest repair that decodes."""
    if level == 0 and _kind(fmt, entry, 1, controls) == TABLE:
        return TABLE, "it points to a table, and below level 0 there is none"
    best = (_NO_REPAIR, LEAF, f"its combination of bits is reserved ({fmt.manual})")
    for kind in (LEAF, TABLE):
        for cost, problem, repaired in _repairs(fmt, entry, level, kind):
            if cost < best[0] and _kind(fmt, repaired, level, controls) == kind:
                best = (cost, kind, problem)
    return best[1:]


def _repairs(fmt: Format, entry: int, level: int, kind: int) -> Iterator[tuple[int, str, int]]:
    """Ways to change an entry that might make it one of `kind`: (number of changes, what was wrong, entry)."""
    broken = [field for field in _fields(fmt, level, kind) if field.reserved and field.extract(entry)]
    cleared = entry
    for field in broken:
        cleared &= ~_mask(field)
    cost = (cleared ^ entry).bit_count()
    problems = []
    if broken:
        problems.append("reserved bits are set: " + ", ".join(_named(field) for field in broken))
    size = fmt.leaf_size(level)
    # An address counts as one change, whichever of its bits are wrong.
    places = (
        ("", cleared),
        (f"its address is no multiple of {size:#x}, the size of a leaf at level {level}", _without(fmt, cleared, size)),
        ("its address is wider than this processor's physical addresses", _without(fmt, cleared, 1 << 63)),
    )
    for place, repaired in places:
        found = [*problems, place] if place else problems
        more = cost + bool(place)
        if found:
            yield more, "; ".join(found), repaired
        for field in _fields(fmt, level, kind):
            if field.reserved or field.high - field.low >= _SMALL:
                continue
            now = field.extract(repaired)
            if field.high == field.low and field.low < _PERMISSIONS_END:
                why = f"its combination of permissions is reserved ({fmt.manual})"
            else:
                why = f"{_named(field)} is {now}: {field.explain(now)}"
            for value in range(1 << (field.high - field.low + 1)):
                other = repaired & ~_mask(field) | value << field.low
                guess = _GUESS if field.high == field.low else 0
                yield more + guess + (value ^ now).bit_count(), "; ".join([*found, why]), other


def _named(field: Field) -> str:
    return f"{field.name} (bit{'' if field.high == field.low else 's'} {field.bits})"


def _without(fmt: Format, entry: int, size: int) -> int:
    """The entry with the address bits below `size` cleared."""
    return entry & ~fmt.pack_address(size - 1)


def _mask(field: Field) -> int:
    return (1 << (field.high + 1)) - (1 << field.low)
