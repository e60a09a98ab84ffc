"""The registers of EL2's own translation (Arm ARM DDI 0487, D24.2 "TCR_EL2", "SCTLR_EL2", "TTBR0_EL2")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError, MisalignedError, OutOfRangeError
from stage2.formats import by_name
from stage2.formats import registers as all_registers
from stage2.formats.arm.own_registers import own_registers
from stage2.formats.arm.stage1 import MAIR, ONE_PRIVILEGE, PAN
from stage2.formats.arm.stage1_control import HCR_E2H, Stage1Control, Stage1Regime, regimes

LOW = (
    "arm-s1-4k-39", "arm-s1-4k-48", "arm-s1-4k-52-lpa2", "arm-s1-16k-47", "arm-s1-16k-36", "arm-s1-64k-48",
    "arm-s1-64k-52",
)  # fmt: skip
SWITCHES = st.lists(st.sampled_from(("af", "ad", "hpd", "wxn", "pa36")), unique=True)


def read(found: dict[str, int], *, pan: bool = False) -> Stage1Control:
    """What the registers say, by the function that reads a machine's."""
    implemented = 52 if found["TCR_EL2"] >> (32 if found["HCR_EL2"] & HCR_E2H else 16) & 7 == 6 else 48
    return regimes(
        2, tcr=found["TCR_EL2"], ttbr0=found["TTBR0_EL2"], ttbr1=found.get("TTBR1_EL2", 0), sctlr=found["SCTLR_EL2"],
        mair=found["MAIR_EL2"], hcr=found["HCR_EL2"], pan=pan, implemented_bits=implemented,
    )  # fmt: skip


def test_the_el2_regime_has_tcr_el2s_own_layout() -> None:
    # T0SZ 25, walks write-back inner shareable, TG0 0 (4 KiB), PS 5 (48 bits) at 18:16, RES1 bits 23 and 31.
    fmt = by_name("arm-s1-4k-39")
    found = own_registers(fmt, 0x4010_0000, fmt.default_controls | ONE_PRIVILEGE)
    assert found == {
        "HCR_EL2": 0,
        "TCR_EL2": 25 | 1 << 8 | 1 << 10 | 3 << 12 | 5 << 16 | 1 << 23 | 1 << 31,
        "TTBR0_EL2": 0x4010_0000,
        "MAIR_EL2": MAIR,
        "SCTLR_EL2": 0x30C5_0830 | 1 | 1 << 2 | 1 << 12,
    }
    controls = fmt.controls_with("el2", "ad", "hpd", "wxn", "pa36")
    more = own_registers(fmt, 0x4010_0000, controls)
    # HA 21, HD 22, HPD 24, PS 1 (36 bits); WXN is SCTLR_EL2's bit 19.
    assert more["TCR_EL2"] == found["TCR_EL2"] & ~(7 << 16) | 1 << 16 | 1 << 21 | 1 << 22 | 1 << 24
    assert more["SCTLR_EL2"] == found["SCTLR_EL2"] | 1 << 19


def test_ds_is_bit_32_without_e2h_and_bit_59_with_it() -> None:
    fmt = by_name("arm-s1-4k-52-lpa2")
    own = own_registers(fmt, 0x4010_0000, fmt.default_controls | ONE_PRIVILEGE)
    host = own_registers(fmt, 0x4010_0000, fmt.default_controls)
    assert own["TCR_EL2"] >> 32 == 1
    assert host["TCR_EL2"] >> 59 == 1
    assert host["TCR_EL2"] >> 32 & 7 == 6


def test_el2_and_0_is_laid_out_as_el1_and_0_with_the_other_half_forbidden() -> None:
    low, high = by_name("arm-s1-4k-48"), by_name("arm-s1-4k-48-high")
    found = own_registers(low, 0x4010_0000, low.default_controls, 7)
    assert found["HCR_EL2"] == 1 << 34
    assert found["TTBR0_EL2"] == 7 << 48 | 0x4010_0000
    half = 16 | 1 << 8 | 1 << 10 | 3 << 12
    # TG1 2 is 4 KiB; EPD1; IPS 5; AS.
    assert found["TCR_EL2"] == half | half << 16 | 2 << 30 | 1 << 23 | 5 << 32 | 1 << 36
    assert found["SCTLR_EL2"] == 0x30D0_0800 | 1 | 1 << 2 | 1 << 12
    found = own_registers(high, 0x4020_0000, high.default_controls, 7)
    assert found["TTBR1_EL2"] == 7 << 48 | 0x4020_0000
    # EPD0, and the ASID is TTBR1's (A1).
    assert found["TCR_EL2"] == half | half << 16 | 2 << 30 | 1 << 7 | 1 << 22 | 5 << 32 | 1 << 36


