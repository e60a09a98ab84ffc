"""Which tables an exception level translates by: EL1&0, EL2 and EL2&0, from their registers."""

from typing import Any

import pytest

from stage2.errors import EncodingError, MisalignedError, Stage2Error
from stage2.flags import RWX
from stage2.formats.arm import layout, stage1
from stage2.formats.arm.formats import by_name
from stage2.formats.arm.stage1_control import (
    Stage1Control,
    Stage1Regime,
    Stage1Root,
    regime_of,
    regimes,
    stage_1_registers,
)
from stage2.formats.outcome import LEAF, NONE, TOO_WIDE

DC, TGE, E2H, VM = 1 << 12, 1 << 27, 1 << 34, 1
M, WXN = 1, 1 << 19
LINUX_TCR = 16 | 16 << 16 | 1 << 22 | 2 << 30 | 5 << 32 | 1 << 36 | 3 << 37
"""48-bit halves of 4 KiB (TG0 0, TG1 2), 48-bit output, both top bytes ignored, ASIDs of 16 bits from TTBR1."""
EL2_TCR = 0x8080_0000 | 2 << 16 | 25 | 1 << 20
"""39 bits of 4 KiB, 40-bit output, top byte ignored."""
LOW, HIGH = 0x4000_0000, 0x4010_0000


def halves(**registers: Any) -> Stage1Control:
    given: dict[str, Any] = {"tcr": LINUX_TCR, "ttbr0": LOW | 7 << 48, "ttbr1": HIGH | 0x1234 << 48} | registers
    return regimes(1, **given)


def names(control: Stage1Control) -> list[str | None]:
    return [None if half is None else half.format.name for half in (control.low, control.high)]


def low_of(control: Stage1Control) -> Stage1Root:
    assert control.low is not None
    return control.low


@pytest.mark.parametrize(
    ("el", "hcr", "regime"),
    [
        (0, 0, Stage1Regime.EL1_0), (1, 0, Stage1Regime.EL1_0), (2, 0, Stage1Regime.EL2),
        (2, E2H, Stage1Regime.EL2_0), (1, E2H, Stage1Regime.EL1_0), (0, E2H, Stage1Regime.EL1_0),
        (0, E2H | TGE, Stage1Regime.EL2_0), (2, E2H | TGE, Stage1Regime.EL2_0), (0, TGE, Stage1Regime.EL1_0),
    ],
)  # fmt: skip
def test_hcr_chooses_the_regime_of_an_exception_level(el: int, hcr: int, regime: Stage1Regime) -> None:
    assert regime_of(el, hcr) is regime


@pytest.mark.parametrize(("el", "hcr"), [(3, 0), (-1, 0), (1, E2H | TGE)])
def test_an_exception_level_without_a_regime_is_refused(el: int, hcr: int) -> None:
    with pytest.raises(EncodingError):
        regime_of(el, hcr)


def test_el1_has_a_root_for_each_half_and_an_asid() -> None:
    control = halves()
    assert control.regime is Stage1Regime.EL1_0
    assert names(control) == ["arm-s1-4k-48", "arm-s1-4k-48-high"]
    assert [half and (half.register, half.root) for half in (control.low, control.high)] == [
        ("TTBR0_EL1", LOW), ("TTBR1_EL1", HIGH),
    ]  # fmt: skip
    assert control.asid == 0x1234, "A1 takes it from TTBR1"
    assert control.on
    assert not control.under_stage_2
    assert halves(tcr=LINUX_TCR & ~(1 << 22)).asid == 7
    assert halves(tcr=LINUX_TCR & ~(1 << 36)).asid == 0x34, "ASIDs of 8 bits"


def test_el2_has_one_root_no_asid_and_one_privilege_level() -> None:
    control = regimes(2, tcr=EL2_TCR, ttbr0=LOW)
    assert names(control) == ["arm-s1-4k-39", None]
    low = low_of(control)
    assert (low.register, low.root, low.top_byte_ignored) == ("TTBR0_EL2", LOW, True)
    assert low.controls & stage1.ONE_PRIVILEGE
    assert low.controls >> layout.OUTPUT_BITS_AT & 0x3F == 40
    assert control.asid is None
    page = low.format.leaf_entry(0, 0x1000, RWX, controls=low.controls)
    attributes = low.format.decode(page, 0, low.controls)[2]
    assert low.format.permissions(attributes, low.controls) == 7


def test_a_host_at_el2_has_the_registers_laid_out_as_el1s() -> None:
    control = regimes(2, tcr=LINUX_TCR, ttbr0=LOW, ttbr1=HIGH | 9 << 48, hcr=E2H | TGE)
    assert control.regime is Stage1Regime.EL2_0
    assert names(control) == ["arm-s1-4k-48", "arm-s1-4k-48-high"]
    assert low_of(control).register == "TTBR0_EL2"
    assert control.asid == 9
    assert not low_of(control).controls & stage1.ONE_PRIVILEGE
    assert not regimes(2, tcr=LINUX_TCR, ttbr0=LOW, hcr=E2H | DC | VM).under_stage_2, "stage 2 is EL1's and EL0's only"


