"""Figures as JSON, as lines on a terminal, and as the generated part of docs/performance.md."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .boards import BoardBoot
from .boards import lines as board_lines
from .goals import BOOT_GOAL, GOALS
from .growth import Curves
from .guests import Boots
from .measure import Figure
from .memories import Mapped
from .memories import lines as mapped_lines
from .proofs import Proved, lines
from .starts import Start
from .threads import Scaling

BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"


@dataclass
class Results:
    """All that one run measured; a part that did not run is empty."""

    machine: str
    rows: list[Figure] = field(default_factory=list)
    cold: list[Start] = field(default_factory=list)
    warm: list[Start] = field(default_factory=list)
    boots: Boots | None = None
    scaling: list[Scaling] = field(default_factory=list)
    growth: list[Curves] = field(default_factory=list)
    peers: dict[str, dict[str, float | str]] = field(default_factory=dict)
    checks: list[Figure] = field(default_factory=list)
    check_starts: list[Start] = field(default_factory=list)
    proofs: list[Proved] = field(default_factory=list)
    boards: list[BoardBoot] = field(default_factory=list)
    memories: list[Mapped] = field(default_factory=list)


def machine() -> str:
    """What the figures were taken on: model, CPUs, versions."""
    import numba

    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}"
    return f"{model}, {os.cpu_count()} CPUs, {versions}"


def line(figure: Figure) -> str:
    """A figure on a terminal."""
    goal = GOALS.get(figure.name)
    aim = "" if goal is None else f"{goal.most:.3g}{' x C' if goal.by_twin else ''}"
    missed = "" if goal is None or goal.met(figure.ours, figure.ratio) else "  missed"
    twin = "" if figure.twin is None else f"{figure.twin:.4g}"
    ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
    return (
        f"{figure.format:13} {figure.name:44} {figure.ours:9.4g} {figure.unit:3} {twin:>8} {ratio:>6} {aim:>9}{missed}"
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(head)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def _rows(results: Results) -> list[str]:
    formats = list(dict.fromkeys(figure.format for figure in results.rows))
    found = {(figure.name, figure.format): figure for figure in results.rows}
    body = []
    for name in dict.fromkeys(figure.name for figure in results.rows):
        goal, cells = GOALS.get(name), []
        unit = next(figure.unit for figure in results.rows if figure.name == name)
        for fmt in formats:
            figure = found.get((name, fmt))
            if figure is None:
                cells.append("")
                continue
            text = _number(figure.ours) + ("" if figure.ratio is None else f" ({figure.ratio:.2f})")
            cells.append(text if goal is None or goal.met(figure.ours, figure.ratio) else f"**{text}**")
        aim = "" if goal is None else f"{_number(goal.most)} {'x C' if goal.by_twin else unit}"
        body.append([name, unit, *cells, aim, "" if goal is None else goal.crates])
    differs: dict[str, list[str]] = {}
    for figure in results.rows:
        if figure.differs:
            differs.setdefault(figure.differs, []).append(figure.name)
    notes = [f"* {', '.join(dict.fromkeys(names))}: the twin {what}." for what, names in differs.items()]
    return [
        *_table(["work", "unit", *formats, "goal", "crates, another machine"], body),
        "In parentheses: over the plain C twin, median of the pairs. Bold: the goal is missed.",
        "",
        *notes,
        "",
    ]


def _starts(results: Results) -> list[str]:
    cold = [[s.name, f"{s.wall_s:.2f} s", f"{s.cpu_s:.2f} s", f"{s.goal:g} s", str(s.runs)] for s in results.cold]
    warm = [
        [
            s.name,
            f"{s.wall_s * 1e3:.0f} ms",
            f"{s.ratio or 0:.2f}",
            f"{s.cpu_ratio or 0:.2f}",
            f"{s.goal:g}",
            str(s.runs),
        ]
        for s in results.warm
    ]
    return [
        "Commands with an empty kernel cache:",
        "",
        *_table(["command", "wall clock", "CPU time", "goal", "runs"], cold),
        "Commands whose kernels are there, beside `python -c 'import numpy'` in turns:",
        "",
        *_table(["command", "wall clock", "ratio, wall", "ratio, CPU", "goal", "pairs"], warm),
    ]


def _checks(results: Results) -> list[str]:
    rows = [[f.name, f"{_number(f.ours)} ms", f"{f.ratio or 0:.2f}"] for f in results.checks]
    whole = [
        [s.name, f"{s.wall_s:.2f} s", f"{s.cpu_s:.2f} s", f"{s.cpu_ratio or 0:.2f}", f"{s.goal:g} s", str(s.runs)]
        for s in results.check_starts
    ]
    return [
        "In one process, CPU time, beside reading the same VM files with tomllib alone in turns:",
        "",
        *_table(["work", "takes", "ratio"], rows),
        "As whole commands, the ratio beside `python -c 'import numpy'` in turns:",
        "",
        *_table(["command", "wall clock", "CPU time", "ratio, CPU", "goal, CPU", "runs"], whole),
    ]


def _boots(boots: Boots) -> list[str]:
    return [
        f"Debian's RISC-V Linux to its power-off, CPU time of {boots.runs} rounds in turns: {boots.plain_s:.2f} s on "
        f"the library's own MMU; lazily populated {boots.lazy_s:.2f} s, {boots.lazy_ratio:.2f} times as much (goal "
        f"{BOOT_GOAL:g}); eager {boots.eager_s:.2f} s, {boots.eager_ratio:.2f} times. Two VMs at once took "
        f"{boots.two_ratio:.2f} times the wall clock of one.",
        "",
    ]


def _scaling(found: list[Scaling]) -> list[str]:
    body = [
        [s.name, s.format, f"{s.one_ns:.3g} ns", f"{s.all_ns:.3g} ns", str(s.cores), f"{s.one_ns / s.all_ns:.2f}"]
        for s in found
    ]
    head = ["batch", "format", "one thread", "all", "threads", "times as fast"]
    return ["Large batches on all cores, wall clock an address:", "", *_table(head, body)]


def _peers(results: Results) -> list[str]:
    ours = {f.name: f for f in results.rows if f.format == "ept4"}
    body = [
        [name, str(found.get("version", "")), f"{found['us']:.3g} us" if "us" in found else str(found["error"])]
        for name, found in results.peers.items()
    ]
    asked = ("one translate, result object", "one hpa_of")
    body += [[f"stage2, {name}", "", f"{ours[name].ours:.3g} us"] for name in asked if name in ours]
    return [
        "One translation of a random address in 1 GiB, from Python (x86-64 tables of the same layout; the peers read "
        "them from a file that holds the machine's memory, their caches warm):",
        "",
        *_table(["who", "version", "a translation"], body),
    ]


def _growth(curves: list[Curves]) -> list[str]:
    return [
        "![What is mapped against what an address and a page cost](images/growth.svg)",
        "",
        *(
            f"* {found.format}: from {_number(found.points[0].batch_ns)} ns an address at 64 MiB to "
            f"{_number(found.points[-1].batch_ns)} ns at the largest size (plain C "
            f"{_number(found.points[0].twin_ns)} to {_number(found.points[-1].twin_ns)}); one load from as large a "
            f"range takes {_number(found.loads[-1].latency_ns)} ns when it waits for the last, "
            f"{_number(found.loads[-1].throughput_ns)} ns when it does not."
            for found in curves
        ),
        f"* This machine's memory in the same run: {curves[0].write_gbs:.1f} GB/s written, "
        f"{curves[0].read_gbs:.1f} GB/s read, by one thread in order.",
        "",
    ]


def page(results: Results) -> str:
    """The generated part."""
    parts = [f"Taken on: {results.machine}.", ""]
    if results.rows:
        parts += ["## Tables", "", *_rows(results)]
    if results.peers:
        parts += ["## Beside other tools", "", *_peers(results)]
    if results.scaling:
        parts += ["## Cores", "", *_scaling(results.scaling)]
    if results.boots is not None:
        parts += ["## Guests", "", *_boots(results.boots)]
    if results.cold or results.warm:
        parts += ["## Starts", "", *_starts(results)]
    if results.checks:
        parts += ["## Checks", "", *_checks(results)]
    if results.growth:
        parts += ["## Growth", "", *_growth(results.growth)]
    if results.proofs:
        parts += ["## Proofs of isolation", "", *lines(results.proofs)]
    if results.memories:
        parts += ["## Mappings of a file", "", *mapped_lines(results.memories)]
    if results.boards:
        parts += ["## Boards", "", *board_lines(results.boards)]
    return "\n".join(parts)


def write_page(results: Results, file: Path) -> None:
    """Put the figures between the marks of a page.

    Raises:
        SystemExit: the page has no marks.
    """
    text = file.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{file} has no {BEGIN} ... {END}")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    file.write_text(f"{before}{BEGIN}\n\n{page(results)}\n{END}{after}")
