"""EPT violations, nested page faults and page faults in words; the manuals' bits are written down a second time."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import EncodingError, OutOfRangeError
from stage2.flags import Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.outcome import USER_SHIFT, FaultKind
from stage2.formats.syndrome import FaultReport
from stage2.formats.x86.ept_faults import encode_qualification, ept_fault, ept_violation
from stage2.formats.x86.syndromes import (
    encode_exitinfo1,
    encode_page_fault_error,
    hardware_report,
    nested_page_fault,
    page_fault,
)

R, W, X = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE
NOTHING = MappingFlags(0)
KINDS = (FaultKind.TRANSLATION, FaultKind.PERMISSION, FaultKind.MISCONFIGURATION)
REPORTS: tuple[Callable[[int, int | None], FaultReport], ...] = (ept_violation, nested_page_fault, page_fault)


def fields(report: FaultReport) -> dict[str, int]:
    return {field.name: field.value for _, field in report.fields}


# --- EPT violations ------------------------------------------------------------------------------------------------


@given(
    accesses=st.sampled_from([R, W, X, R | W]),
    allowed=st.integers(0, 7).map(MappingFlags),
    user=st.booleans(),
    on_table=st.booleans(),
    page=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    nmi=st.booleans(),
    stack=st.booleans(),
)
def test_a_qualification_is_read_back_as_it_was_made(
    accesses: MappingFlags,
    allowed: MappingFlags,
    user: bool,
    on_table: bool,
    page: tuple[bool, bool, bool],
    nmi: bool,
    stack: bool,
) -> None:
    on_table = on_table and not accesses & X
    page = (False, False, False) if on_table else page
    value = encode_qualification(
        accesses, allowed, user_fetches=user, on_table=on_table, user_page=page[0], writable_page=page[1],
        no_execute_page=page[2], nmi_unblocking=nmi, shadow_stack=stack,
    )  # fmt: skip
    bits = [int(accesses), int(allowed), user, 1, not on_table, *page, nmi, stack]
    assert value == sum(bit << low for bit, low in zip(bits, (0, 3, 6, 7, 8, 9, 10, 11, 12, 13), strict=True))
    found = ept_violation(value, 0x5000, 0x7000)
    assert found.access is (Access.FETCH if accesses & X else Access.WRITE if accesses & W else Access.READ)
    assert (found.stage, found.on_table, found.gpa, found.gva) == (2, on_table, 0x5000, 0x7000)
    # Nothing allowed may be an entry that is not present, or entries that have nothing in common.
    assert found.kind is (FaultKind.PERMISSION if allowed and accesses & ~allowed else None)
    named = fields(found)
    assert (named["user page"], named["writable page"], named["NX page"]) == tuple(map(int, page))


def test_a_write_to_a_read_only_page_says_what_is_allowed() -> None:
    found = ept_violation(0x18A, 0x8000_1000, 0x1234)
    assert found.sentences[0] == "A write of virtual address 0x1234 was stopped at guest-physical address 0x80001000."
    assert found.sentences[1] == "The EPT entries together allow reads only."
    assert (found.kind, found.user, found.level) == (FaultKind.PERMISSION, None, None)


def test_a_refused_table_access_is_told_apart() -> None:
    found = ept_violation(encode_qualification(R | W, R, on_table=True), 0x9000)
    assert found.on_table
    assert found.sentences[0].startswith("A read that counts as a write")
    assert any("hardware walked the guest's tables" in sentence for sentence in found.sentences)
    assert not any("hardware walked" in sentence for sentence in ept_violation(0x181, 0x9000).sentences)


def test_the_guests_own_permissions_are_told_where_the_processor_knows_them() -> None:
    value = encode_qualification(W, R, user_page=True, writable_page=True, no_execute_page=True)
    assert "The guest's own tables make it a user page, writable and not executable." in ept_violation(value).sentences
    assert not any("own tables make it" in sentence for sentence in ept_violation(0x18A).sentences)


@pytest.mark.parametrize(
    ("page", "told"),
    [
        ((True, False, False), "a user page, read-only and executable"),
        ((False, True, False), "a supervisor page, writable and executable"),
        ((False, False, True), "a supervisor page, read-only and not executable"),
    ],
)
def test_each_of_the_guests_own_permissions_has_its_bit(page: tuple[bool, bool, bool], told: str) -> None:
    """SDM Vol. 3C, table 29-7: bit 9 for a user-mode page, 10 for a read/write page, 11 for execute-disable."""
    value = encode_qualification(W, R, user_page=page[0], writable_page=page[1], no_execute_page=page[2])
    assert f"The guest's own tables make it {told}." in ept_violation(value).sentences


@pytest.mark.parametrize("bit", [12, 13, 14, 15, 16])
def test_the_bits_above_say_nothing_of_the_guests_own_permissions(bit: int) -> None:
    """SDM Vol. 3C, table 29-7: bits 12 to 16 are NMI unblocking, shadow stack, and what follows."""
    assert not any("own tables make it" in sentence for sentence in ept_violation(0x18A | 1 << bit).sentences)


def test_a_qualification_without_an_access_is_still_one_of_stage_2() -> None:
    """SDM Vol. 3C, table 29-7: one of bits 2:0 is set in every EPT violation's."""
    found = ept_violation(0x180, 0x5000, 0x7000)
    assert "Bits 2:0 record no access" in found.sentences[0]
    assert (found.stage, found.kind, found.access, found.gpa, found.gva) == (2, None, None, 0x5000, 0x7000)


