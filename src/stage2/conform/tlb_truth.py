"""What edits owe to TLBs, seen on hardware: QEMU's AArch64 CPU holds on to translations until it is told.

A `Bench` is a table in the machine's memory whose edits invalidate on the machine. Accesses before an edit warm the
TLB, accesses after it show what is stale. A `Scene` is one edit (`tlb_scenes` has one of every kind); `played` plays it
with what it owes, `left_out` once for each operation without that one, and `wander` makes many edits at random.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..errors import StaleTranslationError
from ..flags import RWX, Access, MappingFlags
from ..formats import by_name
from ..formats.invalidation import Operation
from ..machines.aarch64 import WINDOW, WINDOW_GPA, AArch64Machine
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner, OwnerKind
from ..tables.pagetable import PageTable
from .compare import words_of
from .oracle import Case, Pair
from .oracles.aarch64 import DATA, TABLES
from .oracles.qemu_aarch64 import QemuAArch64
from .probe import PROBE, Probes
from .trial import Trial

GPA, GVA = 0x4000_0000, 0x12_0000_0000
"""Where the guest's memory begins: what stage 2 maps, and, where stage 1 is on, what that maps to it."""
PAGE, BLOCK = 1 << 12, 1 << 21
OLD, NEW = DATA.start, DATA.start + DATA.size // 2
"""HPAs that edits lead away from, and to."""
PAGES = 48
"""So many pages at `OLD` and `NEW` have words of their own."""

_R, _RX = MappingFlags.READ, MappingFlags.READ | MappingFlags.EXECUTE
_RW = MappingFlags.READ | MappingFlags.WRITE
_HYPERVISOR, _GUEST, _OTHERS = (Owner(OwnerKind.TABLES, name) for name in ("stage 2", "stage 1", "others"))
_IDENTIFIER = 1
_FRAMES = Range(TABLES.start, TABLES.start + (4 << 20))
"""For the tables of both stages."""
_FETCHED, _WRITTEN = 0x20, 0x808
"""Offsets in a page of what is fetched and written; reads are at 0."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a bench has.

    Args:
        name: as results name it.
        second, first: formats of both stages, with pages of 4 KiB; `first` is None where stage 1 is off.
        edits_stage_1: whether the guest's table is the one that is edited.
    """

    name: str
    second: str
    first: str | None = None
    edits_stage_1: bool = False

    def flags(self, flags: MappingFlags) -> MappingFlags:
        """These permissions, at stage 1 for EL0 too."""
        return flags | MappingFlags.USER if self.edits_stage_1 else flags


ALONE = Kind("stage 2 alone", "arm-s2-4k-40")
UNDER = Kind("stage 2 under a guest", "arm-s2-4k-40", "arm-s1-4k-39")
GUEST = Kind("stage 1", "arm-s2-4k-40", "arm-s1-4k-39", edits_stage_1=True)


@dataclass(frozen=True, slots=True)
class Hardware:
    """Whose TLB is looked at.

    Args:
        oracle: reads what the machine says.
        machine: a running one of it.
    """

    oracle: QemuAArch64
    machine: AArch64Machine


@contextmanager
def started(oracle: QemuAArch64) -> Iterator[Hardware]:
    """A machine of an oracle.

    Raises:
        HostToolError, MachineError: it cannot be had, or does not come up.
    """
    with oracle.open() as machine:
        yield Hardware(oracle, machine)


