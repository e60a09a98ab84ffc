"""The table at the end of a run: what the memory of each VM did."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from itertools import zip_longest

from rich.console import Group, RenderableType
from rich.text import Text

from ..address import format_size
from ..config.platform import PlatformConfig
from ..hypervisor.time import TimeValue
from ..vm.cost import HostCost
from ..vm.dirty_log import DirtyLogReport
from ..vm.exit_log import ExitReport
from ..vm.report import RegionReport, ViolationReport, VmReport
from .host import assumed_host
from .levels import level_legend
from .plain import about, counted, percent, plain
from .tables import facts, indented, stack, table, text
from .walk import compact_lines, walked_format

MAX_SPANS = 3
"""Limit: HPA ranges of one region that are written out."""
MAX_VIOLATIONS = 20
"""Limit: violations of one VM that are listed."""
MAX_WALKS = 4
"""Limit: violations of one VM whose walk is shown."""
MAX_SYNDROMES = 6
"""Limit: violations of one VM whose registers are shown."""
_STYLES = {"off": "bold green", "copied": "bold green", "time limit": "bold yellow", "interrupted": "bold yellow"}


def render_report(
    reports: Sequence[VmReport], cost: HostCost | None = None, platform: PlatformConfig | None = None
) -> Group:
    """The end-of-run table of all VMs, what the hypervisor itself costs, and the host where it was assumed."""
    parts: list[RenderableType] = []
    for report in reports:
        parts += [Text(), render_vm_report(report)]
    if cost is not None:
        parts += [Text(), render_cost(cost)]
    if platform is not None and (said := assumed_host(platform)) is not None:
        parts += [Text(), text(said, "dim")]
    return stack(parts)


def render_cost(cost: HostCost) -> Group:
    """What the hypervisor itself costs: frames by what they are for, and Python beside them."""
    rows = [
        (
            name,
            *(
                about(size) if size else "-"
                for size in (one.image, one.tables, one.per_cpu, one.timers, one.frames, one.python)
            ),
        )
        for name, one in [
            *((f"for VM {one.vm}", one) for one in cost.vms),
            ("for itself", cost.own),
            ("in all", cost.total),
        ]
    ]
    columns = ("name", "image", "tables", "per-CPU", "timers", "frames in all", "Python beside")
    heading = text("The hypervisor itself", "bold")
    return stack([heading, indented(table(columns, rows, right=columns[1:]))])


def render_vm_report(report: VmReport) -> Group:
    """One VM: how it ended, its memory in numbers, its regions, and what it was not allowed to do."""
    headline = text(f"VM {report.id} {report.name}: {report.exit}", _STYLES.get(report.exit, "bold red"))
    headline.append(f" after {report.wall_s:.2f} s ({plain(report.arch)}, {plain(report.format)}, on {report.engine})")
    parts: list[RenderableType] = [headline, indented(facts(_numbers(report)))]
    if report.regions:
        parts += [Text(), indented(_region_table(report.regions))]
    if report.violations:
        parts += [Text(), indented(_violations(report))]
    return stack(parts)


def _numbers(report: VmReport) -> list[tuple[str, str]]:
    share = percent(report.populated_bytes, report.declared_bytes)
    rows = [
        ("reason", report.reason),
        (
            "memory",
            f"{about(report.populated_bytes)} populated of {about(report.declared_bytes)} declared ({share})",
        ),
        ("stage 2", _tables(report)),
        ("faults", _faults(report)),
        ("promotions", _promotions(report)),
        ("TLB fills", f"{report.fills:,} served by the two-stage walker" if report.engine == "unicorn" else ""),
        *_exits(report.exits),
    ]
    if report.dirty_log is not None:
        rows.append(("dirty log", _dirty_log(report.dirty_log)))
    if report.devices:
        accesses = ", ".join(f"{name} {count:,}" for name, count in report.devices.items())
        rows.append(("devices", f"accesses trapped: {accesses}"))
    return [row for row in rows if row[1]]


def _tables(report: VmReport) -> str:
    leaves = ", ".join(f"{count:,} of {format_size(size)}" for size, count in sorted(report.leaves.items()))
    number = sum(report.leaves.values())
    listed = f"{counted(number, 'leaf', 'leaves')}: {leaves}" if number else "no leaf"
    return f"{listed}; {counted(report.tables, 'table')}, {about(report.table_bytes)}"


def _dirty_log(log: DirtyLogReport) -> str:
    harvests = f"{counted(log.harvests, 'harvest')} every {TimeValue(log.interval_ns)}"
    return f"{harvests}: {about(log.pages * log.page_size)} written, at most {about(log.most * log.page_size)} in one"


def _faults(report: VmReport) -> str:
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.resolutions.items() if count)
    stage_2 = f"{report.stage2_faults:,} at stage 2" + (f" ({kinds})" if kinds else "")
    return f"{stage_2}; {report.guest_faults:,} of the guest's own stage 1"


def _promotions(report: VmReport) -> str:
    if not report.promotions:
        return ""
    ways = ", ".join(f"{count:,} {way}" for way, count in report.promotions.items())
    return f"{counted(sum(report.promotions.values()), 'block')} made of pages: {ways}"


def _exits(exits: Sequence[ExitReport]) -> list[tuple[str, str]]:
    """What the guest stopped for, and how long: half of the times were below the first number, and so on."""
    rows = []
    for one in exits:
        took = one.handled if one.waited is None else one.waited
        times = f"{took.p50:,.0f} µs (90 %: {took.p90:,.0f}, 99 %: {took.p99:,.0f}, all: {took.longest:,.0f})"
        parts = "" if one.doorbell_us is None else f", {one.handled.p50:,.0f} of them in Python"
        kinds = counted(one.count, plain(one.kind), plain(one.kind) + ("es" if one.kind.endswith("s") else "s"))
        rows.append(f"{kinds}: half took at most {times}{parts}")
    return [("exits" if not number else "", row) for number, row in enumerate(rows)]


def _region_table(regions: Sequence[RegionReport]) -> RenderableType:
    rows = [
        (
            f"{region.start:#x}",
            format_size(region.size),
            region.flags.short,
            region.map_type.value,
            about(region.populated_bytes) if region.populated_bytes else "-",
            region.name,
            hpa_text(region.hpa),
        )
        for region in regions
    ]
    columns = ("GPA", "size", "flags", "type", "populated", "name", "HPA +size")
    return table(columns, rows, right=("GPA", "size", "populated"))


def hpa_text(spans: Sequence[tuple[int, int]]) -> str:
    """HPA ranges on a line each, as start and size: the first few, and how many more there are."""
    if not spans:
        return "none"
    lines = [f"{start:#x} +{about(end - start)}" for start, end in spans[:MAX_SPANS]]
    if len(spans) > MAX_SPANS:
        lines.append(f"and {len(spans) - MAX_SPANS:,} more")
    return "\n".join(lines)


def _fair(
    violations: Sequence[ViolationReport], limit: int, kind: Callable[[ViolationReport], Hashable]
) -> list[ViolationReport]:
    """Some of the violations, in order of appearance, each kind with its fair share."""
    kinds: dict[Hashable, list[int]] = {}
    for index, violation in enumerate(violations):
        kinds.setdefault(kind(violation), []).append(index)
    turns = zip_longest(*kinds.values())
    chosen = [index for turn in turns for index in turn if index is not None][:limit]
    return [violations[index] for index in sorted(chosen)]


def _violations(report: VmReport) -> RenderableType:
    violations, dropped = report.violations, report.violations_dropped
    total = sum(violation.count for violation in violations)
    rows = [
        (
            f"{violation.gpa:#x}",
            violation.access if violation.value is None else f"{violation.access} {violation.value:#x}",
            f"{violation.pc:#x}",
            violation.action,
            f"{violation.count:,}",
            violation.region,
        )
        for violation in _fair(violations, MAX_VIOLATIONS, lambda violation: (violation.region, violation.access))
    ]
    columns = ("GPA", "access", "PC", "action", "times", "region")
    parts: list[RenderableType] = [
        text(counted(total, "forbidden access", "forbidden accesses"), "yellow"),
        table(columns, rows, right=("GPA", "PC", "times")),
    ]
    if len(violations) > MAX_VIOLATIONS:
        parts.append(text(f"and {len(violations) - MAX_VIOLATIONS:,} more places (--json has them)"))
    if dropped:
        parts.append(text(f"and {dropped:,} accesses at yet more places, which were not kept"))
    parts += _syndromes(violations)
    walked = [violation for violation in violations if violation.walk is not None]
    for violation in _fair(walked, MAX_WALKS, lambda violation: violation.region):
        assert violation.walk is not None
        gva = "" if violation.gva is None else f" (GVA {violation.gva:#x})"
        parts += [
            Text(),
            text(f"walk of the {violation.access} at GPA {violation.gpa:#x}{gva}"),
            indented(stack(text(line) for line in compact_lines(violation.walk))),
        ]
    legends = {level_legend(walked_format(violation.walk)) for violation in walked if violation.walk is not None}
    for legend in legends - {None}:
        parts += [Text(), text(legend or "", "dim")]
    return stack(parts)


def _syndromes(violations: Sequence[ViolationReport]) -> list[RenderableType]:
    """What the hardware would have told the hypervisor, a line for each violation."""
    reported = [violation for violation in violations if violation.syndrome]
    rows = [
        (
            f"{violation.access} {violation.gpa:#x}",
            " ".join(f"{name}={value:#x}" for name, value in violation.syndrome.items()),
        )
        for violation in _fair(reported, MAX_SYNDROMES, lambda violation: (violation.region, violation.access))
    ]
    heading = "as hardware reports them (stage2 explain fault REGISTER=VALUE... tells one in words)"
    return [Text(), text(heading), indented(facts(rows))] if rows else []
