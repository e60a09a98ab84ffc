"""What an entry of long mode is on Intel's and on AMD's processors, by vendor, width, C-bit and page sizes."""

from __future__ import annotations

import pytest

from stage2.errors import EncodingError
from stage2.flags import RWX
from stage2.formats import by_name, outcome
from stage2.formats.describe import describe_entry
from stage2.formats.outcome import LEAF, MISCONFIGURED, TABLE, EntryKind
from stage2.formats.record import Format
from stage2.formats.x86 import ept, longmode

LONG_MODE = ("x86-4level", "x86-5level", "npt4", "npt5")
EVERY = (*LONG_MODE, "ept4", "ept5")
every_format = pytest.mark.parametrize("name", EVERY)
TARGET = 0x4000_0000


def with_width(fmt: Format, bits: int) -> int:
    assert longmode.MAXPHYADDR_SHIFT == ept.MAXPHYADDR_SHIFT
    return fmt.default_controls & ~(0xFF << ept.MAXPHYADDR_SHIFT) | bits << ept.MAXPHYADDR_SHIFT


def kind_of(fmt: Format, entry: int, level: int, controls: int) -> EntryKind:
    return EntryKind(fmt.decode(entry, level, controls)[0])


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["x86-5level", "npt5"])
def test_amd_reserves_bit_8_of_pml4_and_pml5_entries_and_ignores_it_below(name: str, level: int) -> None:
    """APM Vol. 2, 5.3, figures of the PML5E and PML4E (bit 8 MBZ), and of PDPE and PDE (bit 8 IGN).

    KVM reads them so ("bit 8 of non-leaf PDPEs is not reserved": "Intel ignores it; AMD ignores it in PDEs and PDPEs,
    but reserves it in PML4Es"), and kvm-unit-tests' svm_npt.c expects a nested page fault with RSVD of a PML4E only.
    """
    fmt = by_name(name)
    controls = fmt.controls_with("amd") if fmt.stage == 1 else fmt.default_controls
    pointer = fmt.table_entry(TARGET) | longmode.G
    assert kind_of(fmt, pointer, level, controls) == (MISCONFIGURED if level >= 3 else TABLE)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_intel_ignores_bit_8_of_every_pointer(level: int) -> None:
    """SDM Vol. 3A, tables 5-15 to 5-19: bits 10:8 of an entry that references a table are ignored."""
    fmt = by_name("x86-5level")
    assert kind_of(fmt, fmt.table_entry(TARGET) | longmode.G, level, fmt.default_controls) == TABLE


@pytest.mark.parametrize("width", range(32, 53))
@every_format
def test_of_every_width_the_bits_above_are_reserved_and_no_others(name: str, width: int) -> None:
    """SDM Vol. 3A, 5.5.4 and Vol. 3C, 30.3.2: bits 51:M are reserved, M being MAXPHYADDR; APM Vol. 2, 5.3 the same."""
    fmt = by_name(name)
    controls = with_width(fmt, width)
    for level in range(fmt.levels):
        entries = {TABLE: fmt.table_entry(0)} if level else {}
        if level <= fmt.top_leaf_level:
            entries[LEAF] = fmt.leaf_entry(level, 0, RWX)
        for kind, entry in entries.items():
            for bit in range(fmt.level_shift(level if kind == LEAF else 0), 52):
                expected = kind if bit < width else MISCONFIGURED
                assert kind_of(fmt, entry | 1 << bit, level, controls) == expected, (level, bit)


