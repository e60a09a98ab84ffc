"""VTCR_EL2, VTTBR_EL2 and the other Arm registers; the manual's tables are written down here a second time."""

import re
from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError, MisalignedError, OutOfRangeError
from stage2.formats import family_of
from stage2.formats.arm import formats, layout
from stage2.formats.arm.registers import (
    REGISTERS,
    decode_vtcr_el2,
    decode_vttbr_el2,
    pa_bits,
    parange,
    sl0,
    start_level,
    vtcr_el2,
    vttbr_el2,
)
from stage2.formats.outcome import LEAF, NONE, TABLE, TOO_WIDE
from stage2.formats.register import Register

# (granule shift, Arm start level, DS) -> (SL2, SL0), Arm ARM D8.2, stage 2 start levels.
START_LEVELS = {
    (12, 2, False): (0, 0), (12, 1, False): (0, 1), (12, 0, False): (0, 2), (12, 3, False): (0, 3),
    (12, 2, True): (0, 0), (12, 1, True): (0, 1), (12, 0, True): (0, 2), (12, 3, True): (0, 3), (12, -1, True): (1, 0),
    (14, 3, False): (0, 0), (14, 2, False): (0, 1), (14, 1, False): (0, 2),
    (14, 3, True): (0, 0), (14, 2, True): (0, 1), (14, 1, True): (0, 2), (14, 0, True): (0, 3),
    (16, 3, False): (0, 0), (16, 2, False): (0, 1), (16, 1, False): (0, 2),
}  # fmt: skip
PA_SIZES = {0: 32, 1: 36, 2: 40, 3: 42, 4: 44, 5: 48, 6: 52, 7: 56}
TG0 = {12: 0, 16: 1, 14: 2}
MEASURED = 0x8004_3559
"""4 KiB granule, T0SZ 25, SL0 1, PS 44 bits: seen to work in QEMU's EL2."""
STAGE_2 = [name for name in family_of(formats.by_name("arm-s1-4k-39")).names if name.startswith("arm-s2")]


def named(name: str) -> Register:
    return next(register for register in REGISTERS if register.name == name)


def vtcr(granule: int, t0sz: int, low: int, ps: int, *, ds: int = 0, sl2: int = 0, more: int = 0) -> int:
    walks = 3 << 12 | 1 << 10 | 1 << 8
    return 1 << 31 | sl2 << 33 | ds << 32 | ps << 16 | TG0[granule] << 14 | walks | low << 6 | t0sz | more


def test_the_value_that_was_seen_to_work() -> None:
    assert vtcr_el2(12, 39, 3, pa_bits=44) == MEASURED
    control = decode_vtcr_el2(MEASURED)
    assert (control.granule, control.ipa_bits, control.levels, control.arm_start_level) == (12, 39, 3, 1)
    assert (control.pa_bits, control.root_tables, control.vmid_bits) == (44, 1, 8)
    assert not control.hardware_af
    assert not control.hardware_dirty
    assert not control.ds
    assert control.format_name == "arm-s2-4k-39"
    assert vttbr_el2(0x4100_0000, 1) == 0x4100_0000 | 1 << 48


@pytest.mark.parametrize("granule", [12, 14, 16])
@pytest.mark.parametrize("ds", [False, True])
@pytest.mark.parametrize("arm_level", range(-1, 4))
def test_the_start_level_of_every_granule(granule: int, ds: bool, arm_level: int) -> None:
    expected = START_LEVELS.get((granule, arm_level, ds and granule != 16))
    if expected is None:
        with pytest.raises(EncodingError, match=f"cannot have {4 - arm_level} levels"):
            sl0(granule, 4 - arm_level, ds=ds)
        return
    assert sl0(granule, 4 - arm_level, ds=ds) == expected
    assert start_level(granule, expected[1], sl2=expected[0], ds=ds) == arm_level


