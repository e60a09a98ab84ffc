"""How fast tables are translated, edited and listed, through the public API.

Run it as `python -m benchmarks.tables` or `make benchmarks`; `--json` prints the figures for a program. How each
figure is taken stands in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from stage2.address import GIB, SIZE_2M, SIZE_4K, Gpa, Gva, Hpa, Range
from stage2.flags import RWX, Access, MappingFlags, MapType
from stage2.formats import by_name
from stage2.formats.outcome import ACCESSED
from stage2.formats.riscv.formats import SV39
from stage2.guest.memory import GuestMemory
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped

FORMATS = ("ept4", "sv39x4")
"""Measured unless `--formats` names others."""
START = 0x8000_0000
HOST = Range.sized(0x1_0000_0000, 4 * GIB)
FAR = Hpa(0x100_0000_0000)
"""Where leaves point: nothing reads what is there."""
GVA_START = 0x10_0000_0000
READ_WRITE = MappingFlags.READ | MappingFlags.WRITE
TABLES = Owner(OwnerKind.TABLES, "benchmark")
U64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        name: what was measured.
        format: on which format.
        value: the median of the runs, in `unit`, wall clock.
        cpu: the median of this thread's CPU time, in `unit`.
        best: the fastest run, in `unit`.
        aim: what the project aims at, in `unit`, None where it has no aim.
    """

    name: str
    format: str
    unit: str
    value: float
    cpu: float
    best: float
    runs: int
    aim: float | None = None


def measure(
    name: str, fmt: str, unit: str, per: float, runs: int, work: Callable[[], object],
    *, prepare: Callable[[], object] | None = None, aim: float | None = None,
) -> Figure:  # fmt: skip
    """Run `work` once unmeasured (it may compile) and then `runs` times; `per` divides seconds into units."""
    wall, cpu = [], []
    for run in range(runs + 1):
        if prepare is not None:
            prepare()
        before_cpu, before = time.thread_time_ns(), time.perf_counter_ns()
        work()
        after, after_cpu = time.perf_counter_ns(), time.thread_time_ns()
        if run:
            wall.append((after - before) / 1e9 / per)
            cpu.append((after_cpu - before_cpu) / 1e9 / per)
    return Figure(name, fmt, unit, statistics.median(wall), statistics.median(cpu), min(wall), runs, aim)


@contextmanager
def table_of(name: str, frames: FrameAllocator) -> Iterator[PageTable]:
    table = PageTable(by_name(name), frames, owner=TABLES)
    try:
        yield table
    finally:
        table.destroy()


def check_sample(table: PageTable, addresses: U64Array, sample: int) -> None:
    """The batch against the explained walk, element by element, on some of the addresses and some outside."""
    chosen = np.concatenate([addresses[:sample], np.arange(8, dtype=np.uint64) * np.uint64(1 << 45)])
    batch = table.translate_many(chosen)
    for address, hpa, status in zip(chosen.tolist(), batch.hpa.tolist(), batch.status.tolist(), strict=True):
        found = table.translate(address)
        right = status == found.kind if isinstance(found, Fault) else (status == 0 and hpa == found.hpa)
        if not right:
            raise SystemExit(f"the batch and the explained walk differ at {address:#x}: {hpa:#x} {status}, {found}")


def batch_figures(memory: PhysicalMemory, name: str, gib: int, count: int, runs: int, aim: float) -> list[Figure]:
    """Batch translation of random addresses over so many GiB mapped in 4 KiB, and the explained walk next to it."""
    frames = FrameAllocator(memory)
    with table_of(name, frames) as table:
        table.map_range(START, FAR, gib * GIB, RWX, largest=SIZE_4K)
        addresses = np.random.default_rng(1).integers(START, START + gib * GIB, count, dtype=np.uint64)
        check_sample(table, addresses, 2000)
        out = table.translate_many(addresses)
        few = addresses[:2000].tolist()
        return [
            measure(f"batch, {gib} GiB mapped", name, "ns/address", count / 1e9, runs,
                    lambda: table.translate_many(addresses, out=out), aim=aim),
            measure(f"explained walk, {gib} GiB mapped", name, "ns/address", len(few) / 1e9, runs,
                    lambda: [table.translate(address) for address in few]),
        ]  # fmt: skip


def edit_figures(memory: PhysicalMemory, name: str, runs: int) -> list[Figure]:
    """Mapping, listing, protecting and unmapping 1 GiB in 4 KiB, and one page."""
    frames = FrameAllocator(memory)
    with table_of(name, frames) as table:

        def map_all(largest: int = SIZE_4K) -> None:
            table.map_range(START, FAR, GIB, RWX, largest=largest)

        def unmap_all() -> None:
            table.unmap_range(START, GIB)

        def map_again() -> None:
            unmap_all()
            map_all()

        map_all()
        pages = table.rows(START, GIB, merge=False)
        if len(pages) != GIB // SIZE_4K or not (pages[:, 1] - pages[:, 0] == np.uint64(FAR - START)).all():
            raise SystemExit("the listing does not show what was mapped")
        runs *= 3
        figures = [
            measure("map 1 GiB in 4 KiB", name, "ms", 1e-3, runs, map_all, prepare=unmap_all, aim=0.5),
            measure("list 262144 pages", name, "ms", 1e-3, runs, lambda: table.rows(merge=False)),
            measure("list 262144 pages as runs", name, "ms", 1e-3, runs, table.rows),
            measure("protect 1 GiB in 4 KiB", name, "ms", 1e-3, runs, lambda: table.protect_range(START, GIB, RWX)),
            measure("harvest 1 GiB in 4 KiB", name, "ms", 1e-3, runs, lambda: table.harvest(START, GIB, ACCESSED),
                    prepare=lambda: table.mark(START, GIB, write=False)),
            measure("unmap 1 GiB in 4 KiB", name, "ms", 1e-3, runs, unmap_all, prepare=map_again),
            measure("merge 1 GiB in 4 KiB", name, "ms", 1e-3, runs, lambda: table.coalesce(START, GIB),
                    prepare=map_again),
        ]  # fmt: skip
        unmap_all()
        table.map_page(START + SIZE_4K, FAR, RWX)
        figures.append(
            measure("map and unmap one page", name, "us", 1000e-6, runs,
                    lambda: [(table.map_page(START, FAR, RWX), table.unmap_page(START)) for _ in range(1000)])
        )  # fmt: skip
        return figures


