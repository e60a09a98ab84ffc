"""EPT against the SDM (30.3.2 formats, 30.3.3.1 misconfigurations), written down here a second time."""

import pytest

from stage2.errors import EncodingError, MisalignedError, OutOfRangeError
from stage2.flags import MappingFlags, MemoryType
from stage2.formats import by_name, outcome
from stage2.formats.outcome import LEAF, MISCONFIGURED, NONE, TABLE
from stage2.formats.x86.ept import (
    AD_ENABLED,
    EPT4,
    EXECUTE_ONLY,
    LEGAL,
    MAXPHYADDR_SHIFT,
    MODE_BASED_EXECUTE,
    decode,
    mark,
    permissions,
)
from stage2.formats.x86.registers import eptp

DEFAULT = EPT4.default_controls
WRITE_BACK = 6 << 3
PAGE = 7 | WRITE_BACK


def controls_with(*, execute_only: bool = True, mbec: bool = False, ad: bool = False, width: int = 52) -> int:
    return (
        LEGAL
        | (EXECUTE_ONLY if execute_only else 0)
        | (MODE_BASED_EXECUTE if mbec else 0)
        | (AD_ENABLED if ad else 0)
        | width << MAXPHYADDR_SHIFT
    )


def kind_of(entry: int, level: int = 0, controls: int = DEFAULT) -> int:
    return decode(entry, level, controls)[0]


@pytest.mark.parametrize("bits", [0b010, 0b110])
@pytest.mark.parametrize("level", range(4))
def test_write_without_read_is_a_misconfiguration_at_every_level(bits: int, level: int) -> None:
    memory = 0x80 | WRITE_BACK if level in (1, 2) else WRITE_BACK if level == 0 else 0
    assert kind_of(bits | memory, level) == MISCONFIGURED
    assert kind_of(bits, level, controls_with(mbec=True)) == MISCONFIGURED


def test_execute_only_needs_the_capability() -> None:
    assert kind_of(0b100 | WRITE_BACK) == LEAF
    assert kind_of(0b100 | WRITE_BACK, 0, controls_with(execute_only=False)) == MISCONFIGURED
    assert kind_of(0b100, 2, controls_with(execute_only=False)) == MISCONFIGURED


@pytest.mark.parametrize(("memory_type", "kind"), [(0, LEAF), (1, LEAF), (2, MISCONFIGURED), (3, MISCONFIGURED),
                                                   (4, LEAF), (5, LEAF), (6, LEAF), (7, MISCONFIGURED)])  # fmt: skip
@pytest.mark.parametrize("level", range(3))
def test_memory_types_2_3_and_7_are_reserved(memory_type: int, kind: int, level: int) -> None:
    assert kind_of(7 | memory_type << 3 | (0x80 if level else 0), level) == kind


@pytest.mark.parametrize("bit", range(3, 8))
def test_a_pml4_entry_has_no_bits_7_to_3(bit: int) -> None:
    assert kind_of(7, 3) == TABLE
    assert kind_of(7 | 1 << bit, 3) == MISCONFIGURED


@pytest.mark.parametrize("bit", range(3, 7))
@pytest.mark.parametrize("level", [1, 2])
def test_a_table_pointer_below_has_no_bits_6_to_3(bit: int, level: int) -> None:
    assert kind_of(7 | 1 << bit, level) == MISCONFIGURED


@pytest.mark.parametrize("width", [36, 39, 46, 51, 52])
def test_address_bits_beyond_maxphyaddr_are_reserved(width: int) -> None:
    controls = controls_with(width=width)
    assert kind_of(PAGE | 1 << width - 1, 0, controls) == LEAF
    assert kind_of(7 | 1 << width - 1, 3, controls) == TABLE
    for bit in range(width, 52):
        assert kind_of(PAGE | 1 << bit, 0, controls) == MISCONFIGURED
        assert kind_of(7 | 1 << bit, 3, controls) == MISCONFIGURED


@pytest.mark.parametrize("level", [1, 2])
def test_a_large_page_must_be_aligned_in_every_bit(level: int) -> None:
    large = PAGE | 0x80
    assert kind_of(large | 1 << 12 + 9 * level, level) == LEAF
    for bit in range(12, 12 + 9 * level):
        assert kind_of(large | 1 << bit, level) == MISCONFIGURED


def test_bit_7_of_a_4_kib_entry_is_ignored() -> None:
    assert kind_of(PAGE | 0x80, 0) == LEAF


@pytest.mark.parametrize("level", [1, 2, 3])
def test_a_pointer_has_an_accessed_flag_only_where_the_eptp_enables_it(level: int) -> None:
    """SDM Vol. 3C, 30.3.5: with EPTP bit 6, bit 8 of every entry used is set; a pointer has no dirty flag.

    What a pointer does not track it does not restrict, as `outcome.ACCESSED` and `outcome.DIRTY` say.
    """
    granted = outcome.READ | outcome.WRITE | outcome.EXECUTE | outcome.USER | outcome.ACCESSED | outcome.DIRTY
    passed = granted | outcome.TABLES_ACCESSED
    for entry, off, on in ((0x5007, passed, granted), (0x5107, passed, passed)):
        assert decode(entry, level, controls_with()) == (TABLE, 0x5000, off)
        assert decode(entry, level, controls_with(ad=True)) == (TABLE, 0x5000, on)