@pytest.mark.parametrize(
    ("granule", "low", "sl2", "ds"), [(16, 3, 0, False), (14, 3, 0, False), (12, 1, 1, True), (12, 3, 1, True)]
)
def test_reserved_start_levels_are_refused(granule: int, low: int, sl2: int, ds: bool) -> None:
    with pytest.raises(EncodingError, match=f"SL0 {low} is reserved"):
        start_level(granule, low, sl2=sl2, ds=ds)


def test_sl2_is_ignored_without_ds() -> None:
    assert start_level(12, 1, sl2=1, ds=False) == 1
    assert start_level(14, 1, sl2=1, ds=True) == 2


@pytest.mark.parametrize(("ps", "bits"), PA_SIZES.items())
def test_physical_address_sizes(ps: int, bits: int) -> None:
    assert pa_bits(ps) == bits
    assert parange(bits) == ps


def test_sizes_that_do_not_exist_are_refused() -> None:
    for ps in (-1, 8, 15):
        with pytest.raises(EncodingError, match="reserved physical address size"):
            pa_bits(ps)
    for bits in (0, 39, 47, 57):
        with pytest.raises(EncodingError, match="no PS stands for"):
            parange(bits)
    for granule in (0, 13, 21):
        with pytest.raises(EncodingError, match="no granule"):
            sl0(granule, 3)
    with pytest.raises(EncodingError, match="8 or 16 bits"):
        vtcr_el2(12, 40, 3, vmid_bits=12)


