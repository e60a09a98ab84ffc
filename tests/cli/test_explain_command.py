"""`stage2 explain`."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.cli.main import call
from stage2.crash.numbers import parse_register
from stage2.crash.reading import read_text
from stage2.crash.report import report_fault
from stage2.errors import ConfigError, OutOfRangeError, Stage2Error
from stage2.formats import by_name
from stage2.formats.outcome import EntryKind
from stage2.formats.syndrome import FaultReport
from stage2.render.explain import view_entry
from waiting import HANG_S

LEAF_DF = 0x2000_0000 | 0xDF
"""RISC-V: GPA 0x8000_0000, V R W X U A D."""


@pytest.fixture(autouse=True)
def no_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)


def explained(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert call(["explain", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def entry(capsys: pytest.CaptureFixture[str], fmt: str, level: int, value: int, *options: str) -> Any:
    return explained(capsys, "entry", "--format", fmt, "--level", str(level), f"{value:#x}", *options)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one line that an error is."""
    assert call(["explain", *words]) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    return streams.err


# --- entries ------------------------------------------------------------------------------------------------------


def test_a_leaf_of_sv39x4_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    found = entry(capsys, "sv39x4", 0, LEAF_DF)
    assert list(found)[:2] == ["kind", "address"]
    assert {key: found[key] for key in ("kind", "address", "read", "write", "execute", "user", "memory_type")} == {
        "kind": "leaf",
        "address": 0x8000_0000,
        "read": True,
        "write": True,
        "execute": True,
        "user": True,
        "memory_type": None,
    }
    assert {"bits": "53:10", "name": "PPN"}.items() <= found["fields"][-3].items()
    assert all({"bits", "name", "value", "meaning"} <= set(field) for field in found["fields"])


@pytest.mark.parametrize(("value", "user"), [(0xCF, False), (0xDF, True)])
def test_user_is_the_entrys_own_bit(capsys: pytest.CaptureFixture[str], value: int, user: bool) -> None:
    found = entry(capsys, "sv39", 0, value)
    assert (found["read"], found["user"]) == (True, user)


def test_an_ept_leaf_names_its_memory_type(capsys: pytest.CaptureFixture[str]) -> None:
    found = entry(capsys, "ept4", 1, 0x8000_0000 | 0xB0 | 0b101)
    assert (found["kind"], found["address"], found["memory_type"]) == ("leaf", 0x8000_0000, "write-back")
    assert (found["read"], found["write"], found["execute"]) == (True, False, True)
    assert entry(capsys, "ept4", 0, 0x7)["memory_type"] == "uncached"


def test_an_execute_only_ept_page_is_a_leaf(capsys: pytest.CaptureFixture[str]) -> None:
    found = entry(capsys, "ept4", 0, 0x1000 | 6 << 3 | 0b100)
    assert (found["kind"], found["read"], found["execute"]) == ("leaf", False, True)


@pytest.mark.parametrize(("fmt", "value"), [("sv39", 0x2000_0001), ("sv39x4", 0x2000_0001), ("ept4", 0x8000_0007)])
def test_a_table_has_an_address_and_no_memory_type(capsys: pytest.CaptureFixture[str], fmt: str, value: int) -> None:
    found = entry(capsys, fmt, 1, value)
    assert (found["kind"], found["address"], found["memory_type"]) == ("table", 0x8000_0000, None)


@pytest.mark.parametrize("fmt", ["sv39", "sv39x4", "ept4"])
def test_what_is_not_present_allows_nothing(capsys: pytest.CaptureFixture[str], fmt: str) -> None:
    found = entry(capsys, fmt, 2, 0)
    assert (found["kind"], found["address"], found["reason"]) == ("none", None, None)
    assert not any(found[key] for key in ("read", "write", "execute", "user"))