def test_all_that_the_entries_allow_is_listed() -> None:
    """SDM Vol. 3C, table 29-7: bits 3, 4 and 5 are the AND of the entries' bits 0, 1 and 2."""
    found = ept_violation(encode_qualification(R, R | W | X))
    assert found.sentences[1].startswith("The EPT entries together allow reads, writes and fetches, so they do not")
    two = ept_violation(encode_qualification(X, R | W))
    assert two.sentences[1] == "The EPT entries together allow reads and writes only."


def test_an_address_that_is_not_valid_is_not_reported() -> None:
    found = ept_violation(encode_qualification(R, NOTHING, linear=False), 0x1000, 0xDEAD)
    assert found.gva is None
    assert not found.on_table
    assert any("No guest-linear address" in sentence for sentence in found.sentences)


def test_an_access_that_the_entries_allow_has_other_causes() -> None:
    fetch = ept_violation(encode_qualification(X, R | X))
    assert fetch.kind is None
    assert "mode-based execute control" in fetch.sentences[1]
    assert "verification" in ept_violation(encode_qualification(R, R)).sentences[1]


def test_entries_that_allow_nothing_together_may_all_be_present() -> None:
    """SDM Vol. 3C, table 29-7: bits 5:3 are the AND of bits 2:0 of all entries; one that allows reads alone under
    one that allows fetches alone gives zero, as one that is not present does."""
    found = ept_violation(encode_qualification(R, NOTHING))
    assert found.kind is None
    assert found.sentences[1] == (
        "The EPT entries together allow nothing: one on the way is not present, or each forbids what the others allow."
    )


def test_what_is_said_of_bit_6_follows_its_value() -> None:
    """SDM Vol. 3C, table 29-7: the AND of bit 10 with mode-based execute control, undefined without."""
    forbidden, allowed = (ept_violation(encode_qualification(X, X, user_fetches=bit)) for bit in (False, True))
    assert "a user-mode fetch under mode-based execute control, which bit 6 forbids" in forbidden.sentences[1]
    assert "forbids" not in allowed.sentences[1]
    assert "user-mode fetches (if mode-based execute control is on)" in allowed.sentences[1]
    alone = ept_violation(encode_qualification(X, NOTHING, user_fetches=True))
    assert alone.kind is None
    assert "if it is off, nothing" in alone.sentences[1]


@dataclass
class Refused:
    """A leaf that refused an access."""

    kind: FaultKind = FaultKind.PERMISSION
    level: int = 0
    on_table: bool = False
    on_mark: bool = False


@pytest.mark.parametrize(("on", "bit_6"), [((), 0), (("ad",), 0), (("mbec",), 1)])
def test_bit_6_is_written_under_mode_based_execute_control_alone(on: tuple[str, ...], bit_6: int) -> None:
    """SDM Vol. 3C, table 29-7: bit 6 is undefined without the control; we write it as zero."""
    fmt = by_name("ept4")
    allowed = int(R | X) | int(R | X) << USER_SHIFT
    report = hardware_report(fmt, Refused(), Access.WRITE, 0x7000, 0x5000, allowed, fmt.controls_with(*on))
    assert report == {
        "exit_qualification": 1 << 1 | 0b101 << 3 | bit_6 << 6 | 0b11 << 7,
        "guest_physical_address": 0x5000,
        "guest_linear_address": 0x7000,
    }


def test_a_violation_is_the_same_with_its_exit_reason() -> None:
    value = encode_qualification(W, R)
    plain, told = ept_violation(value, 0x5000, 0x7000), ept_fault(value, 0x5000, 0x7000, 48)
    assert (told.sentences, told.kind, told.access) == (plain.sentences, plain.kind, plain.access)
    assert told.fields[0][1].meaning == "EPT violation"
    assert ept_fault(value, 0x5000, 0x7000) == plain


