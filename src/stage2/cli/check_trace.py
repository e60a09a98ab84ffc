"""`stage2 check-trace`: the checker of invalidations, fed from a file that a run wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from ..tlb.trace_check import TraceVerdict


def check_trace(
    file: Annotated[Path, Parameter(name="TRACE")],
    /,
    *,
    casemate: Path | None = None,
    json_output: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Judge a trace that `stage2 run --trace-edits` wrote: every invalidation that was owed was done, and in time.

    Exit code 0: it was; 1: it was not, and the line where that shows is told; 2: bad input.

    Parameters
    ----------
    file
        The trace.
    casemate
        Write it as Casemate reads it to this file, instead of judging it here: docs/traces.md.
    json_output
        Print JSON instead of a sentence.
    """
    from ..render.json_text import json_text
    from ..tlb.trace_check import check_trace as judge

    if casemate is not None:
        from ..tlb.casemate import write_casemate

        write_casemate(file, casemate)
        return 0
    verdict = judge(file)
    print(json_text("check-trace", verdict_json(verdict)) if json_output else verdict_text(file, verdict))
    return 0 if verdict.refuted is None else 1


def verdict_text(file: Path, verdict: TraceVerdict) -> str:
    """What is said of a trace."""
    read = (
        f"{verdict.stores} stores, {verdict.operations} invalidations and {verdict.barriers} barriers in "
        f"{verdict.edits} edits of {len(verdict.tables)} table{'' if len(verdict.tables) == 1 else 's'}"
    )
    if verdict.refuted is None:
        return f"{file}: {read}: nothing that was owed was left out"
    found = verdict.refuted
    return f"{file}:{found.line}: {found.vm}: {found.problem}\nuntil then {read}"


def verdict_json(verdict: TraceVerdict) -> dict[str, object]:
    """The same for a program."""
    found = verdict.refuted
    return {
        "holds": found is None,
        "refuted": None if found is None else {"line": found.line, "vm": found.vm, "problem": found.problem},
        "tables": [{"vm": name, "format": fmt} for name, fmt in verdict.tables.items()],
        "edits": verdict.edits,
        "stores": verdict.stores,
        "operations": verdict.operations,
        "barriers": verdict.barriers,
    }