@given(
    granule=st.sampled_from([12, 14, 16]),
    bits=st.integers(20, 56),
    levels=st.integers(0, 6),
    ps=st.sampled_from(sorted(PA_SIZES.values())),
    ds=st.booleans(),
    af=st.booleans(),
    dirty=st.booleans(),
    vmid_bits=st.sampled_from([8, 16]),
)
def test_what_is_encoded_is_read_back_and_what_is_refused_is_wrong(
    granule: int, bits: int, levels: int, ps: int, ds: bool, af: bool, dirty: bool, vmid_bits: int
) -> None:
    root_bits = bits - granule - (granule - 3) * (levels - 1)
    allowed = (
        (granule, 4 - levels, ds) in START_LEVELS
        and 25 <= bits <= (52 if ds or granule == 16 else 48)
        and ps <= 52
        and 1 <= root_bits <= granule - 3 + 4
        and (af or not dirty)
    )
    try:
        value = vtcr_el2(
            granule, bits, levels, pa_bits=ps, hardware_af=af, hardware_dirty=dirty, ds=ds, vmid_bits=vmid_bits
        )
    except EncodingError:
        assert not allowed
        return
    assert allowed
    sl2, low = START_LEVELS[granule, 4 - levels, ds]
    more = af << 21 | dirty << 22 | (vmid_bits == 16) << 19
    assert value == vtcr(granule, 64 - bits, low, parange(ps), ds=int(ds), sl2=sl2, more=more)
    control = decode_vtcr_el2(value)
    assert (control.granule, control.ipa_bits, control.levels) == (granule, bits, levels)
    assert (control.hardware_af, control.hardware_dirty, control.ds, control.vmid_bits) == (af, dirty, ds, vmid_bits)
    assert control.root_tables == max(1, (8 << root_bits) >> granule)
    made = formats.by_name(control.format_name)
    assert (made.stage, made.page_shift, made.input_bits, made.levels) == (2, granule, bits, levels)
    assert made.root_bits == control.root_bits


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (MEASURED | 3 << 14, "TG0 3 is reserved"),
        (vtcr(16, 24, 3, 5), "SL0 3 is reserved for 64 KiB granules"),
        (vtcr(14, 24, 3, 5), "SL0 3 is reserved for 16 KiB granules unless DS is set"),
        (vtcr(12, 16, 1, 5), "cannot start at level 1.*512 tables"),
        (vtcr(12, 20, 0, 5), "cannot start at level 2.*16384 tables"),
        (vtcr(12, 33, 2, 5), "cannot start at level 0.*nothing would be left"),
        (vtcr(12, 12, 2, 6), "52-bit IPAs; 4 KiB granules without DS take 25 to 48"),
        (vtcr(14, 12, 2, 6), "52-bit IPAs; 16 KiB granules without DS take 25 to 48"),
        (vtcr(16, 11, 2, 6), "53-bit IPAs; 64 KiB granules take 25 to 52"),
        (vtcr(12, 40, 0, 5), "24-bit IPAs; 4 KiB granules take 25 to 48"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_in_one_sentence(value: int, problem: str) -> None:
    with pytest.raises(EncodingError, match=problem) as caught:
        named("VTCR_EL2").summary(value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (vtcr(12, 24, 1, 2), {"format": "arm-s2-4k-40", "root tables": "2 concatenated", "root size": "8 KiB"}),
        (vtcr(12, 24, 2, 5), {"format": "arm-s2-4k-40-4level", "root tables": "1", "levels": "4"}),
        (vtcr(12, 21, 1, 5), {"format": "arm-s2-4k-43", "root tables": "16 concatenated", "root size": "64 KiB"}),
        (vtcr(12, 12, 2, 6, ds=1), {"format": "arm-s2-4k-52-lpa2", "root tables": "16 concatenated"}),
        (vtcr(12, 12, 0, 6, ds=1, sl2=1), {"format": "arm-s2-4k-52-5level-lpa2", "levels": "5"}),
        (vtcr(14, 24, 1, 2), {"format": "arm-s2-16k-40", "granule": "16 KiB", "root tables": "16 concatenated"}),
        (vtcr(16, 24, 1, 2), {"format": "arm-s2-64k-40", "granule": "64 KiB", "IPA bits": "40"}),
        (vtcr(16, 12, 2, 6), {"format": "arm-s2-64k-52", "PA bits": "52"}),
        (vtcr(12, 24, 1, 6), {"PA bits": "48"}),
        (vtcr(12, 24, 1, 5, more=3 << 21), {"hardware sets": "access flag and dirty state"}),
        # HD behaves as 0 while HA is 0 (D24.2 "VTCR_EL2", HD).
        (vtcr(12, 25, 1, 4, more=1 << 22), {"hardware sets": "nothing"}),
        # DS does nothing with 64 KiB granules (AArch64.GetS2TTWParams).
        (vtcr(16, 24, 1, 5, ds=1), {"format": "arm-s2-64k-40", "PA bits": "48"}),
        # PS bounds outputs and the table's base, not IPAs (AArch64.S2TxSZFaults, AArch64.OAOutOfRange).
        (vtcr(12, 16, 2, 2), {"format": "arm-s2-4k-48", "IPA bits": "48", "PA bits": "40"}),
        # PS 7 means what PS 6 means where descriptors have 64 bits (D24.2 "VTCR_EL2", PS).
        (vtcr(12, 25, 1, 7), {"format": "arm-s2-4k-39", "PA bits": "48"}),
        (vtcr(16, 25, 1, 7), {"format": "arm-s2-64k-39-lpa", "PA bits": "52"}),
        (
            vtcr(16, 24, 1, 2),
            {"with FEAT_LPA": "descriptor bits 15:12 are address bits 51:48, which are an address size fault if set"},
        ),
    ],
)
def test_what_vtcr_el2_amounts_to(value: int, expected: dict[str, str]) -> None:
    facts = named("VTCR_EL2").summary(value)
    assert {name: facts[name] for name in expected} == expected


def test_both_ways_to_count_the_start_level_are_named() -> None:
    assert named("VTCR_EL2").summary(MEASURED)["start level"] == "1 in Arm's numbers, 2 counted from the pages"


@given(page=st.integers(0, (1 << 40) - 1), vmid=st.integers(0, 0xFFFF))
def test_vttbr_round_trip_up_to_52_bits(page: int, vmid: int) -> None:
    value = vttbr_el2(page << 12, vmid)
    assert decode_vttbr_el2(value) == (page << 12, vmid)
    assert value >> 48 == vmid
    assert value >> 2 & 15 == page >> 36
    assert decode_vttbr_el2(value | 1) == (page << 12, vmid), "CnP is no part of the root"


