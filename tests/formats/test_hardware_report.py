"""The registers in which hardware reports a refused access, read back by `stage2 explain fault`."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from format_lists import ALL_SECOND_STAGES
from stage2.address import Gva, Range
from stage2.crash.reading import read_text
from stage2.crash.report import report_fault
from stage2.errors import ConfigError, EncodingError
from stage2.flags import Access, MappingFlags
from stage2.formats import by_name, family_of
from stage2.formats.outcome import FaultKind
from stage2.formats.record import Format
from stage2.formats.syndrome import FaultReport
from stage2.memory.physical import PhysicalMemory
from stage2.tables.explain import explain_stage
from stage2.tables.regime import Regime
from stage2.tables.result import Fault

NOTHING = MappingFlags(0)
FLAGS = {Access.READ: MappingFlags.READ, Access.WRITE: MappingFlags.WRITE, Access.FETCH: MappingFlags.EXECUTE}


def report_of(fmt: Format, *arguments: Any, **more: Any) -> dict[str, int]:
    return family_of(fmt).hardware_report(fmt, *arguments, **more)


def told(registers: dict[str, int]) -> FaultReport:
    """What `stage2 explain fault` says of a line with these registers."""
    text = " ".join(f"{name}={value:#x}" for name, value in registers.items())
    return report_fault(read_text(text).events[0].values)


@st.composite
def refusals(draw: st.DrawFn) -> tuple[Format, Fault, Access, int, int, MappingFlags]:
    """A format, and an access that its tables refuse: kind, level and addresses that belong together."""
    fmt = by_name(draw(st.sampled_from(ALL_SECOND_STAGES)))
    kind = draw(st.sampled_from([FaultKind.TRANSLATION, FaultKind.PERMISSION]))
    access = draw(st.sampled_from(Access))
    on_table = draw(st.booleans())
    on_mark = on_table and (fmt.name.startswith("npt") or draw(st.booleans()))
    top = fmt.levels - 1 if kind is FaultKind.TRANSLATION else fmt.top_leaf_level
    # From the second page on: RISC-V cannot tell an htval of 0 from one that was not written.
    gpa = draw(st.integers(0x1000, (1 << min(fmt.input_bits, 52)) - 1))
    gva = draw(st.integers(1, (1 << 64) - 1))
    # The offset within the page is the same on both sides; the entry of a table has an address of its own.
    gpa = gpa & ~7 if on_table else gpa & ~0xFFF | gva & 0xFFF
    allowed = NOTHING
    if kind is FaultKind.PERMISSION:
        wanted = (Access.WRITE if on_mark else Access.READ) if on_table else access
        allowed = (MappingFlags.EXECUTE if wanted is Access.READ else MappingFlags.READ) & ~FLAGS[wanted]
    fault = Fault(kind, 2, draw(st.integers(0, top)), gpa, Gva(gva), access, on_table, on_mark)
    return fmt, fault, access, gva, gpa, allowed


@given(refusals())
def test_explain_reads_back_what_was_reported(drawn: tuple[Format, Fault, Access, int, int, MappingFlags]) -> None:
    fmt, fault, access, gva, gpa, allowed = drawn
    found = told(family_of(fmt).hardware_report(fmt, fault, access, gva, gpa, allowed))
    assert (found.arch, found.stage, found.on_table) == (family_of(fmt).arch, 2, fault.on_table)
    nested = fmt.name.startswith("npt")
    # RISC-V has one guest-page fault for every reason; EPT tells together what all entries allow, and that is nothing.
    untold = fmt.family == "riscv" or (fmt.name.startswith("ept") and not allowed)
    assert found.kind is (None if untold else fault.kind)
    assert found.gva == (None if nested else gva)
    if fmt.family == "x86" and fault.on_table:
        # x86 tells the access to the table, not the one that needed it.
        assert found.access is (Access.WRITE if fault.on_mark else Access.READ)
    else:
        assert found.access is access
    if fmt.family == "arm":
        assert found.level == fault.level
        unknown = fault.kind is FaultKind.PERMISSION and not fault.on_table
        assert found.gpa == (None if unknown else gpa & ~0xFFF if fault.on_table else gpa)
    else:
        assert found.gpa == gpa


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sv39x4", {"scause": 21, "stval": 0xFFFF_0000_1238, "htval": 0x3000_0238 >> 2, "htinst": 0}),
        # EC 0x24, IL, level 2: a translation fault.
        ("arm-s2-4k-40", {"ESR_EL2": 0x9200_0006, "FAR_EL2": 0xFFFF_0000_1238, "HPFAR_EL2": 0x30_0000}),
        (
            "ept4",
            {
                "exit_qualification": 0x181,
                "guest_physical_address": 0x3000_0238,
                "guest_linear_address": 0xFFFF_0000_1238,
            },
        ),
        ("npt4", {"EXITINFO1": 1 << 32 | 4, "EXITINFO2": 0x3000_0238}),
    ],
)
def test_a_read_of_what_is_not_mapped_in_the_manuals_numbers(name: str, expected: dict[str, int]) -> None:
    gpa, gva = 0x3000_0238, 0xFFFF_0000_1238
    fault = Fault(FaultKind.TRANSLATION, 2, 1, gpa, Gva(gva), Access.READ)
    assert report_of(by_name(name), fault, Access.READ, gva, gpa, NOTHING) == expected


@pytest.mark.parametrize(
    ("name", "register", "expected"),
    [
        ("sv39x4", "scause", 23),
        ("sv39x4", "htinst", 0x3000),
        # S1PTW and WnR: the store needed the table.
        ("arm-s2-4k-40", "ESR_EL2", 0x92_00_00_C6),
        ("ept4", "exit_qualification", 0x81),
    ],
)
def test_a_refused_read_of_a_stage_1_table_is_told_from_the_store_that_needed_it(
    name: str, register: str, expected: int
) -> None:
    fault = Fault(FaultKind.TRANSLATION, 2, 1, 0x3000_0238, Gva(0x1000), Access.WRITE, on_table=True)
    assert report_of(by_name(name), fault, Access.WRITE, 0x1000, 0x3000_0238, NOTHING)[register] == expected


def test_the_hardwares_write_of_a_mark_is_told_from_a_read() -> None:
    fault = Fault(FaultKind.PERMISSION, 2, 0, 0x3000_0238, Gva(0x1000), Access.READ, on_table=True, on_mark=True)
    arguments = (fault, Access.READ, 0x1000, 0x3000_0238, MappingFlags.READ)
    assert report_of(by_name("sv39x4"), *arguments)["htinst"] == 0x3020
    assert report_of(by_name("ept4"), *arguments)["exit_qualification"] == 0x8B
    assert report_of(by_name("npt4"), *arguments)["EXITINFO1"] == 1 << 33 | 7


@pytest.mark.parametrize("name", ["arm-s2-4k-40", "arm-s2-16k-40", "arm-s2-4k-48"])
def test_an_ipa_wider_than_t0sz_leaves_is_arms_translation_fault_at_level_0(name: str) -> None:
    fmt = by_name(name)
    gpa = 1 << fmt.input_bits
    fault = Fault(FaultKind.TRANSLATION, 2, fmt.levels - 1, gpa, Gva(gpa), Access.READ)
    found = told(family_of(fmt).hardware_report(fmt, fault, Access.READ, gpa, gpa, NOTHING))
    assert (found.kind, found.level, found.gpa) == (FaultKind.TRANSLATION, 3, gpa)


@pytest.mark.parametrize("name", ["ept4", "npt4"])
def test_a_misconfigured_entry_is_told_as_such(name: str) -> None:
    fault = Fault(FaultKind.MISCONFIGURATION, 2, 0, 0x1000, Gva(0x2000), Access.READ)
    found = report_of(by_name(name), fault, Access.READ, 0x2000, 0x1000, NOTHING)
    assert told(found).kind is FaultKind.MISCONFIGURATION
    if name == "ept4":
        # Of a misconfiguration, hardware tells the address alone.
        assert found == {"exit_reason": 49, "guest_physical_address": 0x1000}


@pytest.mark.parametrize(
    ("permissions", "mode_based", "bits"),
    [
        (0b001_001, True, 0b0001), (0b101_001, True, 0b1001), (0b001_101, True, 0b0101), (0b101_101, True, 0b1101),
        (0b101_101, False, 0b0101),
    ],
)  # fmt: skip
def test_bit_6_tells_whether_user_fetches_are_allowed_under_mode_based_execute_control(
    permissions: int, mode_based: bool, bits: int
) -> None:
    """SDM Vol. 3C, table 29-7; without the control the bit is undefined, and we leave it clear."""
    fmt = by_name("ept4")
    controls = fmt.controls_with("mbec") if mode_based else fmt.default_controls
    fault = Fault(FaultKind.PERMISSION, 2, 0, 0x1000, Gva(0x2000), Access.WRITE)
    found = report_of(fmt, fault, Access.WRITE, 0x2000, 0x1000, permissions, controls)
    assert found["exit_qualification"] >> 3 & 0xF == bits


def test_a_fault_that_hardware_has_no_words_for_is_refused() -> None:
    fault = Fault(FaultKind.TABLE_OUTSIDE_MEMORY, 2, 0, 0x1000, Gva(0x2000), Access.READ)
    with pytest.raises(EncodingError, match="no nested page fault reports table outside memory"):
        report_of(by_name("npt4"), fault, Access.READ, 0x2000, 0x1000, NOTHING)


def test_a_trapped_store_is_told_with_its_size_and_register() -> None:
    """`str wzr, [x1]` to a read-only page: ISV, 4 bytes, register 31."""
    fmt = by_name("arm-s2-4k-40")
    fault = Fault(FaultKind.PERMISSION, 2, 0, 0x3000_0238, Gva(0x1238), Access.WRITE)
    registers = report_of(fmt, fault, Access.WRITE, 0x1238, 0x3000_0238, MappingFlags.READ, instruction=0xB900003F)
    assert registers["ESR_EL2"] == 0x939F_004F
    assert "The instruction stores 4 bytes of wzr." in told(registers).sentences
    for name in ("sv39x4", "ept4", "npt4"):
        plain = (by_name(name), fault, Access.WRITE, 0x1238, 0x3000_0238, MappingFlags.READ)
        assert report_of(*plain, instruction=0xB900003F) == report_of(*plain), "other architectures do not tell it so"


def test_the_exception_level_in_a_registers_name_is_used() -> None:
    assert report_fault(read_text("ESR_EL1: 0x92000047, FAR_EL1: 0x1000").events[0].values).stage == 1
    assert report_fault(read_text("esr=0x92000047 el=1").events[0].values).stage == 1
    assert report_fault(read_text("esr=0x92000047 far=0x1000").events[0].values).stage is None
    with pytest.raises(ConfigError, match="FAR_EL2 is of EL2, and what stands before it of EL1"):
        read_text("ESR_EL1=0x92000047 FAR_EL2=0x1000")


@pytest.mark.parametrize("levels", ["arm-s2-4k-40", "arm-s2-4k-48", "arm-s2-4k-52-5level-lpa2"])
def test_a_root_above_ps_is_an_address_size_fault_at_arms_level_0(levels: str) -> None:
    """DFSC 0: "Address size fault, level 0 of translation or translation table base register" (AArch64.S2Walk)."""
    fmt = by_name(levels)
    root = 16 * fmt.root_size + (1 << 36)
    regime = Regime.of(fmt, root, controls=fmt.controls_with("pa36"))
    with PhysicalMemory([Range.sized(0, 1 << 20)]) as memory:
        walk = explain_stage(memory, regime, 0x1000, Access.READ)
        assert isinstance(walk.result, Fault)
        assert (walk.result.kind, walk.result.level, walk.steps) == (FaultKind.ADDRESS_SIZE, 3, ())
        registers = report_of(fmt, walk.result, Access.READ, 0x1000, 0x1000, NOTHING)
        assert registers["ESR_EL2"] & 0x3F == 0
        # The width of the IPA is looked at first.
        wide = explain_stage(memory, regime, 1 << fmt.input_bits, Access.READ).result
        assert isinstance(wide, Fault)
        assert wide.kind is FaultKind.TRANSLATION