@pytest.mark.parametrize(
    ("fmt", "level", "value"),
    [
        ("sv39", 0, 0x2000_00C5),
        ("sv39x4", 0, 1 << 60 | LEAF_DF),
        ("sv39x4", 1, LEAF_DF | 1 << 10),
        ("ept4", 0, 0b010),
        ("ept4", 0, 2 << 3 | 7),
        ("ept4", 3, 0x80 | 7),
    ],
)
def test_a_misconfigured_entry_says_why(capsys: pytest.CaptureFixture[str], fmt: str, level: int, value: int) -> None:
    found = entry(capsys, fmt, level, value)
    assert (found["kind"], found["address"]) == ("misconfigured", None)
    assert found["reason"]


def test_reserved_bits_are_flagged(capsys: pytest.CaptureFixture[str]) -> None:
    found = entry(capsys, "sv39x4", 0, 1 << 60 | LEAF_DF)
    assert [field["bits"] for field in found["fields"] if field["reserved"]] == ["60:54"]
    assert call(["explain", "entry", "--format", "sv39x4", "--level", "0", f"{1 << 60 | LEAF_DF:#x}"]) == 0
    assert "set, but reserved" in capsys.readouterr().out


def test_controls_that_an_extension_needs_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    value = 2 << 61 | LEAF_DF
    assert entry(capsys, "sv39x4", 0, value)["kind"] == "misconfigured"
    assert entry(capsys, "sv39x4", 0, value, "--pbmt")["memory_type"] == "device"
    napot = 1 << 63 | 0x8 << 10 | LEAF_DF
    assert entry(capsys, "sv39x4", 0, napot)["kind"] == "misconfigured"
    assert entry(capsys, "sv39x4", 0, napot, "--napot")["address"] == 0x8000_0000


def test_a_page_for_user_fetches_only_exists_under_mode_based_execute(capsys: pytest.CaptureFixture[str]) -> None:
    value = 6 << 3 | 1 << 10 | 1
    assert entry(capsys, "ept4", 0, value)["execute"] is False
    found = entry(capsys, "ept4", 0, value, "--mbec")
    assert (found["execute"], found["execute_privileged"], found["execute_user"]) == (True, False, True)


@given(value=st.integers(0, (1 << 64) - 1), name=st.sampled_from(["sv39", "sv39x4", "ept4"]), data=st.data())
def test_every_set_bit_of_a_leaf_or_table_is_told(value: int, name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    level = data.draw(st.integers(0, fmt.levels - 1))
    value = data.draw(st.sampled_from([value, value & 0x003F_FFFF_C000_00FF]))
    view = view_entry(fmt, value, level)
    assert view.reason if view.kind is EntryKind.MISCONFIGURED else view.reason is None
    if view.kind not in (EntryKind.LEAF, EntryKind.TABLE):
        return
    told = 0
    for field in view.fields:
        told |= field.value << int(field.bits.rpartition(":")[2])
    assert told == value


def test_text_is_80_columns_wide_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        ["entry", "--format", "ept4", "--level", "0", "0x80000037"],
        ["entry", "--format", "sv39x4", "--level", "2", "0x200000001"],
        ["entry", "--format", "sv39x4", "--level", "1", "0"],
        ["register", "hgatp", "0x9801000000080004"],
        ["register", "mstatus", "0xffffffffffffffff"],
        ["fault", "scause=21", "stval=0x1000", "htval=0x20000400", "htinst=0x3000"],
        ["register", "IA32_VMX_EPT_VPID_CAP", "0xffffffffffffffff"],
        ["register", "CR4", "0x3506e0"],
        ["fault", "qualification=0x7fffffffffffffff", "gpa=0xffffffffffffffff", "gva=0xffffffffffffffff"],
        ["fault", "exitinfo1=0xffffffffffffffff", "exitinfo2=0xffffffffffffffff"],
        ["fault", "error=0xffffffffffffffff"],
    ]
    for words in lines:
        assert call(["explain", *words]) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert text.endswith("\n")