def test_roots_and_vmids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MisalignedError):
        vttbr_el2(0x1020, 1)
    with pytest.raises(OutOfRangeError, match=r"above 2\^52"):
        vttbr_el2(1 << 52, 1)
    with pytest.raises(OutOfRangeError, match="more than 16 bits"):
        vttbr_el2(0x1000, 0x10000)
    with pytest.raises(OutOfRangeError, match="more than 8 bits"):
        vttbr_el2(0x1000, 0x100, vmid_bits=8)
    with pytest.raises(OutOfRangeError):
        vttbr_el2(0x1000, -1)


@pytest.mark.parametrize("name", STAGE_2)
def test_the_registers_of_a_format_lead_back_to_it(name: str) -> None:
    fmt = formats.by_name(name)
    values = family_of(fmt).stage_2_registers(fmt, 16 * fmt.root_size, fmt.default_controls, 7)
    assert decode_vtcr_el2(values["VTCR_EL2"]).format_name == name
    assert decode_vtcr_el2(values["VTCR_EL2"]).pa_bits == fmt.output_bits
    assert decode_vttbr_el2(values["VTTBR_EL2"]) == (16 * fmt.root_size, 7)
    assert values["HCR_EL2"] == 1 << 31 | 0b11
    control = decode_vtcr_el2(values["VTCR_EL2"])
    assert (control.hardware_af, control.hardware_dirty, control.vmid_bits) == (False, False, 8)


def test_the_controls_of_a_regime_reach_its_registers() -> None:
    fmt = formats.by_name("arm-s2-4k-40")
    plain = fmt.default_controls & ~(0x3F << 24) | 44 << 24
    values = family_of(fmt).stage_2_registers(fmt, 0x4000, plain | 0b11 | 1 << 5 | 1 << 6, 0x100)
    control = decode_vtcr_el2(values["VTCR_EL2"])
    assert (control.pa_bits, control.hardware_af, control.hardware_dirty, control.vmid_bits) == (44, True, True, 16)
    assert values["HCR_EL2"] == 1 << 46 | 1 << 31 | 0b111
    with pytest.raises(MisalignedError):
        family_of(fmt).stage_2_registers(fmt, 0x1000, plain, 1)
    with pytest.raises(OutOfRangeError, match=r"above 2\^44"):
        family_of(fmt).stage_2_registers(fmt, 1 << 44, plain, 1)
    with pytest.raises(OutOfRangeError, match="VMID"):
        family_of(fmt).stage_2_registers(fmt, 0x4000, plain, 0x10000)
    narrow = family_of(fmt).stage_2_registers(fmt, 0x4000, plain & ~(0x3F << 24) | 36 << 24, 1)
    assert (decode_vtcr_el2(narrow["VTCR_EL2"]).ipa_bits, decode_vtcr_el2(narrow["VTCR_EL2"]).pa_bits) == (40, 36)


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_every_bit_of_every_register_has_one_field_with_a_sentence(register: Register) -> None:
    covered = 0
    for field in register.fields:
        mask = (1 << field.high + 1) - (1 << field.low)
        assert not covered & mask, f"{field.name} overlaps another field"
        covered |= mask
        assert len(field.meaning) >= 10 or field.name == "WnR"
        assert all(value < 1 << field.high - field.low + 1 for value in field.values)
        assert field.reserved == (field.name == "RES0")
    assert covered == (1 << 64) - 1
    assert register.arch == "aarch64"


@given(value=st.integers(0, (1 << 64) - 1))
def test_no_value_of_a_register_ends_in_a_traceback(value: int) -> None:
    for register in REGISTERS:
        facts: Mapping[str, str] = {}
        with suppress(EncodingError):
            facts = register.summary(value)
        assert all(facts.values())


