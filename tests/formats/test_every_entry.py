"""Any word in every format, against the manuals as `manuals` reads them: what it is, and what it allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manuals import Reading
from manuals import memory_type as manual_type
from manuals import of as manual_of
from words import entries, switches

from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name, family_of, names, outcome
from stage2.formats.outcome import LEAF, TABLE
from stage2.formats.record import Format
from stage2.formats.u64 import MASK_64

every_format = pytest.mark.parametrize("name", names())


def letters(granted: int) -> tuple[str, str]:
    """Permissions as two words: of the privileged level and of the user."""
    privileged, user = (
        "".join(letter if granted >> shift & 1 << place else "-" for place, letter in enumerate("rwx"))
        for shift in (0, outcome.USER_SHIFT)
    )
    return privileged, user


def read(fmt: Format, entry: int, level: int, controls: int) -> tuple[Reading, int]:
    """What the package makes of an entry, in the manuals' terms; and its attributes."""
    kind, address, attributes = fmt.decode(entry, level, controls)
    if kind != LEAF:
        return Reading(kind, address), attributes
    accessed, dirty = bool(attributes & outcome.ACCESSED), bool(attributes & outcome.DIRTY)
    return Reading(kind, address, accessed, dirty), attributes


@every_format
@given(data=st.data())
def test_an_entry_is_what_the_manual_says(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    rules, _ = manual_of(fmt)
    entry, on = data.draw(entries(fmt)), data.draw(switches(fmt))
    for level in range(fmt.levels):
        assert read(fmt, entry, level, fmt.controls_with(*on))[0] == rules(fmt, entry, level, on)


@every_format
def test_a_single_wrong_bit_is_what_the_manual_says(name: str) -> None:
    """Every bit of a legal leaf and a legal table, at every level, under every switch: each reserved one is seen."""
    fmt = by_name(name)
    rules, _ = manual_of(fmt)
    for on in ((), *((switch,) for switch in fmt.switches)):
        controls = fmt.controls_with(*on)
        for level in range(fmt.levels):
            size = fmt.leaf_size(min(level, fmt.top_leaf_level))
            legal = [fmt.table_entry(fmt.table_size, controls)]
            if level <= fmt.top_leaf_level:
                legal.append(fmt.leaf_entry(level, size, RWX, controls=controls))
            for entry in (0, *legal):
                for number in range(64):
                    word = entry ^ 1 << number
                    assert read(fmt, word, level, controls)[0] == rules(fmt, word, level, on), hex(word)


@every_format
@given(data=st.data())
def test_every_table_on_the_way_and_the_leaf_decide_together_what_is_allowed(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    _, grants = manual_of(fmt)
    on = data.draw(switches(fmt))
    controls = fmt.controls_with(*on)
    leaf = data.draw(entries(fmt))
    kind, _, attributes = fmt.decode(leaf, 0, controls)
    tables = [
        table
        for table in data.draw(st.lists(entries(fmt), max_size=fmt.levels - 1))
        if fmt.decode(table, 1, controls)[0] == TABLE
    ]
    if kind != LEAF:
        return
    for table in tables:
        attributes &= fmt.decode(table, 1, controls)[2] | MASK_64 ^ outcome.COMBINED
    assert letters(fmt.permissions(attributes, controls)) == grants(leaf, tables, on)


@every_format
def test_every_value_of_the_memory_type_field_is_named_as_in_the_manual(name: str) -> None:
    fmt = by_name(name)
    found = set()
    for on in ((), *((switch,) for switch in fmt.switches)):
        controls = fmt.controls_with(*on)
        for level in range(fmt.top_leaf_level + 1):
            leaf = fmt.leaf_entry(level, 0, RWX, controls=controls)
            for word in type_words(fmt, leaf, level):
                kind, _, attributes = fmt.decode(word, level, controls)
                if kind == LEAF:
                    found.add(family_of(fmt).memory_type(fmt, attributes, controls)[0])
                    assert family_of(fmt).memory_type(fmt, attributes, controls)[0] == manual_type(
                        fmt, word, level, on
                    ), hex(word)
    assert len(found) >= 3


def type_words(fmt: Format, leaf: int, level: int) -> list[int]:
    """The leaf with every value of the bits that say its memory type."""
    if fmt.family == "riscv":
        places = [61, 62]
    elif fmt.family == "arm":
        places = [2, 3, 4] if fmt.stage == 1 else [2, 3, 4, 5]
    else:
        places = [3, 4, 5] if fmt.name.startswith("ept") else [3, 4, 12 if level else 7]
    cleared = leaf & ~sum(1 << place for place in places)
    return [
        cleared | sum(1 << place for number, place in enumerate(places) if value >> number & 1)
        for value in range(1 << len(places))
    ]


@every_format
def test_every_single_bit_of_a_leaf_and_of_the_table_above_allows_what_the_manual_says(name: str) -> None:
    fmt = by_name(name)
    _, grants = manual_of(fmt)
    flips = (0, *(1 << number for number in range(64)))
    for on in ((), *((switch,) for switch in fmt.switches)):
        controls = fmt.controls_with(*on)
        table = fmt.table_entry(0, controls)
        for flags in (RWX, RWX | MappingFlags.USER, MappingFlags.READ | MappingFlags.EXECUTE | MappingFlags.USER):
            leaf = fmt.leaf_entry(0, 0, flags, controls=controls)
            for leaf_flip, table_flip in [(flip, 0) for flip in flips] + [(0, flip) for flip in flips]:
                below, above = leaf ^ leaf_flip, table ^ table_flip
                kind, _, attributes = fmt.decode(below, 0, controls)
                kind_above, _, passed = fmt.decode(above, 1, controls)
                if (kind, kind_above) == (LEAF, TABLE):
                    attributes &= passed | MASK_64 ^ outcome.COMBINED
                    assert letters(fmt.permissions(attributes, controls)) == grants(below, [above], on)
