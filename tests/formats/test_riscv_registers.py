"""satp, vsatp and hgatp."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError, MisalignedError, OutOfRangeError
from stage2.formats import by_name, register_by_name, registers
from stage2.formats.riscv.entry import MXR, SUM
from stage2.formats.riscv.formats import BARE_STAGE_1, BARE_STAGE_2
from stage2.formats.riscv.registers import REGISTERS, decode_hgatp, decode_satp, stage_1_numbers
from stage2.formats.riscv.registers import AddressTranslationRegister as Register
from stage2.formats.riscv.status import controls_of, status_of

MODES = {8: ("sv39", "sv39x4"), 9: ("sv48", "sv48x4"), 10: ("sv57", "sv57x4")}


@given(mode=st.sampled_from(sorted(MODES)), asid=st.integers(0, 0xFFFF), page=st.integers(0, (1 << 44) - 1))
def test_satp_round_trip(mode: int, asid: int, page: int) -> None:
    value = mode << 60 | asid << 44 | page
    register = decode_satp(value)
    assert register == Register(by_name(MODES[mode][0]), asid, page << 12)
    assert register.value() == value


@given(mode=st.sampled_from(sorted(MODES)), vmid=st.integers(0, 0x3FFF), page=st.integers(0, (1 << 44) - 1))
def test_hgatp_round_trip_with_the_root_rounded_to_16_kib(mode: int, vmid: int, page: int) -> None:
    register = decode_hgatp(mode << 60 | vmid << 44 | page)
    assert register == Register(by_name(MODES[mode][1]), vmid, (page & ~3) << 12)
    assert register.value() == mode << 60 | vmid << 44 | page & ~3


@given(mode=st.sampled_from([0, *MODES]), rest=st.integers(0, (1 << 60) - 1), status=st.integers(0, (1 << 64) - 1))
def test_an_engines_numbers_of_stage_1_are_those_of_the_register(mode: int, rest: int, status: int) -> None:
    register = decode_satp(mode << 60 | rest)
    root, levels, root_bits, controls = stage_1_numbers(mode << 60 | rest, status)
    assert (root, levels) == (register.root, register.format.levels)
    assert root_bits == register.format.root_bits or register.format.is_bare
    assert controls == controls_of(status)


def test_sum_is_bit_18_and_mxr_bit_19_of_the_status_registers() -> None:
    """Privileged, "Supervisor Status (sstatus) Register"."""
    assert [controls_of(1 << bit) for bit in range(17, 21)] == [0, SUM, MXR, 0]
    assert [status_of(controls) for controls in (SUM, MXR, SUM | MXR)] == [1 << 18, 1 << 19, 3 << 18]


@pytest.mark.parametrize("mode", [1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_modes_are_refused(mode: int) -> None:
    with pytest.raises(EncodingError, match=f"satp .*MODE {mode} is reserved"):
        decode_satp(mode << 60)
    with pytest.raises(EncodingError, match=f"hgatp .*MODE {mode} is reserved"):
        decode_hgatp(mode << 60)


@pytest.mark.parametrize("value", [-1, 1 << 64, 8 << 64])
def test_what_is_no_64_bit_register_is_refused(value: int) -> None:
    with pytest.raises(EncodingError):
        decode_satp(value)


def test_mode_0_is_bare_and_its_register_is_zero() -> None:
    assert decode_satp(0).format is BARE_STAGE_1
    assert decode_hgatp(0).format is BARE_STAGE_2
    assert Register(BARE_STAGE_2, 0, 0).value() == 0


@pytest.mark.parametrize("root", [0x1000, 0x2000, 0x3000, 0x8000_1000])
def test_an_x4_root_must_be_16_kib_aligned(root: int) -> None:
    with pytest.raises(MisalignedError, match="root table"):
        Register(by_name("sv39x4"), 0, root).value()
    assert decode_satp(Register(by_name("sv39"), 0, root).value()).root == root


@pytest.mark.parametrize(("name", "most"), [("sv39", 0xFFFF), ("sv48x4", 0x3FFF)])
def test_identifiers_have_16_bits_in_satp_and_14_in_hgatp(name: str, most: int) -> None:
    assert Register(by_name(name), most, 0).value() >> 44 & 0xFFFF == most
    for wrong in (most + 1, -1):
        with pytest.raises(OutOfRangeError, match=r"ASID|VMID"):
            Register(by_name(name), wrong, 0).value()


def test_a_root_above_56_bits_is_refused() -> None:
    with pytest.raises(OutOfRangeError, match="2\\^56"):
        Register(by_name("sv39x4"), 0, 1 << 56).value()


def test_a_format_of_another_family_has_no_mode() -> None:
    with pytest.raises(EncodingError, match="ept4"):
        Register(by_name("ept4"), 0, 0).value()


# --- in words -----------------------------------------------------------------------------------------------------


def test_every_bit_of_every_register_has_exactly_one_field() -> None:
    for register in REGISTERS:
        bits = [bit for field in register.fields for bit in range(field.low, field.high + 1)]
        assert sorted(bits) == list(range(register.bits)), register.name
        assert all(field.meaning and field.name for field in register.fields)


@pytest.mark.parametrize(
    ("asked", "name"),
    [("SATP", "satp"), ("vsatp", "vsatp"), ("VSStatus", "vsstatus"), ("menvcfg", "menvcfg"), ("hgatp", "hgatp")],
)
def test_registers_are_found_by_their_own_names_whatever_the_case(asked: str, name: str) -> None:
    assert register_by_name(asked).name == name


def test_each_register_is_told_for_the_stage_that_it_governs() -> None:
    """henvcfg.ADUE and PBMTE are of VS-stage translation, menvcfg's of satp and hgatp; vsstatus.MXR "only overrides
    VS-stage page protection" ("Hypervisor Environment Configuration Register", "Two-Stage Address Translation")."""
    governs = {name: register_by_name(name).summary(0)["governs"] for name in ("satp", "vsatp", "hgatp", "henvcfg")}
    assert {name: text.partition(" (")[0] for name, text in governs.items()} == {
        "satp": "stage 1 of the host",
        "vsatp": "stage 1 of a guest",
        "hgatp": "stage 2 of guests",
        "henvcfg": "a guest's stage 1",
    }
    assert register_by_name("menvcfg").summary(0)["governs"] == "the host's stage 1 (satp) and stage 2 (hgatp)"
    assert "nothing at stage 2" in register_by_name("vsstatus").summary(0)["governs"]
    assert "both stages" in register_by_name("sstatus").summary(0)["governs"]


