"""Memory types of both Arm stages combined; the manual's tables written down a second time (D8.6)."""

import pytest

from stage2.errors import EncodingError
from stage2.flags import MemoryType
from stage2.formats import by_name, family_of
from stage2.formats.arm.effective import combine, describe_mair

NC, WT, WB = "Non-cacheable", "Write-Through", "Write-Back"
NSH, OSH, ISH = "Non-shareable", "Outer Shareable", "Inner Shareable"
NGNRNE, NGNRE, NGRE, GRE = "Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE"

MAIR_DEVICES = {0x00: NGNRNE, 0x04: NGNRE, 0x08: NGRE, 0x0C: GRE}
S2_DEVICES = {0b0000: NGNRNE, 0b0001: NGNRE, 0b0010: NGRE, 0b0011: GRE}
# MAIR half -> cacheability; every half that the architecture defines.
HALVES = {0b0100: NC} | dict.fromkeys((1, 2, 3, 8, 9, 10, 11), WT) | dict.fromkeys((5, 6, 7, 12, 13, 14, 15), WB)
S2_HALVES = {0b01: NC, 0b10: WT, 0b11: WB}
# The stricter device type of two.
DEVICES = {
    (NGNRNE, NGNRNE): NGNRNE, (NGNRNE, NGNRE): NGNRNE, (NGNRNE, NGRE): NGNRNE, (NGNRNE, GRE): NGNRNE,
    (NGNRE, NGNRNE): NGNRNE, (NGNRE, NGNRE): NGNRE, (NGNRE, NGRE): NGNRE, (NGNRE, GRE): NGNRE,
    (NGRE, NGNRNE): NGNRNE, (NGRE, NGNRE): NGNRE, (NGRE, NGRE): NGRE, (NGRE, GRE): NGRE,
    (GRE, NGNRNE): NGNRNE, (GRE, NGNRE): NGNRE, (GRE, NGRE): NGRE, (GRE, GRE): GRE,
}  # fmt: skip
# The cacheability of two stages' halves.
CACHES = {
    (NC, NC): NC, (NC, WT): NC, (NC, WB): NC, (WT, NC): NC, (WT, WT): WT, (WT, WB): WT, (WB, NC): NC, (WB, WT): WT,
    (WB, WB): WB,
}  # fmt: skip
SHARES = {
    (0, 0): NSH, (0, 3): ISH, (0, 2): OSH, (3, 0): ISH, (3, 3): ISH, (3, 2): OSH, (2, 0): OSH, (2, 3): OSH, (2, 2): OSH,
}  # fmt: skip


@pytest.mark.parametrize("mair", MAIR_DEVICES)
@pytest.mark.parametrize("mem_attr", S2_DEVICES)
def test_the_stricter_of_two_device_types_holds(mair: int, mem_attr: int) -> None:
    found = combine((mair, 0), (mem_attr, 0))
    assert found.device == DEVICES[MAIR_DEVICES[mair], S2_DEVICES[mem_attr]]
    assert found.shareability == OSH
    assert found.memory_type is MemoryType.DEVICE


@pytest.mark.parametrize("share", SHARES)
def test_device_wins_over_normal_and_is_outer_shareable(share: tuple[int, int]) -> None:
    for mem_attr, name in S2_DEVICES.items():
        assert combine((0xFF, share[0]), (mem_attr, share[1])).device == name
    for mair, name in MAIR_DEVICES.items():
        found = combine((mair, share[0]), (0b1111, share[1]))
        assert (found.device, found.inner, found.outer, found.shareability) == (name, NC, NC, OSH)


@pytest.mark.parametrize("outer", HALVES)
@pytest.mark.parametrize("inner", HALVES)
def test_the_least_cacheability_holds_for_inner_and_outer_each(outer: int, inner: int) -> None:
    for s2_outer, outer_2 in S2_HALVES.items():
        for s2_inner, inner_2 in S2_HALVES.items():
            found = combine((outer << 4 | inner, 3), (s2_outer << 2 | s2_inner, 3))
            expected = CACHES[HALVES[inner], inner_2], CACHES[HALVES[outer], outer_2]
            assert found.device is None
            assert (found.inner, found.outer) == expected
            assert found.shareability == (OSH if expected == (NC, NC) else ISH)


@pytest.mark.parametrize(("share", "expected"), SHARES.items())
def test_the_wider_shareability_holds(share: tuple[int, int], expected: str) -> None:
    assert combine((0xFF, share[0]), (0b1111, share[1])).shareability == expected
    assert combine((0xFF, share[0]), (0b0110, share[1]), fwb=True).shareability == expected
    assert combine((0x44, share[0]), (0b1111, share[1])).shareability == OSH


@pytest.mark.parametrize(
    ("mair", "mem_attr", "expected"),
    [
        # Stage 2 forces Device; of two Device types the stricter holds.
        (0xFF, 0b0000, NGNRNE), (0xFF, 0b0001, NGNRE), (0x44, 0b0011, GRE), (0x00, 0b0011, NGNRNE),
        (0x0C, 0b0001, NGNRE), (0x04, 0b0010, NGNRE),
        # Non-cacheable unless stage 1 has Device.
        (0xFF, 0b0101, "Normal Non-cacheable"), (0xBB, 0b0101, "Normal Non-cacheable"), (0x04, 0b0101, NGNRE),
        # Write-Back whatever stage 1 has.
        (0xFF, 0b0110, "Normal Write-Back"), (0x44, 0b0110, "Normal Write-Back"), (0x00, 0b0110, "Normal Write-Back"),
        # Stage 1's.
        (0xFF, 0b0111, "Normal Write-Back"), (0xBB, 0b0111, "Normal Write-Through"),
        (0x44, 0b0111, "Normal Non-cacheable"), (0x08, 0b0111, NGRE),
        (0x4F, 0b0111, "Normal Inner Write-Back, Outer Non-cacheable"),
    ],
)  # fmt: skip
def test_stage_2_decides_under_fwb(mair: int, mem_attr: int, expected: str) -> None:
    found = combine((mair, 3), (mem_attr, 3), fwb=True)
    assert found.name == expected
    assert expected in found.text
    assert "FWB" in found.manual


