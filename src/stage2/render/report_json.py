"""What a run did to memory as a JSON object, for `stage2 run --json` and `stage2 demo --json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..prove.theorem import Proof
from ..space.faults import Resolution
from ..space.json_shapes import range_json
from ..vm.cost import Cost, HostCost
from ..vm.exit_log import ExitReport
from ..vm.report import ViolationReport, VmReport, region_report_json
from .walk import Outcome, WalkView
from .walk_json import walk_json

if TYPE_CHECKING:
    from ..engines.saving import Saved, SnapshotReport


def reports_json(
    reports: Sequence[VmReport],
    cost: HostCost,
    proof: Proof | None = None,
    proofs: int = 0,
    saved: Saved | None = None,
) -> dict[str, Any]:
    """The VMs of one run, what the hypervisor costs, and who holds host memory at the end.

    Args:
        reports, cost: of the run.
        proof: of isolation at the end, or the one that failed on the way.
        proofs: how often it was proved while VMs ran.
        saved: what was saved and put back.
    """
    return {
        "vms": [vm_report_json(report) for report in reports],
        "hypervisor": {
            "vms": [{"name": one.vm, **_cost_json(one)} for one in cost.vms],
            "own": _cost_json(cost.own),
            "total": _cost_json(cost.total),
        },
        "owners": [
            {**range_json("HPA", span), "kind": owner.kind.value, "name": owner.name} for span, owner in cost.owners
        ],
        "isolation": None if proof is None else _isolation_json(proof, proofs),
        "saved": None if saved is None else _saved_json(saved),
    }


def _saved_json(saved: Saved) -> dict[str, Any]:
    """What was done of --restore, --snapshot and --precopy."""
    copy = saved.precopy
    return {
        "restored": _snapshot_json(saved.restored),
        "snapshot": _snapshot_json(saved.snapshot),
        "precopy": None
        if copy is None
        else {
            "file": str(copy.file),
            "pages": copy.pages,
            "guest_ns": copy.nanos,
            "rounds": [asdict(one) for one in (*copy.rounds, copy.last)],
            "downtime_s": copy.downtime_s,
        },
        "problem": saved.problem,
    }


def _snapshot_json(one: SnapshotReport | None) -> dict[str, Any] | None:
    return None if one is None else {"file": str(one.file), "pages": one.pages, "guest_ns": one.nanos}


def _isolation_json(proof: Proof, proofs: int) -> dict[str, Any]:
    """What is proved of a run's tables; `stage2 prove --json` says it whole."""
    return {
        "proved": proof.proved,
        "proofs": proofs,
        "theorems": [
            {
                "name": theorem.name,
                "holds": theorem.holds,
                "problem": None if theorem.witness is None else theorem.witness.problem,
            }
            for theorem in proof.theorems
        ],
    }


def _cost_json(cost: Cost) -> dict[str, int]:
    """Bytes, by what they are for."""
    return {
        "image": cost.image,
        "tables": cost.tables,
        "per_cpu": cost.per_cpu,
        "timers": cost.timers,
        "frames": cost.frames,
        "python": cost.python,
    }


def vm_report_json(report: VmReport) -> dict[str, Any]:
    """One VM."""
    return {
        "name": report.name,
        "id": report.id,
        "engine": report.engine,
        "arch": report.arch,
        "format": report.format,
        "exit": report.exit,
        "reason": report.reason,
        "wall_s": round(report.wall_s, 3),
        "guest_faults": report.guest_faults,
        "stage2_faults": report.stage2_faults,
        "resolutions": report.resolutions,
        "fault_latency_ns": {str(bound): count for bound, count in report.fault_latency_ns.items()},
        "promotions": {way.replace(" ", "_"): count for way, count in report.promotions.items()},
        "fills": report.fills,
        "populated_bytes": report.populated_bytes,
        "declared_bytes": report.declared_bytes,
        "leaves": {str(size): count for size, count in sorted(report.leaves.items())},
        "tables": report.tables,
        "table_bytes": report.table_bytes,
        "regions": [region_report_json(region) for region in report.regions],
        "violations": [_violation_json(violation, report.name) for violation in report.violations],
        "violations_dropped": report.violations_dropped,
        "devices": report.devices,
        "dirty_log": None if report.dirty_log is None else asdict(report.dirty_log),
        "exits": [_exit_json(one) for one in report.exits],
        "console": report.console,
    }


def _exit_json(exit_: ExitReport) -> dict[str, Any]:
    """One kind of exit."""
    return {
        "kind": exit_.kind,
        "count": exit_.count,
        "waited_us": None if exit_.waited is None else asdict(exit_.waited),
        "handled_us": asdict(exit_.handled),
        "doorbell_us": exit_.doorbell_us,
    }


def _violation_json(violation: ViolationReport, vm: str) -> dict[str, Any]:
    view = _view(violation, vm)
    return {
        "gpa": violation.gpa,
        "gva": violation.gva,
        "pc": violation.pc,
        "access": violation.access,
        "region": violation.region,
        "action": violation.action,
        "count": violation.count,
        "value": violation.value,
        "syndrome": violation.syndrome,
        "walk": None if view is None else walk_json(view),
    }


def _view(violation: ViolationReport, vm: str) -> WalkView | None:
    """The walk of a violation with what is known of its address; None where none was made."""
    walk, result = violation.walk, violation.result
    if walk is None or walk.stage_2 is None:
        return None
    # What a device did not emulate became something else, which the violation's action tells.
    outcome = None
    if result is not None and result.resolution is not Resolution.DEVICE:
        outcome = Outcome(violation.access, result, done=True)
    return WalkView(
        walk=walk,
        stage_2=walk.stage_2,
        stage_1=walk.stage_1,
        vm=vm,
        region=None if result is None else result.region,
        outcome=outcome,
    )
