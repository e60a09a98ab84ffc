"""Arm's formats by name: sizes at the edges of what the architecture allows."""

import pytest

from stage2.errors import EncodingError, MisalignedError
from stage2.formats import by_name
from stage2.formats.arm.registers import decode_vtcr_el2, vtcr_el2
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
