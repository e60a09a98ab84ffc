"""Errors that other tools make with these formats, each as a test that it is not made here."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stage2.address import MIB, Hpa, Range
from stage2.errors import MisalignedError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name, names, outcome
from stage2.formats.arm import layout, stage1, stage2
from stage2.formats.arm.registers import decode_vtcr_el2, pa_bits, parange, vtcr_el2
from stage2.formats.outcome import DIRTY, LEAF, MISCONFIGURED, TABLE, FaultKind
from stage2.formats.record import Format
from stage2.formats.riscv import entry as riscv
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables.explain import explain_stage
from stage2.tables.outward import outward
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped

RAM = Range.sized(0x8000_0000, 8 * MIB)
ROOT = 0x8000_0000
every_format = pytest.mark.parametrize("name", names())
R, W, X, U = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER


@pytest.fixture
def memory() -> Iterator[PhysicalMemory]:
    with PhysicalMemory([RAM]) as made:
        yield made


def chain(fmt: Format, memory: PhysicalMemory, address: int, leaf: int, tables: list[int] | None = None) -> Regime:
    """One walk's entries, written by hand: table entries (less their addresses) from the root down, and the leaf."""
    table, below = ROOT, ROOT + max(fmt.root_size, fmt.table_size)
    below = below + fmt.table_size - 1 & -fmt.table_size
    given = tables or [fmt.table_entry(0)] * (fmt.levels - 1)
    for place, level in enumerate(range(fmt.levels - 1, 0, -1)):
        memory.store_u64(Hpa(table + 8 * fmt.index(address, level)), given[place] | fmt.pack_address(below))
        table, below = below, below + fmt.table_size
    memory.store_u64(Hpa(table + 8 * fmt.index(address, 0)), leaf)
    return Regime.of(fmt, ROOT)


def ends(memory: PhysicalMemory, regime: Regime, address: int, access: Access, *, user: bool = False) -> Mapped | Fault:
    return explain_stage(memory, regime, outward(regime.format, address), access, user=user).result


