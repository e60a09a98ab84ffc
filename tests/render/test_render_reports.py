"""Walks of two stages, and the table at the end of a run."""

from __future__ import annotations

from dataclasses import replace

from reports import host_cost, two_stage_walk, vm_report
from stage2.address import Gpa, Hpa
from stage2.flags import RWX, MemoryType
from stage2.formats import TypeSources, by_name
from stage2.formats.outcome import EntryKind, FaultKind
from stage2.render.report import MAX_SYNDROMES, hpa_text, render_report
from stage2.render.report_json import reports_json, vm_report_json
from stage2.render.tables import render_text
from stage2.render.walk import WalkView, compact_lines, render_walk
from stage2.render.walk_json import walk_json
from stage2.tables.explain import Step, Walk
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped
from stage2.vm.dirty_log import DirtyLogReport
from stage2.vm.report import ViolationReport


def test_both_stages_of_a_walk_are_told_apart() -> None:
    text = render_text(render_walk(two_stage_walk()))
    assert "Walk of GVA 0x40000123 of VM guest, for a write" in text
    assert "    stage 2, level 2: entry 2 of the table at HPA 0x90000000" in text
    assert "\nstage 1, level 2: entry 1 of the table at GPA 0x80001000" in text
    assert "GPA 0x80001008, at HPA 0x100001008" in text
    assert "Hardware would now store" in text
    assert "Result: GPA 0x80000123 is HPA 0x100000123" in text


def test_json_nests_the_stage_2_steps_of_a_stage_1_entry() -> None:
    found = walk_json(two_stage_walk())
    assert found["gva"] == 0x4000_0123
    assert found["stage_1"]["format"] == "sv39"
    assert [step["stage"] for step in found["steps"]] == [1, 2]
    assert [step["stage"] for step in found["steps"][0]["under"]] == [2]
    assert found["steps"][0]["slot_hpa"] == 0x1_0000_1008
    assert found["steps"][0]["permissions"] == "rwx/---"
    assert found["marks"] == [{"slot": 0x1_0000_1008, "entry": found["steps"][0]["entry"] | 0xC0}]


def test_both_stages_memory_types_are_combined_with_their_section() -> None:
    text = " ".join(render_text(render_walk(two_stage_walk())).split())
    assert "Accesses are write-back, as the physical memory attributes say: neither stage overrides them." in text
    assert "Svpbmt" in text
    device = replace(two_stage_walk(), sources=TypeSources(memory=MemoryType.DEVICE))
    assert walk_json(device)["result"]["memory_type"]["name"] == "device"
    found = walk_json(two_stage_walk())["result"]["memory_type"]
    assert found["name"] == "write-back"
    assert set(found) == {"name", "meaning", "manual"}


def test_the_type_of_a_stage_2_alone_is_what_its_leaf_says() -> None:
    fmt = by_name("ept4")
    word = fmt.leaf_entry(0, 0x4000_0000, RWX, MemoryType.WRITE_THROUGH)
    _, output, attributes = fmt.decode(word, 0, fmt.default_controls)
    step = Step(2, 0, 0x9000_0000, 1, 0x9000_0008, Hpa(0x9000_0008), word, EntryKind.LEAF, output, 7, (), attributes)
    walk = Walk(0x1000, None, Mapped(Hpa(output), 7, 4096, Gpa(0x1000)), (step,), ())
    view = WalkView(walk, Regime.of(fmt, Hpa(0x9000_0000)))
    assert walk_json(view)["result"]["memory_type"]["name"] == "write-through"
    text = " ".join(render_text(render_walk(view)).split())
    assert "Stage 2 gives the memory type write-through. The guest's PAT combines with it." in text


def test_a_type_that_is_reserved_is_told_and_is_no_error() -> None:
    arm_1, arm_2 = by_name("arm-s1-4k-48"), by_name("arm-s2-4k-40")
    shown = two_stage_walk()
    view = replace(shown, stage_2=Regime.of(arm_2, 0x9000_0000), stage_1=Regime.of(arm_1, 0x8000_1000))
    reserved = tuple(replace(step, attributes=0b0100 << 3) for step in shown.walk.steps)
    found = replace(view, walk=replace(shown.walk, steps=reserved)).memory_type
    assert found is not None
    assert found.name == ""
    assert found.text.startswith("The memory type is not defined: MemAttr 0b0100 of stage 2 is reserved")


def test_what_does_not_translate_has_no_memory_type() -> None:
    shown = two_stage_walk()
    fault = Fault(FaultKind.TRANSLATION, 2, 0, 0x1000)
    assert replace(shown, walk=replace(shown.walk, result=fault)).memory_type is None


def test_a_compact_walk_has_a_line_a_step() -> None:
    lines = compact_lines(two_stage_walk().walk)
    assert [line.lstrip().split(":")[0] for line in lines[:3]] == [
        "stage 2 level 2",
        "stage 1 level 2",
        "stage 2 level 2",
    ]
    assert lines[0].startswith("  ")
    assert lines[-1].startswith("-> HPA 0x100000123")


def test_hpa_ranges_are_cut_after_the_third() -> None:
    spans = [(index * 0x2000, index * 0x2000 + 0x1000) for index in range(10)]
    assert hpa_text(spans) == "0x0 +4 KiB\n0x2000 +4 KiB\n0x4000 +4 KiB\nand 7 more"
    assert hpa_text(spans[:3]).count("\n") == 2
    assert hpa_text([]) == "none"