def test_text_begins_with_what_the_entry_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", "entry", "--format", "sv39x4", "--level", "0", hex(LEAF_DF)]) == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("sv39x4 entry 0x00000000200000df at level 0")
    assert second == "A leaf: it maps 4 KiB at HPA 0x80000000."
    assert third == "It allows read, write, execute."


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--format", "sv39x4", "--level", "3", "0x1"), "sv39x4 has levels 0 to 2"),
        (("--format", "sv39x4", "--level=-1", "0x1"), "sv39x4 has levels 0 to 2"),
        (("--format", "sv39x5", "--level", "0", "0x1"), "did you mean"),
        (("--format", "sv39", "--level", "one", "0x1"), "--level"),
        (("--format", "sv39", "--level", "0", "0x1_0000_0000_0000_0000"), "more than 64 bits"),
        (("--format", "sv39", "--level", "0", "9" * 5000), "entry 9"),
        (("--format", "sv39", "--level", "0", "0xg"), "is no number"),
        (("--format", "sv39", "--level", "0"), "ENTRY"),
        (("--format", "sv39", "--level", "0", "1", "--mbec"), "mbec means nothing for sv39"),
        (("--format", "ept4", "--level", "0", "1", "--pbmt"), "pbmt means nothing for ept4"),
    ],
)
def test_wrong_entries_are_one_clear_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert told in refused(capsys, "entry", *words)


# --- registers ----------------------------------------------------------------------------------------------------


def test_a_register_is_told_with_its_summary_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "register", "HGATP", "0x8000700000080004")
    assert (found["register"], found["arch"], found["value"]) == ("hgatp", "riscv64", 0x8000_7000_0008_0004)
    assert found["summary"]["VMID"] == "7"
    assert [field["name"] for field in found["fields"]] == ["PPN", "VMID", "MODE"]


def test_reserved_bits_of_a_register_are_flagged(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "register", "hgatp", "0x8800000000000000")
    assert [field["bits"] for field in found["fields"] if field["reserved"]] == ["59:58"]
    assert call(["explain", "register", "hgatp", "0x8800000000000000"]) == 0
    assert "Reserved bits are set: 59:58." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("hgapt", "0x1"), "did you mean hgatp?"),
        (("satp", "0x1_0000_0000_0000_0000"), "more than 64 bits"),
        (("satp", "fffg"), "registers and entries are hexadecimal"),
        (("satp",), "satp has no value: write satp 0x1f"),
        (("satp=",), "satp has no value"),
        (("satp=1=2",), "satp 1=2 is no number"),
        (("EPPT", "0x1"), "did you mean eptp?"),
        (("VPID", "0x10000"), "VPID has 16 bits; 0x10000 does not fit"),
    ],
)
def test_wrong_registers_are_one_clear_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str
) -> None:
    assert told in refused(capsys, "register", *words)