class Bench:
    """Tables in a machine's memory, by which its guest runs.

    Args:
        hardware: whose memory.
        kind: which tables.
        switches: of the table that is edited.
        leave_out: the numbers of the operations that are left out, counted from `start` on.
    """

    def __init__(
        self, hardware: Hardware, kind: Kind, switches: tuple[str, ...] = (), leave_out: Collection[int] = ()
    ) -> None:
        self.machine, self.kind, self._oracle = hardware.machine, kind, hardware.oracle
        self.owed: list[str] = []
        """What edits have handed over since `start`, be it left out or not."""
        machine = self.machine
        self._switches, self._leave_out = switches, leave_out
        self._trial = Trial(self._oracle, self._oracle.version())
        self._frames = FrameAllocator(machine.memory)
        for span in (Range(machine.RAM.start, _FRAMES.start), Range(_FRAMES.end, machine.RAM.end)):
            self._frames.claim(span, owner=_OTHERS)
        self.outer = self._new_outer()
        self.inner: PageTable | None = None
        if kind.first is not None:
            self.inner = self._new(kind.first, _GUEST, edited=kind.edits_stage_1)
        self._fill()

    @property
    def table(self) -> PageTable:
        """The one that is edited."""
        return self.inner if self.kind.edits_stage_1 and self.inner is not None else self.outer

    @property
    def base(self) -> int:
        """Where the guest's memory begins in the addresses of the edited table."""
        return GVA if self.kind.edits_stage_1 else GPA

    def target(self, hpa: int) -> Hpa:
        """What a leaf of the edited table holds to lead to `OLD` or `NEW`: at stage 1, a GPA."""
        if not self.kind.edits_stage_1:
            return Hpa(hpa)
        return Hpa(GPA + (BLOCK if hpa == NEW else 0))

    def populate(self, flags: MappingFlags = RWX, *, largest: int = PAGE) -> None:
        """Map a block's worth of the guest's memory to `OLD`, in leaves so large; the other stage lets all through."""
        if self.kind.edits_stage_1:
            self.outer.map_range(GPA, Hpa(OLD), BLOCK, RWX)
            self.outer.map_range(GPA + BLOCK, Hpa(NEW), BLOCK, RWX)
        elif self.inner is not None:
            self.inner.map_range(GVA, Hpa(GPA), BLOCK, RWX | MappingFlags.USER, largest=PAGE)
        self.table.map_range(self.base, self.target(OLD), BLOCK, self.kind.flags(flags), largest=largest)

    def replace_outer(self) -> None:
        """The VM goes, and another gets its VMID; the guest's own tables are gone too."""
        if self.inner is not None:
            self.inner.destroy()
            self.inner = None
        self.outer.destroy()
        self.outer = self._new_outer()

    def start(self, *, keep_tlb: bool = False) -> None:
        """Let the guest run by the tables as they are."""
        self.machine.enter(None if self.inner is None else self.inner.regime, self.outer.regime, keep_tlb=keep_tlb)
        if not keep_tlb:
            self.owed.clear()

    def stale(self, pages: Iterable[int]) -> int:
        """Make accesses of every kind to pages of the guest's memory, which also warms the TLB.

        Returns:
            How many came to something else than the tables say; and how many entries lack a mark that hardware ought
            to have set.
        """
        probes = _probes(GPA if self.inner is None else GVA, pages)
        pair = Pair(self.kind.name, self.kind.first, self.kind.second)
        case = Case(pair, None if self.inner is None else self.inner.regime, self.outer.regime, probes)
        memory = self.machine.memory
        predictions = self._trial.predict(memory, case, marks=False)
        made = predictions.status == 0
        at = (predictions.hpa[made] - np.uint64(memory.base)) >> np.uint64(3)
        predictions.memory[made] = memory.words[at.astype(np.int64)]
        answers, expected = self._oracle.ask(self.machine, case), self._oracle.expected(case, predictions)
        left = words_of(memory, _FRAMES).copy()
        # Had all marks been set, these walks would set no more.
        self._trial.predict(memory, case, marks=True)
        return int((answers != expected).sum()) + int((words_of(memory, _FRAMES) != left).sum())

    def close(self) -> None:
        """Give everything back. Harmless when repeated."""
        self._leave_out = ()
        self._trial.close()
        for table in (self.inner, self.outer):
            if table is not None:
                table.destroy()

    def _flush(self, operations: tuple[Operation, ...]) -> None:
        """Do what an edit owes, but for what is left out."""
        for operation in operations:
            if len(self.owed) not in self._leave_out:
                self.machine.invalidate((operation,))
            self.owed.append(operation.name)

    def _new(self, name: str, owner: Owner, *, edited: bool) -> PageTable:
        fmt = by_name(name)
        controls = fmt.controls_with(*(self._switches if edited else ()))
        return PageTable(
            fmt, self._frames, owner=owner, controls=controls, identifier=_IDENTIFIER, flush=self._flush
        )  # fmt: skip

    def _new_outer(self) -> PageTable:
        """A stage-2 table that maps the guest's window and, at GPAs like their HPAs, its tables."""
        table = self._new(self.kind.second, _HYPERVISOR, edited=not self.kind.edits_stage_1)
        table.map_range(WINDOW_GPA, Hpa(WINDOW.start), WINDOW.size, _RX)
        if self.kind.first is not None:
            table.map_range(_FRAMES.start, Hpa(_FRAMES.start), _FRAMES.size, _RW, largest=PAGE)
        return table

    def _fill(self) -> None:
        """A word of its own wherever a read or a fetch may arrive."""
        memory = self.machine.memory
        for number, (base, page) in enumerate((base, page) for base in (OLD, NEW) for page in range(PAGES)):
            memory.store_u64(Hpa(base + PAGE * page), 1 + number)
            memory.store_u64(Hpa(base + PAGE * page + _FETCHED), self._oracle.tag(1 + number))


