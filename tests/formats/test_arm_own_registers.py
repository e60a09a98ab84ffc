"""The registers of EL2's own translation (Arm ARM DDI 0487, D24.2 "TCR_EL2", "SCTLR_EL2", "TTBR0_EL2")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError, MisalignedError, OutOfRangeError
from stage2.formats import by_name
from stage2.formats import registers as all_registers
from stage2.formats.arm.own import own_registers
from stage2.formats.arm.stage1 import MAIR, PAN
from stage2.formats.arm.stage1_control import HCR_E2H, Stage1Control, Stage1Regime, regimes
from stage2.formats.record import Format

LOW = (
    "arm-s1-4k-39", "arm-s1-4k-48", "arm-s1-4k-52-lpa2", "arm-s1-16k-47", "arm-s1-16k-36", "arm-s1-64k-48",
    "arm-s1-64k-52",
)  # fmt: skip
SWITCHES = st.lists(st.sampled_from(("af", "ad", "hpd", "wxn", "pa36")), unique=True)


def read(found: dict[str, int], *, pan: bool = False) -> Stage1Control:
    """What the registers say, by the function that reads a machine's."""
    hcr = found.get("HCR_EL2", 0)
    implemented = 52 if found["TCR_EL2"] >> (32 if hcr & HCR_E2H else 16) & 7 == 6 else 48
    return regimes(
        2, tcr=found["TCR_EL2"], ttbr0=found.get("TTBR0_EL2", 0), ttbr1=found.get("TTBR1_EL2", 0),
        sctlr=found["SCTLR_EL2"], mair=found["MAIR_EL2"], hcr=hcr, pan=pan, implemented_bits=implemented,
    )  # fmt: skip


def half(name: str, *switches: str, root: int = 0x4010_0000) -> tuple[Format, int, int]:
    fmt = by_name(name)
    return fmt, root, fmt.controls_with(*switches)


def test_the_el2_regime_has_tcr_el2s_own_layout() -> None:
    # T0SZ 25, walks write-back inner shareable, TG0 0 (4 KiB), PS 5 (48 bits) at 18:16, RES1 bits 23 and 31.
    found = own_registers([half("arm-s1-4k-39", "el2")])
    assert found == {
        "TCR_EL2": 25 | 1 << 8 | 1 << 10 | 3 << 12 | 5 << 16 | 1 << 23 | 1 << 31,
        "TTBR0_EL2": 0x4010_0000,
        "MAIR_EL2": MAIR,
        "SCTLR_EL2": 0x30C5_0830 | 1 | 1 << 2 | 1 << 12,
    }
    more = own_registers([half("arm-s1-4k-39", "el2", "ad", "hpd", "wxn", "pa36")])
    # HA 21, HD 22, HPD 24, PS 1 (36 bits); WXN is SCTLR_EL2's bit 19.
    assert more["TCR_EL2"] == found["TCR_EL2"] & ~(7 << 16) | 1 << 16 | 1 << 21 | 1 << 22 | 1 << 24
    assert more["SCTLR_EL2"] == found["SCTLR_EL2"] | 1 << 19


def test_ds_is_bit_32_without_e2h_and_bit_59_with_it() -> None:
    own = own_registers([half("arm-s1-4k-52-lpa2", "el2")])
    host = own_registers([half("arm-s1-4k-52-lpa2")])
    assert own["TCR_EL2"] >> 32 == 1
    assert host["TCR_EL2"] >> 59 == 1
    assert host["TCR_EL2"] >> 32 & 7 == 6


def test_el2_and_0_is_laid_out_as_el1_and_0_with_the_other_half_forbidden() -> None:
    found = own_registers([half("arm-s1-4k-48")])
    # E2H and TGE.
    assert found["HCR_EL2"] == 1 << 34 | 1 << 27
    assert found["TTBR0_EL2"] == 0x4010_0000
    fields = 16 | 1 << 8 | 1 << 10 | 3 << 12
    # TG1 2 is 4 KiB; EPD1; IPS 5; AS.
    assert found["TCR_EL2"] == fields | fields << 16 | 2 << 30 | 1 << 23 | 5 << 32 | 1 << 36
    assert found["SCTLR_EL2"] == 0x30D0_0800 | 1 | 1 << 2 | 1 << 12
    found = own_registers([half("arm-s1-4k-48-high", "hpd")])
    assert found["TTBR1_EL2"] == 0x4010_0000
    # EPD0, HPD1.
    assert found["TCR_EL2"] == fields | fields << 16 | 2 << 30 | 1 << 7 | 5 << 32 | 1 << 36 | 1 << 42


