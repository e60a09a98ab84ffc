"""One array's work on several cores: kernels run without the GIL, so threads of this process are enough."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from ..errors import OutOfRangeError

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

LEAST = 1 << 17
"""Elements that a thread is worth having for; with fewer, one thread does them all unless more are asked for."""
MOST = 256
"""Limit: threads of one call."""


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(threads, thread_name_prefix="stage2 batch")


# A child has the pool's object and none of its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def cores() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def in_pieces(work: Callable[[slice], object], count: int, threads: int | None) -> None:
    """Do the work on `count` elements, in as many pieces as there are threads.

    Args:
        work: takes the slice of its elements; pieces do not depend on each other.
        threads: how many; None for every CPU that this process may use, as far as each has enough to do.

    Raises:
        OutOfRangeError: no thread, or more than MOST.
    """
    if threads is None:
        threads = max(1, min(cores(), count // LEAST, MOST))
    if not 1 <= threads <= MOST:
        raise OutOfRangeError(f"{threads} threads: 1 to {MOST} are possible")
    if threads == 1:
        work(slice(0, count))
        return
    ends = [count * number // threads for number in range(threads + 1)]
    pieces = [slice(first, end) for first, end in pairwise(ends)]
    others = [_pool(threads - 1).submit(work, piece) for piece in pieces[1:]]
    try:
        work(pieces[0])
    finally:
        # Results are arrays of the caller's: nobody writes to them once this returns, come what may.
        for other in others:
            other.exception()
    for other in others:
        other.result()