@pytest.mark.parametrize(
    ("sctlr", "hcr", "flat", "stage_2"),
    [
        (0, 0, "Device-nGnRnE", False),
        (0, VM, "Device-nGnRnE", True),
        (M, DC, "Normal Write-Back", True),
        (M, TGE, "Device-nGnRnE", False),
        # TGE without E2H switches stage 1 off, and leaves DC and VM as they are (D24.2 "HCR_EL2").
        (M, TGE | VM, "Device-nGnRnE", True),
        (M, TGE | DC | VM, "Normal Write-Back", True),
    ],
)
def test_with_stage_1_off_addresses_go_through(sctlr: int, hcr: int, flat: str, stage_2: bool) -> None:
    control = halves(sctlr=sctlr, hcr=hcr)
    assert (control.low, control.high, control.on) == (None, None, False)
    assert (control.flat_type, control.under_stage_2) == (flat, stage_2)


def test_dc_does_not_switch_off_el2() -> None:
    assert regimes(2, tcr=EL2_TCR, ttbr0=LOW, hcr=DC).on
    assert not regimes(2, tcr=EL2_TCR, ttbr0=LOW, sctlr=0).on


@pytest.mark.parametrize(
    ("registers", "controls"),
    [
        ({"sctlr": M | WXN}, stage1.WXN),
        ({"pan": True}, stage1.PAN),
        ({"tcr": LINUX_TCR | 1 << 41}, stage1.HPD),
        ({"tcr": LINUX_TCR | 1 << 42}, 0),
        ({"tcr": LINUX_TCR | 1 << 39}, layout.HA),
        ({"tcr": LINUX_TCR | 3 << 39}, layout.HA | layout.HD),
        # HD behaves as 0 while HA is 0 (D24.2 "TCR_EL1", HD).
        ({"tcr": LINUX_TCR | 1 << 40}, 0),
    ],
)
def test_control_bits_of_the_low_half(registers: dict[str, int], controls: int) -> None:
    switches = stage1.WXN | stage1.PAN | stage1.HPD | layout.HA | layout.HD | stage1.ONE_PRIVILEGE
    assert low_of(halves(**registers)).controls & switches == controls


def test_epd_leaves_a_half_without_tables() -> None:
    assert names(halves(tcr=LINUX_TCR | 1 << 7)) == [None, "arm-s1-4k-48-high"]
    assert names(halves(tcr=LINUX_TCR | 1 << 23)) == ["arm-s1-4k-48", None]


@pytest.mark.parametrize(
    ("tcr", "low", "output"),
    [
        (LINUX_TCR & ~(7 << 32), "arm-s1-4k-48", 32),
        (LINUX_TCR | 2 << 14, "arm-s1-16k-48", 48),
        (LINUX_TCR | 1 << 14, "arm-s1-64k-48", 48),
        (LINUX_TCR & ~(7 << 32) | 6 << 32 | 1 << 14, "arm-s1-64k-48-lpa", 52),
        (LINUX_TCR & ~(7 << 32) | 6 << 32, "arm-s1-4k-48", 48),
        (LINUX_TCR & ~(7 << 32) & ~0x3F | 6 << 32 | 1 << 59 | 12, "arm-s1-4k-52-lpa2", 52),
        (LINUX_TCR & ~0x3F | 39, "arm-s1-4k-25", 48),
        # DS does nothing with 64 KiB granules; IPS 7 means what 6 means (D24.2 "TCR_EL1").
        (LINUX_TCR | 1 << 14 | 1 << 59, "arm-s1-64k-48", 48),
        (LINUX_TCR | 7 << 32, "arm-s1-4k-48", 48),
        (LINUX_TCR | 7 << 32 | 1 << 14, "arm-s1-64k-48-lpa", 52),
    ],
)
def test_sizes_and_granules_choose_the_format_and_the_output_width(tcr: int, low: str, output: int) -> None:
    found = low_of(halves(tcr=tcr))
    assert found.format.name == low
    assert found.controls >> layout.OUTPUT_BITS_AT & 0x3F == output


def test_an_ips_beyond_the_processor_means_what_the_processor_has() -> None:
    controls = low_of(regimes(1, tcr=LINUX_TCR, ttbr0=LOW, ttbr1=HIGH, implemented_bits=44)).controls
    assert controls >> layout.OUTPUT_BITS_AT & 0x3F == 44