def test_register_names_and_aliases_are_unique() -> None:
    names = [name for register in REGISTERS for name in (register.name, *register.aliases)]
    assert len(set(names)) == len(names)
    assert {"VTCR_EL2", "VTTBR_EL2", "HCR_EL2", "TCR_EL1", "TCR_EL2", "TCR_EL2_VHE", "TTBR0_EL1", "TTBR1_EL1",
            "TTBR0_EL2", "SCTLR_EL1", "MAIR_EL1", "PAR_EL1", "ID_AA64MMFR0_EL1", "ESR_EL2", "HPFAR_EL2",
            "FAR_EL2"} <= set(names)  # fmt: skip


@pytest.mark.parametrize(
    ("register", "field", "high", "low"),
    [
        ("VTCR_EL2", "HWU59", 25, 25), ("VTCR_EL2", "HWU62", 28, 28), ("TCR_EL1", "HWU059", 43, 43),
        ("TCR_EL1", "HWU062", 46, 46), ("TCR_EL1", "HWU159", 47, 47), ("TCR_EL1", "HWU162", 50, 50),
        ("TCR_EL2", "HWU59", 25, 25), ("TCR_EL2", "HWU61", 27, 27),
        ("VTCR_EL2", "PS", 18, 16), ("VTCR_EL2", "VS", 19, 19), ("VTCR_EL2", "HD", 22, 22), ("VTCR_EL2", "DS", 32, 32),
        ("VTCR_EL2", "SL2", 33, 33), ("HCR_EL2", "VM", 0, 0), ("HCR_EL2", "PTW", 2, 2), ("HCR_EL2", "DC", 12, 12),
        ("HCR_EL2", "TSC", 19, 19), ("HCR_EL2", "TVM", 26, 26), ("HCR_EL2", "TGE", 27, 27), ("HCR_EL2", "RW", 31, 31),
        ("HCR_EL2", "E2H", 34, 34), ("HCR_EL2", "FWB", 46, 46), ("TCR_EL1", "T1SZ", 21, 16), ("TCR_EL1", "A1", 22, 22),
        ("TCR_EL1", "TG1", 31, 30), ("TCR_EL1", "IPS", 34, 32), ("TCR_EL1", "AS", 36, 36), ("TCR_EL1", "HA", 39, 39),
        ("TCR_EL1", "HPD0", 41, 41), ("TCR_EL1", "TBID0", 51, 51), ("TCR_EL1", "DS", 59, 59),
        ("TCR_EL2", "PS", 18, 16), ("TCR_EL2", "TBI", 20, 20), ("TCR_EL2", "HPD", 24, 24), ("TCR_EL2", "DS", 32, 32),
        ("SCTLR_EL1", "M", 0, 0), ("SCTLR_EL1", "C", 2, 2), ("SCTLR_EL1", "I", 12, 12), ("SCTLR_EL1", "WXN", 19, 19),
        ("SCTLR_EL1", "SPAN", 23, 23), ("SCTLR_EL1", "EE", 25, 25), ("MAIR_EL1", "Attr7", 63, 56),
        ("PAR_EL1", "SH", 8, 7), ("PAR_EL1_FAULT", "S", 9, 9), ("PAR_EL1_FAULT", "FST", 6, 1),
        ("ID_AA64MMFR0_EL1", "TGran4", 31, 28), ("ID_AA64MMFR0_EL1", "TGran16_2", 35, 32), ("HPFAR_EL2", "FIPA", 43, 4),
    ],
)  # fmt: skip
def test_fields_stand_where_the_manual_has_them(register: str, field: str, high: int, low: int) -> None:
    found = next(item for item in named(register).fields if item.name == field)
    assert (found.high, found.low) == (high, low)


def test_granules_are_numbered_differently_by_tg0_and_tg1() -> None:
    fields = {field.name: field.values for field in named("TCR_EL1").fields}
    size = re.compile(r"\d+ KiB|reserved")
    # Every sentence names a size, so the search finds one.
    found = {name: [size.search(fields[name][code])[0] for code in range(4)] for name in ("TG0", "TG1")}  # type: ignore[index]
    assert found == {"TG0": ["4 KiB", "64 KiB", "16 KiB", "reserved"], "TG1": ["reserved", "16 KiB", "4 KiB", "64 KiB"]}


