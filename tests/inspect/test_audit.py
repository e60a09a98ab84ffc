"""Each rule of an audit finds what was planted, and nothing in tables that are sound."""

from __future__ import annotations

import numpy as np
import pytest
from planted import (
    BASE,
    CODE,
    DATA,
    EXECUTE,
    FAMILIES,
    KIB_4,
    MIB_2,
    PROGRAM,
    READ,
    SIZE,
    USER,
    WRITE,
    Planted,
    codes,
    sound,
)

from stage2.address import Hpa
from stage2.check.finding import Finding
from stage2.errors import ConfigError
from stage2.flags import MappingFlags
from stage2.formats import TypeSources, by_name
from stage2.inspect.audit.every import Audit, audit
from stage2.inspect.audit.roots import named_roots
from stage2.inspect.audit.survey import Budget, survey
from stage2.inspect.root import Root
from stage2.tables.explain import explain_stage
from stage2.tables.regime import Regime

each_family = pytest.mark.parametrize("family", FAMILIES)


def of(found: Audit, code: str, level: str) -> Finding:
    """The finding of a rule and a severity; there is one."""
    (one,) = [one for one in found.findings if (one.code, one.level.value) == (code, level)]
    return one


@each_family
def test_sound_tables_have_neither_errors_nor_warnings(family: str) -> None:
    found = sound(family).audit()
    assert not codes(found, "error") + codes(found, "warning")
    assert not found.has_errors
    assert len(found.looked) >= 3
    assert all(one.survey.leaves and len(one.survey.tables) for one in found.looked)


@each_family
def test_kernel_code_that_is_writable_where_it_is_executed_is_an_error(family: str) -> None:
    made = Planted.of(family)
    made.kernel((made.base, BASE, KIB_4, CODE | WRITE), (made.base + KIB_4, BASE + KIB_4, KIB_4, CODE))
    found = made.audit()
    one = of(found, "S3001", "error")
    assert one.parties[0].span is not None
    assert one.parties[0].span.start == made.base
    assert one.parties[1].span is not None
    assert (one.parties[1].span.start, one.parties[1].span.size) == (BASE, KIB_4)


@each_family
def test_kernel_code_that_is_writable_at_another_address_is_a_warning_and_by_user_mode_an_error(family: str) -> None:
    made = Planted.of(family)
    made.kernel((made.base, BASE, 2 * KIB_4, CODE), (made.base + MIB_2, BASE + KIB_4, KIB_4, DATA))
    found = made.audit()
    one = of(found, "S3002", "warning")
    assert f"{made.base + KIB_4:#x}" in one.message
    assert f"{made.base + MIB_2:#x}" in one.message
    assert not found.has_errors
    made = Planted.of(family)
    maps = (made.base, BASE, 2 * KIB_4, CODE), (PROGRAM, BASE, KIB_4, DATA | USER)
    if made.names.kernel == made.names.program:
        made.kernel(*maps)
    else:
        made.kernel(maps[0])
        made.program(maps[1])
    assert "S3002" in codes(made.audit(), "error")


@each_family
def test_what_user_mode_may_write_in_the_kernels_half_is_an_error_and_what_it_reads_a_warning(family: str) -> None:
    made = Planted.of(family)
    made.kernel((made.base, BASE, KIB_4, DATA | USER), (made.base + KIB_4, BASE + KIB_4, KIB_4, READ | USER))
    found = made.audit()
    assert f"{made.base:#x}" in of(found, "S3003", "error").message
    assert f"{made.base + KIB_4:#x}" in of(found, "S3003", "warning").message


@pytest.mark.parametrize("family", ["x86-ept", "arm", "riscv"])
def test_tables_that_their_own_program_can_write_are_an_error(family: str) -> None:
    made = Planted.of(family)
    made.program((PROGRAM, BASE, KIB_4, DATA | USER))
    root = made.roots[0].regime.root
    made.program((PROGRAM, root, KIB_4, DATA | USER))
    assert f"{root:#x}" in of(made.audit(), "S3005", "error").message