def test_stage_1_without_its_cache_is_non_cacheable() -> None:
    assert combine((0xFF, 3), (0b1111, 3), cache_disabled=True).name == "Normal Non-cacheable"
    assert combine((0x04, 3), (0b1111, 3), cache_disabled=True).name == NGNRE
    assert combine((0xFF, 3), (0b0110, 3), fwb=True, cache_disabled=True).name == "Normal Write-Back"


def test_stage_2_without_its_cache_is_non_cacheable() -> None:
    found = combine((0xFF, 3), (0b1111, 3), stage_2_cache_disabled=True)
    assert (found.name, found.shareability) == ("Normal Non-cacheable", OSH)
    assert "HCR_EL2.CD" in found.text
    assert combine((0x00, 3), (0b1111, 3), stage_2_cache_disabled=True).name == NGNRNE


def test_dc_makes_stage_1_write_back_and_non_shareable() -> None:
    found = combine((0x00, 2), (0b1111, 0), dc=True)
    assert (found.name, found.shareability) == ("Normal Write-Back", NSH)
    assert combine(None, (0b1010, 3), dc=True).name == "Normal Write-Through"
    assert combine(None, (0b0001, 3), dc=True).name == NGNRE


def test_a_stage_that_is_off() -> None:
    assert combine(None, (0b1111, 3)).name == NGNRNE
    found = combine((0xBB, 3), None)
    assert (found.name, found.shareability) == ("Normal Write-Through", ISH)
    assert "stage 1 alone" in found.text
    assert combine(None, None).name == NGNRNE


@pytest.mark.parametrize("mem_attr", [0b0100, 0b1000, 0b1100, 16, -1])
def test_reserved_stage_2_attributes_are_refused(mem_attr: int) -> None:
    with pytest.raises(EncodingError, match=r"MemAttr .* reserved"):
        combine((0xFF, 3), (mem_attr, 3))


@pytest.mark.parametrize("mem_attr", [0b0100, 0b1000, 0b1110, 0b1111, 16, -1])
def test_reserved_attributes_under_fwb_are_refused(mem_attr: int) -> None:
    with pytest.raises(EncodingError, match=r"reserved under HCR_EL2\.FWB"):
        combine((0xFF, 3), (mem_attr, 3), fwb=True)


def test_every_mair_attribute_is_defined_or_refused() -> None:
    xs_and_tagged = {0x40: "Normal Non-cacheable", 0xA0: "Normal Write-Through", 0xF0: "Normal Write-Back"}
    for attribute in range(-1, 257):
        outer, inner = attribute >> 4, attribute & 15
        if attribute in (0x01, 0x05, 0x09, 0x0D):
            expected = MAIR_DEVICES[attribute - 1]
        elif attribute in MAIR_DEVICES:
            expected = MAIR_DEVICES[attribute]
        elif attribute in xs_and_tagged:
            expected = xs_and_tagged[attribute]
        elif 0 <= attribute < 256 and outer in HALVES and inner in HALVES:
            same = HALVES[outer] == HALVES[inner]
            expected = f"Normal {HALVES[inner]}" if same else f"Normal Inner {HALVES[inner]}, Outer {HALVES[outer]}"
        else:
            with pytest.raises(EncodingError, match="reserved"):
                describe_mair(attribute)
            continue
        assert describe_mair(attribute) == expected, hex(attribute)


def test_a_reserved_shareability_is_refused() -> None:
    for first, second, stage in ((1, 3, "stage 1"), (3, 1, "stage 2")):
        with pytest.raises(EncodingError, match=f"{stage}: SH 1 is reserved"):
            combine((0xFF, first), (0b1111, second))


def test_the_sentence_names_both_stages_and_the_section() -> None:
    found = combine((0xFF, 3), (0b0001, 0))
    assert found.text == (
        "Accesses are Device-nGnRE, Outer Shareable: stage 1 has Normal Write-Back; stage 2 has Device-nGnRE."
    )
    assert "D8.6" in found.manual
    assert combine((0x4F, 3), (0b1111, 0)).memory_type is MemoryType.UNCACHED
    assert combine((0xBB, 3), (0b1111, 0)).memory_type is MemoryType.WRITE_THROUGH
    assert combine((0xFF, 3), (0b1111, 0)).memory_type is MemoryType.WRITE_BACK


@pytest.mark.parametrize(
    ("mem_attr", "word", "note"),
    [
        (0b0111, None, "Stage 1 decides the memory type."),
        (0b0100, None, "MemAttr 0b0100 is reserved under HCR_EL2.FWB."),
        (0b1110, None, "MemAttr 0b1110 is reserved under HCR_EL2.FWB."),
        (0b0110, "write-back", ""),
        (0b0101, "uncached", ""),
        (0b0001, "device", ""),
    ],
)
def test_under_fwb_a_reserved_value_is_told_from_one_that_leaves_it_to_stage_1(
    mem_attr: int, word: str | None, note: str
) -> None:
    """D8.6.6 "Stage 2 memory type and Cacheability attributes when FWB is enabled"."""
    fmt = by_name("arm-s2-4k-40")
    controls = fmt.controls_with("fwb")
    attributes = fmt.decode(0x7C3 | mem_attr << 2, 0, controls)[2]
    assert family_of(fmt).memory_type(fmt, attributes, controls) == (word, note)