@pytest.mark.parametrize(("width", "c_bit"), [(43, 47), (47, 51), (48, 51)])
@pytest.mark.parametrize("name", LONG_MODE)
def test_the_c_bit_is_neither_reserved_nor_part_of_the_address(name: str, width: int, c_bit: int) -> None:
    """APM Vol. 2, 7.10.1 and 7.10.2: CPUID 8000001FH:EBX names the bit, and by how much it shortens addresses."""
    fmt = by_name(name)
    controls = with_width(fmt, width) | c_bit << longmode.C_BIT_SHIFT
    for level in range(fmt.levels):
        entry = fmt.table_entry(TARGET) if level > 2 else fmt.leaf_entry(level, TARGET, RWX, controls=controls)
        plain = fmt.decode(entry, level, controls)
        assert plain[0] in (TABLE, LEAF)
        assert fmt.decode(entry | 1 << c_bit, level, controls) == plain
        for bit in range(width, 52):
            if bit != c_bit:
                assert kind_of(fmt, entry | 1 << bit, level, controls) == MISCONFIGURED


@pytest.mark.parametrize("name", LONG_MODE)
def test_without_a_c_bit_every_bit_of_the_address_counts(name: str) -> None:
    fmt = by_name(name)
    for bit in range(12, 52):
        found = fmt.decode(fmt.leaf_entry(0, 1 << bit, RWX), 0, fmt.default_controls)
        assert found[:2] == (LEAF, 1 << bit)


@every_format
def test_without_pages_of_1_gib_bit_7_of_a_pdpe_is_reserved(name: str) -> None:
    """SDM Vol. 3A, table 5-17 (a PDPTE maps a page only with CPUID's Page1GB), Vol. 3D, A.10 bit 17; APM 5.3.5."""
    fmt = by_name(name)
    no_gib = ept.NO_GIB if name.startswith("ept") else longmode.NO_GIB
    controls = fmt.default_controls | no_gib
    huge = fmt.leaf_entry(2, TARGET, RWX)
    assert kind_of(fmt, huge, 2, fmt.default_controls) == LEAF
    assert kind_of(fmt, huge, 2, controls) == MISCONFIGURED
    assert kind_of(fmt, fmt.leaf_entry(1, TARGET, RWX), 1, controls) == LEAF
    assert kind_of(fmt, fmt.table_entry(TARGET), 2, controls) == TABLE
    with pytest.raises(EncodingError, match="no leaf at level 2: 4 KiB and 2 MiB are all there are"):
        fmt.leaf_entry(2, TARGET, RWX, controls=controls)


@pytest.mark.parametrize("name", LONG_MODE)
def test_a_pointer_is_as_accessed_as_its_bit_5_says(name: str) -> None:
    """SDM Vol. 3A, 5.8 and APM Vol. 2, 5.4.1: bit 5 of an entry that points to a table is its accessed flag.

    The pointer says nothing of the leaf's own flags, its type, or whether it is global.
    """
    fmt = by_name(name)
    of_the_leaf = outcome.ACCESSED | outcome.DIRTY
    granted = outcome.READ | outcome.WRITE | outcome.EXECUTE | outcome.EXECUTE_USER | outcome.USER
    fresh = fmt.table_entry(TARGET) & ~longmode.A
    for level in range(1, fmt.levels):
        for accessed, attribute in ((0, 0), (longmode.A, outcome.TABLES_ACCESSED)):
            found = fmt.decode(fresh | accessed, level, fmt.default_controls)
            assert found == (TABLE, TARGET, granted | of_the_leaf | attribute)


@pytest.mark.parametrize("level", [3, 4])
@pytest.mark.parametrize("name", ["x86-5level", "npt5"])
def test_ps_above_a_pdpte_is_named_as_reserved(name: str, level: int) -> None:
    """SDM Vol. 3A, tables 5-15 and 5-16 (bit 7 must be 0); APM Vol. 2, 5.3, figures of the PML5E and PML4E (MBZ)."""
    fmt = by_name(name)
    entry = fmt.table_entry(TARGET) | longmode.PS
    assert kind_of(fmt, entry, level, fmt.default_controls) == MISCONFIGURED
    told = [(found.bits, found.name) for found in describe_entry(fmt, entry, level, MISCONFIGURED) if found.reserved]
    assert told == [("7", "PS")]
