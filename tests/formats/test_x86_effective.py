"""PAT with EPT, with the host's PAT and with MTRRs; the manuals' tables are written down here a second time."""

from itertools import product

import pytest

from stage2.errors import EncodingError
from stage2.flags import RWX, MemoryType
from stage2.formats import EffectiveType, Leaf, TypeSources, by_name, effective_type
from stage2.formats.arm.effective import ArmType
from stage2.formats.x86.effective import combine_ept, combine_npt, pat_type
from stage2.formats.x86.longmode import PAT_MSR

# (EPT or MTRR type, PAT type) -> effective type: Intel SDM Vol. 3A, table 13-7.
INTEL = {
    ("UC", "UC"): "UC", ("UC", "UC-"): "UC", ("UC", "WC"): "WC", ("UC", "WT"): "UC", ("UC", "WB"): "UC",
    ("UC", "WP"): "UC",
    ("WC", "UC"): "UC", ("WC", "UC-"): "WC", ("WC", "WC"): "WC", ("WC", "WT"): "UC", ("WC", "WB"): "WC",
    ("WC", "WP"): "UC",
    ("WT", "UC"): "UC", ("WT", "UC-"): "UC", ("WT", "WC"): "WC", ("WT", "WT"): "WT", ("WT", "WB"): "WT",
    ("WT", "WP"): "WP",
    ("WB", "UC"): "UC", ("WB", "UC-"): "UC", ("WB", "WC"): "WC", ("WB", "WT"): "WT", ("WB", "WB"): "WB",
    ("WB", "WP"): "WP",
    ("WP", "UC"): "UC", ("WP", "UC-"): "WC", ("WP", "WC"): "WC", ("WP", "WT"): "WT", ("WP", "WB"): "WP",
    ("WP", "WP"): "WP",
}  # fmt: skip
# Guest's PAT type -> combined PAT type by the host's UC, UC-, WC, WP, WT, WB: AMD APM Vol. 2, table 15-19.
GUEST_HOST = {
    "UC": ("UC", "UC", "UC", "UC", "UC", "UC"),
    "UC-": ("UC", "UC-", "WC", "UC", "UC", "UC"),
    "WC": ("WC", "WC", "WC", "WC+", "WC+", "WC+"),
    "WP": ("UC", "UC", "UC", "WP", "UC", "WP"),
    "WT": ("UC", "UC", "UC", "UC", "WT", "WT"),
    "WB": ("UC", "UC", "WC", "WP", "WT", "WB"),
}
# Combined PAT type -> effective type by MTRR types UC, WC, WP, WT, WB: table 15-20.
WITH_MTRR = {
    "UC": ("UC", "CD", "CD", "CD", "CD"),
    "UC-": ("UC", "WC", "CD", "CD", "CD"),
    "WC": ("WC", "WC", "WC", "WC", "WC"),
    "WC+": ("WC", "WC", "WC+", "WC+", "WC+"),
    "WP": ("UC", "CD", "WP", "CD", "WP"),
    "WT": ("UC", "CD", "CD", "WT", "WT"),
    "WB": ("UC", "WC", "WP", "WT", "WB"),
}
PATS = ("UC", "UC-", "WC", "WP", "WT", "WB")
MTRRS = ("UC", "WC", "WP", "WT", "WB")


@pytest.mark.parametrize(("types", "expected"), INTEL.items())
def test_ept_takes_the_place_of_the_mtrrs(types: tuple[str, str], expected: str) -> None:
    ept, pat = types
    assert combine_ept(pat, ept) == expected
    assert combine_ept(pat, ept, ignore_pat=True) == ept
    for alone in (False, True):
        assert combine_ept(pat, ept, ignore_pat=alone, cache_disabled=True) == "UC"


def test_the_table_of_intel_is_whole() -> None:
    assert len(INTEL) == 30


@pytest.mark.parametrize(("guest", "host"), list(product(GUEST_HOST, PATS)))
def test_both_pats_and_then_the_mtrrs_combine_under_nested_paging(guest: str, host: str) -> None:
    combined = GUEST_HOST[guest][PATS.index(host)]
    assert tuple(combine_npt(guest, host, mtrr) for mtrr in MTRRS) == WITH_MTRR[combined]
    assert combine_npt(guest, host, "WB", cache_disabled=True) == "CD"


