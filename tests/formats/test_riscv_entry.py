"""The RISC-V page table entry against the Privileged manual, written down here a second time as a table of cases."""

import pytest

from stage2.errors import EncodingError
from stage2.flags import MappingFlags, MemoryType
from stage2.formats import by_name
from stage2.formats.outcome import ACCESSED, DIRTY, EXECUTE, GLOBAL, LEAF, MISCONFIGURED, NONE, READ, TABLE, WRITE
from stage2.formats.riscv.entry import (
    G_STAGE,
    HARDWARE_AD,
    HLVX,
    MXR,
    SUM,
    A,
    D,
    G,
    N,
    R,
    U,
    V,
    W,
    X,
    decode,
    forget,
    group,
    inherit,
    mark,
    permissions,
    resize,
)
from stage2.formats.rules import TABLE_WALK
from stage2.formats.u64 import MASK_64

FORMATS = ("sv39", "sv48", "sv57", "sv39x4", "sv48x4", "sv57x4")
LEAF_BITS = V | R | W | X | U | A | D


def kind_of(entry: int, level: int = 0) -> int:
    return decode(entry, level, 0)[0]


def test_an_invalid_entry_may_hold_anything_else() -> None:
    assert kind_of(MASK_64 & ~V) == NONE


@pytest.mark.parametrize("bits", [V | W, V | W | X, V | W | U | A | D, V | W | X | U])
@pytest.mark.parametrize("level", range(5))
def test_write_without_read_is_reserved(bits: int, level: int) -> None:
    assert kind_of(bits, level) == MISCONFIGURED


@pytest.mark.parametrize("bit", range(54, 64))
def test_the_reserved_bits_pbmt_and_n_fault_in_leaves_and_tables(bit: int) -> None:
    assert kind_of(LEAF_BITS | 1 << bit) == MISCONFIGURED
    assert kind_of(V | 1 << bit, 1) == MISCONFIGURED


@pytest.mark.parametrize("bit", [U, A, D, U | A | D])
def test_a_table_pointer_must_not_have_u_a_or_d(bit: int) -> None:
    assert kind_of(V, 2) == TABLE
    assert kind_of(V | bit, 2) == MISCONFIGURED


def test_a_table_pointer_may_be_global_and_carry_software_bits() -> None:
    assert kind_of(V | G | 3 << 8, 1) == TABLE


def test_a_table_pointer_at_the_last_level_is_misconfigured() -> None:
    assert kind_of(V, 0) == MISCONFIGURED


@pytest.mark.parametrize("level", range(1, 5))
def test_a_superpage_must_be_aligned_in_every_bit(level: int) -> None:
    assert kind_of(LEAF_BITS | 1 << 10 + 9 * level, level) == LEAF
    for bit in range(10, 10 + 9 * level):
        assert kind_of(LEAF_BITS | 1 << bit, level) == MISCONFIGURED


@pytest.mark.parametrize("access", ["read", "write", "fetch"])
def test_the_g_stage_allows_nothing_without_u(access: str) -> None:
    bit = 1 << ["read", "write", "fetch"].index(access)
    for user, wanted in ((LEAF_BITS, bit), (LEAF_BITS & ~U, 0)):
        granted = permissions(decode(user, 0, G_STAGE)[2], G_STAGE)
        assert granted & bit == wanted
        assert granted >> 3 & bit == wanted


@pytest.mark.parametrize(
    ("page", "controls", "privileged", "user"),
    [
        (R | W | X, 0, "rwx", "---"),
        (R | W | X | U, 0, "---", "rwx"),
        (R | W | X | U, SUM, "rw-", "rwx"),
        (R | W | X, SUM, "rwx", "---"),
        (X, 0, "--x", "---"),
        (X, MXR, "r-x", "---"),
        (X | U, MXR, "---", "r-x"),
        (X | U, SUM, "---", "--x"),
        (X | U, SUM | MXR, "r--", "r-x"),
        (R, MXR, "r--", "---"),
        (R | W, MXR, "rw-", "---"),
        (X | U, G_STAGE | MXR, "r-x", "r-x"),
        (X | U, G_STAGE, "--x", "--x"),
        (R | W | X, G_STAGE | SUM | MXR, "---", "---"),
        # HLVX: execute permission takes the place of read permission, at both stages, and MXR adds nothing; in all else
        # it is the load HLV.HU or HLV.WU, so SUM lets it use user pages ("Hypervisor Virtual-Machine Load and Store
        # Instructions").
        (X, HLVX, "r-x", "---"),
        (R | W, HLVX, "-w-", "---"),
        (R | W | X, HLVX, "rwx", "---"),
        (R | W, HLVX | MXR, "-w-", "---"),
        (X | U, HLVX, "---", "r-x"),
        (X | U, HLVX | SUM, "r--", "r-x"),
        (X | U, HLVX | G_STAGE, "r-x", "r-x"),
        (R | W | U, HLVX | G_STAGE, "-w-", "-w-"),
        (R | W | U, HLVX | G_STAGE | MXR, "-w-", "-w-"),
    ],
)
def test_sum_and_mxr(page: int, controls: int, privileged: str, user: str) -> None:
    granted = permissions(decode(V | A | D | page, 0, controls)[2], controls)
    letters = ["".join(c if granted >> shift & 1 << i else "-" for i, c in enumerate("rwx")) for shift in (0, 3)]
    assert letters == [privileged, user]


