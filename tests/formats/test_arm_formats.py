"""Arm's formats by name: sizes at the edges of what the architecture allows."""

import pytest

from stage2.errors import EncodingError, MisalignedError
from stage2.flags import RWX
from stage2.formats import by_name, outcome
from stage2.formats.arm import layout
from stage2.formats.arm.formats import sized_controls
from stage2.formats.arm.registers import decode_vtcr_el2, vtcr_el2
from stage2.formats.outcome import LEAF, NONE, TABLE, TOO_WIDE
from stage2.tables.regime import Regime


@pytest.mark.parametrize(
    ("name", "levels", "root_bits", "output_bits", "top_leaf_level"),
    [
        ("arm-s2-64k-25", 1, 9, 48, 0), ("arm-s2-64k-29", 1, 13, 48, 0), ("arm-s2-64k-30", 2, 1, 48, 1),
        ("arm-s2-16k-25", 1, 11, 48, 0), ("arm-s2-16k-26", 2, 1, 48, 1), ("arm-s2-4k-25", 2, 4, 48, 1),
        ("arm-s2-64k-48-lpa", 3, 6, 52, 2), ("arm-s1-64k-48-lpa-high", 3, 6, 52, 2), ("arm-s2-64k-52", 3, 10, 52, 2),
        ("arm-s2-16k-52-lpa2", 4, 5, 52, 2), ("arm-s2-4k-52-5level-lpa2", 5, 4, 52, 3),
        ("arm-s1-16k-52-lpa2", 4, 5, 52, 2), ("arm-s1-4k-25", 2, 4, 48, 1), ("arm-s2-4k-43", 3, 13, 48, 2),
        ("arm-s2-4k-44", 4, 5, 48, 2),
    ],
)  # fmt: skip
def test_geometry_at_the_edges(name: str, levels: int, root_bits: int, output_bits: int, top_leaf_level: int) -> None:
    fmt = by_name(name)
    assert fmt.name == name
    found = (fmt.levels, fmt.root_bits, fmt.output_bits, fmt.top_leaf_level)
    assert found == (levels, root_bits, output_bits, top_leaf_level)


@pytest.mark.parametrize(
    "name",
    ["arm-s2-4k-48-lpa", "arm-s2-64k-52-lpa2", "arm-s2-4k-52", "arm-s2-4k-24", "arm-s2-4k-40-high", "arm-s2-64k-53",
     "arm-s2-4k-44-3level", "arm-s2-4k-30-4level", "arm-s1-4k-40-3level", "arm-s3-4k-40"],
)  # fmt: skip
def test_what_the_architecture_does_not_allow_is_refused(name: str) -> None:
    with pytest.raises(EncodingError):
        by_name(name)


@pytest.mark.parametrize(
    ("granule", "bits", "levels"), [(16, 25, 1), (16, 29, 1), (14, 25, 1), (16, 48, 3), (16, 42, 2)]
)
@pytest.mark.parametrize("pa_bits", [48, 52])
def test_vtcr_selects_the_format_by_granule_sizes_and_ps(granule: int, bits: int, levels: int, pa_bits: int) -> None:
    control = decode_vtcr_el2(vtcr_el2(granule, bits, levels, pa_bits=pa_bits))
    fmt = by_name(control.format_name)
    assert (fmt.page_shift, fmt.input_bits, fmt.levels) == (granule, bits, levels)
    assert fmt.output_bits == (52 if granule == 16 and pa_bits == 52 else 48)
    assert fmt.output_bits == control.pa_bits


def test_a_root_of_few_entries_may_begin_within_a_page() -> None:
    """As Linux with 52-bit addresses has it on a 48-bit processor: its TTBR1 points into the middle of a root."""
    fmt = by_name("arm-s1-64k-48")
    assert (fmt.root_size, fmt.root_alignment) == (4096, 512)
    assert Regime.of(fmt, 0x4000_0E00).root == 0x4000_0E00
    with pytest.raises(MisalignedError, match=r"0x40000e40.* multiple of 0x200"):
        Regime.of(fmt, 0x4000_0E40)
    assert by_name("arm-s2-4k-48").root_alignment == 4096
    assert by_name("arm-s2-16k-40").root_alignment == 0x40000
    assert by_name("sv39x4").root_alignment == 0x4000