def two_stage_figures(memory: PhysicalMemory, name: str, count: int, runs: int) -> list[Figure]:
    """Both stages: a guest's Sv39 over 1 GiB in 4 KiB pages, on 1 GiB of guest memory in 4 KiB leaves."""
    frames = FrameAllocator(memory)
    # The guest builds its tables in memory of its own whose HPA equals its GPA, then uses them under stage 2.
    guest_tables = Range.sized(HOST.start, 8 * SIZE_2M)
    space = AddressSpace(name, frames, largest=SIZE_4K)
    try:
        space.map(guest_tables.start, guest_tables.size, RWX, MapType.MAP_IDENTICAL)
        # Nothing reads the data itself, so a device's addresses will do for it.
        space.map(MemoryRegion(Gpa(START), GIB, READ_WRITE, MapType.MMIO, hpa=FAR))
        with PhysicalMemory([guest_tables]) as shadow:
            guest = PageTable(SV39, FrameAllocator(shadow), owner=TABLES)
            guest.map_range(GVA_START, Hpa(START), GIB, READ_WRITE, largest=SIZE_4K)
            GuestMemory(space).write(Gpa(guest_tables.start), shadow.read(Hpa(guest_tables.start), guest_tables.size))
            stage_1 = Regime.of(SV39, guest.root)
            guest.destroy()
        gvas = np.random.default_rng(2).integers(GVA_START, GVA_START + GIB, count, dtype=np.uint64)
        batch = space.translate_gva_many(gvas[:500], stage_1, Access.READ)
        for gva, hpa in zip(gvas[:500].tolist(), batch.hpa.tolist(), strict=True):
            found = space.walk(Gva(gva), stage_1, Access.READ).result
            if not isinstance(found, Mapped) or found.hpa != hpa:
                raise SystemExit(f"the two-stage batch and the explained walk differ at {gva:#x}: {hpa:#x}, {found}")
        few = gvas[:500].tolist()
        return [
            measure("two-stage batch, Sv39 over 1 GiB", name, "ns/address", count / 1e9, runs,
                    lambda: space.translate_gva_many(gvas, stage_1, Access.READ)),
            measure("two-stage explained walk", name, "ns/address", len(few) / 1e9, runs,
                    lambda: [space.walk(Gva(gva), stage_1, Access.READ) for gva in few]),
        ]  # fmt: skip
    finally:
        space.destroy()


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


def run(formats: Sequence[str], count: int, runs: int, large: int) -> list[Figure]:
    """All figures: `count` addresses a batch, `runs` runs each, `large` GiB for the large batch."""
    figures: list[Figure] = []
    with PhysicalMemory([HOST]) as memory:
        for name in formats:
            figures += batch_figures(memory, name, 1, count, runs, aim=6.0)
            figures += batch_figures(memory, name, large, count, runs, aim=14.0)
            figures += edit_figures(memory, name, runs)
            figures += two_stage_figures(memory, name, count // 10, runs)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--formats", nargs="+", default=FORMATS, help=f"on which tables (default {' '.join(FORMATS)})")
    parser.add_argument("--runs", type=int, default=7, help="measured runs of each figure (default 7)")
    parser.add_argument("--addresses", type=int, default=10_000_000, help="addresses in a batch (default 10 million)")
    parser.add_argument("--large", type=int, default=64, help="GiB mapped for the large batch (default 64)")
    options = parser.parse_args()
    if options.runs < 1 or options.addresses < 2000 or not 1 <= options.large <= 128:
        parser.error("at least 1 run, at least 2000 addresses, and 1 to 128 GiB")
    figures = run(options.formats, options.addresses, options.runs, options.large)
    if options.json:
        json.dump({"machine": machine(), "figures": [asdict(figure) for figure in figures]}, sys.stdout, indent=2)
        print()
        return 0
    print(machine())
    print(f"{'figure':34} {'format':8} {'median':>10} {'CPU':>10} {'best':>10}  {'unit':12} {'aim':>6}")
    for figure in figures:
        aim = "" if figure.aim is None else f"{figure.aim:g}"
        numbers = f"{figure.value:10.3f} {figure.cpu:10.3f} {figure.best:10.3f}"
        print(f"{figure.name:34} {figure.format:8} {numbers}  {figure.unit:12} {aim:>6}")
    for name in options.formats:
        batch, walk = (
            next(f.value for f in figures if f.format == name and f.name.startswith(start))
            for start in ("batch, 1 ", "explained walk, 1 ")
        )
        print(f"{name}: one address of a batch costs 1/{walk / batch:.0f} of an explained walk")
    return 0


if __name__ == "__main__":
    sys.exit(main())
