"""What edits cost: 10,000 random ones, and the memory that bookkeeping takes beside the tables.

Run with `python -m benchmarks.edits [--plot FILE]`. The figure to read is the ratio of the cost of the last thousand
edits to the first thousand's, per page edited: 1 means that cost is linear in the size of the edits.
"""

from __future__ import annotations

import argparse
import gc
import random
import time
from dataclasses import dataclass
from pathlib import Path

from stage2.address import GIB, MIB, Gpa, Hpa, Range
from stage2.errors import MappingError
from stage2.flags import RWX, MappingFlags, MapType
from stage2.formats import by_name
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate
from stage2.tables.pagetable import PageTable

FORMATS = ("sv39x4", "ept4")
PAGE = 4096
WINDOW_PAGES = GIB // PAGE
BASE = 0x8000_0000
HPA = Hpa(0x2_0000_0000)


@dataclass(frozen=True, slots=True)
class Point:
    """The state after a batch of edits: how many there were, pages they named, thread CPU seconds they took."""

    edits: int
    pages: int
    seconds: float


def random_edits(fmt: str, count: int, batch: int) -> list[Point]:
    """Random maps, unmaps and protects of 1 to 1,024 pages in 1 GiB; refused maps count as edits too."""
    chance = random.Random(1)
    points: list[Point] = []
    with PhysicalMemory([Range.sized(0x1_0000_0000, 4 * GIB)]) as memory:
        space = AddressSpace.create(fmt, FrameAllocator(memory), name="bench")
        space.map(MemoryRegion(Gpa(BASE), PAGE, RWX, MapType.MAP_ALLOC, populate=Populate.EAGER))
        space.protect(BASE, PAGE, RWX)
        space.unmap(BASE, PAGE)
        pages, spent = 0, 0.0
        gc.disable()
        for done in range(1, count + 1):
            start = chance.randrange(WINDOW_PAGES - 1024)
            size = chance.randint(1, 1024)
            kind = chance.random()
            began = time.thread_time()
            try:
                if kind < 0.5:
                    flags = MappingFlags(chance.choice((1, 3, 5, 7)))
                    region = MemoryRegion(
                        Gpa(BASE + start * PAGE), size * PAGE, flags, MapType.MAP_ALLOC, populate=Populate.EAGER
                    )
                    space.map(region)
                elif kind < 0.9:
                    space.unmap(BASE + start * PAGE, size * PAGE)
                else:
                    space.page_table.protect_range(BASE + start * PAGE, size * PAGE, RWX)
            except MappingError:
                pass
            spent += time.thread_time() - began
            pages += size
            if done % batch == 0:
                points.append(Point(done, pages, spent))
        gc.enable()
        space.destroy()
    return points


def resident_kib() -> int:
    """This process's resident memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError("no VmRSS in /proc/self/status")


def bookkeeping(fmt: str) -> tuple[int, int]:
    """(table bytes, bytes of this process beyond them) for 64 GiB mapped in 4 KiB pages."""
    with PhysicalMemory([Range.sized(0x1_0000_0000, 80 * GIB)]) as memory:
        frames = FrameAllocator(memory)
        table = PageTable(by_name(fmt), frames, owner=Owner(OwnerKind.TABLES, "bench"))
        table.map_range(BASE, HPA, 2 * MIB, RWX, largest=PAGE)
        table.unmap_range(BASE, 2 * MIB)
        gc.collect()
        before = resident_kib() * 1024 - memory.resident_bytes()
        table.map_range(0, HPA, 64 * GIB, RWX, largest=PAGE)
        gc.collect()
        after = resident_kib() * 1024 - memory.resident_bytes()
        return table.statistics().table_bytes, max(after - before, 0)


def plot(points: dict[str, list[Point]], file: Path) -> None:
    """Draw cumulative time against pages edited."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name, series in points.items():
        axes.plot([p.pages / 1e6 for p in series], [p.seconds for p in series], label=name)
    axes.set_xlabel("pages named by the edits so far, millions")
    axes.set_ylabel("thread CPU seconds so far")
    axes.set_title(f"{series[-1].edits:,} random edits of 1 to 1,024 pages in 1 GiB")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plot", type=Path, help="write a picture to this file")
    parser.add_argument("--edits", type=int, default=10_000)
    parser.add_argument("--formats", nargs="+", default=FORMATS, help=f"on which tables (default {' '.join(FORMATS)})")
    arguments = parser.parse_args()
    batch = max(arguments.edits // 10, 1)
    series = {fmt: random_edits(fmt, arguments.edits, batch) for fmt in arguments.formats}
    for name, points in series.items():
        first = points[0].seconds / points[0].pages
        last = (points[-1].seconds - points[-2].seconds) / (points[-1].pages - points[-2].pages)
        each = points[-1].seconds / points[-1].edits
        print(
            f"{name}: {points[-1].edits:,} edits of {points[-1].pages:,} pages, {each * 1e6:.0f} us an edit; "
            f"last tenth / first tenth per page: {last / first:.2f}"
        )
        tables, beyond = bookkeeping(name)
        print(f"{name}: 64 GiB in 4 KiB: {tables / MIB:.1f} MiB of tables, {beyond / tables:.2%} of that beside them")
    if arguments.plot:
        plot(series, arguments.plot)


if __name__ == "__main__":
    main()
