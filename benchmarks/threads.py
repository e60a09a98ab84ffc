"""What more cores do for one large batch: wall clock with every core over that with one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from stage2.address import GIB
from stage2.flags import Access
from stage2.tables.parallel import cores as usable_cores

from .settings import START, mapped, nested, random_addresses


@dataclass(frozen=True, slots=True)
class Scaling:
    """A batch on one core and on several.

    Args:
        name, format: which batch.
        cores: how many threads.
        one_ns, all_ns: an address, wall clock, medians.
    """

    name: str
    format: str
    cores: int
    one_ns: float
    all_ns: float


def _pair(work: Callable[[int], object], cores: int, things: int, runs: int) -> tuple[float, float]:
    taken: tuple[list[float], list[float]] = ([], [])
    for threads in (1, cores):
        work(threads)
    for _ in range(runs):
        for into, threads in zip(taken, (1, cores), strict=True):
            began = time.perf_counter_ns()
            work(threads)
            into.append((time.perf_counter_ns() - began) / things)
    return statistics.median(taken[0]), statistics.median(taken[1])


def scaling(fmt: str, count: int, runs: int) -> list[Scaling]:
    """Both kinds of batches over 64 and 1 GiB."""
    cores = usable_cores()
    with mapped(fmt, 64 * GIB) as table:
        addresses = random_addresses(START, 64 * GIB, count)
        out = table.translate_many(addresses)
        one, many = _pair(lambda n: table.translate_many(addresses, out=out, threads=n), cores, count, runs)
        found = [Scaling("batch translate, 64 GiB mapped", fmt, cores, one, many)]
    with nested(fmt, GIB) as guest:
        gvas = guest.gvas(count // 4)
        one, many = _pair(
            lambda n: guest.space.translate_gva_many(gvas, guest.stage_1, Access.READ, threads=n),
            cores, len(gvas), runs,
        )  # fmt: skip
        found.append(Scaling("two-stage batch, 1 GiB", fmt, cores, one, many))
    return found