@each_family
def test_a_guest_that_can_write_a_table_of_any_stage_2_is_an_error_and_one_that_reads_it_a_warning(family: str) -> None:
    for flags, level in ((DATA, "error"), (READ, "warning")):
        made = Planted.of(family)
        other = made.vm((BASE, BASE, MIB_2, DATA))
        root = other.regime.root
        made.vm((0x1000_0000, root, KIB_4, flags))
        one = of(made.audit(), "S3005", level)
        assert "GPA 0x10000000" in one.message
        assert f"{root:#x}" in one.message


@each_family
def test_memory_that_two_vms_reach_is_found_with_the_addresses_of_both(family: str) -> None:
    made = sound(family)
    shared = BASE + 8 * MIB_2
    made.vm((0x1000_0000, shared, 2 * KIB_4, DATA))
    made.vm((0x2000_0000, shared + KIB_4, KIB_4, READ))
    one = of(made.audit(), "S3011", "error")
    spans = [(party.name, party.space, party.span.start, party.span.size) for party in one.parties if party.span]
    assert spans == [
        ("VM 3", "GPA", 0x1000_1000, KIB_4),
        ("VM 4", "GPA", 0x2000_0000, KIB_4),
        ("host memory", "HPA", shared + KIB_4, KIB_4),
    ]
    for root, gpa in zip(made.roots[-2:], (0x1000_1000, 0x2000_0000), strict=True):
        assert explain_stage(made.source, root.regime, gpa).result.hpa == shared + KIB_4  # type: ignore[union-attr]


@each_family
def test_memory_that_two_vms_only_read_is_a_warning_and_a_note_where_it_is_zeros(family: str) -> None:
    made = Planted.of(family)
    made.vm((0x1000_0000, BASE, KIB_4, READ))
    made.vm((0x2000_0000, BASE, KIB_4, READ))
    assert of(made.audit(), "S3011", "note")
    made.memory.store_u64(Hpa(BASE + 8), 1)
    assert of(made.audit(), "S3011", "warning")
    assert not made.audit().has_errors


@each_family
def test_a_guest_that_can_write_code_of_the_host_is_an_error(family: str) -> None:
    made = Planted.of(family)
    made.kernel((made.base, BASE, KIB_4, CODE))
    made.vm((0x1000_0000, BASE, KIB_4, DATA))
    one = of(made.audit(), "S3013", "error")
    assert "GPA 0x10000000" in one.message
    assert f"{made.base:#x}" in one.message


def test_two_views_of_one_vm_are_told_as_such_and_two_identifiers_are_two_vms() -> None:
    made = Planted.of("arm")
    for _ in range(2):
        made.vm((0x4000_0000, BASE, MIB_2, DATA))
    assert of(made.audit(), "S3018", "warning")
    first, second = made.roots
    tagged = [
        Root(Regime(root.regime.format, root.regime.root, root.regime.controls, number))
        for number, root in enumerate((first, second), 1)
    ]
    assert codes(audit(made.source, tagged), "error") == ["S3011"]


def test_an_executable_device_is_an_error_on_arm_and_a_warning_on_x86() -> None:
    # Our own encoders refuse it, so the entry is made executable behind their back.
    flags = DATA | MappingFlags.DEVICE
    for family, execute_never, level in (("arm", 3 << 53, "error"), ("x86-ept", 1 << 63, "warning")):
        made = Planted.of(family)
        root = made.kernel((made.base, BASE, KIB_4, flags))
        assert "S3007" not in codes(made.audit())
        step = explain_stage(made.source, root.regime, made.base).steps[-1]
        made.memory.store_u64(Hpa(step.slot), step.entry & ~execute_never)
        assert of(made.audit(), "S3007", level)


def test_executable_memory_outside_the_memory_is_a_note() -> None:
    made = Planted.of("riscv")
    made.kernel((made.base, 0x1000_0000, KIB_4, CODE))
    assert "[0x10000000, 0x10001000)" in of(made.audit(), "S3008", "note").message