@pytest.mark.parametrize("controls", [0, MXR, HLVX, MXR | HLVX])
@pytest.mark.parametrize(("page", "allowed"), [(R, READ), (R | W, READ | WRITE), (X, 0), (R | X, READ)])
def test_hardwares_own_reads_of_vs_stage_tables_need_r_whatever_mxr_and_the_instruction(
    controls: int, page: int, allowed: int
) -> None:
    """MXR "makes execute-only pages readable by explicit loads"; for reads of VS-level tables permissions are "checked
    as though for an implicit load" ("Two-Stage Address Translation", "Guest Physical Address Translation")."""
    controls |= G_STAGE | TABLE_WALK
    granted = permissions(decode(V | A | D | U | page, 0, controls)[2], controls)
    assert granted & (READ | WRITE) == allowed
    assert granted & EXECUTE == (EXECUTE if page & X else 0)


@pytest.mark.parametrize(("controls", "everyones"), [(0, GLOBAL), (G_STAGE, 0)])
def test_g_of_a_g_stage_entry_is_ignored(controls: int, everyones: int) -> None:
    """ "The G bit in all G-stage PTEs is reserved", and "must be ignored by hardware" ("Guest Physical Address
    Translation")."""
    kind, address, attributes = decode(LEAF_BITS | G | 5 << 10, 0, controls)
    assert (kind, address, attributes & GLOBAL) == (LEAF, 5 << 12, everyones)
    assert decode(LEAF_BITS | 5 << 10, 0, controls) == (kind, address, attributes & ~GLOBAL)


def test_hardware_sets_a_and_d_only_when_told_to() -> None:
    leaf = V | R | W
    assert mark(leaf, 0, 0) == mark(leaf, 1, 0) == leaf
    assert mark(leaf, 0, HARDWARE_AD) == leaf | A
    assert mark(leaf, 1, HARDWARE_AD) == leaf | A | D
    assert mark(leaf | D | 1 << 63, 0, HARDWARE_AD) == leaf | A | D | 1 << 63


@pytest.mark.parametrize("kept", [0, A, D, A | D])
@pytest.mark.parametrize("given", [0, A, D, A | D])
def test_a_rewritten_leaf_has_a_and_d_of_the_old_one_and_all_else_of_the_new(kept: int, given: int) -> None:
    """A is bit 6 and D bit 7 ("Sv39: Addressing and Memory Protection")."""
    old, new = V | R | X | 5 << 10 | kept, V | R | W | U | 0x8020_1000 >> 2 | 3 << 8
    assert inherit(old, new | given) == new | kept


@pytest.mark.parametrize(("what", "cleared"), [(0, 0), (ACCESSED, A), (DIRTY, D), (ACCESSED | DIRTY, A | D)])
def test_a_harvest_clears_a_and_d_and_no_other_bit(what: int, cleared: int) -> None:
    """The same two bits; the supervisor may clear each of them alone."""
    assert forget(MASK_64, what) == MASK_64 & ~cleared
    assert forget(LEAF_BITS | 5 << 10, what) == (LEAF_BITS | 5 << 10) & ~cleared


def test_a_group_of_64_kib_has_n_and_8_in_the_low_ppn_bits() -> None:
    """ "Svnapot" Extension, table of encodings: with N set, pte.ppn[0] of x xxxx 1000 is the only one defined."""
    for page in range(16):
        assert group(LEAF_BITS | (0x80200 | page) << 10, 0) == LEAF_BITS | 1 << 63 | 0x80208 << 10


def test_a_leaf_without_its_address_keeps_all_bits_but_the_ppn_and_n() -> None:
    """The PPN is bits 53:10 of an entry, in Sv39, Sv48 and Sv57 alike; N is bit 63 ("Sv39", figure of the entry)."""
    ppn = sum(1 << bit for bit in range(10, 54))
    assert resize(MASK_64, 0, 1) == MASK_64 & ~(ppn | N)
    assert resize(ppn | N, 0, 1) == 0


@pytest.mark.parametrize("name", FORMATS)
def test_a_leaf_of_guest_memory_has_the_bits_the_manual_wants(name: str) -> None:
    fmt = by_name(name)
    entry = fmt.leaf_entry(0, 0x8020_1000, MappingFlags(7))
    user = U if fmt.stage == 2 else 0
    assert entry == 0x8020_1000 >> 12 << 10 | V | R | W | X | A | D | user
    assert fmt.leaf_entry(0, 0, MappingFlags(1 | 8)) & U
    assert fmt.table_entry(0x8020_1000) == 0x8020_1000 >> 12 << 10 | V


@pytest.mark.parametrize("flags", [0, 2, 6, 8, 16, 2 | 8])
def test_what_risc_v_cannot_say_is_refused(flags: int) -> None:
    with pytest.raises(EncodingError):
        by_name("sv39x4").leaf_entry(0, 0, MappingFlags(flags))


def test_memory_types_leave_no_trace() -> None:
    fmt = by_name("sv39x4")
    assert len({fmt.leaf_entry(0, 0, MappingFlags(3), memory_type) for memory_type in MemoryType}) == 1
