"""Entries in words, for every format."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.flags import RWX, MappingFlags, MemoryType
from stage2.formats import Format, by_name, names
from stage2.formats.describe import describe_entry, describe_misconfiguration
from stage2.formats.outcome import EntryKind

every_format = pytest.mark.parametrize("fmt", [by_name(name) for name in names()], ids=names())
strict = [name for name in names() if name.startswith(("sv", "ept"))]
every_strict_format = pytest.mark.parametrize("fmt", [by_name(name) for name in strict], ids=strict)
"""Formats that reserve combinations of permissions and the low bits of a block's address."""
words = st.integers(0, (1 << 64) - 1)


def kind_of(fmt: Format, entry: int, level: int) -> EntryKind:
    return EntryKind(fmt.decode(entry, level, fmt.default_controls)[0])


def leaf(fmt: Format, level: int = 0, flags: MappingFlags = RWX) -> int:
    return fmt.leaf_entry(level, 3 << 30, flags, MemoryType.WRITE_BACK)


@every_format
@given(words, st.data())
def test_any_entry_is_described_in_order_and_with_its_own_bits(fmt: Format, entry: int, data: st.DataObject) -> None:
    level = data.draw(st.integers(0, fmt.levels - 1))
    kind = kind_of(fmt, entry, level)
    fields = describe_entry(fmt, entry, level, kind)
    lows = [int(field.bits.rpartition(":")[2]) for field in fields]
    assert lows == sorted(lows)
    for field in fields:
        high, _, low = field.bits.rpartition(":")
        width = int(high or low) - int(low) + 1
        assert field.value == (entry >> int(low)) & ((1 << width) - 1)
        assert field.meaning
    if kind is EntryKind.MISCONFIGURED:
        assert describe_misconfiguration(fmt, entry, level)


@every_strict_format
def test_a_leaf_tells_its_permissions_and_its_address(fmt: Format) -> None:
    entry = leaf(fmt, flags=MappingFlags.READ)
    fields = {field.name: field for field in describe_entry(fmt, entry, 0, EntryKind.LEAF)}
    assert [fields[name].value for name in "RWX"] == [1, 0, 0]
    assert "not" in fields["W"].meaning
    assert any(field.value == (3 << 30) >> 12 for field in fields.values())
    assert not any(field.reserved for field in fields.values())


@every_format
def test_an_absent_entry_only_tells_what_makes_it_absent(fmt: Format) -> None:
    fields = describe_entry(fmt, 0, 0, EntryKind.NONE)
    says = {"riscv": ["V"], "arm": ["valid"]}.get(fmt.family, ["R", "W", "X"] if "ept" in fmt.name else ["P"])
    assert [field.name for field in fields] == says


@every_strict_format
def test_a_reserved_bit_of_a_pointer_is_named(fmt: Format) -> None:
    pointer = fmt.table_entry(1 << 30)
    assert not any(field.reserved for field in describe_entry(fmt, pointer, 1, EntryKind.TABLE))
    bit = 7
    bad = pointer | 1 << bit if fmt.family == "riscv" else pointer | 1 << 4
    assert kind_of(fmt, bad, 1) is EntryKind.MISCONFIGURED
    reserved = [field for field in describe_entry(fmt, bad, 1, EntryKind.MISCONFIGURED) if field.reserved]
    assert len(reserved) == 1
    assert f"{reserved[0].name} (bits {reserved[0].bits})" in describe_misconfiguration(fmt, bad, 1)


@every_strict_format
def test_a_misaligned_block_is_told_from_reserved_bits(fmt: Format) -> None:
    bad = leaf(fmt, 1) | fmt.pack_address(0x1000)
    assert kind_of(fmt, bad, 1) is EntryKind.MISCONFIGURED
    assert "no multiple of 0x200000" in describe_misconfiguration(fmt, bad, 1)


@every_strict_format
def test_write_without_read_is_called_reserved(fmt: Format) -> None:
    bad = leaf(fmt) & ~(1 << 1 if fmt.family == "riscv" else 1)
    assert kind_of(fmt, bad, 0) is EntryKind.MISCONFIGURED
    assert "combination" in describe_misconfiguration(fmt, bad, 0)


@pytest.mark.parametrize(
    ("name", "entry", "level", "words"),
    [
        ("sv39x4", 0x1000_0001, 0, "below level 0"),
        ("ept4", 0xC000_0000 | 0x7 | 2 << 3, 0, "EMT (bits 5:3) is 2: reserved"),
        ("ept4", 0xC000_0000 | 0x87 | 3 << 3, 1, "EMT (bits 5:3) is 3: reserved"),
        ("ept4", 0xC000_0000 | 0x87, 3, "reserved bits are set: PS (bit 7)"),
        ("sv39", 0x2000_000F | 1 << 63, 0, "N (bit 63)"),
    ],
)
def test_what_is_wrong_with_an_entry_is_found(name: str, entry: int, level: int, words: str) -> None:
    fmt = by_name(name)
    assert kind_of(fmt, entry, level) is EntryKind.MISCONFIGURED
    assert words in describe_misconfiguration(fmt, entry, level)


def test_an_address_beyond_the_processor_is_told() -> None:
    fmt = by_name("ept4")
    controls = fmt.default_controls & ~(0xFF << 24) | 40 << 24
    entry = fmt.leaf_entry(0, 1 << 45, RWX)
    assert fmt.decode(entry, 0, controls)[0] == EntryKind.MISCONFIGURED
    assert "wider than" in describe_misconfiguration(fmt, entry, 0, controls)