@pytest.mark.parametrize(
    ("name", "bit", "words"),
    [
        ("sstatus", 19, "of a guest's loads at both stages"),
        ("vsstatus", 19, "stage 2 must make them readable"),
        ("vsstatus", 18, "VS mode loads and stores may use user pages"),
        ("sstatus", 1, "supervisor interrupts are enabled"),
        ("vsstatus", 1, "supervisor interrupts are enabled"),
        ("mstatus", 1, "supervisor interrupts are enabled"),
        ("sstatus", 0, "reserved"),
        ("menvcfg", 63, "stimecmp is available"),
        ("henvcfg", 63, "vstimecmp is available"),
        ("menvcfg", 60, "counters are delegated"),
        ("henvcfg", 60, "reserved"),
        ("henvcfg", 61, "the entries of a guest's stage 1"),
    ],
)
def test_a_bit_is_told_as_the_register_means_it(name: str, bit: int, words: str) -> None:
    field = next(field for field in register_by_name(name).fields if field.low <= bit <= field.high)
    assert words in field.explain(1)


def test_a_reserved_mode_of_vsatp_is_told_under_its_name() -> None:
    with pytest.raises(EncodingError, match=r"^vsatp .*MODE 3 is reserved"):
        register_by_name("vsatp").summary(3 << 60)


def test_an_unknown_register_names_the_nearest() -> None:
    with pytest.raises(EncodingError, match=r"'hgapt' \(did you mean hgatp\?\)"):
        register_by_name("hgapt")


def test_all_registers_are_listed_once() -> None:
    found = [name.lower() for register in registers() for name in (register.name, *register.aliases)]
    riscv = {"satp", "vsatp", "hgatp", "sstatus", "vsstatus", "mstatus", "hstatus", "menvcfg", "henvcfg"}
    assert riscv <= set(found)
    assert len(found) == len(set(found))


