"""What the conformance suite found: text for people, JSON for programs, a page for the documentation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from ..conform.deviations import of_oracle
from ..conform.probe import ANSWER, Means
from ..conform.run import Found, OracleReport
from ..conform.tlb import TlbReport
from ..flags import Access
from .levels import level_legend
from .tables import facts, indented, stack, table, text
from .walk import compact_lines

_OPENING = """\
# Conformance

Our walker and our tables against MMUs that others wrote, on the same bytes. `stage2 conform` makes tables at random
(legal, odd and broken entries, both stages, every kind of permission, accessed and dirty state and address width), lets
an emulated machine access memory through them, and compares with our compiled walker: where an access goes, or its
fault as the architecture reports it, and the accessed and dirty bits left in memory. A mismatch is made small and
printed with the command that repeats it. How it is built: [architecture.md](architecture.md).
""".splitlines()
_CLOSING = """\
*Not judged* in the table counts probes that an oracle could not be asked: a real access that would leave RAM or hit the
tables themselves, or a walk that reads memory that is no table.""".splitlines()
_TLB = """\
## TLB invalidation

What edits of tables owe, on hardware that keeps a translation until it is told to drop it. Every kind of edit is made
with all that it owes: nothing may be stale. Then each operation is left out: that must be seen, or it is known why this
emulator hides it ([invalidation.md](invalidation.md)). Random edits follow, with accesses of every kind after
each.""".splitlines()
_ENTRIES = 32
"""A shrunk case has fewer entries than that."""
_HEX = {"hpa", "value", "code", "gva", "gpa", "attributes"}


def render_reports(reports: Sequence[OracleReport], tlbs: Sequence[TlbReport] = ()) -> Group:
    """A table of all oracles, then what each found, and what their TLBs showed."""
    rows = [
        (report.oracle, report.version, f"{report.verdict.cases:,}", f"{report.mismatches:,}",
         f"{sum(report.verdict.deviations.values()):,}", f"{report.seconds:.1f} s")
        for report in reports
    ]  # fmt: skip
    columns = ("oracle", "version", "cases", "mismatches", "known deviations", "time")
    parts: list[RenderableType] = [table(columns, rows, right=columns[2:])]
    for report in reports:
        parts += [Text(), *_details(report)]
    for shown in tlbs:
        parts += [Text(), *_tlb(shown)]
    return stack([*parts, *_legend(found for report in reports for found in report.found)])


def _legend(found: Iterable[Found]) -> list[RenderableType]:
    """What the levels of the walks of mismatches are, once."""
    cases = [each.mismatch.case for each in found if each.mismatch is not None and each.mismatch.difference is not None]
    formats = [regime.format for case in cases for regime in (case.stage_1, case.stage_2) if regime is not None]
    legends = {level_legend(fmt) for fmt in formats} - {None}
    return [text(legend or "", "dim") for legend in legends]


def _tlb(report: TlbReport) -> list[RenderableType]:
    """What a TLB showed of what edits owe."""
    parts: list[RenderableType] = [text(f"{report.oracle}: TLB invalidation", "bold")]
    rows = [
        ("edits that do what they owe", f"{report.scenes:,}, nothing stale"),
        ("random edits", f"{report.accesses:,} accesses, none stale"),
        ("operations left out", f"{sum(report.seen.values()):,} seen, {sum(report.hidden.values()):,} hidden as known"),
        ("time", f"{report.seconds:.1f} s"),
    ]
    parts.append(indented(facts(rows)))
    parts += [indented(text(f"WRONG: {sentence}", "bold red")) for sentence in report.wrong]
    return parts


def _details(report: OracleReport) -> list[RenderableType]:
    verdict = report.verdict
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(verdict.outcomes.items()))
    parts: list[RenderableType] = [
        text(f"{report.oracle}: {report.title}", "bold"),
        indented(
            table(("pair", "cases"), [(n, f"{c:,}") for n, c in sorted(verdict.formats.items())], right=("cases",))
        ),
        indented(facts([("outcomes", outcomes or "none"), ("not judged", f"{verdict.unjudged:,}")])),
    ]
    for deviation, count in report.known_deviations:
        parts.append(indented(text(f"known: {deviation.name} ({count:,}): {deviation.reason} ({deviation.manual})")))
    for found in report.found:
        parts += [Text(), *_found(report, found)]
    return parts


def _found(report: OracleReport, found: Found) -> list[RenderableType]:
    """One mismatch: the smallest tables, our walk and the machine's answer beside it, and how to repeat it."""
    again = f"--oracle {report.oracle} --format '{found.pair.name}' --seed {found.seed} --cases {found.count}"
    lines: list[RenderableType] = [text(f"MISMATCH on {found.pair.name}", "bold red")]
    mismatch = found.mismatch
    if mismatch is None:
        lines.append(indented(text(f"the machine was lost: {found.lost}")))
    else:
        case = mismatch.case
        held = mismatch.words.nonzero()[0]
        entries = [
            (f"{mismatch.used.start + 8 * int(i):#x}", f"{int(mismatch.words[i]):#018x}") for i in held[:_ENTRIES]
        ]
        roots = [
            (
                f"stage {regime.format.stage}",
                f"{regime.format.name}, root {regime.root:#x}, controls {regime.controls:#x}",
            )
            for regime in (case.stage_1, case.stage_2)
            if regime is not None
        ]
        lines.append(indented(facts(roots)))
        if len(held) > _ENTRIES:
            lines.append(
                indented(text("It does not show by itself, or was not made small: it may need what came before."))
            )
        else:
            lines.append(indented(table(("entry at HPA", "holds"), entries)))
        if mismatch.difference is not None:
            difference = mismatch.difference
            probe = difference.probe
            what = f"{'user' if probe['user'] else 'privileged'} {Access(int(probe['access'])).name.lower()}"
            how = "" if int(probe["means"]) == Means.ACCESS else ", by a translating instruction"
            lines.append(indented(text(f"{what} of {int(probe['address']):#x}{how}; our walk:")))
            lines += [indented(text(line), 4) for line in compact_lines(difference.walk)]
            rows = [
                (name, _shown(name, difference.expected[name]), _shown(name, difference.answer[name]))
                for name in ANSWER.names or ()
                if difference.expected[name] or difference.answer[name]
            ]
            lines.append(indented(table(("answer", "ours", "the machine's"), rows)))
        if mismatch.slots:
            rows = [(f"{at:#x}", f"{ours:#018x}", f"{theirs:#018x}") for at, ours, theirs in mismatch.slots]
            lines.append(indented(table(("entry afterwards", "ours", "the machine's"), rows)))
    lines.append(indented(text(f"again: stage2 conform {again}")))
    return lines