@pytest.mark.parametrize(("value", "fmt"), [("0x4100005e", "ept4"), ("0x41000026", "ept5")])
def test_an_eptp_is_told_with_its_format(capsys: pytest.CaptureFixture[str], value: str, fmt: str) -> None:
    found = explained(capsys, "register", "eptp", value)
    assert (found["register"], found["arch"]) == ("EPTP", "x86_64")
    assert found["summary"]["format"].startswith(fmt)
    assert not [field["bits"] for field in found["fields"] if field["reserved"]]


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("satp", "0x3000000000000000", "MODE 3 is reserved"),
        ("hgatp", "7000000000000000", "MODE 7 is reserved"),
        ("EPTP", "0x1", "memory type 1 is reserved"),
        ("EPTP", "0x1006", "walk length field 0 is reserved"),
        ("EPTP", "0x1000000000101e", "above 2^52"),
        ("EPTP", "0xf1e", "bits 11:8"),  # Intel SDM Vol. 3C, 27.2.1.1
        ("CR0", "0x80000000", "PG without PE"),
        ("IA32_PAT", "0x2", "PA0 is 2, a reserved memory type"),
        ("VTCR_EL2", "0", "T0SZ 0 asks for 64-bit IPAs"),
        ("TCR_EL1", "0", "T0SZ 0 asks for 64-bit addresses"),
    ],
)
def test_a_register_that_holds_what_it_may_not_is_told_field_by_field_with_the_reason(
    capsys: pytest.CaptureFixture[str], name: str, value: str, told: str
) -> None:
    found = explained(capsys, "register", name, value)
    assert told in found["reason"]
    assert (found["legal"], found["summary"]) == (False, {})
    assert sum(field["value"] << int(field["bits"].rpartition(":")[2]) for field in found["fields"]) == int(value, 16)
    assert call(["explain", "register", name, value]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"Illegal: {found['reason']}." in text


def test_registers_and_entries_are_hexadecimal_with_and_without_0x(capsys: pytest.CaptureFixture[str]) -> None:
    assert explained(capsys, "register", "satp", "8000000000080000") == explained(
        capsys, "register", "satp", "0x8000_0000_0008_0000"
    )
    assert explained(capsys, "entry", "--format", "sv39", "--level", "0", "200000df")["value"] == LEAF_DF


@pytest.mark.parametrize(
    "words", [("VTCR_EL2=0x80023559",), ("VTCR_EL2=80023559",), ("VTCR_EL2=", "0x80023559"), ("vtcr_el2", "=80023559")]
)
def test_a_register_is_told_as_key_and_value_too(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert explained(capsys, "register", *words) == explained(capsys, "register", "VTCR_EL2", "0x80023559")


# --- faults -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("scause=15", "stval=0x1003", "htval=0x20000400", "htinst=0"),
        ("scause=0x15, stval = 0x1003, htval=0x20000400 ,htinst=0",),
        ("SCAUSE: 0x15 STVAL: 0x1003 HTVAL: 0x2000_0400 HTINST: 0x0",),
        ("mcause: 15; mtval: 0x1003; mtval2: 0x20000400; mtinst: 0;",),
    ],
)
def test_a_fault_is_understood_as_pairs_and_as_a_pasted_line(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    found = explained(capsys, "fault", *words)
    assert (found["stage"], found["access"], found["gpa"], found["gva"]) == (2, "read", 0x8000_1003, 0x1003)
    assert found["sentences"]


@pytest.mark.parametrize(
    ("family", "function", "words", "arguments"),
    [
        ("arm", "report", "hpfar=3 esr=1 far=2", (1, 2, 3, None)),
        ("arm", "report", "esr=1", (1, None, None, None)),
        ("x86", "ept_fault", "qualification=1 gpa=2", (1, 2, None, None)),
        ("x86", "ept_fault", "gva=3 gpa=2 qualification=1", (1, 2, 3, None)),
        ("x86", "ept_fault", "exit_reason=49 gpa=2", (None, 2, None, 49)),
        ("x86", "nested_page_fault", "exitinfo2=2 exitinfo1=1", (1, 2)),
        ("x86", "page_fault", "error_code=1 cr2=2", (1, 2)),
        ("riscv", "report", "htinst=4 htval=3 scause=1", (1, None, 3, 4)),
        ("riscv", "machine_report", "mtinst=4 mtval2=3 mcause=1", (1, None, 3, 4)),
        ("riscv", "guest_report", "vstval=2 vscause=1", (1, 2)),
    ],
)
def test_each_family_gets_its_registers_in_order(
    monkeypatch: pytest.MonkeyPatch, family: str, function: str, words: str, arguments: tuple[int | None, ...]
) -> None:
    found = FaultReport("", "", ())
    called = Mock(return_value=found)
    monkeypatch.setitem(sys.modules, f"stage2.formats.{family}.syndromes", SimpleNamespace(**{function: called}))
    assert report_fault(read_text(words).events[0].values) is found
    called.assert_called_once_with(*arguments)


def test_faults_of_x86_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    found = explained(capsys, "fault", "exit_qualification: 0x18a, guest_physical_address: 0x8000_1000")
    assert (found["arch"], found["kind"], found["access"], found["gpa"]) == (
        "x86_64",
        "permission",
        "write",
        0x80001000,
    )
    found = explained(capsys, "fault", "exit_reason=49", "gpa=0xfee00000")
    assert (found["title"], found["kind"], found["gpa"]) == ("EPT misconfiguration", "misconfiguration", 0xFEE0_0000)
    found = explained(capsys, "fault", "exitinfo1=0x100000006", "exitinfo2=0xfee00000")
    assert (found["title"], found["kind"], found["gpa"]) == ("nested page fault", "translation", 0xFEE0_0000)
    found = explained(capsys, "fault", "error_code=0x14 CR2=0x1000")
    assert (found["stage"], found["access"], found["user"], found["gva"]) == (1, "fetch", True, 0x1000)


def test_keys_of_arm_give_the_exception_level_apart() -> None:
    assert read_text("ESR_EL2: 0x92000047, FAR_EL2 = 0xffff000012345678 hpfar=0x10").events[0].values == {
        "esr": 0x9200_0047,
        "far": 0xFFFF_0000_1234_5678,
        "hpfar": 0x10,
        "el": 2,
    }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("scause=21", "esr=0x1"), "scause and esr do not belong together"),
        (("qualification=1", "exitinfo1=2"), "do not belong together"),
        (("exitinfo1=1", "gpa=2"), "gpa of an EPT violation"),
        (("error=1", "qualification=2"), "error is of an x86 page fault"),
        (("qualification=0x1_0000_0000_0000_0000",), "more than 64 bits"),
        (("stval=0x1000",), "needs scause="),
        (("far=0x1000", "hpfar=1"), "needs esr="),
        (("gpa=0x1000",), "needs qualification="),
        (("exitinfo2=0x1000",), "needs exitinfo1="),
        (("cr2=0x1000",), "needs error="),
        (("scause=21", "scause=22"), "scause is given twice"),
        (("scause=g",), "registers and entries are hexadecimal"),
        (("scause=0x1_0000_0000_0000_0000",), "more than 64 bits"),
        (("scause",), "no register of a memory fault"),
        (("scause=",), "scause has no value"),
        (("scause=-1",), "is no number"),
        (("",), "nothing is given"),
        (("x" * 2_000_000,), "too long"),
        ((), "give the registers"),
        (("reason 48",), "no register of a memory fault"),
    ],
)
def test_wrong_faults_are_one_clear_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], told: str) -> None:
    assert told in refused(capsys, "fault", *words)


