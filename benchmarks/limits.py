"""What this machine's memory itself allows, measured in the same run: bandwidth, and loads from random places."""

from __future__ import annotations

import ctypes
import statistics
import time
from dataclasses import dataclass

import numpy as np

from .twins import library

_LOADS = 2_000_000
_STREAM = 256 << 20


@dataclass(frozen=True, slots=True)
class Loads:
    """Loads from random words of a range.

    Args:
        size: bytes of the range.
        latency_ns: of loads that each wait for the last.
        throughput_ns: for each of many that do not.
    """

    size: int
    latency_ns: float
    throughput_ns: float


def bandwidth(runs: int = 5) -> tuple[float, float]:
    """(GB/s written, GB/s read) of one thread in order."""
    words = np.ones(_STREAM // 8, np.uint64)
    written, read = [], []
    for _ in range(runs):
        began = time.perf_counter()
        words.fill(7)
        between = time.perf_counter()
        words.max()
        read.append(_STREAM / (time.perf_counter() - between) / 1e9)
        written.append(_STREAM / (between - began) / 1e9)
    return statistics.median(written), statistics.median(read)


def random_loads(size: int, fmt: str) -> Loads:
    """Loads from a range of `size` bytes in huge pages, where the host has them.

    Args:
        fmt: whose twin does them.
    """
    import mmap

    from stage2.address import SIZE_2M

    count = size // 8
    held = mmap.mmap(-1, max(size, SIZE_2M), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.madvise(mmap.MADV_HUGEPAGE)
    words = np.frombuffer(held, np.uint64, count)
    chance = np.random.default_rng(5)
    # A ring through cache lines in random order: 8 words are one line.
    lines = chance.permutation(count // 8).astype(np.uint64) * np.uint64(8)
    words[lines] = np.roll(lines, -1)
    places = (chance.integers(0, count, _LOADS, dtype=np.uint32) & ~np.uint32(7)).astype(np.uint32)
    calls = library(fmt)
    at, loads = ctypes.c_void_p(words.ctypes.data), ctypes.c_uint64(_LOADS)
    taken: list[list[float]] = [[], []]
    for _ in range(5):
        began = time.thread_time_ns()
        calls.chase(at, ctypes.c_uint64(int(lines[0])), loads)
        between = time.thread_time_ns()
        calls.gather(at, ctypes.c_void_p(places.ctypes.data), loads)
        taken[0].append((between - began) / _LOADS)
        taken[1].append((time.thread_time_ns() - between) / _LOADS)
    del words
    held.close()
    return Loads(size, statistics.median(taken[0]), statistics.median(taken[1]))