def test_one_memory_with_two_memory_types_is_a_warning_and_as_normal_memory_of_arm_a_note() -> None:
    for family, flags, level in (
        ("arm", DATA | MappingFlags.DEVICE, "warning"),
        ("arm", DATA | MappingFlags.UNCACHED, "note"),
        ("x86-ept", DATA | MappingFlags.UNCACHED, "warning"),
    ):
        made = Planted.of(family)
        made.kernel((made.base, BASE, 2 * KIB_4, DATA), (made.base + MIB_2, BASE + KIB_4, KIB_4, flags))
        assert f"HPA [{BASE + KIB_4:#x}, {BASE + 2 * KIB_4:#x})" in of(made.audit(), "S3009", level).message


def test_memory_types_of_arm_are_not_judged_where_no_register_tells_them() -> None:
    made = Planted.of("arm")
    made.types = TypeSources()
    made.kernel((made.base, BASE, KIB_4, DATA), (made.base + MIB_2, BASE, KIB_4, DATA | MappingFlags.DEVICE))
    assert "S3009" not in codes(made.audit())


def test_an_entry_that_is_not_present_and_names_memory_is_a_warning_and_an_inverted_one_is_none() -> None:
    made = Planted.of("x86-ept")
    root = made.kernel((made.base, BASE, KIB_4, DATA), (made.base + KIB_4, BASE + KIB_4, KIB_4, DATA))
    step = explain_stage(made.source, root.regime, made.base).steps[-1]
    made.memory.store_u64(Hpa(step.slot), ~step.entry & 0x000F_FFFF_FFFF_F000)
    assert "S3010" not in codes(made.audit())
    made.memory.store_u64(Hpa(step.slot), step.entry & ~1)
    one = of(made.audit(), "S3010", "warning")
    assert f"at {step.slot:#x}, which names HPA {BASE:#x}" in one.message


def test_on_amd_entries_that_are_not_present_are_nothing() -> None:
    made = sound("x86-npt")
    root = made.roots[0]
    step = explain_stage(made.source, root.regime, made.base).steps[-1]
    made.memory.store_u64(Hpa(step.slot), step.entry & ~1)
    assert "S3010" not in codes(made.audit())


def test_a_mark_of_kvm_for_an_emulated_device_is_no_memory_that_vms_share() -> None:
    made = Planted.of("x86-npt")
    for number in range(2):
        root = made.vm((0x1000_0000, BASE + number * MIB_2, KIB_4, DATA))
        step = explain_stage(made.source, root.regime, 0x1000_0000).steps[-1]
        made.memory.store_u64(Hpa(step.slot), 0x0008_0000_1000_0037)
    found = made.audit()
    assert "S3011" not in codes(found)
    assert codes(found) == ["S3016"]
    assert not codes(found, "warning")


@each_family
def test_a_table_that_is_missing_and_an_entry_that_is_unsound_are_told(family: str) -> None:
    made = Planted.of(family)
    root = made.kernel((made.base, BASE, KIB_4, DATA))
    first = explain_stage(made.source, root.regime, made.base).steps[0]
    made.memory.store_u64(Hpa(first.slot), root.regime.format.table_entry(0x7000_0000))
    one = of(made.audit(), "S3015", "warning")
    assert "1 table not in the memory" in one.message
    assert "0x70000000" in one.message


def test_two_vms_with_one_table_in_common_are_a_warning() -> None:
    made = Planted.of("riscv")
    first = made.vm((0x1000_0000, BASE, KIB_4, DATA))
    second = made.vm((0x4000_0000, BASE + MIB_2, KIB_4, DATA))
    words = [explain_stage(made.source, root.regime, gpa).steps[0]
             for root, gpa in ((first, 0x1000_0000), (second, 0x4000_0000))]  # fmt: skip
    made.memory.store_u64(Hpa(words[1].slot), words[0].entry)
    found = made.audit()
    assert "S3014" in codes(found, "warning")
    assert "S3011" in codes(found, "error")


@each_family
def test_a_root_that_leads_to_itself_is_read_once_a_level(family: str) -> None:
    made = Planted.of(family)
    root = made.kernel((made.base, BASE, KIB_4, DATA))
    entry = root.regime.format.table_entry(root.regime.root)
    for slot in range(512):
        made.memory.store_u64(Hpa(root.regime.root + 8 * slot), entry)
    budget = Budget()
    seen = survey(root.regime, made.source, budget)
    assert len(seen.tables) <= 2 * root.regime.format.levels  # once for each half of the addresses
    assert not seen.cut
    assert "S3017" in codes(made.audit())