def test_a_misconfiguration_says_nothing_of_the_access() -> None:
    """SDM Vol. 3C, 29.2.1: the exit qualification and the guest-linear address are undefined for it."""
    found = ept_fault(0x18A, 0x5000, 0x7000, 49)
    assert (found.title, found.kind, found.stage) == ("EPT misconfiguration", FaultKind.MISCONFIGURATION, 2)
    assert (found.access, found.gva, found.gpa) == (None, None, 0x5000)
    assert found == ept_fault(None, 0x5000, None, 49)
    assert "not given" in ept_fault(exit_reason=49).sentences[-1]


@pytest.mark.parametrize(
    ("qualification", "reason", "error", "told"),
    [
        (0x181, 14, EncodingError, "exit reason 14 is no fault of EPT: 48 is a violation, 49 a misconfiguration"),
        (None, 48, EncodingError, "give its exit qualification too"),
        (None, None, EncodingError, "give its exit qualification too"),
        (0x181, 1 << 32, OutOfRangeError, "the exit reason has 32 bits"),
    ],
)
def test_an_exit_that_is_no_fault_of_ept_is_refused(
    qualification: int | None, reason: int | None, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        ept_fault(qualification, 0x1000, exit_reason=reason)


def test_a_misconfiguration_has_no_qualification() -> None:
    found = ept_violation(0, 0xFEE0_0000)
    assert (found.kind, found.access, found.gpa) == (None, None, 0xFEE0_0000)
    assert len(found.sentences) == 1
    assert "exit reason 49" in found.sentences[0]


@pytest.mark.parametrize(
    ("accesses", "options", "told"),
    [
        (NOTHING, {}, "needs an access"),
        (R, {"on_table": True, "linear": False}, "guest-linear address only"),
        (X, {"on_table": True}, "never fetched"),
        (R, {"on_table": True, "user_page": True}, "final access only"),
        (R, {"linear": False, "no_execute_page": True}, "final access only"),
    ],
)
def test_what_no_ept_violation_reports_is_refused(accesses: MappingFlags, options: dict[str, bool], told: str) -> None:
    with pytest.raises(EncodingError, match=told):
        encode_qualification(accesses, R, **options)


# --- nested page faults --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "access", "stack"), list(product(KINDS, Access, (False, True))))
def test_exitinfo1_is_read_back_as_it_was_made(kind: FaultKind, access: Access, stack: bool) -> None:
    for on_table in (False, True) if access is Access.WRITE else (False,):
        value = encode_exitinfo1(kind, access, on_table=on_table, shadow_stack=stack)
        present, reserved = kind is not FaultKind.TRANSLATION, kind is FaultKind.MISCONFIGURATION
        bits = [present, access is Access.WRITE, 1, reserved, access is Access.FETCH, 0, stack]
        assert value == sum(bit << low for low, bit in enumerate(bits)) | 1 << (33 if on_table else 32)
        found = nested_page_fault(value, 0xFEE0_0123)
        assert (found.kind, found.access, found.on_table) == (kind, access, on_table)
        assert (found.stage, found.gpa, found.gva, found.user) == (2, 0xFEE0_0123, None, None)


def test_a_nested_page_fault_in_plain_sentences() -> None:
    found = nested_page_fault(0x1_0000_0006, 0xFEE0_0000)
    assert found.sentences == (
        "A write was stopped at guest-physical address 0xfee00000.",
        "A nested entry on the way is not present.",
    )
    assert any("EXITINFO2" in sentence for sentence in nested_page_fault(0x1_0000_0006).sentences)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (0x3_0000_0007, "Bits 32 and 33 are both set"),
        (0x0_0000_0007, "Neither bit 32 nor 33"),
        (0x1_0000_000C, "RSV without P"),
        (0x1_0000_0003, "US is clear"),
        (0x1_8000_0007, "reverse map table"),
        (0x2_0000_0007, "hardware walked the guest's tables"),
    ],
)
def test_what_is_odd_in_exitinfo1_is_told(value: int, told: str) -> None:
    assert any(told in sentence for sentence in nested_page_fault(value, 0).sentences)


def test_walks_of_the_guests_tables_are_writes_of_the_nested_tables() -> None:
    with pytest.raises(EncodingError, match="counts as a write"):
        encode_exitinfo1(FaultKind.PERMISSION, Access.READ, on_table=True)


# --- page faults ---------------------------------------------------------------------------------------------------