def test_hgatp_amounts_to_a_format_a_root_and_a_vmid() -> None:
    value = Register(by_name("sv39x4"), 7, 0x8000_4000).value()
    facts = register_by_name("hgatp").summary(value)
    assert facts["format"].startswith("sv39x4 ")
    assert facts["root"].startswith("0x80004000 ")
    assert facts["VMID"] == "7"
    assert "note" not in facts
    assert "16 KiB" in register_by_name("hgatp").summary(value | 1)["note"]


def test_satp_amounts_to_a_format_a_root_and_an_asid() -> None:
    facts = register_by_name("vsatp").summary(8 << 60 | 0xFFFF << 44 | 0x80000)
    assert facts["format"].startswith("sv39 ")
    assert facts["root"] == "0x80000000 (a GPA)"
    assert register_by_name("satp").summary(8 << 60 | 0x80000)["root"] == "0x80000000 (physical)"
    assert facts["ASID"] == "65535"


def test_bare_with_other_fields_set_is_remarked_on() -> None:
    assert "note" not in register_by_name("satp").summary(0)
    assert "unspecified" in register_by_name("satp").summary(1)["note"]


def test_a_reserved_mode_has_no_summary() -> None:
    with pytest.raises(EncodingError, match="MODE 3 is reserved"):
        register_by_name("hgatp").summary(3 << 60)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_value_wider_than_the_register_is_refused(value: int) -> None:
    with pytest.raises(OutOfRangeError, match="satp has 64 bits"):
        register_by_name("satp").require(value)


@pytest.mark.parametrize(
    ("name", "bit", "fact"),
    [
        ("sstatus", 18, "supervisor loads and stores"),
        ("mstatus", 19, "loads from"),
        ("hstatus", 7, "trap from"),
        ("henvcfg", 61, "accessed and dirty bits"),
        ("menvcfg", 62, "memory types in entries"),
    ],
)
def test_bits_that_matter_to_a_walk_change_the_summary(name: str, bit: int, fact: str) -> None:
    summary = register_by_name(name).summary
    assert summary(0)[fact] != summary(1 << bit)[fact]


@pytest.mark.parametrize("name", ["menvcfg", "henvcfg"])
@pytest.mark.parametrize(
    ("value", "ad", "pbmt"),
    [(0, "Svade", "no"), (1 << 61, "Svadu", "no"), (1 << 62, "Svade", "yes"), (3 << 61, "Svadu", "yes")],
)
def test_adue_set_is_svadu_and_pbmte_set_is_svpbmt(name: str, value: int, ad: str, pbmt: str) -> None:
    """ADUE (bit 61) 1: "hardware updating of PTE A/D bits is enabled"; PBMTE (bit 62) 1: Svpbmt is available ("Machine
    Environment Configuration (menvcfg) Register", and the same of henvcfg)."""
    summary = register_by_name(name).summary(value)
    assert f"({ad})" in summary["accessed and dirty bits"]
    assert summary["memory types in entries"].partition(" ")[0] == pbmt


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0, {"trap from": "the host (V = 0)"}),
        (1 << 6 | 1 << 8, {"trap from": "the host (V = 0)"}),
        (1 << 7, {"trap from": "a guest, in VU mode", "stval": "no GVA"}),
        (1 << 7 | 1 << 6, {"trap from": "a guest, in VU mode", "stval": "a GVA"}),
        (1 << 7 | 1 << 8, {"trap from": "a guest, in VS mode", "stval": "no GVA"}),
        (1 << 7 | 1 << 8 | 1 << 6, {"trap from": "a guest, in VS mode", "stval": "a GVA"}),
    ],
)
def test_hstatus_tells_where_a_trap_came_from_and_what_stval_holds(value: int, told: dict[str, str]) -> None:
    """GVA is bit 6, SPV 7, SPVP 8; SPVP is of traps from V = 1 only ("Hypervisor Status (hstatus) Register")."""
    assert register_by_name("hstatus").summary(value) == told
