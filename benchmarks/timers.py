"""What a timer costs, against how many there are: our list beside `heapq` and `sched` of the standard library.

Run it as `python -m benchmarks.timers`; `--json F` and `--plot F` write the figures and the plot. Of n timers with
deadlines at random, half are cancelled at random and the rest expire. How it is taken stands in docs/timers.md.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import json
import platform
import random
import sched
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from stage2.address import MIB, SIZE_4K, Range, align_up
from stage2.hypervisor.clock import VirtualClock
from stage2.hypervisor.cpus import Cpus
from stage2.hypervisor.time import NANOS_PER_SEC, TimeValue
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory

SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000, 1_000_000)
SMALL_SCHED = 10_000
"""Limit: timers of `sched`, which looks for a cancelled one through its whole list."""
RECORD = 16
"""Bytes of an event."""


@dataclass(frozen=True)
class Figure:
    """One implementation at one number of timers, each in nanoseconds of this thread's CPU time, medians.

    Args:
        what: whose timers.
        timers: how many were registered.
        register: for each that was registered.
        cancel: for each that was cancelled.
        fire: for each that expired.
        event: all of it, for each that was registered.
    """

    what: str
    timers: int
    register: float
    cancel: float
    fire: float
    event: float


@dataclass(frozen=True)
class Load:
    """What is asked of an implementation.

    Args:
        deadlines: in nanoseconds, in the order of registration.
        cancelled: the indices of those that are taken back, in that order.
    """

    deadlines: list[int]
    cancelled: list[int]

    @classmethod
    def of(cls, timers: int, seed: int) -> Load:
        """Deadlines within a second, half of them cancelled."""
        chance = random.Random(seed)
        return cls([chance.randrange(NANOS_PER_SEC) for _ in range(timers)], chance.sample(range(timers), timers // 2))

    @property
    def left(self) -> int:
        return len(self.deadlines) - len(self.cancelled)


Steps = tuple[Callable[[], object], Callable[[], object], Callable[[], int]]
"""Register all, cancel half, let the rest expire: how many did."""


def of_ours(load: Load) -> tuple[Steps, Callable[[], None]]:
    """A list in host memory, through the calls of a machine's timers."""
    count = len(load.deadlines)
    memory = PhysicalMemory([Range.sized(0x8000_0000, align_up(count * RECORD, SIZE_4K) + 4 * MIB)])
    clock = VirtualClock()
    cpus = Cpus(clock, FrameAllocator(memory), capacity=count)
    timers, tokens, fired = cpus.timers, [0] * count, [0]

    def callback(_now: TimeValue) -> None:
        fired[0] += 1

    def register() -> None:
        for index, deadline in enumerate(load.deadlines):
            tokens[index] = timers.register_timer(deadline, callback)

    def cancel() -> None:
        for index in load.cancelled:
            timers.cancel_timer(tokens[index])

    def expire() -> int:
        clock.advance_to(TimeValue(NANOS_PER_SEC))
        while timers.check_events().more:
            pass
        return fired[0]

    def close() -> None:
        cpus.close()
        memory.close()

    return (register, cancel, expire), close


def of_heapq(load: Load) -> tuple[Steps, Callable[[], None]]:
    """The least that timers can be: a heap, and a set of those that were cancelled."""
    heap: list[tuple[int, int]] = []
    dead: set[int] = set()
    fired = [0]

    def callback(_now: int) -> None:
        fired[0] += 1

    def register() -> None:
        for index, deadline in enumerate(load.deadlines):
            heapq.heappush(heap, (deadline, index))

    def cancel() -> None:
        for index in load.cancelled:
            dead.add(index)

    def expire() -> int:
        while heap:
            deadline, index = heapq.heappop(heap)
            if index not in dead:
                callback(deadline)
        return fired[0]

    return (register, cancel, expire), heap.clear


def of_sched(load: Load) -> tuple[Steps, Callable[[], None]]:
    """`sched.scheduler`, on a clock that is set."""
    now, fired = [0], [0]
    found = sched.scheduler(lambda: now[0], lambda _delay: None)
    events: list[sched.Event] = []

    def callback() -> None:
        fired[0] += 1

    def register() -> None:
        events.extend(found.enterabs(deadline, 0, callback) for deadline in load.deadlines)

    def cancel() -> None:
        for index in load.cancelled:
            found.cancel(events[index])

    def expire() -> int:
        now[0] = NANOS_PER_SEC
        found.run(blocking=False)
        return fired[0]

    return (register, cancel, expire), events.clear


WHAT = {"stage2": of_ours, "heapq": of_heapq, "sched": of_sched}


def measure(what: str, load: Load) -> tuple[float, float, float]:
    """CPU nanoseconds of each step of one run."""
    steps, close = WHAT[what](load)
    gc.collect()
    took: list[float] = []
    answer: object = None
    for step in steps:
        began = time.thread_time_ns()
        answer = step()
        took.append(time.thread_time_ns() - began)
    close()
    if answer != load.left:
        raise SystemExit(f"{what}: {answer} timers of {load.left} expired")
    return took[0], took[1], took[2]


def figures(sizes: list[int], runs: int) -> list[Figure]:
    """All implementations in turns, so that what else the machine does meets all alike."""
    found = []
    for size in sizes:
        loads = [Load.of(size, seed) for seed in range(runs)]
        names = [name for name in WHAT if name != "sched" or size <= SMALL_SCHED]
        taken = {name: [] for name in names}  # type: dict[str, list[tuple[float, float, float]]]
        for load in loads:
            for name in names:
                taken[name].append(measure(name, load))
        for name in names:
            register, cancel, fire = (statistics.median(column) for column in zip(*taken[name], strict=True))
            half, left = len(loads[0].cancelled), loads[0].left
            found.append(
                Figure(name, size, register / size, cancel / half, fire / left, (register + cancel + fire) / size)
            )
            print(
                f"{name:7} {size:9,}  register {found[-1].register:8,.0f}  cancel {found[-1].cancel:8,.0f}"
                f"  fire {found[-1].fire:8,.0f}  an event in all {found[-1].event:8,.0f} ns",
                flush=True,
            )
    return found


def plot(found: list[Figure], file: Path) -> None:
    """Draw what an event costs against how many there are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for name in WHAT:
        points = [(one.timers, one.event / 1000) for one in found if one.what == name]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("timers registered")
    axes.set_ylabel("us of CPU for each")
    axes.set_title("A timer: registered, then cancelled or fired")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="numbers of timers")
    parser.add_argument("--runs", type=int, default=3, help="runs of each")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plot", type=Path, help="write the plot there")
    chosen = parser.parse_args()
    found = figures(chosen.sizes, chosen.runs)
    if chosen.json is not None:
        host = {"python": platform.python_version(), "machine": platform.machine(), "runs": chosen.runs}
        chosen.json.write_text(json.dumps({"host": host, "figures": [asdict(one) for one in found]}, indent=1) + "\n")
    if chosen.plot is not None:
        plot(found, chosen.plot)


if __name__ == "__main__":
    main()
