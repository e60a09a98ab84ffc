"""What a run did to memory, as plain values: the end-of-run table and the JSON are made from these."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..config.describe import region_type
from ..flags import MappingFlags, MapType
from ..tables.explain import Step, Walk


@dataclass(frozen=True, slots=True)
class RegionReport:
    """A region at the end of a run.

    Args:
        map_type, flags: as declared.
        populated_bytes: how much of it had host memory.
        hpa: the host memory behind it as [start, end) pairs, merged and sorted.
    """

    name: str
    start: int
    size: int
    map_type: MapType
    flags: MappingFlags
    populated_bytes: int
    hpa: tuple[tuple[int, int], ...]

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of this region."""
        return {
            "name": self.name,
            "start": self.start,
            "size": self.size,
            **region_type(self.map_type, self.flags),
            "populated_bytes": self.populated_bytes,
            "hpa": [list(span) for span in self.hpa],
        }


@dataclass(frozen=True, slots=True)
class ViolationReport:
    """An access that a region, or the absence of one, forbade.

    Args:
        count: how often this page was accessed in this way from this place.
        action: what was done: "stopped", "injected", "discarded".
        syndrome: the registers in which hardware reports it, by their names in the manual.
        walk: the explained walk, when one was made.
    """

    gpa: int
    gva: int | None
    pc: int
    access: str
    region: str
    action: str
    count: int = 1
    value: int | None = None
    walk: Walk | None = None
    syndrome: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VmReport:
    """One VM's run.

    Args:
        exit: "off", "stopped", "time limit", "interrupted", "error".
        reason: one sentence on it.
        wall_s: seconds the guest ran.
        guest_faults: faults of the guest's own stage 1, delivered to it.
        stage2_faults: faults of our stage 2, by how they were resolved in `resolutions`.
        fault_latency_ns: stage-2 faults by the power of two of ns below which our handling of them stayed.
        fills: TLB misses that our walker served.
        populated_bytes: guest memory that had frames at the end.
        leaves: number of leaves of the stage-2 table by leaf size in bytes.
        tables: number of stage-2 tables; table_bytes their size.
        violations_dropped: violations that were not kept, because there were too many different ones.
    """

    name: str
    id: int
    engine: str
    arch: str
    format: str
    exit: str
    reason: str
    wall_s: float
    guest_faults: int
    stage2_faults: int
    fills: int
    populated_bytes: int
    declared_bytes: int
    leaves: dict[int, int]
    tables: int
    table_bytes: int
    regions: tuple[RegionReport, ...]
    console: str
    resolutions: dict[str, int] = field(default_factory=dict)
    fault_latency_ns: dict[int, int] = field(default_factory=dict)
    violations: tuple[ViolationReport, ...] = ()
    violations_dropped: int = 0
    devices: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The JSON object of this VM."""
        return {
            "name": self.name,
            "id": self.id,
            "engine": self.engine,
            "arch": self.arch,
            "format": self.format,
            "exit": self.exit,
            "reason": self.reason,
            "wall_s": round(self.wall_s, 3),
            "guest_faults": self.guest_faults,
            "stage2_faults": self.stage2_faults,
            "resolutions": self.resolutions,
            "fault_latency_ns": {str(bound): count for bound, count in self.fault_latency_ns.items()},
            "fills": self.fills,
            "populated_bytes": self.populated_bytes,
            "declared_bytes": self.declared_bytes,
            "leaves": {str(size): count for size, count in sorted(self.leaves.items())},
            "tables": self.tables,
            "table_bytes": self.table_bytes,
            "regions": [region.as_dict() for region in self.regions],
            "violations": [
                {
                    "gpa": violation.gpa,
                    "gva": violation.gva,
                    "pc": violation.pc,
                    "access": violation.access,
                    "region": violation.region,
                    "action": violation.action,
                    "count": violation.count,
                    "value": violation.value,
                    "syndrome": violation.syndrome,
                    "walk": None if violation.walk is None else _walk_dict(violation.walk),
                }
                for violation in self.violations
            ],
            "violations_dropped": self.violations_dropped,
            "devices": self.devices,
            "console": self.console,
        }


def _walk_dict(walk: Walk) -> dict[str, Any]:
    """A walk in short: the entries that were read, and how it ended."""
    return {"steps": [_step_dict(step) for step in walk.steps], "result": str(walk.result)}


def _step_dict(step: Step) -> dict[str, Any]:
    return {
        "stage": step.stage,
        "level": step.level,
        "slot": step.slot,
        "slot_hpa": step.slot_hpa,
        "entry": step.entry,
        "kind": step.kind.name.lower(),
        "under": [_step_dict(under) for under in step.under],
    }