def _probes(base: int, pages: Iterable[int]) -> Probes:
    listed = []
    for access, offset in ((Access.READ, 0), (Access.FETCH, _FETCHED), (Access.WRITE, _WRITTEN)):
        for user in (False, True):
            listed += [(base + PAGE * page + offset, 7, access, user, 0) for page in pages]
    found: npt.NDArray[np.void] = np.array(listed, PROBE)
    return found


@dataclass(frozen=True, slots=True)
class Scene:
    """An edit, and what comes before it.

    Args:
        name: what happens.
        kinds: the benches it is for.
        before: maps what there is before the TLB is warmed.
        edit: the edit; it may be several.
        switches: of the edited table.
    """

    name: str
    kinds: tuple[Kind, ...]
    before: Callable[[Bench], object]
    edit: Callable[[Bench], object]
    switches: tuple[str, ...] = ()


_ACCESSED = (0, 1, 2, 3)
"""Pages of the guest's memory that are accessed before and after a scene's edit."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A scene that was played without one operation.

    Args:
        scene, kind: their names.
        operation: its name.
        stale: accesses that went wrong for it, and marks that are missing.
    """

    scene: str
    kind: str
    operation: str
    stale: int


def played(hardware: Hardware, scene: Scene, kind: Kind, *, leave_out: Collection[int] = ()) -> tuple[int, list[str]]:
    """Play a scene.

    Args:
        leave_out: the numbers of the operations, in the order in which they are owed, that are left out.

    Returns:
        What was stale after the edit, and the names of the operations that it owed.

    Raises:
        StaleTranslationError: something is stale before the edit.
    """
    with _bench(hardware, kind, scene.switches, leave_out) as bench:
        scene.before(bench)
        bench.start()
        bench.stale(_ACCESSED)
        if bench.stale(_ACCESSED):
            raise StaleTranslationError(f"{scene.name}: the machine and the tables disagree before the edit")
        scene.edit(bench)
        return bench.stale(_ACCESSED), bench.owed[:]


def left_out(hardware: Hardware, scene: Scene, kind: Kind) -> list[LeftOut]:
    """Play a scene without each of the operations that it owes, one at a time."""
    _, owed = played(hardware, scene, kind)
    return [
        LeftOut(scene.name, kind.name, name, played(hardware, scene, kind, leave_out=(number,))[0])
        for number, name in enumerate(owed)
    ]


def wander(hardware: Hardware, kind: Kind, seed: int, edits: int) -> int:
    """Make random edits, one after the other, with accesses after each.

    Returns:
        How many accesses were made.

    Raises:
        StaleTranslationError: one of them was stale.
    """
    rng = np.random.default_rng(seed)
    pages, asked = range(0, PAGES, 3), 0
    flags = [kind.flags(found) for found in (_R, _RX, _RW, RWX)]
    with _bench(hardware, kind) as bench:
        bench.populate()
        bench.start()
        for number in range(edits):
            first, length = int(rng.integers(PAGES - 1)), int(rng.choice([1, 2, 40]))
            start, size = bench.base + PAGE * first, PAGE * min(length, PAGES - first)
            choice = int(rng.integers(5))
            if choice <= 2:
                bench.table.unmap_range(start, size)
            if 1 <= choice <= 2:
                to = bench.target(int(rng.choice([OLD, NEW]))) + PAGE * first
                bench.table.map_range(start, Hpa(to), size, flags[int(rng.integers(4))])
            elif choice == 3:
                bench.table.protect_range(start, size, flags[int(rng.integers(4))])
            elif choice == 4:
                bench.table.coalesce(bench.base, BLOCK, groups=True)
            if stale := bench.stale(pages):
                raise StaleTranslationError(f"{kind.name}, seed {seed}: {stale} stale accesses after edit {number}")
            asked += len(_probes(0, pages))
    return asked


@contextmanager
def _bench(
    hardware: Hardware, kind: Kind, switches: tuple[str, ...] = (), leave_out: Collection[int] = ()
) -> Iterator[Bench]:
    bench = Bench(hardware, kind, switches, leave_out)
    try:
        yield bench
    finally:
        bench.close()