def test_the_report_has_all_the_numbers_and_fits_80_columns() -> None:
    text = render_text(render_report([vm_report()]), width=80)
    assert all(len(line) <= 80 for line in text.splitlines())
    unwrapped = " ".join(text.split())
    for words in (
        "VM 1 [b]linux: stopped after 3.12 s (riscv64, sv39x4, on unicorn)",
        "the guest wrote to a hole",
        "57.3 MiB populated of 256 MiB declared (22 %)",
        "14,671 leaves: 14,668 of 4 KiB, 3 of 2 MiB; 34 tables, 148 KiB",
        "14,670 at stage 2 (14,668 populated, 2 hole); 3,021 of the guest's own stage 1",
        "1,234,567",
        "uart 1,200",
        "4 forbidden accesses",
        "write 0x55",
        "0xffffffff80000024",
        "walk of the write at GPA 0x20000000 (GVA 0x5000)",
        "permission fault at stage 2",
        "as hardware reports them (stage2 explain fault",
        "read 0x70000000 scause=0x15 stval=0xffffffff80000000 htval=0x1c000000 htinst=0x0",
    ):
        assert words in unwrapped


def test_the_json_has_the_registers_of_each_violation_by_name() -> None:
    first, second = vm_report_json(vm_report())["violations"]
    assert first["syndrome"] == {}
    assert second["syndrome"]["scause"] == 21


WALK_KEYS = {"vm", "gva", "gva_hex", "access", "format", "root", "root_hex", "steps", "marks", "result", "region"}
STEP_KEYS = {
    "stage", "level", "table", "table_hex", "index", "slot", "slot_hpa", "entry", "entry_hex", "kind", "output",
    "output_hex", "permissions", "meaning", "fields", "under",
}  # fmt: skip


def test_the_walk_of_a_violation_has_the_shape_of_every_walk() -> None:
    first, second = vm_report_json(vm_report())["violations"]
    by_itself = walk_json(two_stage_walk())
    assert second["walk"] is None
    assert (
        set(first["walk"])
        == set(by_itself)
        == WALK_KEYS | {"outcome", "stage_1", "processor", "depends_on", "references", "why"}
    )
    assert first["walk"]["steps"] == by_itself["steps"]
    assert all(set(step) == STEP_KEYS for step in by_itself["steps"])
    assert (first["walk"]["vm"], first["walk"]["region"]["name"]) == ("[b]linux", "rom")
    assert first["walk"]["result"]["fault"] == "permission"
    outcome = first["walk"]["outcome"]
    assert (outcome["resolution"], outcome["policy"], outcome["done"]) == ("violation", "discard", True)


def test_every_kind_of_violation_has_its_registers_shown_before_the_lines_run_out() -> None:
    many = [
        ViolationReport(0x1000 * n, None, 0, "read", "hole", "injected", syndrome={"ESR_EL2": n}) for n in range(50)
    ]
    rare = ViolationReport(0x9000_0000, None, 0, "write", "rom", "discarded", syndrome={"ESR_EL2": 0xABC})
    text = render_text(render_report([replace(vm_report(), violations=(*many, rare))]))
    assert text.count("ESR_EL2=") == MAX_SYNDROMES
    assert "ESR_EL2=0xabc" in text


def test_what_the_hypervisor_costs_is_told_for_each_vm_and_in_all() -> None:
    cost = host_cost()
    lines = [" ".join(line.split()) for line in render_text(render_report([], cost), width=80).splitlines()]
    assert "name image tables per-CPU timers frames in all Python beside" in lines
    assert "for VM one - 196 KiB 4 KiB 4 KiB 204 KiB 84.5 KiB" in lines
    assert "for itself 4 MiB - 4 KiB - 4 MiB -" in lines
    assert "in all 4 MiB 200 KiB 8 KiB 4 KiB 4.21 MiB 84.5 KiB" in lines
    found = reports_json([], cost)
    assert found["hypervisor"]["total"] == {
        "image": 4 << 20, "tables": 0x32000, "per_cpu": 8192, "timers": 4096, "frames": 0x435000, "python": 86_495,
    }  # fmt: skip
    assert [one["name"] for one in found["hypervisor"]["vms"]] == ["one", "two"]
    assert found["owners"] == [
        {"space": "HPA", "start": 0x8000_0000, "end": 0x8040_0000, "kind": "hypervisor", "name": ""}
    ]


def test_a_dirty_log_is_one_line_of_the_report() -> None:
    logged = replace(vm_report(), dirty_log=DirtyLogReport(50_000_000, 2, 300, 256, 4096))
    text = " ".join(render_text(render_report([logged])).split())
    assert "dirty log 2 harvests every 50 ms: 1.17 MiB written, at most 1 MiB in one" in text
    assert vm_report_json(logged)["dirty_log"]["pages"] == 300
    assert vm_report_json(vm_report())["dirty_log"] is None


def test_each_vm_has_its_own_part() -> None:
    text = render_text(render_report([vm_report(), vm_report()]))
    assert text.count("VM 1 [b]linux") == 2
    assert render_text(render_report([])).strip() == ""
