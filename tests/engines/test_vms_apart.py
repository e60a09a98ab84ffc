"""Two Linux VMs with a declared share, and a hostile guest beside them: nobody reaches what is not theirs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from linux_guest import require_linux
from stage2.address import SIZE_2M, Gpa, Hpa, Range
from stage2.config.load import load_vm
from stage2.config.regions import PlannedVm
from stage2.engines.run import RunOutcome, run_all
from stage2.flags import RWX
from stage2.memory.owners import Owner, OwnerKind
from stage2.space.region import Populate, ViolationPolicy
from stage2.vm.boot import load_images
from stage2.vm.host import Host, Options, build
from stage2.vm.images import read_images
from stage2.vm.report import ViolationReport, VmReport
from waiting import HANG_S

EXAMPLES = Path(__file__).parents[2] / "examples"
CANARY = 0xCAFE_D00D_5EA1_ED01
HOSTILE_MARK = 0x5BAD_5BAD_6B72_0000
"""What the hostile guest writes wherever it can."""


def hostile_config() -> PlannedVm:
    with as_file(files("stage2.vm") / "guests") as folder:
        return load_vm(folder / "hostile-riscv64.toml")


def words(host: Host, span: Range) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.frombuffer(host.frames.memory.view(Hpa(span.start), span.size), dtype=np.uint64)


def held_by(host: Host, *, hostile: bool) -> list[Range]:
    """Every HPA range that has an owner: the hostile VM's memory, or everybody else's."""
    mine = Owner(OwnerKind.VM, "hostile")
    memory = host.frames.memory
    return [span for span, owner in host.frames.owners if (owner == mine) is hostile and memory.contains(span.start)]


def put_canaries(host: Host) -> None:
    """A canary at the beginning, the middle and the end of every frame that is not the hostile VM's or a table's."""
    for span, owner in host.frames.owners:
        if host.frames.memory.contains(span.start) and owner.kind is not OwnerKind.TABLES and owner.name != "hostile":
            frame = words(host, span).reshape(-1, 512)
            frame[:, [0, 255, 511]] = CANARY


def leaks(host: Host) -> list[str]:
    """What of the others' memory the hostile guest has, and what of it is theirs now."""
    mine = held_by(host, hostile=True)
    assert mine
    found = [f"the hostile guest holds a canary in {span}" for span in mine if (words(host, span) == CANARY).any()]
    others = held_by(host, hostile=False)
    return found + [f"it wrote into {span}" for span in others if (words(host, span) == HOSTILE_MARK).any()]


def run_beside_hostile(
    *others: PlannedVm, sabotage: Callable[[Host], None] | None = None
) -> tuple[RunOutcome, list[str]]:
    """Run VMs with the hostile guest beside them; the outcome, and what leaked."""
    configs = [*others, hostile_config()]
    with build(configs, options=Options(Populate.EAGER, SIZE_2M)) as host:
        put_canaries(host)
        for vm, config in zip(host.vms, configs, strict=True):
            load_images(vm, config, read_images(config))
        seen = sum(int((words(host, span) == CANARY).sum()) for span in held_by(host, hostile=False))
        assert seen > 5_000, "there are too few canaries for this test to mean anything"
        if sabotage is not None:
            sabotage(host)
        outcome = run_all(host, max_seconds=HANG_S)
        return outcome, leaks(host)


def spans(report: VmReport, *, share: bool) -> set[tuple[int, int]]:
    return {span for region in report.regions if (region.map_type.name == "SHARE") is share for span in region.hpa}


def test_two_linux_vms_share_what_they_declared_and_a_hostile_guest_sees_no_foreign_byte() -> None:
    require_linux()
    writer, reader = (load_vm(EXAMPLES / f"share-linux-{side}.toml") for side in "ab")
    outcome, leaked = run_beside_hostile(writer, reader)
    assert leaked == []
    first, second, hostile = outcome.reports
    for report in outcome.reports:
        assert report.exit == "off", report.reason + "\n" + report.console[-2000:]
    for report in (first, second):
        assert "stage2-guest: memory work ok" in report.console
    assert "share: pattern written" in first.console
    assert "share: 32 words of the other VM ok" in second.console
    assert hostile.console.endswith("accesses that went through: 0\n")
    # Their memory is disjoint, and the only host memory two of them reach is the share.
    private = [spans(report, share=False) for report in outcome.reports]
    everything = sorted(span for of_one in private for span in of_one)
    assert all(a[1] <= b[0] for a, b in pairwise(everything))
    (shared,) = spans(first, share=True)
    assert spans(second, share=True) == {shared}
    assert all(shared[1] <= start or end <= shared[0] for start, end in everything)


def test_one_foreign_page_in_the_hostile_guests_table_is_found_by_the_canaries() -> None:
    def sabotage(host: Host) -> None:
        victim, hostile = host.vms
        # The last of the victim's 8 MiB of RAM, by a bare edit of the table that owners know nothing of.
        found = victim.space.query(Gpa(0x8000_0000 + (7 << 20)))
        assert found is not None
        hostile.space.page_table.map_page(0x4000_0000, found.hpa, RWX)

    with as_file(files("stage2.vm") / "guests") as folder:
        outcome, leaked = run_beside_hostile(load_vm(folder / "demo-riscv64.toml"), sabotage=sabotage)
    assert any("holds a canary" in line for line in leaked)
    assert any("it wrote into" in line for line in leaked)
    hostile = outcome.reports[1]
    assert hostile.reason == "the guest asked for failure"
    assert not hostile.console.endswith("accesses that went through: 0\n")


def hostile_alone(config: PlannedVm) -> VmReport:
    with build([config]) as host:
        (vm,) = host.vms
        load_images(vm, config, read_images(config))
        (report,) = run_all(host, max_seconds=HANG_S).reports
    return report


@pytest.fixture(scope="module")
def attack() -> VmReport:
    return hostile_alone(hostile_config())


def test_every_kind_of_attack_is_reported_with_gpa_region_pc_and_walk(attack: VmReport) -> None:
    assert attack.exit == "off"
    assert attack.reason == "the guest asked for shutdown"
    first: dict[tuple[str, str], ViolationReport] = {}
    for violation in attack.violations:
        first.setdefault((violation.region, violation.access), violation)
    assert first.keys() == {
        ("hole", "read"),
        ("hole", "write"),
        ("hole", "fetch"),
        ("hole (stage-1 table)", "read"),
        ("uart (stage-1 table)", "read"),
        ("entries (stage-1 table)", "write"),
    }
    for (_, access), violation in first.items():
        assert violation.action == "injected"
        assert violation.walk is not None
        assert "(HPA" not in str(violation.walk.result)
        assert violation.pc == violation.gpa if access == "fetch" else violation.pc >> 12 == 0x80000
    assert first["entries (stage-1 table)", "write"].gpa == 0x2000_0000


def test_the_policy_stop_ends_the_hostile_guest_at_its_first_attack() -> None:
    config = hostile_config()
    options = replace(config.options, violation=ViolationPolicy.STOP)
    report = hostile_alone(replace(config, extensions=replace(config.extensions, options=options)))
    assert report.exit == "stopped"
    assert report.reason.startswith("read of GPA 0x0 (hole: no region) at PC 0x8000")
    (violation,) = report.violations
    assert violation.action == "stopped"
    assert violation.walk is not None