def _shown(name: str, value: Any) -> str:
    return f"{int(value):#x}" if name in _HEX else str(int(value))


def report_json(reports: Sequence[OracleReport], tlbs: Sequence[TlbReport] = ()) -> dict[str, Any]:
    """The JSON object of a run."""
    found: dict[str, Any] = {"oracles": [report.as_dict() for report in reports]}
    return found | ({"tlb": [shown.as_dict() for shown in tlbs]} if tlbs else {})


def report_markdown(reports: Sequence[OracleReport], seed: int, tlbs: Sequence[TlbReport] = ()) -> str:
    """`docs/conformance.md`."""
    lines = [
        *_OPENING,
        "",
        f"This page was written by `stage2 conform --long --report docs/conformance.md` (seed {seed}).",
        "",
        "| oracle | version | cases | unexplained mismatches | known deviations | not judged |",
        "|---|---|---|---|---|---|",
    ]
    for report in reports:
        verdict = report.verdict
        lines.append(
            f"| `{report.oracle}` | {report.version} | {verdict.cases:,} | {report.mismatches:,} | "
            f"{sum(verdict.deviations.values()):,} | {verdict.unjudged:,} |"
        )
    for report in reports:
        lines += ["", f"## {report.oracle}", "", f"{report.title}.", "", "| pair | cases |", "|---|---|"]
        lines += [f"| {name} | {count:,} |" for name, count in sorted(report.verdict.formats.items())]
        lines += ["", "Expected: " + ", ".join(f"{c:,} {n}" for n, c in sorted(report.verdict.outcomes.items())) + "."]
        mine = of_oracle(report.kind, report.version)
        if mine:
            lines += ["", "Known deviations of the emulator:", ""]
            for deviation in mine:
                met = report.verdict.deviations.get(deviation.name, 0)
                lines.append(
                    f"* **{deviation.name}** ({deviation.versions}; met {met:,} times): "
                    f"{deviation.reason} ({deviation.manual})"
                )
        if report.unjudged:
            lines += ["", "Not judged here:", ""] + [f"* {sentence}" for sentence in report.unjudged]
    if tlbs:
        lines += ["", *_TLB, "", "| oracle | edits | random accesses | left out, seen | left out, hidden | wrong |"]
        lines.append("|---|---|---|---|---|---|")
    for shown in tlbs:
        lines.append(
            f"| `{shown.oracle}` | {shown.scenes:,} | {shown.accesses:,} | {sum(shown.seen.values()):,} | "
            f"{sum(shown.hidden.values()):,} | {len(shown.wrong):,} |"
        )
    lines += ["", *_CLOSING, ""]
    return "\n".join(lines)
