"""EPTP, CR3, N_CR3 and the other x86 registers; the manuals' tables are written down here a second time."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import Range
from stage2.errors import EncodingError, MisalignedError, OutOfRangeError
from stage2.formats import by_name, family_of, register_by_name
from stage2.formats.invalidation import Context
from stage2.formats.register import Register
from stage2.formats.x86 import ept, invalidation
from stage2.formats.x86.longmode import PAT_MSR
from stage2.formats.x86.registers import (
    REGISTERS,
    EptPointer,
    PageTableBase,
    decode_cr3,
    decode_eptp,
    eptp,
    nested_cr3,
)

EPT4, EPT5, NPT4, NPT5 = (by_name(name) for name in ("ept4", "ept5", "npt4", "npt5"))
LEVELS = {3: EPT4, 4: EPT5}
ROOTS = st.integers(0, (1 << 40) - 1).map(lambda page: page << 12)


def named(name: str) -> Register:
    return next(register for register in REGISTERS if register.name == name)


# --- EPTP ----------------------------------------------------------------------------------------------------------


@given(fmt=st.sampled_from([EPT4, EPT5]), root=ROOTS, back=st.booleans(), dirty=st.booleans(), stack=st.booleans())
def test_an_eptp_is_read_back_as_it_was_made(fmt: object, root: int, back: bool, dirty: bool, stack: bool) -> None:
    pointer = EptPointer(fmt, root, back, dirty, stack)  # type: ignore[arg-type]  # a drawn format
    value = pointer.value()
    assert decode_eptp(value) == pointer
    assert value == root | stack << 7 | dirty << 6 | (pointer.format.levels - 1) << 3 | (6 if back else 0)


def test_the_usual_eptp() -> None:
    assert eptp(EPT4, 0x4100_0000) == 0x4100_001E
    assert eptp(EPT5, 0x4100_0000, accessed_dirty=True) == 0x4100_0066


@pytest.mark.parametrize("memory_type", range(8))
@pytest.mark.parametrize("length", range(8))
def test_every_memory_type_and_walk_length_is_defined_or_refused(memory_type: int, length: int) -> None:
    value = 0x1000 | length << 3 | memory_type
    if memory_type in (0, 6) and length in LEVELS:
        found = decode_eptp(value)
        assert (found.format, found.write_back) == (LEVELS[length], memory_type == 6)
        assert named("EPTP").summary(value)["format"].startswith(LEVELS[length].name)
        return
    told = "memory type" if memory_type not in (0, 6) else "walk length"
    for read in (decode_eptp, named("EPTP").summary):
        with pytest.raises(EncodingError, match=f"EPTP: {told} .*reserved"):
            read(value)


@pytest.mark.parametrize("bit", [8, 9, 10, 11])
def test_reserved_bits_of_an_eptp_are_refused_as_vm_entry_does(bit: int) -> None:
    """SDM Vol. 3C, table 26-9 (bits 11:8 reserved) and 28.2.1.1 (VM entry fails if a reserved bit is set)."""
    for read in (decode_eptp, named("EPTP").summary):
        with pytest.raises(EncodingError, match=r"bits 11:8 are reserved .*VM entry refuses it"):
            read(0x101E | 1 << bit)


@pytest.mark.parametrize(
    "make",
    [partial(eptp, EPT4), partial(nested_cr3, NPT4), lambda root: PageTableBase(root).value()],
    ids=["EPTP", "N_CR3", "CR3"],
)
def test_roots_that_no_register_holds_are_refused(make: Callable[[int], int]) -> None:
    with pytest.raises(MisalignedError):
        make(0x1800)
    for root in (1 << 52, -4096):
        with pytest.raises(OutOfRangeError, match=r"above 2\^52"):
            make(root)


def test_registers_whose_root_is_too_wide_are_refused() -> None:
    for name in ("EPTP", "N_CR3"):
        with pytest.raises(EncodingError, match=rf"{name} .*above 2\^52"):
            named(name).summary(1 << 52 | 0x101E)


def test_a_register_stands_for_its_own_formats_only() -> None:
    with pytest.raises(EncodingError, match="no EPTP stands for npt4"):
        eptp(NPT4, 0x1000)
    for fmt in (EPT4, by_name("x86-4level")):
        with pytest.raises(EncodingError, match=f"no N_CR3 stands for {fmt.name}"):
            nested_cr3(fmt, 0x1000)


# --- CR3 -----------------------------------------------------------------------------------------------------------


@given(root=ROOTS, pcid=st.integers(0, 0xFFF), tag=st.sampled_from([0, 6, 15]), keep=st.booleans())
def test_cr3_with_a_pcid_is_read_back_as_it_was_made(root: int, pcid: int, tag: int, keep: bool) -> None:
    base = PageTableBase(root, pcid, tag_bits=tag, keep=keep)
    assert decode_cr3(base.value(), pcid_enabled=True) == base


@given(root=ROOTS, through=st.booleans(), disable=st.booleans())
def test_cr3_without_pcids_has_pwt_and_pcd_in_their_place(root: int, through: bool, disable: bool) -> None:
    base = PageTableBase(root, 0, through, disable)
    assert base.value() == root | through << 3 | disable << 4
    assert decode_cr3(base.value()) == base
    assert decode_cr3(base.value() | 0xFE7) == base, "the other bits are ignored"


def test_lam_u57_wins_over_lam_u48() -> None:
    assert [decode_cr3(value << 61).tag_bits for value in range(4)] == [0, 6, 15, 6]


@pytest.mark.parametrize(
    ("base", "told"),
    [
        (PageTableBase(0, 0x1000), "PCID 0x1000 has more than 12 bits"),
        (PageTableBase(0, 1, write_through=True), "no PWT"),
        (PageTableBase(0, tag_bits=8), "no LAM has 8"),
    ],
)
def test_a_cr3_that_contradicts_itself_is_refused(base: PageTableBase, told: str) -> None:
    with pytest.raises((EncodingError, OutOfRangeError), match=told):
        base.value()


# --- stage 2 -------------------------------------------------------------------------------------------------------


def test_the_registers_of_ept_and_npt() -> None:
    controls = EPT4.default_controls
    assert family_of(EPT4).stage_2_registers(EPT4, 0x1000, controls, 7) == {"EPTP": 0x101E, "VPID": 7}
    assert family_of(EPT5).stage_2_registers(EPT5, 0x1000, controls | ept.AD_ENABLED, 7) == {"EPTP": 0x1066, "VPID": 7}
    for fmt in (NPT4, NPT5):
        assert family_of(fmt).stage_2_registers(fmt, 0x1000, fmt.default_controls, 9) == {
            "N_CR3": 0x1000,
            "ASID": 9,
            "NP_ENABLE": 1,
        }


def test_identifiers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(OutOfRangeError, match="VPID 0x10000 has more than 16 bits"):
        family_of(EPT4).stage_2_registers(EPT4, 0x1000, EPT4.default_controls, 0x10000)
    with pytest.raises(OutOfRangeError, match="ASID 0x100000000 has more than 32 bits"):
        family_of(NPT4).stage_2_registers(NPT4, 0x1000, NPT4.default_controls, 1 << 32)
    with pytest.raises(OutOfRangeError, match="VPID 0 is the host's"):
        # SDM Vol. 3C, 28.2.1.1: with "enable VPID", a VPID of 0 fails VM entry.
        family_of(EPT4).stage_2_registers(EPT4, 0x1000, EPT4.default_controls, 0)
    with pytest.raises(OutOfRangeError, match="ASID 0 is the host's"):
        family_of(NPT4).stage_2_registers(NPT4, 0x1000, NPT4.default_controls, 0)


# --- in words ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_every_bit_of_every_register_has_one_field_with_a_sentence(register: Register) -> None:
    covered = 0
    for field in register.fields:
        mask = (1 << field.high + 1) - (1 << field.low)
        assert not covered & mask, f"{field.name} overlaps another field"
        covered |= mask
        assert len(field.meaning) >= 9
        assert all(value < 1 << field.high - field.low + 1 for value in field.values)
        assert field.reserved == (field.name == "reserved")
    assert covered == (1 << register.bits) - 1
    assert register.arch == "x86_64"


@given(value=st.integers(0, (1 << 64) - 1))
def test_no_value_of_a_register_ends_in_a_traceback(value: int) -> None:
    for register in REGISTERS:
        facts: Mapping[str, str] = {}
        with suppress(EncodingError):
            facts = register.summary(value & (1 << register.bits) - 1)
        assert all(facts.values())


def test_registers_are_found_by_the_names_people_use() -> None:
    for alias, name in (("nCR3", "N_CR3"), ("ia32_efer", "EFER"), ("pat", "IA32_PAT"), ("eptp", "EPTP")):
        assert register_by_name(alias).name == name


@pytest.mark.parametrize(
    ("register", "field", "high", "low"),
    [
        ("EPTP", "memory type", 2, 0), ("EPTP", "walk length - 1", 5, 3), ("EPTP", "A/D", 6, 6), ("EPTP", "SSS", 7, 7),
        ("EPTP", "address", 51, 12), ("CR0", "WP", 16, 16), ("CR0", "NW", 29, 29), ("CR0", "CD", 30, 30),
        ("CR0", "PG", 31, 31), ("CR3", "LAM_U57", 61, 61), ("CR3", "LAM_U48", 62, 62), ("CR4", "PAE", 5, 5),
        ("CR4", "PGE", 7, 7), ("CR4", "LA57", 12, 12), ("CR4", "PCIDE", 17, 17), ("CR4", "SMEP", 20, 20),
        ("CR4", "SMAP", 21, 21), ("CR4", "PKE", 22, 22), ("CR4", "CET", 23, 23), ("CR4", "PKS", 24, 24),
        ("EFER", "LME", 8, 8), ("EFER", "LMA", 10, 10), ("EFER", "NXE", 11, 11), ("EFER", "SVME", 12, 12),
        ("IA32_PAT", "PA7", 58, 56), ("IA32_VMX_EPT_VPID_CAP", "5 levels", 7, 7),
        ("IA32_VMX_EPT_VPID_CAP", "WB", 14, 14), ("IA32_VMX_EPT_VPID_CAP", "1 GiB", 17, 17),
        ("IA32_VMX_EPT_VPID_CAP", "INVEPT", 20, 20), ("IA32_VMX_EPT_VPID_CAP", "A/D", 21, 21),
        ("IA32_VMX_EPT_VPID_CAP", "INVVPID", 32, 32), ("IA32_VMX_EPT_VPID_CAP", "INVVPID 3", 43, 43),
        ("VPID", "VPID", 15, 0),
    ],
)  # fmt: skip
def test_fields_stand_where_the_manual_has_them(register: str, field: str, high: int, low: int) -> None:
    found = next(item for item in named(register).fields if item.name == field)
    assert (found.high, found.low) == (high, low)


def test_what_the_registers_amount_to() -> None:
    linux = named("CR4").summary(0x35_06E0)
    assert linux["format"] == "x86-4level, in long mode"
    assert "SMEP" in linux["kernel on user pages"]
    assert named("CR4").summary(1 << 12 | 1 << 5)["format"] == "x86-5level, in long mode"
    assert named("CR0").summary(0x8005_0033)["paging"] == "on"
    assert named("CR0").summary(0x10)["paging"].startswith("off")
    assert named("EFER").summary(0xD01)["long mode"] == "active"
    assert named("CR3").summary(0x1234_5007) == {
        "root": "0x12345000 (physical; a GPA in a guest)",
        "PCID": "0x7, if CR4.PCIDE is set",
    }
    assert named("N_CR3").summary(0x1234_5000)["root"] == "HPA 0x12345000"
    pat = named("IA32_PAT").summary(PAT_MSR)
    assert [pat[f"PA{entry}"].partition("(")[2].partition(")")[0] for entry in range(8)] == [
        "WB", "WT", "UC-", "UC", "WB", "WP", "WC", "UC",
    ]  # fmt: skip
    haswell = named("IA32_VMX_EPT_VPID_CAP").summary(0xF01_06334141)
    assert (haswell["formats"], haswell["largest leaf"]) == ("ept4", "1 GiB")
    assert haswell["INVEPT"] == "one EPTP, all"
    assert named("IA32_VMX_EPT_VPID_CAP").summary(0)["formats"].startswith("none")
    assert "hypervisor's own" in named("VPID").summary(0)["VPID"]


@pytest.mark.parametrize(
    ("register", "bit", "fact", "clear", "is_set"),
    [
        # SDM Vol. 3A, 2.5: CR0.WP (16) and CR0.CD (30).
        ("CR0", 16, "supervisor writes", "ignore R/W", "obey R/W"),
        ("CR0", 30, "caches", "as the memory types say", "off"),
        # SDM Vol. 3A, 2.5: CR4.SMEP (20) guards fetches, CR4.SMAP (21) data accesses.
        ("CR4", 20, "kernel on user pages", "as on its own", "no fetches (SMEP)"),
        ("CR4", 21, "kernel on user pages", "as on its own", "no data accesses (SMAP)"),
        # SDM Vol. 3A, 2.2.1, table 2-1: EFER.NXE (11).
        ("EFER", 11, "bit 63 of entries", "reserved", "forbids fetches (NX)"),
        # SDM Vol. 3C, 26.6.11, table 26-9: EPTP bit 6.
        ("EPTP", 6, "accessed and dirty", "not tracked", "set by hardware"),
        # SDM Vol. 3D, A.10: bits 0, 16, 17, 20 with 25 and 26, 21, 32 with 40 to 43.
        ("IA32_VMX_EPT_VPID_CAP", 0, "execute-only entries", "misconfigurations", "legal"),
        ("IA32_VMX_EPT_VPID_CAP", 6, "formats", "none: EPT cannot be used", "ept4"),
        ("IA32_VMX_EPT_VPID_CAP", 7, "formats", "none: EPT cannot be used", "ept5"),
        ("IA32_VMX_EPT_VPID_CAP", 16, "largest leaf", "4 KiB", "2 MiB"),
        ("IA32_VMX_EPT_VPID_CAP", 17, "largest leaf", "4 KiB", "1 GiB"),
        ("IA32_VMX_EPT_VPID_CAP", 21, "accessed and dirty", "cannot be tracked", "can be tracked"),
    ],
)
def test_a_fact_hangs_on_its_bit_alone(register: str, bit: int, fact: str, clear: str, is_set: str) -> None:
    base = 0x101E if register == "EPTP" else 0
    others = {"CR0": (0, 31), "CR4": (5, 12), "EFER": (8, 10), "EPTP": (7,), "IA32_VMX_EPT_VPID_CAP": (8, 14, 20)}
    for extra in (0, sum(1 << other for other in others[register])):
        assert named(register).summary(base | extra)[fact] == clear
        assert named(register).summary(base | extra | 1 << bit)[fact] == is_set


@pytest.mark.parametrize(
    ("fact", "there", "kinds"),
    [
        ("INVEPT", 20, {25: "one EPTP", 26: "all"}),
        ("INVVPID", 32, {40: "one address", 41: "one VPID", 42: "all", 43: "one VPID but global pages"}),
    ],
)
def test_a_kind_of_invalidation_needs_its_bit_and_that_of_the_instruction(
    fact: str, there: int, kinds: dict[int, str]
) -> None:
    """SDM Vol. 3D, A.10."""
    capabilities = named("IA32_VMX_EPT_VPID_CAP")
    assert capabilities.summary(1 << there)[fact] == "none"
    for bit, name in kinds.items():
        assert capabilities.summary(1 << bit)[fact] == "none"
        assert capabilities.summary(1 << there | 1 << bit)[fact] == name


def test_pcids_go_with_long_mode_alone() -> None:
    """SDM Vol. 3A, 2.5: CR4.PCIDE may be set in IA-32e mode only, which has PAE (CR4 bit 5)."""
    cr4 = named("CR4")
    assert cr4.summary(1 << 17 | 1 << 5)["format"] == "x86-4level, in long mode"
    assert cr4.summary(0)["format"] == "32-bit paging, not known here"


@pytest.mark.parametrize(
    ("register", "value", "told"),
    [
        ("CR0", 1 << 31, "PG without PE"),
        ("CR0", 1 << 29, "NW without CD"),
        ("CR4", 1 << 17, "PCIDE without PAE"),
        ("EFER", 1 << 10, "LMA without LME"),
        ("IA32_PAT", PAT_MSR | 2 << 24, "PA3 is 2, a reserved memory type"),
    ],
)
def test_registers_that_contradict_themselves_are_refused(register: str, value: int, told: str) -> None:
    with pytest.raises(EncodingError, match=told):
        named(register).summary(value)


# --- identifiers ---------------------------------------------------------------------------------------------------


def test_invvpid_is_never_done_with_vpid_0() -> None:
    """SDM Vol. 3C, INVVPID: types 0, 1 and 3 fail if the descriptor's VPID is 0. A table without one owes none."""
    for operation in (
        partial(invalidation.invvpid_address, gva=Range.sized(0, 4096)),
        invalidation.invvpid_single_context,
        invalidation.invvpid_retaining_globals,
    ):
        with pytest.raises(EncodingError, match="VPID 0 is the host's own"):
            operation(0)
    retired = {vpid: [found.name for found in invalidation.retire(EPT4, Context(vpid, 0x1000))] for vpid in (0, 7)}
    assert retired == {
        0: ["INVEPT single-context"],
        7: ["INVEPT single-context", "INVVPID single-context"],
    }


def test_what_is_done_to_asids_goes_by_the_number_that_the_vmcb_takes() -> None:
    """AMD APM Vol. 2, 15.16 "TLB Control": TLB_CONTROL 1 flushes all, 3 this guest's, 7 its non-global entries."""
    operations = (invalidation.flush_all_asids(), invalidation.flush_asid(5), invalidation.flush_asid_but_globals(5))
    assert [(found.tag, found.vmid, found.keeps_global) for found in operations] == [
        (1, None, False), (3, 5, False), (7, 5, True),
    ]  # fmt: skip
    assert [found.name for found in operations] == [f"TLB_CONTROL {found.tag}" for found in operations]