def test_what_the_other_registers_amount_to() -> None:
    linux = 5 << 32 | 2 << 30 | 16 << 16 | 16
    assert named("TCR_EL1").summary(linux)["TTBR0 format"] == "arm-s1-4k-48"
    assert named("TCR_EL1").summary(linux)["TTBR1 format"] == "arm-s1-4k-48-high"
    assert "EPD1" in named("TCR_EL1").summary(1 << 23 | 16)["TTBR1 format"]
    assert named("TCR_EL2").summary(2 << 14 | 17)["TTBR0 format"] == "arm-s1-16k-47"
    assert named("TCR_EL2_VHE").summary(linux) == named("TCR_EL1").summary(linux)
    for value, problem in (
        (1 << 23 | 3 << 14 | 16, "TG0 3 is reserved"),
        (1 << 23 | 8, "56-bit"),
        (16 | 16 << 16, "TG1"),
    ):
        with pytest.raises(EncodingError, match=problem):
            named("TCR_EL1").summary(value)
    assert named("VTTBR_EL2").summary(0x0005_0000_4100_0001) == {"root": "HPA 0x41000000", "VMID": "5"}
    assert named("TTBR0_EL1").summary(0x0007_0000_4100_0000) == {"root": "0x41000000", "ASID": "7"}
    hcr = named("HCR_EL2")
    assert [hcr.summary(value)["stage 2"] for value in (0, 1, 1 << 12, 1 | 1 << 27)] == ["off", "on", "on", "on"]
    assert named("MAIR_EL1").summary(0xFF44_0C02)["Attr0"] == "reserved (0x02)"
    assert named("MAIR_EL1").summary(0xFF44_0C02)["Attr3"] == "Normal Write-Back"
    assert named("PAR_EL1").summary(0xFF00_0000_4100_0B80)["output page"] == "0x41000000"
    assert named("PAR_EL1").summary(0xA0F | 1)["fault"] == "translation fault, level 3"
    assert named("PAR_EL1").summary(0xA0F)["translation"] == "failed"
    mmfr0 = named("ID_AA64MMFR0_EL1").summary(4)
    assert mmfr0["stage-1 granules"] == "4 KiB, 64 KiB"
    sctlr = named("SCTLR_EL1")
    assert sctlr.summary(0)["stage 1"].startswith("off")
    assert sctlr.summary(1)["stage 1"] == "on"
    assert sctlr.summary(1)["data cache"].startswith("off")
    assert sctlr.summary(1 << 2)["data cache"] == "as the tables say"
    assert named("HPFAR_EL2").summary(0x0000_0000_0040_0000) == {"IPA": "page 0x40000000"}
    assert named("ESR_EL2").summary(0x5A00_0001)["says"] == "HVC #0x1 was executed."


# E2H, TGE, DC, VM -> stage 1 of EL1&0 and stage 2 (D24.2 "HCR_EL2"; AArch64.S1Enabled, AArch64.GetS2TTWParams).
HCR_CASES = {
    "": ("as SCTLR_EL1.M says", "off"),
    "VM": ("as SCTLR_EL1.M says", "on"),
    "DC": ("off, memory write-back (DC)", "on"),
    "TGE": ("off, memory Device-nGnRnE (TGE)", "off"),
    "TGE VM": ("off, memory Device-nGnRnE (TGE)", "on"),
    "TGE DC": ("off, memory write-back (DC and TGE)", "on"),
    "E2H": ("as SCTLR_EL1.M says", "off"),
    "E2H DC": ("off, memory write-back (DC)", "on"),
    "E2H TGE VM DC": ("EL1&0 is out of use: EL0 is in the EL2&0 regime (E2H, TGE)", "off"),
}
HCR_BITS = {"VM": 0, "DC": 12, "TGE": 27, "E2H": 34}


