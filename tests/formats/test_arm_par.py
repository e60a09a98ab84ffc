"""PAR_EL1 as an AT instruction leaves it (Arm ARM DDI 0487, D24.2 "PAR_EL1")."""

import pytest

from stage2.formats.arm.par import encode_failed, encode_translated

NS, RES1 = 1 << 9, 1 << 11
OUTER, INNER = 2, 3


@pytest.mark.parametrize("address", [0x4100_0000, 0x000F_FFFF_FFFF_F000, 0x4100_0FFF])
def test_a_translation_gives_the_page_its_attribute_and_its_shareability(address: int) -> None:
    """ATTR is 63:56, PA[51:12] its own place, NS 9, SH 8:7, F 0; bit 11 is one without FEAT_RME."""
    expected = 0xFF << 56 | address & ~0xFFF | RES1 | NS | INNER << 7
    assert encode_translated(address, 0xFF, INNER) == expected


@pytest.mark.parametrize(
    ("attribute", "shareability", "told"),
    [
        (0xFF, 0, 0), (0xFF, INNER, INNER), (0xBB, 0, 0), (0x4F, 0, 0), (0xF4, INNER, INNER), (0x1F, 0, 0),
        (0x43, 0, 0),
        # "For Device memory and Normal Non-cacheable memory", SH is 0b10, whatever the leaf says.
        (0x44, 0, OUTER), (0x44, INNER, OUTER), (0x00, 0, OUTER), (0x04, INNER, OUTER), (0x0C, INNER, OUTER),
    ],
)  # fmt: skip
def test_device_and_non_cacheable_memory_is_outer_shareable(attribute: int, shareability: int, told: int) -> None:
    assert encode_translated(0x1000, attribute, shareability) == attribute << 56 | 0x1000 | RES1 | NS | told << 7


@pytest.mark.parametrize("status", [0x04, 0x0F, 0x14, 0x2B, 0x3F])
def test_a_translation_that_failed_gives_its_status(status: int) -> None:
    """FST is 6:1, F 0; PTW (8) and S (9) are clear: stage 1 itself refused."""
    assert encode_failed(status) == status << 1 | 1 | RES1
