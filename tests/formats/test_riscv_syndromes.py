"""scause, stval, htval and htinst in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError, OutOfRangeError
from stage2.flags import Access, MappingFlags
from stage2.formats import by_name, family_of
from stage2.formats.outcome import FaultKind
from stage2.formats.riscv.formats import BARE_STAGE_2
from stage2.formats.riscv.syndromes import INTERRUPT, encode_scause, guest_report, machine_report, report
from stage2.tables.result import Fault

TABLE_KINDS = [kind for kind in FaultKind if kind is not FaultKind.TABLE_OUTSIDE_MEMORY]


@given(kind=st.sampled_from(TABLE_KINDS), stage=st.sampled_from([1, 2]), access=st.sampled_from(Access))
def test_an_encoded_cause_reads_back_as_the_same_stage_and_access(kind: FaultKind, stage: int, access: Access) -> None:
    found = report(encode_scause(kind, stage, access))
    assert (found.stage, found.access) == (stage, access)
    assert found.title.endswith("guest-page fault" if stage == 2 else " page fault")


@pytest.mark.parametrize(
    ("kind", "stage", "access", "cause"),
    [
        (FaultKind.TRANSLATION, 1, Access.FETCH, 12),
        (FaultKind.PERMISSION, 1, Access.READ, 13),
        (FaultKind.ACCESS_FLAG, 1, Access.WRITE, 15),
        (FaultKind.TRANSLATION, 2, Access.FETCH, 20),
        (FaultKind.MISCONFIGURATION, 2, Access.READ, 21),
        (FaultKind.ADDRESS_SIZE, 2, Access.WRITE, 23),
        (FaultKind.TABLE_OUTSIDE_MEMORY, 1, Access.FETCH, 1),
        (FaultKind.TABLE_OUTSIDE_MEMORY, 2, Access.READ, 5),
        (FaultKind.TABLE_OUTSIDE_MEMORY, 2, Access.WRITE, 7),
    ],
)
def test_causes_are_those_of_the_manual(kind: FaultKind, stage: int, access: Access, cause: int) -> None:
    assert encode_scause(kind, stage, access) == cause


@pytest.mark.parametrize(("access", "scause"), [(Access.FETCH, 1), (Access.READ, 5), (Access.WRITE, 7)])
def test_an_address_too_wide_for_a_bare_stage_2_is_an_access_fault(access: Access, scause: int) -> None:
    """Only Sv39x4, Sv48x4 and Sv57x4 raise a guest-page fault for wide addresses; in Bare "guest physical addresses are
    equal to supervisor physical addresses", and there is nothing there ("Guest Physical Address Translation")."""
    fault = Fault(FaultKind.ADDRESS_SIZE, 2, 0, 1 << 57, access=access)
    assert family_of(BARE_STAGE_2).hardware_report(BARE_STAGE_2, fault, access, 1 << 57, 1 << 57, MappingFlags(0)) == {
        "scause": scause,
        "stval": 1 << 57,
        "htval": 0,
        "htinst": 0,
    }
    wide = by_name("sv39x4")
    found = family_of(wide).hardware_report(wide, fault, access, 1 << 57, 1 << 57, MappingFlags(0))
    assert (found["scause"], found["htval"]) == ({1: 20, 5: 21, 7: 23}[scause], 1 << 55)


@pytest.mark.parametrize(("gpa", "htval", "htinst"), [(0, 0, 0), (8, 2, 0x3000)])
def test_a_pseudoinstruction_stands_beside_an_htval_that_is_not_0_only(gpa: int, htval: int, htinst: int) -> None:
    """ "(b) a nonzero value (the faulting guest physical address) is written to mtval2 or htval" ("Transformed
    Instruction or Pseudoinstruction for mtinst or htinst")."""
    fmt = by_name("sv39x4")
    fault = Fault(FaultKind.TRANSLATION, 2, 0, gpa, access=Access.READ, on_table=True)
    found = family_of(fmt).hardware_report(fmt, fault, Access.READ, 0x1000, gpa, MappingFlags(0))
    assert (found["htval"], found["htinst"]) == (htval, htinst)


def test_there_is_no_third_stage() -> None:
    with pytest.raises(EncodingError, match="no stage 3"):
        encode_scause(FaultKind.TRANSLATION, 3, Access.READ)


@given(gpa=st.integers(4, (1 << 58) - 1), page=st.integers(1, 1 << 40), cause=st.sampled_from([20, 21, 23]))
def test_a_guest_page_fault_takes_its_low_address_bits_from_stval(gpa: int, page: int, cause: int) -> None:
    found = report(cause, page << 12 | gpa & 0xFFF, gpa >> 2)
    assert found.gpa == gpa
    assert found.gva == page << 12 | gpa & 0xFFF
    assert not found.on_table
    assert f"{gpa:#x}" in found.sentences[0]


@pytest.mark.parametrize(("htinst", "verb"), [(0x2000, "read"), (0x3000, "read"), (0x2020, "wrote"), (0x3020, "wrote")])
def test_pseudoinstructions_tell_of_an_access_to_a_table_of_stage_1(htinst: int, verb: str) -> None:
    found = report(21, 0x4003, 0x8000_1008 >> 2, htinst)
    assert found.on_table
    assert found.gpa == 0x8000_1008, "stval's low bits belong to the instruction's address, not to the table's"
    assert any(f"hardware {verb} a page table entry" in sentence for sentence in found.sentences)