@given(line=st.text(alphabet=st.sampled_from("scaue=: ,;0x1fz_\n\u00e9"), max_size=40))
def test_no_line_makes_the_parser_fail_otherwise(line: str) -> None:
    with suppress(Stage2Error):
        read_text(line)


@given(number=st.integers(0, (1 << 64) - 1))
def test_numbers_are_read_with_and_without_0x(number: int) -> None:
    assert parse_register("x", f"{number:#_x}") == parse_register("x", f"{number:x}") == number


@pytest.mark.parametrize("text", ["", " ", "0x", "1.5", "+1", "0o1", "\u0661", "1 2"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no number"):
        parse_register("x", text)


def test_a_number_beyond_64_bits_is_refused() -> None:
    for text in (hex(1 << 68), hex(1 << 64), "9" * 4000):
        with pytest.raises(OutOfRangeError):
            parse_register("x", text)


# --- the command --------------------------------------------------------------------------------------------------


def test_explaining_loads_no_compiler_and_no_numpy() -> None:
    code = (
        "import sys\nfrom stage2.cli.main import call\n"
        "assert call(['explain', '--help']) == 0\n"
        "assert call(['explain', 'entry', '--format', 'sv39x4', '--level', '0', '0x200000df']) == 0\n"
        "assert call(['explain', 'register', 'satp', '0']) == 0\n"
        "assert call(['explain', 'fault', 'scause=13']) == 0\n"
        "assert not {'numba', 'numpy', 'unicorn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=HANG_S, check=True)


@pytest.mark.parametrize("command", ["entry", "register", "fault"])
def test_every_part_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["explain", command, "--help"]) == 0
    assert f"Usage: stage2 explain {command}" in capsys.readouterr().out
