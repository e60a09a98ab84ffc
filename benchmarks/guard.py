"""A guard against slowdowns: `python -m benchmarks.guard`, which `make test` runs alone, after the tests.

Ten rows on small tables, each as a ratio to the plain C twin within this one process: the best of many runs in turns
over the twin's best, because what else a machine does only ever adds. guard.json holds what the ratios were when they
were last calibrated; a row fails when it is `SLACK` times that in every one of `ATTEMPTS` rounds. docs/benchmarks.md
says how wide that is, and `--plant` shows that a row that does its work twice is caught.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from stage2.address import MIB, SIZE_4K, Gpa
from stage2.flags import RWX, Access, MapType
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate

from .measure import Row, timed, warm
from .rows_batches import two_stage_twin
from .rows_edits import page_rows
from .settings import START, host, mapped, nested, random_addresses, table_of
from .twins import OnOurs, Twin, compiler

FORMAT = "ept4"
SIZE = 64 * MIB
"""Mapped in every row, so that the tables stay in the caches that a CPU does not share."""
SLACK = 1.5
ATTEMPTS = 6
PAUSE_S = 5
"""Seconds before those are tried again that were too slow."""
RUNS = 15
REFERENCES = Path(__file__).with_name("guard.json")
_FEW = 512


@contextmanager
def guarded_rows() -> Iterator[list[Row]]:
    """The ten rows."""
    with ExitStack() as stack:
        frames = stack.enter_context(host(256 * MIB))
        edited, twin = stack.enter_context(table_of(FORMAT, frames)), Twin(FORMAT)
        stack.callback(twin.close)
        rows = page_rows(edited, twin, SIZE)
        yield [*rows, *_readings(stack), *_two_stages(stack), *_faults(stack)]


def _readings(stack: ExitStack) -> list[Row]:
    table = stack.enter_context(mapped(FORMAT, SIZE))
    plain, addresses = OnOurs(table), random_addresses(START, SIZE, 100_000)
    listed = np.empty((SIZE // SIZE_4K + 1, 4), np.uint64)
    out = table.translate_many(addresses)
    arrays = np.empty_like(out.hpa), np.empty_like(out.attributes), np.empty_like(out.status)
    few = addresses[:_FEW].tolist()

    def one_by_one() -> None:
        for address in few:
            table.translate(address)

    def plain_one_by_one() -> None:
        for address in few:
            plain.translate_one(address)

    return [
        Row("list, each", "", 1, lambda: table.rows(merge=False), lambda: plain.list_leaves(listed, merge=False)),
        Row("list, merged", "", 1, table.rows, lambda: plain.list_leaves(listed, merge=True)),
        Row("batch translate", "", 1, lambda: table.translate_many(addresses, out=out, threads=1),
            lambda: plain.translate_many(addresses, *arrays)),
        Row("one translate", "", 1, one_by_one, plain_one_by_one),
    ]  # fmt: skip


def _two_stages(stack: ExitStack) -> list[Row]:
    guest = stack.enter_context(nested(FORMAT, SIZE))
    gvas = guest.gvas(20_000)
    plain, _ = two_stage_twin(guest, gvas)

    def batch() -> None:
        guest.space.translate_gva_many(gvas, guest.stage_1, Access.READ, threads=1)

    return [Row("two-stage batch", "", 1, batch, plain)]


def _faults(stack: ExitStack) -> list[Row]:
    space = AddressSpace(FORMAT, stack.enter_context(host(256 * MIB)))
    stack.callback(space.destroy)
    twin = Twin(FORMAT)
    stack.callback(twin.close)
    region = MemoryRegion(Gpa(START), SIZE, RWX, MapType.MAP_ALLOC, populate=Populate.LAZY)
    space.map(region)
    pages = START + SIZE_4K * np.arange(SIZE // SIZE_4K, dtype=np.uint64)
    few = pages[:_FEW].tolist()
    given = (ctypes.c_uint64 * 2)()

    def empty() -> None:
        space.unmap(START, SIZE)
        space.map(region)

    def one_by_one() -> None:
        for page in few:
            space.handle_page_fault(page, Access.WRITE)

    def plain_faults(array: np.ndarray[tuple[int], np.dtype[np.uint64]]) -> None:
        given[0] = 1 << 36
        twin.fault(array, given)

    def plain_one_by_one() -> None:
        for i in range(_FEW):
            plain_faults(pages[i : i + 1])

    return [
        Row("one page fault", "", 1, one_by_one, plain_one_by_one, empty, twin.forget),
        Row("page faults in bulk", "", 1, lambda: space.handle_page_faults(pages, Access.WRITE),
            lambda: plain_faults(pages), empty, twin.forget),
    ]  # fmt: skip


def ratio(row: Row, planted: str) -> float:
    """The best of our runs over the best of the twin's; the planted row does its work twice."""
    ours: list[float] = []
    twins: list[float] = []
    assert row.twin is not None
    gc.disable()
    try:
        for _ in range(RUNS):
            spent = sum(timed(row.ours, row.before, row.calls) for _ in range(2 if row.name == planted else 1))
            ours.append(spent)
            twins.append(timed(row.twin, row.twin_before, row.calls))
    finally:
        gc.enable()
    return min(ours) / min(twins)


def calibrate(rounds: int) -> None:
    """Take the ratios many times and keep their medians, with what they spread over."""
    with guarded_rows() as rows:
        for row in rows:
            warm(row)
        seen = {row.name: [ratio(row, "") for _ in range(rounds)] for row in rows}
    found = {
        name: {"ratio": round(statistics.median(values), 4), "least": round(min(values), 4),
               "most": round(max(values), 4), "rounds": rounds}
        for name, values in seen.items()
    }  # fmt: skip
    REFERENCES.write_text(json.dumps(found, indent=1) + "\n")
    print(REFERENCES.read_text())


def slow_rows(planted: str = "") -> list[str]:
    """A line for each row that is too slow in every attempt."""
    known = json.loads(REFERENCES.read_text())
    limits = {name: found["ratio"] * SLACK for name, found in known.items()}
    seen: dict[str, list[float]] = {name: [] for name in limits}
    slow = list(limits)
    for attempt in range(ATTEMPTS):
        # What else a machine does may take as long as a row, and some ratios depend on where the tables lie: those that
        # were too slow are tried again later, on tables made anew.
        time.sleep(PAUSE_S if attempt and not planted else 0)
        with guarded_rows() as rows:
            for row in rows:
                if row.name in slow:
                    warm(row)
                    seen[row.name].append(ratio(row, planted))
        slow = [name for name in slow if seen[name][-1] > limits[name]]
        if not slow:
            break
    for name, ratios in seen.items():
        text = ", ".join(f"{value:.3f}" for value in ratios)
        print(f"{name:28} {text} x C, limit {limits[name]:.3f}: {'too slow' if name in slow else 'ok'}", flush=True)
    return slow


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibrate", type=int, metavar="ROUNDS", help="write guard.json anew")
    parser.add_argument("--plant", default="", metavar="ROW", help="let this row do its work twice; it must be caught")
    options = parser.parse_args()
    if compiler() is None:
        print("the guard against slowdowns is left out: it needs gcc (packages.txt)")
        return 1 if os.environ.get("CI") else 0
    if options.calibrate:
        calibrate(options.calibrate)
        return 0
    slow = slow_rows(options.plant)
    if options.plant:
        print(f"planted in {options.plant}: {'caught' if options.plant in slow else 'NOT caught'}")
        return 0 if options.plant in slow else 1
    for name in slow:
        print(f"{name} is slower than {SLACK} times its calibrated ratio to the C twin ({REFERENCES.name})")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
