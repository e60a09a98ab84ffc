"""ESR, FAR and HPFAR in words; fault status codes written down a second time from the manual."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError, OutOfRangeError
from stage2.flags import Access
from stage2.formats.arm.syndromes import encode_abort, encode_esr, report
from stage2.formats.outcome import FaultKind

IABT_LOWER, IABT_SAME, DABT_LOWER, DABT_SAME = 0x20, 0x21, 0x24, 0x25
IL = 1 << 25

# Fault status code -> (kind, Arm's level), Arm ARM D24.2 "ESR_EL2", DFSC.
CODES: dict[int, tuple[FaultKind, int]] = {
    0x00: (FaultKind.ADDRESS_SIZE, 0), 0x01: (FaultKind.ADDRESS_SIZE, 1), 0x02: (FaultKind.ADDRESS_SIZE, 2),
    0x03: (FaultKind.ADDRESS_SIZE, 3), 0x04: (FaultKind.TRANSLATION, 0), 0x05: (FaultKind.TRANSLATION, 1),
    0x06: (FaultKind.TRANSLATION, 2), 0x07: (FaultKind.TRANSLATION, 3), 0x08: (FaultKind.ACCESS_FLAG, 0),
    0x09: (FaultKind.ACCESS_FLAG, 1), 0x0A: (FaultKind.ACCESS_FLAG, 2), 0x0B: (FaultKind.ACCESS_FLAG, 3),
    0x0C: (FaultKind.PERMISSION, 0), 0x0D: (FaultKind.PERMISSION, 1), 0x0E: (FaultKind.PERMISSION, 2),
    0x0F: (FaultKind.PERMISSION, 3), 0x13: (FaultKind.TABLE_OUTSIDE_MEMORY, -1),
    0x14: (FaultKind.TABLE_OUTSIDE_MEMORY, 0), 0x15: (FaultKind.TABLE_OUTSIDE_MEMORY, 1),
    0x16: (FaultKind.TABLE_OUTSIDE_MEMORY, 2), 0x17: (FaultKind.TABLE_OUTSIDE_MEMORY, 3),
    0x29: (FaultKind.ADDRESS_SIZE, -1), 0x2B: (FaultKind.TRANSLATION, -1),
}  # fmt: skip
OTHER = {
    0x10: "external abort, not on a table walk", 0x11: "tag check", 0x18: "parity", 0x1F: "parity", 0x21: "alignment",
    0x24: "granule protection fault on a table walk, level 0", 0x28: "granule protection fault, not",
    0x30: "TLB conflict", 0x31: "atomic hardware update", 0x34: "lockdown", 0x35: "exclusive",
}  # fmt: skip
RESERVED = (0x19, 0x1A, 0x20, 0x2D, 0x2E, 0x32, 0x36, 0x3F)


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("exception", [IABT_LOWER, IABT_SAME, DABT_LOWER, DABT_SAME])
def test_fault_status_codes(code: int, exception: int) -> None:
    kind, arm_level = CODES[code]
    found = report(exception << 26 | IL | code, 0x1234_5678)
    assert found.kind is kind
    assert found.level == 3 - arm_level
    assert found.gva == 0x1234_5678
    assert found.access is (Access.FETCH if exception < 0x22 else Access.READ)
    assert found.stage == (1 if exception & 1 else None)
    assert f"level {arm_level}" in found.sentences[0]


@pytest.mark.parametrize(("code", "words"), OTHER.items())
def test_aborts_that_are_no_fault_of_a_table(code: int, words: str) -> None:
    found = report(DABT_LOWER << 26 | IL | code, 0x1000, 0x10)
    assert words in found.sentences[0]
    assert (found.kind, found.level, found.stage, found.gpa) == (None, None, None, None)


@pytest.mark.parametrize("code", RESERVED)
def test_reserved_fault_status_codes_are_called_so(code: int) -> None:
    found = report(DABT_LOWER << 26 | IL | code)
    assert f"reserved fault status {code:#04x}" in found.sentences[0]
    assert found.kind is None


def test_a_measured_stage_2_translation_fault() -> None:
    found = report(0x9200_0007, 0x8000_0123, 0x0080_0000)
    assert found.title == "data abort from a lower exception level"
    assert (found.kind, found.stage, found.level, found.access) == (FaultKind.TRANSLATION, 2, 0, Access.READ)
    assert (found.gva, found.gpa, found.on_table, found.user) == (0x8000_0123, 0x8000_0123, False, None)
    assert found.sentences[0] == "A read of address 0x80000123 failed at stage 2: translation fault, level 3."


def test_all_52_bits_of_an_ipa_come_from_hpfar() -> None:
    found = report(DABT_LOWER << 26 | IL | 4, 0x7FFF, 0x8000_0FFF_FFFF_FFF0)
    assert found.gpa == 0x000F_FFFF_FFFF_FFFF
    assert report(DABT_LOWER << 26 | IL | 4, None, 0x10).gpa == 0x1000


def test_a_refused_table_access_names_the_page_of_the_table() -> None:
    found = report(DABT_LOWER << 26 | IL | 1 << 7 | 0x0F | 1 << 6, 0xFFFF_0000_1234_5678, 0x0041_0000)
    assert found.on_table
    assert (found.stage, found.kind, found.gpa, found.access) == (2, FaultKind.PERMISSION, 0x4100_0000, Access.WRITE)
    assert any("the hardware's own access to a stage-1 table" in sentence for sentence in found.sentences)


def test_a_permission_fault_leaves_hpfar_undefined() -> None:
    found = report(DABT_LOWER << 26 | IL | 0x4F, 0x8000_0000, 0x0080_0000)
    assert (found.kind, found.stage, found.gpa, found.access) == (FaultKind.PERMISSION, 2, None, Access.WRITE)
    assert any("HPFAR_EL2 is not defined" in sentence for sentence in found.sentences)


def test_without_hpfar_the_stage_is_not_known() -> None:
    found = report(DABT_LOWER << 26 | IL | 7, 0x1000)
    assert found.stage is None
    assert any("do not tell the stage" in sentence for sentence in found.sentences)


def test_an_abort_from_the_same_level_is_stage_1s() -> None:
    found = report(DABT_SAME << 26 | IL | 0x47, 0x1000)
    assert (found.stage, found.user, found.access) == (1, False, Access.WRITE)


def test_an_address_that_is_not_valid_is_not_reported() -> None:
    found = report(DABT_SAME << 26 | IL | 1 << 10 | 0x10, 0x1000)
    assert found.gva is None
    assert any("FnV" in sentence for sentence in found.sentences)


def test_cache_maintenance_is_no_write() -> None:
    found = report(DABT_LOWER << 26 | IL | 1 << 8 | 1 << 6 | 7, 0x1000, 0x10)
    assert found.access is None
    assert found.sentences[0].startswith("A cache or address translation instruction of address")


@pytest.mark.parametrize(
    ("bits", "sentence"),
    [
        (2 << 22 | 3 << 16, "The instruction loads 4 bytes into w3."),
        (3 << 22 | 7 << 16 | 1 << 15, "The instruction loads 8 bytes into x7."),
        (0 << 22 | 31 << 16 | 1 << 6, "The instruction stores 1 byte of wzr."),
        (1 << 22 | 31 << 16 | 1 << 15 | 1 << 21, "The instruction loads 2 bytes into xzr and extends the sign."),
    ],
)
def test_the_instruction_syndrome(bits: int, sentence: str) -> None:
    assert sentence in report(DABT_LOWER << 26 | IL | 1 << 24 | bits | 7, 0x1000, 0x10).sentences


def test_without_isv_nothing_is_said_of_the_instruction() -> None:
    found = report(DABT_LOWER << 26 | IL | 2 << 22 | 3 << 16 | 7, 0x1000, 0x10)
    assert not any("The instruction" in sentence for sentence in found.sentences)


@pytest.mark.parametrize(
    ("esr", "sentence"),
    [
        (0x5600_0000 | 7, "SVC #0x7 was executed."),
        (0x5A00_0000 | 0xFFFF, "HVC #0xffff was executed."),
        (0x5E00_0000, "SMC #0x0 was executed."),
        (0x07E0_0000, "WFI was trapped."),
        (0x07E0_0001, "WFE was trapped."),
        (0x6230_0000 | 2 << 10 | 3 << 5, "A write of x3 to S3_0_C2_C0_0 (TTBR0_EL1) was trapped."),
        (0x6230_0000 | 10 << 10 | 4 << 5 | 2 << 1 | 1, "A read of S3_0_C10_C2_0 (MAIR_EL1) into x4 was trapped."),
        (0x6230_0000 | 15 << 10 | 31 << 5, "A write of xzr to S3_0_C15_C0_0 was trapped."),
        (0x6210_0000 | 8 << 10 | 3 << 1, "The system instruction SYS #0, C8, C3, #0 with x0 was trapped."),
        (0xBE00_0000, "The exception is no memory fault: SError interrupt."),
        (0x3E << 26, "Exception class 0x3e is reserved: the value is damaged or of a newer "
         "architecture."),
    ],
)  # fmt: skip
def test_exceptions_that_are_no_aborts(esr: int, sentence: str) -> None:
    found = report(esr)
    assert found.sentences == (sentence,)
    assert (found.kind, found.stage, found.level, found.gpa) == (None, None, None, None)


@given(
    esr=st.integers(0, (1 << 64) - 1),
    far=st.none() | st.integers(0, (1 << 64) - 1),
    hpfar=st.none() | st.integers(0, (1 << 64) - 1),
)
def test_every_bit_of_every_value_is_told(esr: int, far: int | None, hpfar: int | None) -> None:
    found = report(esr, far, hpfar)
    assert found.sentences
    for name, value in (("ESR", esr), ("FAR", far), ("HPFAR", hpfar)):
        told = [item for register, item in found.fields if register == name]
        rebuilt = sum(item.value << int(item.bits.rpartition(":")[2]) for item in told)
        assert rebuilt == (value or 0), name
        assert all(item.value for item in told if item.reserved)


def test_values_wider_than_a_register_are_refused() -> None:
    with pytest.raises(OutOfRangeError, match="ESR has 64 bits"):
        report(1 << 64)
    with pytest.raises(OutOfRangeError, match="FAR has 64 bits"):
        report(0, -1)
    with pytest.raises(OutOfRangeError, match="HPFAR has 64 bits"):
        report(0, 0, 1 << 64)


@pytest.mark.parametrize("code", sorted(CODES))
@pytest.mark.parametrize("access", list(Access))
@pytest.mark.parametrize(
    ("stage", "lower", "on_table"), [(1, True, False), (1, False, False), (2, True, False), (2, True, True)]
)
def test_what_is_encoded_reads_back(code: int, access: Access, stage: int, lower: bool, on_table: bool) -> None:
    kind, arm_level = CODES[code]
    esr = encode_esr(kind, stage, 3 - arm_level, access, lower=lower, on_table=on_table)
    assert esr & 0x3F == code
    assert esr >> 26 == (0x20 if access is Access.FETCH else 0x24) + (not lower)
    assert esr & IL
    assert bool(esr & 1 << 6) == (access is Access.WRITE)
    assert not esr & 1 << 24, "no instruction syndrome"
    found = report(esr, 0x1000, 0x10 if stage == 2 else None)
    assert (found.kind, found.level, found.access, found.on_table) == (kind, 3 - arm_level, access, on_table)
    # An external abort leaves HPFAR_EL2 unknown, so that only S1PTW tells the stage.
    told = on_table or not lower or (stage == 2 and kind is not FaultKind.TABLE_OUTSIDE_MEMORY)
    assert found.stage == (stage if told else None)
    named = stage == 2 and kind is not FaultKind.TABLE_OUTSIDE_MEMORY and (on_table or kind is not FaultKind.PERMISSION)
    assert found.gpa == (0x1000 if named else None)


def test_a_misconfigured_descriptor_is_a_translation_fault_to_hardware() -> None:
    assert encode_esr(FaultKind.MISCONFIGURATION, 1, 0, Access.READ, lower=False) == 0x9600_0007


def test_what_hardware_cannot_report_is_refused() -> None:
    for kind in (FaultKind.PERMISSION, FaultKind.ACCESS_FLAG):
        with pytest.raises(EncodingError, match="at level -1"):
            encode_esr(kind, 1, 4, Access.READ, lower=True)
    for level in (-1, 5):
        with pytest.raises(EncodingError, match="no fault status"):
            encode_esr(FaultKind.TRANSLATION, 1, level, Access.READ, lower=True)
    with pytest.raises(EncodingError, match="lower exception level"):
        encode_esr(FaultKind.TRANSLATION, 2, 0, Access.READ, lower=False)
    with pytest.raises(EncodingError, match="S1PTW"):
        encode_esr(FaultKind.TRANSLATION, 1, 0, Access.READ, lower=True, on_table=True)
    with pytest.raises(EncodingError, match="stage 3"):
        encode_esr(FaultKind.TRANSLATION, 3, 0, Access.READ, lower=True)
    with pytest.raises(EncodingError, match="cache maintenance"):
        encode_esr(FaultKind.TRANSLATION, 1, 0, Access.FETCH, lower=True, cache_maintenance=True)


def test_cache_maintenance_is_encoded_as_a_write_with_cm() -> None:
    esr = encode_esr(FaultKind.TRANSLATION, 2, 0, Access.READ, lower=True, cache_maintenance=True)
    assert esr & (1 << 8 | 1 << 6) == 1 << 8 | 1 << 6


# Fault status codes of external aborts and memory errors (IsExternalSyncAbort).
EXTERNAL = {0x10, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x1B, 0x1C, 0x1D, 0x1E, 0x1F}


@pytest.mark.parametrize("status", range(64))
@pytest.mark.parametrize("exception", [IABT_LOWER, DABT_SAME])
def test_bits_12_and_11_are_the_state_only_after_an_external_abort(status: int, exception: int) -> None:
    """AArch64.FaultSyndrome: SET of external aborts, LST of faults of 64-byte loads and stores, else reserved."""
    fields = {
        item.name: item for _, item in report(exception << 26 | IL | 2 << 11 | status).fields if item.bits == "12:11"
    }
    kind = CODES.get(status, (None, 0))[0]
    if status in EXTERNAL:
        assert set(fields) == {"SET"}
        assert fields["SET"].meaning == "uncontainable"
    elif exception == DABT_SAME and (
        kind in (FaultKind.TRANSLATION, FaultKind.ACCESS_FLAG, FaultKind.PERMISSION) or status == 0x2A
    ):
        assert set(fields) == {"LST"}
    else:
        assert set(fields) == {"RES0"}
        assert fields["RES0"].reserved


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0x00, "an output address in a descriptor or the root table's address is wider than PS or IPS allows"),
        (0x02, "an output address in a descriptor is wider than PS or IPS allows"),
        (0x04, "or the address is wider than T0SZ or T1SZ leaves"),
        (0x0B, "the access flag (AF) of the descriptor is clear and hardware is not to set it"),
    ],
)
def test_a_fault_is_told_in_arms_terms(status: int, words: str) -> None:
    (sentence,) = (line for line in report(DABT_LOWER << 26 | IL | status).sentences if line.startswith("That means"))
    assert words in sentence
    assert "dirty" not in sentence


def test_hpfar_is_either_the_ipa_or_not_defined() -> None:
    for esr, defined in (
        (DABT_LOWER << 26 | IL | 0x4F, False),
        (DABT_LOWER << 26 | IL | 7, True),
        (0x5A00_0000, False),
    ):
        found = report(esr, 0x8000_0000, 0x0080_0000)
        (fipa,) = (item for name, item in found.fields if name == "HPFAR" and item.name == "FIPA")
        assert (fipa.meaning == "not defined after this exception") is not defined
        assert (found.gpa is not None) is defined


def test_a_named_level_tells_the_stage() -> None:
    """What EL1 takes from a lower level comes from EL0, and is stage 1's: stage 2's go to EL2."""
    found = report(DABT_LOWER << 26 | IL | 0x47, 0x1000, el=1)
    assert (found.stage, found.user, found.kind) == (1, True, FaultKind.TRANSLATION)
    assert "EL1 took it, so it came from EL0 and stage 1 of EL1&0 refused it." in found.sentences
    external = report(DABT_LOWER << 26 | IL | 0x10, 0x1000, el=1)
    assert (external.stage, external.user) == (None, True)
    assert "EL1 took it, so it came from EL0." in external.sentences
    assert report(DABT_LOWER << 26 | IL | 0x47, 0x1000, el=2).stage is None
    assert report(DABT_LOWER << 26 | IL | 1 << 24 | 0x47, 0x1000, el=2).stage == 2, "only stage 2 sets ISV"
    for el, hpfar, problem in ((1, 0x10, "HPFAR_EL2 says nothing"), (0, None, "EL0 takes no exceptions")):
        with pytest.raises(EncodingError, match=problem):
            report(DABT_LOWER << 26 | IL | 7, 0x1000, hpfar, el)


def test_an_abort_of_the_same_level_that_is_no_tables_is_not_stage_1s() -> None:
    found = report(DABT_SAME << 26 | IL | 0x21, 0x1001)
    assert (found.stage, found.kind) == (None, None)
    assert "It came from the same exception level." in found.sentences


def test_an_external_abort_is_encoded_by_its_code() -> None:
    assert encode_abort(0x10, Access.READ, lower=False) == 0x9600_0010
    assert encode_abort(0x10, Access.WRITE, lower=True) == 0x9200_0050
    assert encode_abort(0x10, Access.FETCH, lower=True) == 0x8200_0010


@pytest.mark.parametrize(("fnv", "gva"), [(0, 0x1234), (1 << 10, None)])
def test_an_external_abort_has_its_address_unless_fnv_says_otherwise(fnv: int, gva: int | None) -> None:
    """D24.2 "ESR_EL2", FnV: of external aborts that are not on a walk only."""
    assert report(DABT_SAME << 26 | IL | fnv | 0x10, 0x1234).gva == gva
    assert report(DABT_SAME << 26 | IL | fnv | 0x07, 0x1234).gva == 0x1234


def test_the_address_in_hpfar_is_told_as_the_accesss_or_the_tables() -> None:
    own = report(DABT_LOWER << 26 | IL | 7, 0x8000_0123, 0x0080_0000)
    assert "The IPA is 0x80000123." in own.sentences
    table = report(DABT_LOWER << 26 | IL | 1 << 7 | 7, 0x8000_0123, 0x0080_0000)
    assert "The table is in the IPA page 0x80000000." in table.sentences


@pytest.mark.parametrize(
    ("status", "wide"), [(0x04, True), (0x05, False), (0x07, False), (0x2B, False), (0x0C, False), (0x14, False)]
)
def test_only_a_translation_fault_at_level_0_may_be_of_an_input_too_wide(status: int, wide: bool) -> None:
    """AArch64.S1Walk and S2Walk: an input beyond TxSZ is a translation fault at level 0."""
    told = " ".join(report(DABT_LOWER << 26 | IL | status).sentences)
    assert ("wider than T0SZ or T1SZ leaves" in told) is wide