def test_a_root_above_2_to_the_48_stands_in_the_low_bits_of_ttbr() -> None:
    tcr = LINUX_TCR & ~(7 << 32) | 6 << 32 | 1 << 14 | 1 << 23
    assert low_of(halves(tcr=tcr, ttbr0=LOW | 0b1010 << 2)).root == LOW | 0b1010 << 48


@pytest.mark.parametrize(
    ("registers", "error"),
    [
        ({"tcr": LINUX_TCR & ~0x3F | 15}, EncodingError),  # T0SZ: 49 bits without DS
        ({"tcr": LINUX_TCR & ~0x3F | 40}, EncodingError),  # 24 bits
        ({"tcr": LINUX_TCR | 3 << 14}, EncodingError),  # TG0 3
        ({"tcr": LINUX_TCR & ~(3 << 30)}, EncodingError),  # TG1 0
        ({"ttbr0": LOW | 0x800}, MisalignedError),
    ],
)
def test_contradictions_are_refused(registers: dict[str, int], error: type[Stage2Error]) -> None:
    with pytest.raises(error):
        halves(**registers)


def test_a_root_above_the_output_size_is_read_and_its_walks_fault() -> None:
    """AArch64.S1Walk: an address size fault at level 0, whatever level walks start at."""
    low = low_of(halves(tcr=LINUX_TCR & ~(7 << 32), ttbr0=1 << 40))
    assert low.root == 1 << 40
    assert low.format.rules.root_too_wide(low.root, low.controls)
    assert not low.format.rules.root_too_wide((1 << 32) - 0x1000, low.controls)


@pytest.mark.parametrize(("implemented", "lpa"), [(48, False), (52, True)])
def test_feat_lpa_is_the_processors_whatever_ips_says(implemented: int, lpa: bool) -> None:
    """AArch64.LeafBase, AArch64.BlockDescSupported: both ask AArch64.PAMax."""
    low = low_of(halves(tcr=LINUX_TCR | 1 << 14, implemented_bits=implemented))
    assert low.format.name == ("arm-s1-64k-48-lpa" if lpa else "arm-s1-64k-48")
    assert low.controls >> layout.OUTPUT_BITS_AT & 0x3F == 48
    assert bool(low.controls & layout.LPA) is lpa
    assert low.format.decode(0x5743, 0, low.controls)[0] == (TOO_WIDE if lpa else LEAF)
    assert low.format.decode(0x741, 2, low.controls)[0] == (LEAF if lpa else NONE)


def test_the_registers_of_tables_without_ha_refuse_hd() -> None:
    fmt = by_name("arm-s1-4k-39")
    with pytest.raises(EncodingError, match="does nothing without HA"):
        stage_1_registers(fmt, LOW, fmt.default_controls | layout.HD, 1)


@pytest.mark.parametrize("switches", [0, layout.HA, layout.HA | layout.HD, stage1.HPD])
def test_the_registers_of_tables_lead_back_to_them(switches: int) -> None:
    """D24.2 "TCR_EL1": HA is bit 39, HD 40, HPD0 41."""
    fmt = by_name("arm-s1-4k-39")
    registers = stage_1_registers(fmt, LOW, fmt.default_controls | switches, 7)
    hardware = (1 << 39 if switches & layout.HA else 0) | (1 << 40 if switches & layout.HD else 0)
    hardware |= 1 << 41 if switches & stage1.HPD else 0
    assert registers["TCR_EL1"] & 7 << 39 == hardware
    low = low_of(regimes(1, tcr=registers["TCR_EL1"] | 1 << 23, ttbr0=registers["TTBR0_EL1"]))
    assert (low.format.name, low.root, low.controls) == ("arm-s1-4k-39", LOW, fmt.default_controls | switches)


@pytest.mark.parametrize("bits", [0, 1, 2, 3])
def test_each_half_has_its_own_bit_of_the_ignored_top_byte(bits: int) -> None:
    """D24.2 "TCR_EL1": TBI0 is bit 37, TBI1 bit 38."""
    control = halves(tcr=LINUX_TCR & ~(3 << 37) | bits << 37)
    assert [half and half.top_byte_ignored for half in (control.low, control.high)] == [bool(bits & 1), bool(bits & 2)]


@pytest.mark.parametrize(
    ("tcr", "problem"),
    [
        (LINUX_TCR & ~0x3F | 40, "T0SZ 40 asks for 24-bit addresses; 4 KiB granules take 25 to 48"),
        (LINUX_TCR & ~(0x3F << 16) | 15 << 16, "T1SZ 15 asks for 49-bit addresses; 4 KiB granules take 25 to 48"),
    ],
)
def test_a_size_out_of_range_is_named_with_the_range(tcr: int, problem: str) -> None:
    with pytest.raises(EncodingError, match=problem):
        halves(tcr=tcr)
