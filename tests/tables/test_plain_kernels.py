"""Kernels as plain Python do what they do compiled: the same table bytes, answers and refusals, in every format."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import format_lists
from effort import FACTOR, seeded
from kernel_forms import form
from stage2.address import Hpa, Range
from stage2.errors import Stage2Error
from stage2.flags import RWX, MappingFlags
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.formats.outcome import ACCESSED, DIRTY
from stage2.formats.record import Format
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tables import compiled, raw, uncompiled
from stage2.tables.compiled import Kernel, host_memory, load
from stage2.tables.pagetable import PageTable

HOST = [Range(0x8000_0000, 0x8020_0000), Range(0x9000_0000, 0x9010_0000)]
"""Two pieces, so that the further ranges are looked through too; not enough for every edit."""
EDITS = 25
R, RW = MappingFlags.READ, MappingFlags.READ | MappingFlags.WRITE


def random_edit(table: PageTable, draw: random.Random) -> Any:
    """One edit or listing, drawn from a generator; its answer, or the refusal's words."""
    fmt = table.format
    page, block = fmt.page_size, fmt.leaf_size(1)
    window = (2 << 40) % (1 << fmt.input_bits - 1) & -block
    base = (1 << 64) - (1 << fmt.input_bits) + window if fmt.high_half else window

    def place() -> int:
        return base + draw.randrange(4) * block + draw.choice([0, 0, 1, 2, 511]) * page

    start, size = place(), draw.choice([page, 3 * page, 16 * page, block, block + page, 2 * block])
    hpa = Hpa((1 << 34) + draw.choice([0, 0, page, block]) + (start & 4 * block - 1))
    flags = draw.choice([R, RW, RWX])
    edits: list[Callable[[], Any]] = [
        lambda: table.map_range(start, hpa, size, flags),
        lambda: table.map_range(start, hpa, size, flags, largest=page),
        lambda: table.unmap_range(start, size),
        lambda: table.protect_range(start, size, flags),
        lambda: table.coalesce(start & -block, 2 * block),
        lambda: table.coalesce(start, size, blocks=False, groups=True),
        lambda: table.harvest(start, size, draw.choice([ACCESSED, DIRTY])),
        lambda: table.mark(start, size, write=True),
        lambda: table.rows(merge=draw.random() < 0.5).tolist(),
        lambda: table.statistics(),
    ]
    edit = draw.choices(edits, [6, 3, 3, 3, 2, 2, 1, 1, 1, 1])[0]
    try:
        done = edit()
    except Stage2Error as error:
        return type(error), str(error)
    return [part.tolist() if isinstance(part, np.ndarray) else part for part in vars_of(done)]


def vars_of(done: Any) -> list[Any]:
    slots = getattr(type(done), "__slots__", None)
    return [getattr(done, name) for name in slots] if slots else [done]


def history(fmt: Format, seed: Any, name: str) -> Iterator[tuple[Any, str, list[Operation]]]:
    """What each of some random edits answered, and what memory was afterwards."""
    draw = random.Random(str(seed))
    with PhysicalMemory(HOST) as memory, form(name):
        flushed: list[Operation] = []
        owner = Owner(OwnerKind.TABLES, "both ways")
        table = PageTable(fmt, FrameAllocator(memory), owner=owner, flush=flushed.extend)
        for _ in range(EDITS):
            answer = random_edit(table, draw)
            held = hashlib.sha256(b"".join(memory.read(Hpa(part.start), part.size) for part in HOST)).hexdigest()
            yield answer, held, list(flushed)
            flushed.clear()


@pytest.mark.parametrize("name", format_lists.COMPILED_SECOND_STAGES)
def test_random_edits_leave_the_same_bytes_both_ways(name: str) -> None:
    fmt = by_name(name)
    for number in range(2 * FACTOR):
        # One after the other: a form is that of all kernels.
        ways = [list(history(fmt, seeded(number), way)) for way in ("plain", "compiled")]
        for step, (plain, ready) in enumerate(zip(*ways, strict=True)):
            assert plain[0] == ready[0], f"edit {step} of {number} answers otherwise"
            assert plain[1] == ready[1], f"edit {step} of {number} leaves other bytes"
            assert plain[2] == ready[2], f"edit {step} of {number} owes otherwise"


def test_plain_numbers_wrap_around_as_compiled_ones_do() -> None:
    words = np.zeros(2, np.uint64)
    base = words.ctypes.data
    with raw.reaching([(base, words.size, words.data)]):
        raw.poke(base + (1 << 64), 1 << 64, -1)
        assert raw.peek(base - (1 << 64), 0) == (1 << 64) - 1
    assert words.tolist() == [(1 << 64) - 1, 0]


def test_a_plain_run_reaches_nothing_but_what_it_was_given() -> None:
    words, other = np.zeros(2, np.uint64), np.zeros(2, np.uint64)
    with raw.reaching([(words.ctypes.data, words.size, words.data)]):
        for hva in (other.ctypes.data, words.ctypes.data - 8, words.ctypes.data + 16, 0):
            with pytest.raises(IndexError, match=f"{hva:#x}"):
                raw.peek(hva, 0)
            with pytest.raises(IndexError, match=f"{hva:#x}"):
                raw.poke(hva, 0, 1)
    with pytest.raises(IndexError):
        raw.peek(words.ctypes.data, 0)


def test_entries_outside_memory_are_found_out_both_ways() -> None:
    def status_of(host: Any, address: int) -> int:
        return load(host, address)[0]

    kernel = Kernel(status_of)
    compiled.inlined(load)
    with PhysicalMemory(HOST) as memory:
        host = host_memory(memory)
        ends = [edge + off for part in HOST for edge in (part.start, part.end) for off in (-8, 0)]
        for address in [0, 8, *ends, (1 << 64) - 8]:
            inside = any(part.start <= address < part.end for part in HOST)
            assert (uncompiled.run(status_of, host, np.uint64(address)) == 0) is inside, f"{address:#x}"
            assert (kernel(host, np.uint64(address)) == 0) is inside, f"{address:#x}"


def small(counted: Any) -> int:
    """A kernel's function that says how it runs: compiled code knows no Python class."""
    return counted.shape[0]  # type: ignore[no-any-return]


def test_a_kernel_is_compiled_when_its_work_pays(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("STAGE2_CACHE", str(tmp_path))
    monkeypatch.setattr(compiled, "_never_plain", None)
    monkeypatch.setattr(compiled, "COMPILE_WORK", 100_000)
    monkeypatch.setattr(compiled, "LOAD_WORK", 10_000)
    compiled.numba()
    array = np.zeros(3, np.uint64)
    kernel = Kernel(small)
    calls = compiled.COMPILE_WORK // 2 // (compiled.CALL_WORK + 1000)
    for _ in range(calls):
        assert kernel.for_work(lambda: 1000)(array) == 3
    assert kernel.ready is None, "half of the work that pays was enough"
    assert kernel.for_work(lambda: compiled.COMPILE_WORK)(array) == 3
    assert kernel.ready is not None
    # It is kept now, and the compiler is at hand: another process would load it at once.
    again = Kernel(small)
    assert again.for_work(lambda: 1)(array) == 3
    assert again.ready is not None
    assert sum(again.compiled.stats.cache_misses.values()) == 0