@pytest.mark.parametrize("bit", [11, *range(52, 64)])
def test_ignored_bits_change_nothing(bit: int) -> None:
    assert decode(PAGE | 1 << bit, 0, DEFAULT) == decode(PAGE, 0, DEFAULT)
    assert decode(7 | 1 << bit, 2, DEFAULT) == decode(7, 2, DEFAULT)


@pytest.mark.parametrize(
    ("bits", "mbec", "privileged", "user"),
    [
        (0b111, False, "rwx", "rwx"),
        (0b100 | 1 << 10, False, "--x", "--x"),
        (0b011 | 1 << 10, False, "rw-", "rw-"),
        (0b111, True, "rwx", "rw-"),
        (0b011 | 1 << 10, True, "rw-", "rwx"),
        (1 << 10, True, "---", "--x"),
        (0b101 | 1 << 10, True, "r-x", "r-x"),
    ],
)
def test_mode_based_execute_control_tells_user_from_supervisor_fetches(
    bits: int, mbec: bool, privileged: str, user: str
) -> None:
    controls = controls_with(mbec=mbec)
    granted = permissions(decode(bits | WRITE_BACK, 0, controls)[2], controls)
    letters = ["".join(c if granted >> shift & 1 << i else "-" for i, c in enumerate("rwx")) for shift in (0, 3)]
    assert letters == [privileged, user]


def test_a_leaf_for_user_fetches_alone_is_present_only_under_mode_based_execute_control() -> None:
    entry = 1 << 10 | WRITE_BACK
    assert kind_of(entry) == NONE
    assert kind_of(entry, 0, controls_with(mbec=True)) == LEAF
    assert kind_of(entry, 0, controls_with(mbec=True, execute_only=False)) == MISCONFIGURED


def test_accessed_and_dirty_are_set_only_when_the_eptp_enables_them() -> None:
    assert mark(PAGE, 1, DEFAULT) == PAGE
    enabled = controls_with(ad=True)
    assert mark(PAGE, 0, enabled) == PAGE | 1 << 8
    assert mark(PAGE, 1, enabled) == PAGE | 1 << 8 | 1 << 9
    assert decode(PAGE, 0, DEFAULT)[2] & (outcome.ACCESSED | outcome.DIRTY) == outcome.ACCESSED | outcome.DIRTY
    assert decode(PAGE, 0, enabled)[2] & (outcome.ACCESSED | outcome.DIRTY) == 0


@pytest.mark.parametrize(
    ("level", "flags", "entry"),
    [
        (0, 0b111, 0x37),  # AxVisor's R|W|X RAM page
        (1, 0b111, 0xB7),
        (2, 0b111, 0xB7),
        (0, 0b10011, 0x3),  # its R|W device page
        (0, 0b100011, 0x3),  # uncached is uncacheable, which AxVisor ignores
        (0, 0b001, 0x31),
    ],
)
def test_leaves_are_the_bytes_axvisor_writes(level: int, flags: int, entry: int) -> None:
    assert EPT4.leaf_entry(level, 0x4000_0000, MappingFlags(flags)) == 0x4000_0000 | entry


def test_a_table_entry_is_the_byte_axvisor_writes() -> None:
    assert EPT4.table_entry(0x1234_5000) == 0x1234_5007


@pytest.mark.parametrize(
    ("memory_type", "number"),
    [(MemoryType.WRITE_BACK, 6), (MemoryType.WRITE_THROUGH, 4), (MemoryType.WRITE_COMBINING, 1),
     (MemoryType.WRITE_PROTECTED, 5), (MemoryType.UNCACHED, 0), (MemoryType.DEVICE, 0)],
)  # fmt: skip
def test_memory_types_have_their_pat_numbers(memory_type: MemoryType, number: int) -> None:
    assert EPT4.leaf_entry(0, 0, MappingFlags(3), memory_type) >> 3 & 7 == number


@pytest.mark.parametrize("flags", [0, 2, 6, 8])
def test_what_ept_cannot_say_is_refused(flags: int) -> None:
    with pytest.raises(EncodingError):
        EPT4.leaf_entry(0, 0, MappingFlags(flags))


def test_an_execute_only_leaf_is_refused_without_the_capability() -> None:
    assert EPT4.leaf_entry(0, 0, MappingFlags.EXECUTE) & 7 == 4
    with pytest.raises(EncodingError, match="execute-only"):
        EPT4.leaf_entry(0, 0, MappingFlags.EXECUTE, controls=controls_with(execute_only=False))


def test_there_is_no_512_gib_leaf() -> None:
    with pytest.raises(EncodingError, match="no leaf at level 3"):
        EPT4.leaf_entry(3, 0, MappingFlags.READ)


def test_the_ept_pointer_says_write_back_four_levels_and_whether_a_and_d_are_kept() -> None:
    assert eptp(by_name("ept4"), 0x1234_5000) == 0x1234_5000 | 3 << 3 | 6
    assert eptp(by_name("ept4"), 0x1234_5000, accessed_dirty=True) == 0x1234_5000 | 1 << 6 | 3 << 3 | 6


@pytest.mark.parametrize(("root", "error"), [(0x1234_5678, MisalignedError), (1 << 52, OutOfRangeError)])
def test_an_impossible_ept_root_is_refused(root: int, error: type[Exception]) -> None:
    with pytest.raises(error, match="root table"):
        eptp(EPT4, root)
