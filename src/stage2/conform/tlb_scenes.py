"""One edit of every kind, and what of its debt QEMU's AArch64 CPU does not show (docs/invalidation.md)."""

from __future__ import annotations

import numpy as np

from ..address import Hpa
from ..flags import RWX, MappingFlags, MemoryType
from ..formats.outcome import ACCESSED, DIRTY
from .tlb_truth import ALONE, BLOCK, GPA, GUEST, GVA, NEW, PAGE, UNDER, Bench, LeftOut, Scene

_RX = MappingFlags.READ | MappingFlags.EXECUTE
_RW = MappingFlags.READ | MappingFlags.WRITE
_SECOND_PAGE = PAGE


def _pages(bench: Bench) -> None:
    bench.populate()


def _read_only_pages(bench: Bench) -> None:
    bench.populate(_RX)


def _block(bench: Bench) -> None:
    bench.populate(largest=BLOCK)


def _unmap(bench: Bench) -> None:
    bench.table.unmap_range(bench.base + _SECOND_PAGE, PAGE)


def _unmap_many(bench: Bench) -> None:
    bench.table.unmap_range(bench.base + _SECOND_PAGE, 40 * PAGE)


def _take_write_away(bench: Bench) -> None:
    bench.table.protect_range(bench.base + _SECOND_PAGE, PAGE, bench.kind.flags(_RX))


def _give_write(bench: Bench) -> None:
    bench.table.protect_range(bench.base + _SECOND_PAGE, PAGE, bench.kind.flags(RWX))


def _change_type(bench: Bench) -> None:
    bench.table.protect_range(
        bench.base + _SECOND_PAGE, PAGE, bench.kind.flags(RWX), memory_type=MemoryType.UNCACHED
    )  # fmt: skip


def _lead_elsewhere(bench: Bench) -> None:
    _unmap(bench)
    to = Hpa(bench.target(NEW) + _SECOND_PAGE)
    bench.table.map_range(bench.base + _SECOND_PAGE, to, PAGE, bench.kind.flags(RWX))


def _merge(bench: Bench) -> None:
    bench.table.coalesce(bench.base, BLOCK)


def _forget_accessed(bench: Bench) -> None:
    bench.table.harvest(bench.base, 4 * PAGE, ACCESSED)


def _forget_written(bench: Bench) -> None:
    bench.table.harvest(bench.base, 4 * PAGE, DIRTY)


def _give_the_vmid_away(bench: Bench) -> None:
    bench.replace_outer()
    bench.outer.map_range(GPA, Hpa(NEW), BLOCK, RWX, largest=PAGE)
    bench.start(keep_tlb=True)


def _lead_a_table_elsewhere(bench: Bench) -> None:
    """The guest's last table gets another page, in which its first four entries stand in reverse."""
    assert bench.inner is not None
    table = bench.inner.explain(GVA).steps[-1].table
    memory, copy = bench.machine.memory, Hpa(NEW + BLOCK)
    words = np.frombuffer(memory.read(Hpa(table), PAGE), np.uint64).copy()
    words[:4] = words[3::-1]
    memory.write(copy, words)
    bench.outer.unmap_range(table, PAGE)
    bench.outer.map_range(table, copy, PAGE, _RW)


_EVERY = (ALONE, UNDER, GUEST)

SCENES: tuple[Scene, ...] = (
    Scene("unmap a page", _EVERY, _pages, _unmap),
    Scene("unmap many pages", _EVERY, _pages, _unmap_many),
    Scene("take write permission away", _EVERY, _pages, _take_write_away),
    Scene("give write permission", _EVERY, _read_only_pages, _give_write),
    Scene("change the memory type", _EVERY, _pages, _change_type),
    Scene("lead a page elsewhere", _EVERY, _pages, _lead_elsewhere),
    Scene("unmap a page of a block", _EVERY, _block, _unmap),
    Scene("merge pages into a block", _EVERY, _pages, _merge),
    Scene("forget what was accessed", _EVERY, _pages, _forget_accessed, ("af",)),
    Scene("forget what was written", _EVERY, _pages, _forget_written, ("ad",)),
    Scene("give the VMID to another VM", (ALONE,), _pages, _give_the_vmid_away),
    Scene("lead a table of the guest elsewhere", (UNDER,), _pages, _lead_a_table_elsewhere),
)
"""An edit of every kind that owes something."""

INVISIBLE = {
    "give write permission": "QEMU walks again when its TLB forbids an access.",
    "change the memory type": "QEMU's accesses are the same for all memory types.",
    "merge pages into a block": "The block says what the pages said, and QEMU's TLB holds no pointers to tables.",
}
"""Scene -> why QEMU shows nothing of it, whatever is left out."""

_COVERED = "Another operation of the edit drops the same, with no access in between."
_STAGE_2_ALONE = (
    "What both stages make of a page is one entry in QEMU's TLB, which the operation after it drops; entries of stage "
    "2 alone serve the walks of stage 1 only."
)
_NOT_SHOWN = {
    ("unmap a page of a block", "TLBI VMALLS12E1IS"): _COVERED,
    ("unmap a page of a block", "TLBI VMALLE1IS"): _COVERED,
    ("unmap a page of a block", "TLBI VAE1IS"): _COVERED,
    ("lead a table of the guest elsewhere", "TLBI IPAS2E1IS"): None,
}


def not_shown(found: LeftOut) -> str | None:
    """Why QEMU does not show that an operation was left out; None where it does."""
    if found.scene in INVISIBLE:
        return INVISIBLE[found.scene]
    general = _STAGE_2_ALONE if found.operation == "TLBI IPAS2E1IS" else None
    return _NOT_SHOWN.get((found.scene, found.operation), general)