@pytest.mark.parametrize(("on", "expected"), HCR_CASES.items())
def test_what_hcr_el2_makes_of_both_stages(on: str, expected: tuple[str, str]) -> None:
    facts = named("HCR_EL2").summary(sum(1 << HCR_BITS[name] for name in on.split()))
    assert (facts["stage 1"], facts["stage 2"]) == expected


@pytest.mark.parametrize(
    ("value", "implemented", "problem"),
    [
        # S2MinTxSZ: an IPA is no wider than PARange says.
        (vtcr(12, 16, 2, 2), 44, "48-bit IPAs .* wider than the 44-bit physical addresses of the processor"),
        (vtcr(16, 12, 2, 6), 48, "52-bit IPAs .* wider than the 48-bit"),
        # S2InvalidSL: the highest start levels need a wide processor.
        (vtcr(12, 25, 2, 2), 40, "4 levels of 4 KiB granules need a processor of 44-bit"),
        (vtcr(14, 25, 2, 2), 40, "3 levels of 16 KiB granules need a processor of 42-bit"),
        (vtcr(16, 25, 2, 2), 42, "nothing would be left|3 levels of 64 KiB granules need a processor of 44-bit"),
        (vtcr(12, 24, 0, 5, ds=1, sl2=1), 48, "5 levels of 4 KiB granules need a processor of 52-bit"),
    ],
)
def test_what_a_processor_is_too_narrow_for(value: int, implemented: int, problem: str) -> None:
    with pytest.raises(EncodingError, match=problem):
        decode_vtcr_el2(value, implemented)


@pytest.mark.parametrize(
    ("ps", "implemented", "name", "pa", "lpa"),
    [
        (5, 48, "arm-s2-64k-48", 48, False),
        (5, 52, "arm-s2-64k-48-lpa", 48, True),
        (2, 52, "arm-s2-64k-48-lpa", 40, True),
        (6, 52, "arm-s2-64k-48-lpa", 52, True),
        (6, 48, "arm-s2-64k-48", 48, False),
        (6, 44, None, 0, False),
    ],
)
def test_feat_lpa_is_the_processors_whatever_ps_says(
    ps: int, implemented: int, name: str | None, pa: int, lpa: bool
) -> None:
    """AArch64.LeafBase and BlockDescSupported ask AArch64.PAMax, not PS."""
    value = vtcr(16, 16, 2, ps)
    if name is None:
        with pytest.raises(EncodingError, match="48-bit IPAs"):
            decode_vtcr_el2(value, implemented)
        return
    control = decode_vtcr_el2(value, implemented)
    assert (control.format_name, control.pa_bits) == (name, pa)
    assert bool(control.controls & layout.LPA) is lpa
    fmt = formats.by_name(name)
    # A leaf whose bits 15:12 are set, and a block of 4 TiB at Arm's level 1.
    kinds = [fmt.decode(word, level, control.controls)[0] for word, level in ((0x5743, 0), (0x741, 2))]
    beyond = TOO_WIDE if lpa and pa < 52 else LEAF
    assert kinds == [beyond, LEAF if lpa else NONE]


def test_a_descriptors_address_above_ps_is_told_apart_from_one_below_it() -> None:
    control = decode_vtcr_el2(vtcr(12, 16, 2, 2))
    fmt = formats.by_name(control.format_name)
    for level, kind, bits in ((0, LEAF, 0x743), (1, LEAF, 0x741), (2, TABLE, 3)):
        assert fmt.decode((1 << 39) | bits, level, control.controls)[:2] == (kind, 1 << 39)
        assert fmt.decode((1 << 40) | bits, level, control.controls)[0] == TOO_WIDE
        assert not fmt.rules.root_too_wide((1 << 40) - 0x1000, control.controls)
        assert fmt.rules.root_too_wide(1 << 40, control.controls)


def test_asking_for_what_does_nothing_is_refused() -> None:
    with pytest.raises(EncodingError, match="HD, hardware dirty state, does nothing without HA"):
        vtcr_el2(12, 40, 3, hardware_dirty=True)
    with pytest.raises(EncodingError, match="DS does nothing for 64 KiB granules"):
        vtcr_el2(16, 40, 2, ds=True)
    with pytest.raises(EncodingError, match=r"56-bit physical addresses \(PS 7\) exist only with 128-bit"):
        vtcr_el2(12, 40, 3, pa_bits=56)