@pytest.mark.parametrize("name", LOW)
@given(switches=SWITCHES)
def test_the_el2_regime_is_read_back_as_it_was(name: str, switches: list[str]) -> None:
    fmt, root, controls = half(name, "el2", *switches, root=0x7654_0000)
    found = read(own_registers([(fmt, root, controls)]))
    assert found.regime is Stage1Regime.EL2
    assert found.high is None
    assert found.low is not None
    assert (found.low.register, found.low.format.name) == ("TTBR0_EL2", name)
    assert (found.low.root, found.low.controls) == (root, controls)


@pytest.mark.parametrize("name", LOW)
@pytest.mark.parametrize("halves", [("low",), ("high",), ("low", "high"), ("high", "low")], ids="-".join)
@given(switches=SWITCHES, pan=st.booleans())
def test_el2_and_0_is_read_back_as_it_was(name: str, halves: tuple[str, ...], switches: list[str], pan: bool) -> None:
    given_as = {
        "low": half(name, *switches, root=0x7654_0000),
        "high": half(f"{name}-high", *switches, root=0x5432_0000),
    }
    more = PAN if pan else 0
    values = own_registers([(fmt, root, controls | more) for fmt, root, controls in map(given_as.__getitem__, halves)])
    found = read(values, pan=pan)
    assert found.regime is Stage1Regime.EL2_0
    assert found.asid == 0
    for which, read_as in (("low", found.low), ("high", found.high)):
        assert (read_as is not None) == (which in halves)
        if read_as is not None:
            fmt, root, controls = given_as[which]
            assert (read_as.format.name, read_as.root, read_as.controls) == (fmt.name, root, controls | more)


def test_the_hierarchy_may_hold_in_one_half_alone() -> None:
    found = own_registers([half("arm-s1-4k-48", "hpd"), half("arm-s1-4k-48-high")])
    assert found["TCR_EL2"] >> 41 & 3 == 1


@pytest.mark.parametrize(
    ("name", "other"), [("arm-s1-4k-52-lpa2", "arm-s1-64k-52"), ("arm-s1-64k-48-lpa", "arm-s1-4k-31")]
)
def test_halves_of_two_granules_go_together(name: str, other: str) -> None:
    """DS is of both halves, but means nothing to 64 KiB granules; those have 52 bits by the processor (D8.1.6)."""
    found = read(own_registers([half(f"{name}-high", root=0x7654_0000), half(other, root=0x5432_0000)]))
    assert found.low is not None
    assert found.high is not None
    assert (found.low.format.name, found.high.format.name) == (other, f"{name}-high")
    assert (found.low.root, found.high.root) == (0x5432_0000, 0x7654_0000)


def test_what_cannot_be_said_is_refused() -> None:
    low, high = half("arm-s1-4k-48"), half("arm-s1-4k-48-high")
    with pytest.raises(EncodingError, match="stage 2"):
        own_registers([half("arm-s2-4k-40")])
    with pytest.raises(EncodingError, match="no TTBR1"):
        own_registers([half("arm-s1-4k-48-high", "el2")])
    with pytest.raises(EncodingError, match="no TTBR1"):
        own_registers([half("arm-s1-4k-48", "el2"), high])
    with pytest.raises(EncodingError, match="no EL0"):
        own_registers([half("arm-s1-4k-48", "el2", "pan")])
    with pytest.raises(EncodingError, match="not the two halves"):
        own_registers([low, low])
    with pytest.raises(EncodingError, match="have LPA2, or LPA"):
        own_registers([low, half("arm-s1-4k-52-lpa2-high")])
    with pytest.raises(MisalignedError):
        own_registers([half("arm-s1-4k-48", "el2", root=0x800)])
    with pytest.raises(OutOfRangeError):
        own_registers([half("arm-s1-4k-48", "el2", "pa36", root=1 << 40)])


@pytest.mark.parametrize("switches", [("el2",), ()])
def test_every_value_is_explained_and_sets_no_reserved_bit(switches: tuple[str, ...]) -> None:
    values = own_registers([half("arm-s1-4k-48", "ad", "hpd", "wxn", *switches)])
    known = {name: found for found in all_registers() for name in (found.name, *found.aliases)}
    for name, value in values.items():
        register = known[name] if switches else known.get(f"{name}_VHE", known[name])
        for field in register.fields:
            if field.reserved:
                assert value >> field.low & (1 << field.high - field.low + 1) - 1 == 0, (name, field)
            if field.name == "RES1":
                assert value >> field.low & 1, (name, field)