@pytest.mark.parametrize("name", LOW)
@given(switches=SWITCHES)
def test_the_el2_regime_is_read_back_as_it_was(name: str, switches: list[str]) -> None:
    fmt = by_name(name)
    controls = fmt.controls_with("el2", *switches)
    found = read(own_registers(fmt, 0x7654_0000, controls))
    assert found.regime is Stage1Regime.EL2
    assert found.high is None
    assert found.asid is None
    assert found.low is not None
    assert (found.low.register, found.low.root, found.low.controls) == ("TTBR0_EL2", 0x7654_0000, controls)


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize("halves", ["low", "high", "both"])
@given(switches=SWITCHES, pan=st.booleans())
def test_el2_and_0_is_read_back_as_it_was(name: str, halves: str, switches: list[str], pan: bool) -> None:
    low, high = by_name(name), by_name(f"{name}-high")
    fmt = high if halves == "high" else low
    controls = fmt.controls_with(*switches) | (PAN if pan else 0)
    beside = (high, 0x5432_0000) if halves == "both" else None
    found = read(own_registers(fmt, 0x7654_0000, controls, 0x1234, beside=beside), pan=pan)
    assert found.regime is Stage1Regime.EL2_0
    assert found.asid == 0x1234
    for half, name_of, root in ((found.low, low.name, 0x7654_0000), (found.high, high.name, 0x5432_0000)):
        there = halves == "both" or halves == ("high" if name_of == high.name else "low")
        assert (half is not None) == there
        if half is not None:
            assert half.format.name == name_of
            assert half.root == (0x7654_0000 if halves != "both" else root)
            assert half.controls == controls


def test_halves_of_different_granules_go_together_under_ds_if_both_have_52_bits_or_are_of_64_kib() -> None:
    for name, other in (("arm-s1-4k-52-lpa2", "arm-s1-64k-52"), ("arm-s1-64k-48-lpa", "arm-s1-4k-31")):
        fmt, low = by_name(f"{name}-high"), by_name(other)
        values = own_registers(fmt, 0x7654_0000, fmt.default_controls, beside=(low, 0x5432_0000))
        found = read(values)
        assert found.low is not None
        assert found.high is not None
        assert (found.low.format.name, found.high.format.name) == (low.name, fmt.name)
        assert (found.low.root, found.high.root) == (0x5432_0000, 0x7654_0000)


def test_what_cannot_be_said_is_refused() -> None:
    low, high = by_name("arm-s1-4k-48"), by_name("arm-s1-4k-48-high")
    own = low.default_controls | ONE_PRIVILEGE
    with pytest.raises(EncodingError, match="stage 2"):
        own_registers(by_name("arm-s2-4k-40"), 0, 0)
    with pytest.raises(EncodingError, match="no TTBR1"):
        own_registers(high, 0, high.default_controls | ONE_PRIVILEGE)
    with pytest.raises(EncodingError, match="no TTBR1"):
        own_registers(low, 0, own, beside=(high, 0))
    with pytest.raises(EncodingError, match="no ASIDs"):
        own_registers(low, 0, own, 1)
    with pytest.raises(EncodingError, match="no EL0"):
        own_registers(low, 0, own | PAN)
    with pytest.raises(EncodingError, match="not the two halves"):
        own_registers(low, 0, low.default_controls, beside=(low, 0))
    with pytest.raises(EncodingError, match="have LPA2, or LPA"):
        own_registers(low, 0, low.default_controls, beside=(by_name("arm-s1-4k-52-lpa2-high"), 0))
    with pytest.raises(MisalignedError):
        own_registers(low, 0x800, own)
    with pytest.raises(OutOfRangeError):
        own_registers(low, 1 << 40, low.controls_with("el2", "pa36"))
    with pytest.raises(OutOfRangeError, match="ASID"):
        own_registers(low, 0, low.default_controls, 1 << 16)


@pytest.mark.parametrize("switches", [("el2",), ()])
def test_every_value_is_explained_and_sets_no_reserved_bit(switches: tuple[str, ...]) -> None:
    fmt = by_name("arm-s1-4k-48")
    values = own_registers(fmt, 0x4010_0000, fmt.controls_with("ad", "hpd", "wxn", *switches))
    known = {name: found for found in all_registers() for name in (found.name, *found.aliases)}
    for name, value in values.items():
        register = known.get(f"{name}_VHE", known[name]) if not switches else known[name]
        for field in register.fields:
            if field.reserved:
                assert value >> field.low & (1 << field.high - field.low + 1) - 1 == 0, (name, field)
            if field.name == "RES1":
                assert value >> field.low & 1, (name, field)