def test_a_table_base_of_48_bit_addresses_has_no_least_alignment_but_its_size() -> None:
    """Bits 5:2 hold address bits 51:48 only where addresses have 52 bits (D8.2.3, AArch64.S2TTBaseAddress)."""
    assert vttbr_el2(0x1010, 1, wide=False) == 0x1010 | 1 << 48
    assert decode_vttbr_el2(0x1010 | 1 << 48, wide=False) == (0x1010, 1)
    assert vttbr_el2(5 << 48 | 0x1000, 1) == 5 << 2 | 0x1000 | 1 << 48
    with pytest.raises(MisalignedError):
        vttbr_el2(0x1010, 1)
    with pytest.raises(MisalignedError):
        vttbr_el2(0x1008, 1, wide=False)
    with pytest.raises(OutOfRangeError, match=r"above 2\^48"):
        vttbr_el2(1 << 48, 1, wide=False)
    # The least roots: of 2 entries with 48-bit addresses, of 8 with 52-bit ones.
    assert formats.by_name("arm-s2-64k-43-3level").root_alignment == 16
    assert formats.by_name("arm-s2-64k-43-3level-lpa").root_alignment == 64
    assert formats.by_name("arm-s1-4k-40-lpa2").root_alignment == 64
    small = formats.by_name("arm-s2-64k-43-3level")
    registers = family_of(small).stage_2_registers(small, 0x4000_0010, small.default_controls, 1)
    assert registers["VTTBR_EL2"] == 0x4000_0010 | 1 << 48
    assert named("VTTBR_EL2").summary(0x4000_0010)["root"].endswith("0x40000010 where they have 48")


def test_a_failed_translation_has_the_fields_of_a_fault() -> None:
    """PAR_EL1 with F = 1 (D24.2 "PAR_EL1")."""
    found = {field.name for field in named("PAR_EL1").fields_of(0xA0F)}
    assert {"FST", "PTW", "S"} <= found
    assert "PA" not in found
    assert "PA" in {field.name for field in named("PAR_EL1").fields_of(0xA0E)}


def test_esr_tells_the_syndrome_of_its_class_and_the_level_in_its_name() -> None:
    abort = 0x9200_0047
    assert {"DFSC", "WnR"} <= {field.name for field in named("ESR_EL2").fields_of(abort)}
    assert {"imm16"} <= {field.name for field in named("ESR_EL2").fields_of(0x5A00_0001)}
    assert named("ESR_EL1").summary(abort)["says"] == "A write failed at stage 1: translation fault, level 3."
    assert named("ESR_EL1").summary(abort)["stage"] == "1"
    assert "stage" not in named("ESR_EL2").summary(abort)
    assert "EL1 took" in named("ESR_EL1").title


def test_nsw_and_nsa_speak_of_non_secure_ipas() -> None:
    """D24.2 "VTCR_EL2": of the Non-secure IPA space of Secure EL1&0; VSTCR_EL2 has those of Secure IPAs."""
    for name in ("NSW", "NSA"):
        field = next(field for field in named("VTCR_EL2").fields if field.name == name)
        assert all("Non-secure IPAs" in field.explain(value) for value in (0, 1))


@pytest.mark.parametrize(
    ("value", "told"),
    [(vtcr(16, 24, 1, 5), True), (vtcr(16, 12, 2, 6), False), (vtcr(12, 24, 1, 5), False), (vtcr(14, 24, 1, 2), False)],
)
def test_feat_lpa_is_spoken_of_where_the_register_leaves_it_open(value: int, told: bool) -> None:
    """Bits 15:12 are an address with 64 KiB granules alone, and with PS 6 they are one (D8.3.1)."""
    assert ("with FEAT_LPA" in named("VTCR_EL2").summary(value)) is told
