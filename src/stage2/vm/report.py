"""What a run did to memory, as plain values: the end-of-run table and the JSON are made of these in `render`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..address import Range
from ..flags import MappingFlags, MapType
from ..space.faults import FaultResult
from ..space.json_shapes import range_json, region_type_json
from ..tables.explain import Walk

if TYPE_CHECKING:
    from .dirty_log import DirtyLogReport
    from .exit_log import ExitReport


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


@dataclass(frozen=True, slots=True)
class ViolationReport:
    """An access that a region, or the absence of one, forbade.

    Args:
        count: how often this page was accessed in this way from this place.
        action: what was done: "stopped", "injected", "discarded".
        syndrome: the registers in which hardware reports it, by their names in the manual.
        walk: the explained walk, when one was made.
        result: how the address space resolved it.
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
    result: FaultResult | None = None


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
        promotions: blocks made of pages, "in place" and "by copy"; empty where none were to be made.
        fills: TLB misses that our walker served.
        populated_bytes: guest memory that had frames at the end.
        leaves: number of leaves of the stage-2 table by leaf size in bytes.
        tables: number of stage-2 tables; table_bytes their size.
        violations_dropped: violations that were not kept, because there were too many different ones.
        dirty_log: which pages were written, where that was logged.
        exits: what the guest stopped for, by kind, where another program ran it.
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
    promotions: dict[str, int] = field(default_factory=dict)
    violations: tuple[ViolationReport, ...] = ()
    violations_dropped: int = 0
    devices: dict[str, int] = field(default_factory=dict)
    dirty_log: DirtyLogReport | None = None
    exits: tuple[ExitReport, ...] = ()


def region_report_json(region: RegionReport) -> dict[str, Any]:
    """A region as programs get it: in a run's report, and in the manifest of its tables."""
    return {
        "name": region.name,
        "start": region.start,
        "size": region.size,
        "range": range_json("GPA", Range.sized(region.start, region.size)),
        **region_type_json(region.map_type, region.flags),
        "populated_bytes": region.populated_bytes,
        "hpa": [list(span) for span in region.hpa],
        "host_ranges": [range_json("HPA", Range(*span)) for span in region.hpa],
    }
