"""Everything that is measured, in one run: `make bench`, or `python -m benchmarks`.

python -m benchmarks --only rows --formats ept4 --match fault     some rows
python -m benchmarks --json figures.json --report docs/performance.md
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from . import (
    boards,
    checks,
    growth,
    guests,
    memories,
    peers,
    proofs,
    report,
    rows_batches,
    rows_calls,
    rows_edits,
    starts,
    threads,
)
from .measure import Row, measure
from .settings import FORMATS

SECTIONS = ("rows", "peers", "threads", "boots", "starts", "checks", "growth", "proofs", "boards", "memories")


def row_groups(fmt: str, count: int) -> Iterator[AbstractContextManager[list[Row]]]:
    """Every group of rows of a format; `count` addresses a batch."""
    yield rows_edits.edit_rows(fmt)
    yield rows_edits.listing_rows(fmt)
    for gib in (1, 64):
        yield rows_batches.batch_rows(fmt, gib, count)
    for gib in (1, 64):
        yield rows_batches.two_stage_rows(fmt, gib, count // 10)
    yield rows_calls.call_rows(fmt)
    yield rows_calls.explained_rows(fmt)
    yield rows_calls.fault_rows(fmt)


def run(options: argparse.Namespace) -> report.Results:
    """Measure the sections that were asked for, telling each figure as it comes."""
    results = report.Results(report.machine())
    only = options.only
    if "rows" in only:
        for fmt in options.formats:
            for group in row_groups(fmt, options.addresses):
                with group as rows:
                    for row in rows:
                        if options.match in row.name:
                            results.rows.append(measure(row, fmt, options.runs))
                            print(report.line(results.rows[-1]), flush=True)
    if "peers" in only and options.peers is not None:
        results.peers = peers.ask_peers(options.peers)
        print(results.peers, flush=True)
    if "threads" in only:
        for fmt in options.formats:
            results.scaling += threads.scaling(fmt, options.addresses, options.runs)
            print(*results.scaling[-2:], sep="\n", flush=True)
    if "boots" in only:
        results.boots = guests.boots(max(options.runs // 3, 1))
        print(results.boots, flush=True)
    if "starts" in only:
        results.cold = starts.cold_starts(max(options.runs // 3, 1))
        results.warm = starts.warm_starts(options.runs)
        print(*results.cold, *results.warm, sep="\n", flush=True)
    if "checks" in only:
        with checks.check_rows() as rows:
            for row in rows:
                results.checks.append(measure(row, "check", options.runs))
                print(report.line(results.checks[-1]), flush=True)
        results.check_starts = checks.check_starts(max(options.runs // 3, 1))
        print(*results.check_starts, sep="\n", flush=True)
    if "growth" in only:
        for fmt in options.formats:
            results.growth.append(growth.grow(fmt))
            print(results.growth[-1], flush=True)
    if "proofs" in only:
        for fmt in options.formats:
            for proved in proofs.grow(fmt):
                results.proofs.append(proved)
                print(proved, flush=True)
    if "memories" in only:
        results.memories = memories.mapped(options.runs, options.peers)
        print(*memories.lines(results.memories), sep="\n", flush=True)
    if "boards" in only:
        results.boards = boards.boards(max(options.runs // 3, 1))
        print(*results.boards, sep="\n", flush=True)
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections (default all)")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=FORMATS, help="formats (default all)")
    parser.add_argument("--match", default="", help="only rows whose name has this in it")
    parser.add_argument("--runs", type=int, default=9, help="pairs of each row (default 9)")
    parser.add_argument("--addresses", type=int, default=4_000_000, help="addresses in a batch (default 4 million)")
    parser.add_argument("--peers", type=Path, help="the interpreter that has volatility3 and MemProcFS")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--report", type=Path, help="write the figures into this page, and the picture beside it")
    options = parser.parse_args()
    if options.runs < 1 or options.addresses < 10_000:
        parser.error("at least 1 run and 10,000 addresses")
    results = run(options)
    if options.json is not None:
        options.json.write_text(json.dumps(asdict(results), indent=1) + "\n")
    if options.report is not None:
        report.write_page(results, options.report)
        if results.growth:
            growth.plot(results.growth, options.report.parent / "images" / "growth.svg")
        if results.proofs:
            proofs.plot(results.proofs, options.report.parent / "images" / "proofs.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