@pytest.mark.parametrize("name", ["arm-s1-4k-39", "arm-s2-4k-40"])
def test_hd_does_nothing_without_ha(name: str) -> None:
    """D24.2 "TCR_EL1", "VTCR_EL2": HD behaves as 0 while HA is 0. A page with DBM is what it is without either."""
    fmt = by_name(name)
    read_only = 0x7C3 & ~0x80 | 1 << 51 if fmt.stage == 2 else 0x4C3 | 1 << 7 | 1 << 51
    plain, alone, both = (fmt.default_controls | more for more in (0, layout.HD, layout.HA | layout.HD))
    assert fmt.decode(read_only, 0, alone) == fmt.decode(read_only, 0, plain)
    assert fmt.mark(read_only, 1, alone) == read_only
    assert not fmt.decode(read_only, 0, alone)[2] & outcome.WRITE
    assert fmt.decode(read_only, 0, both)[2] & outcome.WRITE
    assert fmt.leaf_entry(0, 0, RWX, controls=alone) == fmt.leaf_entry(0, 0, RWX, controls=plain)
    assert fmt.leaf_entry(0, 0, RWX, controls=both) & 1 << 51


@pytest.mark.parametrize("name", ["arm-s1-64k-48-lpa", "arm-s2-64k-48-lpa", "arm-s2-64k-52"])
@pytest.mark.parametrize("bits", [36, 40, 44, 48, 52])
def test_with_feat_lpa_bits_15_to_12_are_address_bits_whatever_the_output_size(name: str, bits: int) -> None:
    """AArch64.LeafBase and NextTableBase ask AArch64.PAMax; AArch64.OAOutOfRange then asks PS."""
    fmt = by_name(name)
    controls = sized_controls(fmt, bits)
    for word, level in ((0x1743, 0), (0x1741, 2), (0x1003, 1)):
        kind, address, _ = fmt.decode(word, level, controls)
        assert (kind, address) == ((LEAF if word & 0x700 else TABLE, 1 << 48) if bits == 52 else (TOO_WIDE, 0))
        assert fmt.decode(word & ~0x1000, level, controls)[:2] == (LEAF if word & 0x700 else TABLE, 0)


@pytest.mark.parametrize(("name", "leaf"), [("arm-s2-64k-48", NONE), ("arm-s2-64k-48-lpa", LEAF)])
def test_blocks_of_4_tib_are_those_of_feat_lpa(name: str, leaf: int) -> None:
    """AArch64.BlockDescSupported: 64 KiB granules have blocks at level 1 where AArch64.PAMax is 52."""
    assert by_name(name).decode(0x741, 2, by_name(name).default_controls)[0] == leaf


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        # 14 index bits are left for a root of 9: 2^5 tables, and D8.2.5 allows 16.
        ("arm-s2-4k-44-3level", r"cannot have 3 levels: 32 root tables would have to be concatenated, and 16 may be"),
        ("arm-s2-16k-45-2level", r"cannot have 2 levels: 512 root tables would have to be concatenated"),
        ("arm-s2-4k-30-4level", r"cannot have 4 levels: too many"),
        ("arm-s2-4k-39-4level", r"cannot have 4 levels: too many"),
    ],
)
def test_levels_that_do_not_fit_the_width_are_refused_with_the_reason(name: str, problem: str) -> None:
    with pytest.raises(EncodingError, match=problem):
        by_name(name)


@pytest.mark.parametrize(
    ("name", "alignment"),
    [("arm-s1-64k-48", 512), ("arm-s1-4k-25", 128), ("arm-s1-64k-48-lpa", 512), ("arm-s1-4k-41", 32),
     ("arm-s1-4k-40", 16), ("arm-s1-16k-52-lpa2", 256), ("arm-s2-4k-52-5level-lpa2", 128)],
)  # fmt: skip
def test_a_root_is_aligned_to_its_size(name: str, alignment: int) -> None:
    """D8.2.3 "Translation table base address register"."""
    assert by_name(name).root_alignment == alignment
