"""How costs grow with what is mapped, 64 MiB to 1 TiB in 4 KiB pages, beside what memory itself takes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stage2.address import GIB, MIB, SIZE_4K, Hpa, format_size
from stage2.flags import RWX
from stage2.tables.pagetable import PageTable

from .limits import Loads, bandwidth, random_loads
from .settings import host, random_addresses, table_of
from .twins import OnOurs

SIZES = tuple(64 * MIB << 2 * step for step in range(8))
"""64 MiB to 1 TiB."""
_ADDRESSES = 2_000_000
_FROM = Hpa(1 << 40)


@dataclass(frozen=True, slots=True)
class Growth:
    """Costs at one size.

    Args:
        size: bytes mapped.
        map_ns, unmap_ns, list_ns: a page.
        batch_ns, twin_ns: a random address, by our batch and by the plain C twin.
    """

    size: int
    map_ns: float
    unmap_ns: float
    list_ns: float
    batch_ns: float
    twin_ns: float


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves of a format, and the limits of the machine in the same run.

    Args:
        loads: random loads from as many bytes as the leaf tables have.
        write_gbs, read_gbs: bandwidth of one thread.
    """

    format: str
    points: list[Growth]
    loads: list[Loads]
    write_gbs: float
    read_gbs: float


def _ns(work: Callable[[], object], things: int, runs: int = 3, before: Callable[[], object] | None = None) -> float:
    taken = []
    for _ in range(runs):
        if before is not None:
            before()
        began = time.thread_time_ns()
        work()
        taken.append((time.thread_time_ns() - began) / things)
    return statistics.median(taken)


def _measure(table: PageTable, size: int) -> Growth:
    """One size on an empty table, which is empty again afterwards."""
    pages = size // SIZE_4K

    def map_all() -> None:
        table.map_range(0, _FROM, size, RWX, largest=SIZE_4K)

    def clear() -> None:
        table.unmap_range(0, size)

    def full() -> None:
        clear()
        map_all()

    full()
    map_ns = _ns(map_all, pages, before=clear)
    list_ns = _ns(table.rows, pages)
    addresses = random_addresses(0, size, _ADDRESSES)
    out = table.translate_many(addresses)
    batch_ns = _ns(lambda: table.translate_many(addresses, out=out, threads=1), _ADDRESSES)
    twin, hpa = OnOurs(table), np.empty_like(out.hpa)
    attributes, status = np.empty_like(out.attributes), np.empty_like(out.status)
    twin_ns = _ns(lambda: twin.translate_many(addresses, hpa, attributes, status), _ADDRESSES)
    unmap_ns = _ns(clear, pages, before=full)
    return Growth(size, map_ns, unmap_ns, list_ns, batch_ns, twin_ns)


def grow(fmt: str, sizes: tuple[int, ...] = SIZES) -> Curves:
    """Measure a format at every size."""
    points, loads = [], []
    for size in sizes:
        with host(64 * MIB + size // 256) as frames, table_of(fmt, frames) as table:
            points.append(_measure(table, size))
        loads.append(random_loads(size // 512, fmt))
    return Curves(fmt, points, loads, *bandwidth())


def plot(curves: list[Curves], file: Path) -> None:
    """Draw both pictures side by side: translations, and edits."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stage2"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.8))
    for number, found in enumerate(curves):
        sizes = [point.size / GIB for point in found.points]
        colour = f"C{number}"
        left.plot(sizes, [point.batch_ns for point in found.points], "o-", color=colour, label=f"{found.format}, batch")
        left.plot(
            sizes, [point.twin_ns for point in found.points], "x:", color=colour, label=f"{found.format}, plain C"
        )
        right.plot(sizes, [point.map_ns for point in found.points], "o-", color=colour, label=f"{found.format}, map")
        right.plot(sizes, [point.unmap_ns for point in found.points], "s--", color=colour, label="unmap")
        right.plot(sizes, [point.list_ns for point in found.points], "x:", color=colour, label="list as runs")
    first = curves[0]
    sizes = [point.size / GIB for point in first.points]
    left.plot(sizes, [load.latency_ns for load in first.loads], "k--", alpha=0.6, label="one dependent load")
    left.plot(sizes, [load.throughput_ns for load in first.loads], "k-", alpha=0.6, label="one independent load")
    right.axhline(8 / first.write_gbs, color="k", alpha=0.6, label="writing 8 bytes in order")
    for axes, what in ((left, "ns an address"), (right, "ns a page")):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(sizes, [format_size(point.size) for point in first.points], rotation=45)
        axes.set_ylabel(what)
        axes.set_xlabel("mapped in 4 KiB pages")
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    left.set_title("translating random addresses")
    right.set_title("edits and listings")
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)