# --- permissions --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["ept4", "ept5"])
def test_an_execute_only_ept_page_is_kept(name: str, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    regime = chain(fmt, memory, 0x5000, 0x4000_0000 | 0b100 | 6 << 3)
    assert isinstance(ends(memory, regime, 0x5000, Access.FETCH), Mapped)
    refused = ends(memory, regime, 0x5000, Access.READ)
    assert isinstance(refused, Fault)
    assert refused.kind is FaultKind.PERMISSION, "it is there, and only fetches may use it"


RESTRICTING: dict[str, dict[Access, int]] = {
    "ept": {Access.WRITE: 0b101, Access.FETCH: 0b011},
    "npt": {Access.WRITE: 0x25, Access.FETCH: 0x27 | 1 << 63},
    "x86": {Access.WRITE: 0x25, Access.FETCH: 0x27 | 1 << 63},
    "arm-s1": {Access.WRITE: 3 | 1 << 62, Access.FETCH: 3 | 1 << 60 | 1 << 59},
}
"""Table entries, less their addresses, that take one kind of access away from all below them."""


@every_format
@pytest.mark.parametrize("access", [Access.WRITE, Access.FETCH])
def test_what_a_table_forbids_its_leaves_do_not_allow(name: str, access: Access, memory: PhysicalMemory) -> None:
    fmt, address = by_name(name), 0
    leaf = fmt.leaf_entry(0, 0x4000_0000, RWX)
    regime = chain(fmt, memory, address, leaf)
    assert isinstance(ends(memory, regime, address, access), Mapped)
    restricting = next((found for start, found in RESTRICTING.items() if name.startswith(start)), None)
    if restricting is None:
        # RISC-V's and Arm's stage-2 tables hold no permissions at all.
        assert fmt.decode(fmt.table_entry(0), 1, fmt.default_controls)[2] == outcome.ALL_ALLOWED
        return
    for place in range(fmt.levels - 1):
        tables = [fmt.table_entry(0)] * (fmt.levels - 1)
        tables[place] = restricting[access]
        found = ends(memory, chain(fmt, memory, address, leaf, tables), address, access)
        assert isinstance(found, Fault), f"the table {place} below the root forbids it"
        assert found.kind is FaultKind.PERMISSION


@pytest.mark.parametrize("name", ["x86-4level", "x86-5level", "npt4", "npt5"])
def test_a_page_is_the_users_only_if_every_table_says_so(name: str, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    leaf = fmt.leaf_entry(0, 0x4000_0000, RWX | U)
    for place in range(fmt.levels - 1):
        tables = [fmt.table_entry(0)] * (fmt.levels - 1)
        tables[place] &= ~4
        assert isinstance(ends(memory, chain(fmt, memory, 0, leaf, tables), 0, Access.READ, user=True), Fault)


def test_a_clear_accessed_flag_of_arm_does_not_make_a_page_read_only() -> None:
    for name, read_only, writable in (("arm-s1-4k-48", 1 << 7, 0), ("arm-s2-4k-40", 0, 1 << 7)):
        fmt = by_name(name)
        for flag in (0, layout.AF):
            for bit, allowed in ((read_only, False), (writable, True)):
                leaf = fmt.leaf_entry(0, 0, R) & ~(1 << 7) & ~layout.AF | bit | flag
                attributes = fmt.decode(leaf, 0, fmt.default_controls)[2]
                assert bool(fmt.permissions(attributes, fmt.default_controls) & W) is allowed
                assert bool(attributes & outcome.ACCESSED) is bool(flag)


@every_format
def test_a_set_dirty_bit_means_written(name: str) -> None:
    """And a clear one clean: x86, EPT and RISC-V have a bit for it, Arm's AP[2] is inverted, its S2AP[1] is not."""
    fmt = by_name(name)
    controls = fmt.controls_with(*(["ad"] if "ad" in fmt.switches else []))
    written = fmt.leaf_entry(0, 0, R | W, controls=controls)
    place = {"riscv": 7, "arm": 7, "x86": 9 if name.startswith("ept") else 6}[fmt.family]
    assert bool(written >> place & 1) is not name.startswith("arm-s1")
    if name.startswith("ept"):
        written |= 1 << 9
    assert fmt.decode(written, 0, controls)[2] & DIRTY
    assert not fmt.decode(written ^ 1 << place, 0, controls)[2] & DIRTY
    assert fmt.forget(written, DIRTY) == written ^ 1 << place
    assert fmt.mark(written ^ 1 << place, 1, controls) | fmt.forget(written, DIRTY) | 1 << place == written | 1 << place


# --- formats taken for each other ---------------------------------------------------------------------------------
def test_ept_is_not_walked_by_the_rules_of_long_mode(memory: PhysicalMemory) -> None:
    ept, long_mode = by_name("ept4"), by_name("x86-4level")
    execute_only = 0b100 | 6 << 3
    assert ept.decode(execute_only, 0, ept.default_controls)[0] == LEAF
    assert long_mode.decode(execute_only, 0, long_mode.default_controls)[0] == outcome.NONE
    not_executable = ept.leaf_entry(0, 0, R | W)
    assert not ept.permissions(ept.decode(not_executable, 0, ept.default_controls)[2], ept.default_controls) & X
    # Bit 63 forbids nothing in EPT, bit 2 is no user bit, and a high GPA is not sign-extended.
    entry = ept.leaf_entry(0, 0, RWX) | 1 << 63
    assert ept.permissions(ept.decode(entry, 0, ept.default_controls)[2], ept.default_controls) == 0x3F
    top = (1 << 48) - 0x1000
    assert isinstance(ends(memory, chain(ept, memory, top, entry), top, Access.READ), Mapped)
    assert isinstance(ends(memory, Regime.of(ept, ROOT), top | 0xFFFF << 48, Access.READ), Fault)


def test_a_table_pointer_of_long_mode_is_a_misconfigured_one_of_ept() -> None:
    ept, long_mode = by_name("ept4"), by_name("x86-4level")
    assert ept.decode(long_mode.table_entry(0x1000), 3, ept.default_controls)[0] == MISCONFIGURED, "bit 5 is reserved"


# --- Arm's geometry -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "tables"),
    [("arm-s2-4k-40", 2), ("arm-s2-4k-42", 8), ("arm-s2-4k-43", 16), ("arm-s2-16k-40", 16), ("arm-s2-16k-48", 2),
     ("arm-s2-4k-52-lpa2", 16), ("arm-s2-64k-46", 16)],
)  # fmt: skip
def test_concatenated_root_tables_are_indexed_past_the_first(name: str, tables: int, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    assert 1 << fmt.root_bits - fmt.bits == tables
    assert fmt.root_size == tables * fmt.table_size
    shift = fmt.level_shift(fmt.levels - 1)
    for root_index in (0, (1 << fmt.bits) - 1, 1 << fmt.bits, (1 << fmt.root_bits) - 1):
        address = root_index << shift
        regime = chain(fmt, memory, address, fmt.leaf_entry(0, 0x4000_0000, RWX))
        walk = explain_stage(memory, regime, address, Access.READ)
        assert walk.steps[0].index == root_index
        assert walk.steps[0].slot == ROOT + 8 * root_index
        assert isinstance(walk.result, Mapped)


@pytest.mark.parametrize(("code", "bits"), [(0, 32), (1, 36), (2, 40), (3, 42), (4, 44), (5, 48), (6, 52), (7, 56)])
def test_ps_stands_for_its_physical_address_size(code: int, bits: int) -> None:
    assert (pa_bits(code), parange(bits)) == (bits, code)


@pytest.mark.parametrize("bits", [32, 36, 40, 42, 44, 48])
def test_an_output_address_beyond_ps_is_an_address_size_fault(bits: int, memory: PhysicalMemory) -> None:
    control = decode_vtcr_el2(vtcr_el2(12, 32, 3, pa_bits=bits))
    assert control.pa_bits == bits
    fmt = by_name(control.format_name)
    controls = fmt.default_controls & ~(0x3F << layout.OUTPUT_BITS_AT) | control.pa_bits << layout.OUTPUT_BITS_AT
    for address, fits in ((1 << bits - 1, True), (1 << bits, False)):
        if address >> fmt.output_bits:
            continue
        kind = fmt.decode(fmt.leaf_entry(0, address, RWX), 0, controls)[0]
        assert (kind == LEAF) is fits
        assert (kind == outcome.TOO_WIDE) is not fits


# --- whole tables -------------------------------------------------------------------------------------------------
@every_format
def test_a_table_whose_entries_are_all_equal_is_walked(name: str, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    leaf = fmt.leaf_entry(0, 0x4000_0000, RWX)
    regime = chain(fmt, memory, 0, leaf)
    last = explain_stage(memory, regime, outward(fmt, 0)).steps[-1].table
    for index in range(1 << fmt.bits):
        memory.store_u64(Hpa(last + 8 * index), leaf)
    for index in (0, 1, (1 << fmt.bits) - 1):
        found = ends(memory, regime, index * fmt.page_size + 5, Access.READ)
        assert isinstance(found, Mapped)
        assert found.hpa == 0x4000_0005


@every_format
@pytest.mark.kernels
def test_a_misaligned_region_is_refused_and_not_rounded(name: str, memory: PhysicalMemory) -> None:
    fmt = by_name(name)
    table = PageTable(fmt, FrameAllocator(memory), owner=Owner(OwnerKind.TABLES, "vm"))
    page = fmt.page_size
    start = outward(fmt, 4 * page)
    for address, hpa, size in (
        (start + page // 2, 4 * page, page), (start, 4 * page + page // 2, page), (start, 4 * page, page + page // 2),
        (start + 8, 4 * page, page), (start, 4 * page, 8),
    ):  # fmt: skip
        with pytest.raises(MisalignedError):
            table.map_range(address, Hpa(hpa), size, RWX)
    if fmt.top_leaf_level:
        with pytest.raises(MisalignedError):
            table.map_page(start, Hpa(fmt.leaf_size(1)), RWX, fmt.leaf_size(1))
    assert table.mappings() == []


# --- the controls of hardware -------------------------------------------------------------------------------------
def test_hardware_dirty_state_makes_a_clean_page_writable_only_with_dbm_and_hd() -> None:
    for rules, fmt, clean in ((stage1, by_name("arm-s1-4k-48"), 1 << 7), (stage2, by_name("arm-s2-4k-40"), 0)):
        leaf = fmt.leaf_entry(0, 0, R) & ~(1 << 7) | clean
        for dbm in (0, layout.DBM):
            for hd in (0, layout.HA | layout.HD):
                controls = fmt.default_controls | hd
                attributes = rules.decode(leaf | dbm, 0, controls)[2]
                assert bool(rules.permissions(attributes, controls) & W) is bool(dbm and hd)
                assert bool(attributes & DIRTY) is not bool(dbm and hd)


def test_bits_41_and_above_of_an_sv39x4_address_must_be_zero(memory: PhysicalMemory) -> None:
    fmt = by_name("sv39x4")
    leaf = fmt.leaf_entry(0, 0x4000_0000, RWX)
    top = (1 << 41) - 0x1000
    assert isinstance(ends(memory, chain(fmt, memory, top, leaf), top, Access.READ), Mapped)
    for bit in range(41, 64):
        assert isinstance(ends(memory, Regime.of(fmt, ROOT), top | 1 << bit, Access.READ), Fault)
    assert riscv.G_STAGE & fmt.default_controls
    assert fmt.decode(fmt.table_entry(0x1000), 2, fmt.default_controls)[0] == TABLE