def test_types_that_do_not_exist_are_refused() -> None:
    for wrong in (("UC+", "WB"), ("WB", "UC-"), ("WB", "")):
        with pytest.raises(EncodingError, match="has no memory type"):
            combine_ept(*wrong)
    for three in (("X", "WB", "WB"), ("WB", "X", "WB"), ("WB", "WB", "UC-")):
        with pytest.raises(EncodingError, match="has no memory type"):
            combine_npt(*three)
    with pytest.raises(EncodingError, match=r"entry 3 of IA32_PAT .* reserved"):
        pat_type(2 << 24, 3)
    with pytest.raises(EncodingError, match="reserved"):
        pat_type(0x86, 0)


def test_the_pat_that_the_formats_count_on() -> None:
    assert [pat_type(PAT_MSR, index) for index in range(8)] == ["WB", "WT", "UC-", "UC", "WB", "WP", "WC", "UC"]


# --- by leaves -----------------------------------------------------------------------------------------------------


def leaf(name: str, memory_type: MemoryType = MemoryType.WRITE_BACK, *, more: int = 0, controls: int = 0) -> Leaf:
    """A leaf of a format as its decode sees it."""
    fmt = by_name(name)
    controls |= fmt.default_controls
    word = fmt.leaf_entry(0, 0x8000_0000, RWX, memory_type, controls) | more
    return Leaf(fmt, fmt.decode(word, 0, controls)[2], controls)


TYPES = {
    MemoryType.WRITE_BACK: "WB", MemoryType.WRITE_THROUGH: "WT", MemoryType.WRITE_COMBINING: "WC",
    MemoryType.WRITE_PROTECTED: "WP", MemoryType.UNCACHED: "UC", MemoryType.DEVICE: "UC",
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), list(product(TYPES, TYPES)))
def test_leaves_of_both_stages_are_looked_up(first: MemoryType, second: MemoryType) -> None:
    guest = leaf("x86-4level", first)
    found = effective_type(guest, leaf("ept4", second))
    assert found.name == INTEL[TYPES[second], TYPES[first]]
    assert found.name in found.text
    assert "30.3.7.2" in found.manual
    nested = effective_type(guest, leaf("npt4", second))
    assert nested.name == WITH_MTRR[GUEST_HOST[TYPES[first]][PATS.index(TYPES[second])]][-1]
    assert "15.25.8" in nested.manual


def test_the_bit_that_ignores_the_guests_pat() -> None:
    found = effective_type(leaf("x86-4level", MemoryType.UNCACHED), leaf("ept4", more=1 << 6))
    assert found.name == "WB"
    assert "ignores the guest's PAT" in found.text


def test_cr0_cd_turns_caches_off() -> None:
    off = TypeSources(cache_disabled=True)
    assert effective_type(leaf("x86-4level"), leaf("ept4", more=1 << 6), off).name == "UC"
    found = effective_type(leaf("x86-4level"), leaf("npt4"), off)
    assert (found.name, found.text) == ("CD", "Accesses are CD (uncached, and snoop the caches): CR0.CD is set.")


def test_a_guest_without_paging_counts_as_write_back() -> None:
    assert effective_type(None, leaf("ept4", MemoryType.WRITE_THROUGH)).name == "WT"
    assert "paging is off" in effective_type(None, leaf("ept4")).text
    assert effective_type(None, leaf("npt4")).name == "WB"


def test_without_a_second_stage_the_mtrrs_decide_with_the_pat() -> None:
    sources = TypeSources(memory=MemoryType.WRITE_COMBINING)
    assert effective_type(leaf("x86-4level"), None, sources).name == "WC"
    assert "13-7" in effective_type(leaf("x86-4level"), None).manual