def test_tables_at_random_are_read_within_the_budget_and_what_is_left_out_is_told() -> None:
    made = Planted.of("x86-ept")
    made.table("x86-4level")
    tables = 256
    picks = np.random.default_rng(17).integers(0, tables, (tables, 512), dtype=np.uint64)
    words = np.uint64(BASE) + (picks << np.uint64(12)) | np.uint64(7)
    made.memory.write(Hpa(BASE), words.astype("<u8").tobytes())
    regime = Regime.of(by_name("x86-4level"), BASE)
    seen = survey(regime, made.source, Budget())
    assert len(seen.tables) <= 2 * tables * regime.format.levels
    cut = survey(regime, made.source, Budget(tables=600))
    assert len(cut.tables) <= 600
    assert "x86-4level@0x80000000" in cut.cut


def test_a_stage_1_below_a_stage_2_is_read_and_told_through_it() -> None:
    made = Planted.of("riscv")
    tables = made.table("sv39", (made.base, 0x1000_0000, KIB_4, CODE | WRITE))
    below = made.vm((0x1000_0000, BASE, KIB_4, DATA | EXECUTE), (BASE, BASE, SIZE, DATA | EXECUTE))
    guest = Root(tables.regime, under=below)
    found = audit(made.source, [guest])
    one = next(one for one in found.findings if one.code == "S3001" and one.level.value == "error")
    assert one.parties[0].name == "the guest of VM 1, supervisor mode"
    assert one.parties[0].space == "GVA"
    assert one.parties[1].span is not None
    assert one.parties[1].span.start == BASE


def test_roots_of_several_vms_are_named_with_the_stage_2_behind_the_stage_1() -> None:
    found = named_roots(["sv39@0x1000/sv39x4@0x4000", "sv39x4@0x8000", "sv39@0x3000"])
    assert [(root.name, root.under and root.under.name) for root in found] == [
        ("sv39x4@0x4000", None),
        ("sv39@0x1000", "sv39x4@0x4000"),
        ("sv39x4@0x8000", None),
        ("sv39@0x3000", None),
    ]
    for wrong in ("sv39@0x1000/sv48@0x2000", "sv39@0x1000/ept4@0x2000"):
        with pytest.raises(ConfigError, match="the stage 2 of the same architecture"):
            named_roots([wrong])


def test_a_guessed_root_that_a_guest_can_write_is_taken_for_the_guests_own() -> None:
    made = Planted.of("riscv")
    made.kernel((made.base, BASE, KIB_4, CODE | WRITE))
    made.vm((BASE, BASE, 32 * MIB_2, DATA))
    found = audit(made.source, made.roots, guessed=made.roots[:1])
    assert "S3005" not in [one.code for one in found.findings if "sv39@" in one.message]
    assert "it is taken for that guest's own" in of(found, "S3019", "warning").message


def test_what_rests_on_guessed_roots_of_a_stage_1_alone_is_a_warning() -> None:
    made = Planted.of("riscv")
    first = made.kernel((made.base, BASE, KIB_4, CODE | WRITE))
    made.vm((0x1000_0000, BASE, KIB_4, DATA))
    assert codes(audit(made.source, made.roots), "error") == ["S3001", "S3013"]
    found = audit(made.source, made.roots, guessed=[first])
    assert not found.has_errors
    assert {"S3001", "S3013"} <= set(codes(found, "warning"))
    assert "by roots that only a search found" in of(found, "S3001", "warning").message


def test_two_vms_that_share_are_an_error_also_where_a_search_found_them() -> None:
    made = Planted.of("arm")
    made.vm((0x1000_0000, BASE, KIB_4, DATA))
    made.vm((0x2000_0000, BASE, KIB_4, DATA))
    assert codes(audit(made.source, made.roots, guessed=made.roots), "error") == ["S3011"]