@pytest.mark.parametrize("htinst", [0, 0x3001, 0x00052503, 0x0102, 0x4000])
def test_other_values_of_htinst_are_the_instructions_own_access(htinst: int) -> None:
    assert not report(23, 0x4000, 0x100, htinst).on_table


def test_a_stage_1_fault_knows_no_guest_physical_address() -> None:
    found = report(13, 0x1234, 0x5678, 0x3000)
    assert (found.gva, found.gpa, found.stage, found.on_table) == (0x1234, None, 1, False)


@pytest.mark.parametrize(("htval", "words"), [(None, "htval is not given"), (0, "htval is 0")])
def test_a_missing_guest_physical_address_is_said_to_be_missing(htval: int | None, words: str) -> None:
    found = report(21, 0x1000, htval)
    assert found.gpa is None
    assert any(words in sentence for sentence in found.sentences)


@pytest.mark.parametrize(
    ("cause", "stval", "told"), [(21, 0x1000, True), (21, None, False), (21, 0, False), (13, 0x1000, False)]
)
def test_a_bare_vsatp_is_told_of_with_a_guest_page_fault_at_an_address_only(
    cause: int, stval: int | None, told: bool
) -> None:
    """stval holds the address before any translation, which with vsatp Bare is the guest physical one; a page fault of
    stage 1 comes from a stage 1 that translates ("Two-Stage Address Translation")."""
    assert any("with vsatp Bare" in sentence for sentence in report(cause, stval, 0x400).sentences) == told


@pytest.mark.parametrize("cause", [20, 21, 23])
def test_an_htval_of_0_also_stands_for_the_first_four_bytes(cause: int) -> None:
    """htval is "either zero or the guest physical address that faulted, shifted right by 2 bits" ("htval Register")."""
    text = " ".join(report(cause, 0, 0, 0).sentences)
    assert "htval is 0, which means that it is 0 to 3, or that hardware did not write it" in text
    assert "stval is 0: the address is 0, or hardware did not write it" in text
    meanings = {name: field.meaning for name, field in report(cause, 0, 0, 0).fields}
    assert (meanings["stval"], meanings["htval"]) == ("the address is 0, or not written", "0 to 3, or not written")


@pytest.mark.parametrize("cause", [12, 13, 15, 20, 21, 23])
def test_it_is_the_registers_that_do_not_say_why(cause: int) -> None:
    assert any("The registers do not say why" in sentence for sentence in report(cause, 0x1000, 0x400, 0).sentences)


def test_machine_mode_is_told_by_the_names_of_its_own_registers() -> None:
    found = machine_report(21, 0x4003, 0x8000_1008 >> 2, 0x3000)
    assert [name for name, _ in found.fields] == ["mcause", "mcause", "mtval", "mtval2", "mtinst"]
    assert (found.gpa, found.on_table) == (0x8000_1008, True)
    assert "mcause" in found.manual
    text = " ".join(machine_report(21, 0x4003, 0).sentences)
    assert "mtval2 is 0" in text
    assert "mtval is the guest's virtual address" in text
    assert "htval" not in text


def test_a_guests_own_trap_is_told_by_the_names_of_its_own_registers() -> None:
    found = guest_report(13, 0x4003)
    assert [name for name, _ in found.fields] == ["vscause", "vscause", "vstval"]
    assert (found.stage, found.gva, found.gpa) == (1, 0x4003, None)
    assert "vscause" in found.manual
    assert any("vstval is 0" in sentence for sentence in guest_report(15, 0).sentences)
    with pytest.raises(OutOfRangeError, match="vstval has 64 bits"):
        guest_report(13, 1 << 64)


@pytest.mark.parametrize("cause", range(24))
def test_every_cause_has_a_title_and_a_sentence(cause: int) -> None:
    found = report(cause)
    assert found.title
    assert found.sentences
    assert all(sentence.endswith(".") for sentence in found.sentences)
    assert found.fields[0][1].reserved == (cause in (14, 17))


@pytest.mark.parametrize(
    ("number", "name"), [(1, "supervisor software"), (6, "virtual supervisor timer"), (9, "external")]
)
def test_interrupts_are_named(number: int, name: str) -> None:
    found = report(INTERRUPT | number)
    assert name in found.title
    assert (found.stage, found.access, found.kind) == (None, None, None)


@pytest.mark.parametrize("cause", [24, 63, 64, INTERRUPT - 1])
def test_causes_that_the_manual_does_not_define_are_told_so(cause: int) -> None:
    assert "not one that the manual defines" in report(cause).sentences[0]


@pytest.mark.parametrize("where", ["scause", "stval", "htval", "htinst"])
@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_values_wider_than_a_register_are_refused(where: str, value: int) -> None:
    with pytest.raises(OutOfRangeError, match=f"{where} has 64 bits"):
        report(**{"scause": 21, where: value})


def test_every_register_given_has_fields() -> None:
    found = report(21, 0x1000, 0x400, 0x3000)
    assert [name for name, _ in found.fields] == ["scause", "scause", "stval", "htval", "htinst"]


def test_a_register_that_is_not_given_does_not_hide_those_after_it() -> None:
    found = report(21, None, 0x400, 0x3000)
    assert [name for name, _ in found.fields] == ["scause", "scause", "htval", "htinst"]