def test_other_pats_and_mtrrs_can_be_given() -> None:
    guest, host = leaf("x86-4level"), leaf("npt4")
    assert effective_type(guest, leaf("ept4"), TypeSources(pat=0x04)).name == "WT"
    assert effective_type(guest, host, TypeSources(host_pat=0x01)).name == "WC"
    assert effective_type(guest, host, TypeSources(memory=MemoryType.DEVICE)).name == "UC"
    with pytest.raises(EncodingError, match="reserved"):
        effective_type(guest, host, TypeSources(pat=0x02))


def test_what_is_not_known_is_told_to_be_taken_for_granted() -> None:
    given = TypeSources(mair=0xFF, pat=6, host_pat=6, memory=MemoryType.WRITE_BACK)
    pairs = [("x86-4level", "ept4"), ("x86-4level", "npt4"), ("arm-s1-4k-48", "arm-s2-4k-40"), ("sv39", "sv39x4")]
    for first, second in pairs:
        assert "taken to" in effective_type(leaf(first), leaf(second)).text
        assert "taken to" not in effective_type(leaf(first), leaf(second), given).text


def test_a_reserved_type_of_ept_is_refused() -> None:
    found = leaf("ept4")
    with pytest.raises(EncodingError, match="EPT memory type 7 is reserved"):
        effective_type(None, Leaf(found.format, found.attributes | 7 << 3, found.controls))


# --- the other families --------------------------------------------------------------------------------------------


def test_arm_combines_mair_with_memattr() -> None:
    found = effective_type(leaf("arm-s1-4k-48", MemoryType.UNCACHED), leaf("arm-s2-4k-40"))
    assert isinstance(found, ArmType)
    assert (found.name, found.device) == ("Normal Non-cacheable", None)
    assert "attribute 2 of MAIR_EL1 (taken to be 0xbb4404ff)" in found.text
    assert effective_type(None, leaf("arm-s2-4k-40")).name == "Device-nGnRnE"
    given = TypeSources(mair=0x00_BB)
    assert effective_type(leaf("arm-s1-4k-48"), leaf("arm-s2-4k-40"), given).name == "Normal Write-Through"
    off = TypeSources(cache_disabled=True)
    assert effective_type(leaf("arm-s1-4k-48"), leaf("arm-s2-4k-40"), off).name == "Normal Non-cacheable"


def test_arm_with_lpa2_takes_the_shareability_of_its_registers() -> None:
    found = effective_type(leaf("arm-s1-4k-52-lpa2"), leaf("arm-s2-4k-52-lpa2"))
    assert isinstance(found, ArmType)
    assert (found.name, found.shareability) == ("Normal Write-Back", "Inner Shareable")


def test_arm_under_fwb_is_what_stage_2_forces() -> None:
    guest = leaf("arm-s1-4k-48", MemoryType.UNCACHED)
    found = effective_type(guest, leaf("arm-s2-4k-40", controls=1 << 6))
    assert found.name == "Normal Write-Back"
    assert "FWB" in found.manual


def test_risc_v_looks_at_both_pbmts_and_the_pmas() -> None:
    guest, host = leaf("sv39"), leaf("sv39x4")
    assert effective_type(guest, host).name == "write-back"
    assert effective_type(guest, host, TypeSources(memory=MemoryType.DEVICE)).name == "device"
    device = Leaf(host.format, host.attributes | 2 << 3, host.controls)
    assert effective_type(guest, device).name == "device"
    uncached = Leaf(guest.format, guest.attributes | 1 << 3, guest.controls)
    assert effective_type(uncached, device).name == "uncached"
    assert effective_type(None, host).name == "write-back"


def test_every_family_answers_in_sentences_with_a_section() -> None:
    pairs = [("x86-4level", "ept4"), ("x86-5level", "npt5"), ("arm-s1-16k-47", "arm-s2-16k-40"), ("sv48", "sv48x4")]
    for first, second in pairs:
        for stages in ((leaf(first), leaf(second)), (None, leaf(second)), (leaf(first), None)):
            found = effective_type(*stages)
            assert isinstance(found, EffectiveType)
            assert found.name
            assert found.text.endswith(".")
            assert found.manual


def test_leaves_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(EncodingError, match="leaves of riscv and x86 do not combine"):
        effective_type(leaf("sv39"), leaf("ept4"))
    with pytest.raises(EncodingError, match="no leaf"):
        effective_type(None, None)