@given(
    kind=st.sampled_from(KINDS),
    access=st.sampled_from(Access),
    user=st.booleans(),
    hlat=st.booleans(),
    key=st.booleans(),
    stack=st.booleans(),
    sgx=st.booleans(),
)
def test_an_error_code_is_read_back_as_it_was_made(
    kind: FaultKind, access: Access, user: bool, hlat: bool, key: bool, stack: bool, sgx: bool
) -> None:
    permission, data = kind is FaultKind.PERMISSION, access is not Access.FETCH
    key, sgx, stack = key and permission and data, sgx and permission, stack and data
    value = encode_page_fault_error(kind, access, user=user, hlat=hlat, protection_key=key, shadow_stack=stack, sgx=sgx)
    present, reserved = kind is not FaultKind.TRANSLATION, kind is FaultKind.MISCONFIGURATION
    bits = [present, access is Access.WRITE, user, reserved, access is Access.FETCH, key, stack, hlat]
    assert value == sum(bit << low for low, bit in enumerate(bits)) | sgx << 15
    found = page_fault(value, 0x1234)
    assert (found.kind, found.access, found.user, found.gva, found.stage) == (kind, access, user, 0x1234, 1)


def test_a_fetch_reads_like_a_data_read_without_nxe_and_smep() -> None:
    value = encode_page_fault_error(FaultKind.TRANSLATION, Access.FETCH, user=True, fetches_told=False)
    assert page_fault(value).access is Access.READ


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (0b00001, "CR4.SMAP only"),
        (0b00011, "CR0.WP"),
        (0b10001, "CR4.SMEP"),
        (0b00101, "a supervisor page"),
        (0b00111, "U/S or R/W clear"),
        (0b10101, "NX set"),
        (0b01000, "RSVD without P"),
        (0b100101, "protection key"),
        (0x8007, "SGX"),
        (0x8000_0007, "reverse map table"),
        (0x81, "HLAT"),
    ],
)
def test_a_page_fault_tells_what_may_forbid_the_access(error: int, told: str) -> None:
    assert any(told in sentence for sentence in page_fault(error, 0).sentences)


@pytest.mark.parametrize(
    ("error", "cause"),
    [(0b100101, "protection key"), (0x8005, "SGX's access control"), (0x8000_0005, "reverse map table")],
)
def test_a_cause_outside_the_tables_takes_the_place_of_theirs(error: int, cause: str) -> None:
    """SDM Vol. 3A, 5.7 (PK is bit 5, SGX bit 15); APM Vol. 2, 8.4.2 (RMP is bit 31)."""
    first, second, *rest = page_fault(error, 0x1234).sentences
    assert first == "A read of virtual address 0x1234 faulted, from user mode."
    assert cause in second
    assert rest == []


@pytest.mark.parametrize("kind", [kind for kind in FaultKind if kind not in KINDS])
def test_kinds_that_x86_does_not_report_are_refused(kind: FaultKind) -> None:
    with pytest.raises(EncodingError, match="no nested page fault reports"):
        encode_exitinfo1(kind, Access.READ)
    with pytest.raises(EncodingError, match="no page fault reports"):
        encode_page_fault_error(kind, Access.READ, user=False)


@pytest.mark.parametrize(
    ("kind", "access", "option"),
    [
        (FaultKind.TRANSLATION, Access.READ, "protection_key"),
        (FaultKind.MISCONFIGURATION, Access.READ, "sgx"),
        (FaultKind.PERMISSION, Access.FETCH, "protection_key"),
        (FaultKind.PERMISSION, Access.FETCH, "shadow_stack"),
    ],
)
def test_error_codes_that_contradict_themselves_are_refused(kind: FaultKind, access: Access, option: str) -> None:
    with pytest.raises(EncodingError):
        encode_page_fault_error(kind, access, user=True, **{option: True})


# --- all of them ---------------------------------------------------------------------------------------------------


@given(value=st.integers(0, (1 << 64) - 1), address=st.none() | st.integers(0, (1 << 64) - 1))
def test_every_set_bit_is_told_and_nothing_ends_in_a_traceback(value: int, address: int | None) -> None:
    for report in REPORTS:
        found = report(value, address)
        first = found.fields[0][0]
        told = sum(field.value << int(field.bits.rpartition(":")[2]) for name, field in found.fields if name == first)
        assert told == value
        assert all(sentence.endswith(".") for sentence in found.sentences)
        assert any(field.reserved for name, field in found.fields) == any(
            field.name == "reserved" and field.value for _, field in found.fields
        )


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_values_wider_than_64_bits_are_refused(report: Callable[[int, int | None], FaultReport], value: int) -> None:
    with pytest.raises(OutOfRangeError, match="has 64 bits"):
        report(value, None)
    with pytest.raises(OutOfRangeError, match="has 64 bits"):
        report(1, value)


def test_reserved_bits_are_flagged() -> None:
    assert [field.bits for _, field in ept_violation(1 << 20 | 1).fields if field.reserved] == ["63:17"]
    assert [field.bits for _, field in nested_page_fault(1 << 5 | 1 << 32).fields if field.reserved] == ["5"]
    assert [field.bits for _, field in page_fault(1 << 9 | 1 << 40).fields if field.reserved] == ["14:8", "63:32"]
