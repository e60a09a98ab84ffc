"""How a proof of isolation grows with VMs and their leaves: frames in one piece, and shuffled within each VM.

Each point is a process of its own, `python -m benchmarks.proofs FORMAT VMS BYTES WAY`, so that its peak memory is its
own too.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from stage2.address import GIB, MIB, SIZE_2M, SIZE_4K, Gpa, format_size
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.prove.prover import prove
from stage2.prove.source import HostTables
from stage2.prove.subject import Space, Subject
from stage2.render.plain import about
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate

from .settings import START, host

WAYS = ("in one piece", "shuffled")
GOALS_S = {"in one piece": 5.0, "shuffled": 20.0}
"""For 64 VMs of 16 GiB."""
LARGEST = 64, 16 * GIB
BY_VMS = tuple((vms, 16 * GIB) for vms in (1, 2, 4, 8, 16, 32, 64))
BY_LEAVES = tuple((4, 64 * MIB << 2 * step) for step in range(5))
_FLAGS = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE | MappingFlags.USER


@dataclass(frozen=True, slots=True)
class Proved:
    """One host.

    Args:
        format: of its tables.
        vms, size: VMs, and bytes of each in leaves of 4 KiB.
        way: of `WAYS`.
        wall_s, cpu_s: of the proof.
        read_s: processor time that it takes to look at every word of the tables once.
        tables: bytes of all tables.
        more: bytes of peak memory that the proof added.
    """

    format: str
    vms: int
    size: int
    way: str
    wall_s: float
    cpu_s: float
    read_s: float
    tables: int
    more: int

    @property
    def leaves(self) -> int:
        """Leaves in all."""
        return self.vms * self.size // SIZE_4K


def measure_one(fmt: str, vms: int, size: int, way: str) -> Proved:
    """Make a host and prove it, in this process."""
    with host(vms * size + (vms * size >> 8) + GIB) as frames:
        spaces = [_space(fmt, frames, number, size) for number in range(vms)]
        if way == "shuffled":
            order = np.random.default_rng(1).permutation(size // SIZE_4K)
            for space in spaces:
                _shuffle(space, size, order)
        subject = Subject(
            HostTables(frames.memory),
            tuple(
                Space(one.name, one.regime, one.memory_regions, tuple(one.page_table.table_ranges)) for one in spaces
            ),
            owners=tuple(frames.owners),
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wall, cpu = time.perf_counter(), time.process_time()
        proof = prove(subject)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        assert proof.proved, str(proof)
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10
        spans = [span for one in spaces for span in one.page_table.table_ranges]
        base, words = frames.memory.base, frames.memory.words
        read = time.process_time()
        for span in spans:
            np.bitwise_or.reduce(words[(span.start - base) >> 3 : (span.end - base) >> 3])
        read = time.process_time() - read
        return Proved(fmt, vms, size, way, wall, cpu, read, sum(span.size for span in spans), more)


def _space(fmt: str, frames: FrameAllocator, number: int, size: int) -> AddressSpace:
    space = AddressSpace(fmt, frames, name=f"vm{number}", populate=Populate.EAGER, largest=SIZE_4K)
    space.map(MemoryRegion(Gpa(START), size, _FLAGS, MapType.MAP_ALLOC, name="ram"))
    return space


def _shuffle(space: AddressSpace, size: int, order: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
    """Let every leaf of a VM lead where another did."""
    memory = space.frames.memory
    slots = [space.page_table.explain(gpa).steps[-1].slot for gpa in range(START, START + size, SIZE_2M)]
    rows = (np.array(slots, np.uint64) - np.uint64(memory.base)) // np.uint64(SIZE_4K)
    tables = memory.words[: len(memory.words) // 512 * 512].reshape(-1, 512)
    tables[rows] = tables[rows].ravel()[order].reshape(-1, 512)


def grow(fmt: str, points: Sequence[tuple[int, int]] = (*BY_VMS, *BY_LEAVES)) -> Iterator[Proved]:
    """Measure hosts of a format, each in its own process."""
    for way in WAYS:
        for vms, size in points:
            arguments = [sys.executable, "-m", "benchmarks.proofs", fmt, str(vms), str(size), way]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=600)
            yield Proved(**json.loads(done.stdout))


def plot(found: Sequence[Proved], file: Path) -> None:
    """Draw time over VMs and over leaves, and memory over leaves."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "stage2"
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(14, 4.4))
    for number, (fmt, way) in enumerate(sorted({(one.format, one.way) for one in found})):
        mine = [one for one in found if (one.format, one.way) == (fmt, way)]
        style = {"color": f"C{number}", "marker": "os"[number % 2], "label": f"{fmt}, frames {way}"}
        by_vms = sorted({one.vms: one for one in mine if one.size == LARGEST[1]}.values(), key=lambda one: one.vms)
        alike = {one.leaves: one for one in mine if one.vms == BY_LEAVES[0][0]}
        by_leaves = sorted(alike.values(), key=lambda one: one.leaves)
        left.plot([one.vms for one in by_vms], [one.cpu_s for one in by_vms], **style)
        middle.plot([one.leaves for one in by_leaves], [one.cpu_s for one in by_leaves], **style)
        every = sorted(mine, key=lambda one: one.leaves)
        right.plot([one.leaves for one in every], [max(one.more, MIB) / MIB for one in every], **style)
        goal = GOALS_S[way]
        left.axhline(goal, color=f"C{number}", alpha=0.4, linestyle=":")
    every = sorted(found, key=lambda one: one.leaves)
    right.plot(
        [one.leaves for one in every],
        [one.tables / MIB for one in every],
        "k:",
        alpha=0.6,
        label="the tables themselves",
    )
    titles = ("VMs of 16 GiB", "leaves of 4 VMs", "leaves")
    for axes, title, what in zip((left, middle, right), titles, ("s of CPU", "s of CPU", "MiB more"), strict=True):
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel(title)
        axes.set_ylabel(what)
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=7)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def lines(found: Sequence[Proved]) -> list[str]:
    """The figures of the largest hosts, for a page."""
    return [
        "![VMs and leaves against the time and the memory of a proof](images/proofs.svg)",
        "",
        *(
            f"* {one.format}, {one.vms} VMs of {format_size(one.size)} in leaves of 4 KiB ({one.leaves:,}), frames "
            f"{one.way}: {one.cpu_s:.1f} s of processor time (wanted: under {GOALS_S[one.way]:.0f} s), "
            f"{one.cpu_s / one.read_s:.1f} times what looking at every word of the tables once takes, and "
            f"{about(one.more)} beside the tables' {about(one.tables)}."
            for one in found
            if (one.vms, one.size) == LARGEST
        ),
        "",
    ]


if __name__ == "__main__":
    print(json.dumps(asdict(measure_one(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))))
