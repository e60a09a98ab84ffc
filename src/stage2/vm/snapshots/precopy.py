"""Pre-copy: the memory of a running guest copied to a file in rounds, and the rest while it stands still.

The first half of live migration. The first round copies every populated page; each further one what was written during
the round before, which write tracking tells. A page that is written while it is copied was withheld before, so it comes
again. When few pages are left, or the rounds are over, the machine rests for the last of them and for its own state;
that time is the downtime.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...errors import OutOfRangeError
from ...tables.mapping import U64Array
from ...whole_file import written_whole
from ..written import NO_PAGES
from .file import NO_GPA, finish
from .memory import PagesOfMemory, pages_in
from .pages import PAGE
from .taking import machine_of, require_saveable, state_of, untold

if TYPE_CHECKING:
    from ..vm import Vm
    from ..written import WrittenReader
    from .snapshot import VmState

ROUNDS, UNTIL = 8, 64
_AT_ONCE = 256
"""Pages that are copied as one piece."""


@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Args:
        pages: how many it copied.
        seconds: how long it took.
    """

    pages: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PrecopyReport:
    """How memory was copied.

    Args:
        file: where to.
        rounds: those while the guest ran, in order.
        last: the one while it stood still.
        pages: pages of the file.
        nanos: the guest's clock at the end.
    """

    file: Path
    rounds: tuple[Round, ...]
    last: Round
    pages: int
    nanos: int

    @property
    def downtime_s(self) -> float:
        """Seconds that the guest stood still for the last pages and the state of its machine."""
        return self.last.seconds


def precopy(
    vm: Vm, path: Path, *, rounds: int = ROUNDS, until: int = UNTIL, then: Callable[[], object] | None = None
) -> PrecopyReport:
    """Copy a VM to a file while it runs. The file is a snapshot; see `snapshots.file`.

    Called from a thread of its own while another runs the machine; of one that does not run, all is copied at once.

    Args:
        vm: it.
        path: the file, written whole or not at all.
        rounds: how many rounds there may be while the guest runs, at least 1.
        until: pages; when no more than so many are left to copy, the guest is made to stand still for them.
        then: called when all is copied and the guest still stands still; after it, the guest runs on.

    Raises:
        OutOfRangeError: there is to be no round, or `until` is below 0.
        SnapshotError: the VM cannot be saved.
        ConfigError: the file cannot be written.
    """
    if rounds < 1 or until < 0:
        raise OutOfRangeError(f"{rounds} rounds until {until} pages are left: it takes 1 round and 0 pages at least")
    with written_whole(path) as file:
        copy = _Copy(vm, file)
        try:
            done = [copy.round()]
            while len(done) < rounds and copy.left > until:
                done.append(copy.round())
            last, state, pages = copy.last(then)
        finally:
            copy.close()
        finish(file, state, copy.gpas)
    return PrecopyReport(path, tuple(done), last, pages, state.machine.nanos)


class _Copy:
    """A copy under way.

    Args:
        vm: whose memory.
        file: where to; the pages stand behind its first block, in the order in which they were first copied.
    """

    def __init__(self, vm: Vm, file: BinaryIO) -> None:
        self._vm, self._file = vm, file
        self._machine = machine_of(vm)
        self.gpas: U64Array = NO_PAGES
        """Of each page of the file."""
        # The guest will stand still for a listing of the tables.
        vm.space.page_table.editor.hasten()
        self._reader = self._machine.at_rest(self._begin)

    def _begin(self) -> WrittenReader:
        require_saveable(self._vm, self._machine)
        return self._vm.written.reader()

    @property
    def left(self) -> int:
        """About how many pages were written since they were copied."""
        return self._reader.count * (self._vm.space.format.page_size // PAGE)

    def round(self) -> Round:
        """Copy what is new or was written, while the guest runs."""
        began = time.perf_counter()
        memory, pages = self._machine.at_rest(self._due)
        self._copy(memory, pages)
        return Round(len(pages), time.perf_counter() - began)

    def last(self, then: Callable[[], object] | None) -> tuple[Round, VmState, int]:
        """Copy the rest while the guest stands still: how that went, the state of the VM, and how many pages it has."""

        def rest() -> tuple[Round, VmState, int]:
            began = time.perf_counter()
            with self._vm.space.lock:
                memory, pages = self._due()
                pages = np.union1d(pages, untold(self._vm, memory.gpas))
                self._copy(memory, pages)
                self.gpas[~np.isin(self.gpas, memory.gpas)] = NO_GPA
                state = state_of(self._vm, self._machine, memory.leaves)
            if then is not None:
                then()
            return Round(len(pages), time.perf_counter() - began), state, len(memory.gpas)

        return self._machine.at_rest(rest)

    def close(self) -> None:
        """Track no more."""
        self._machine.at_rest(self._reader.close)

    def _due(self) -> tuple[PagesOfMemory, U64Array]:
        """Where the populated pages are, and which of them are not in the file as they are."""
        space = self._vm.space
        with space.lock:
            memory = PagesOfMemory(space.frames.memory, space.leaves_of_memory())
            written = pages_in(self._reader.take(), space.format.page_size)
        new = memory.gpas[~np.isin(memory.gpas, self.gpas)]
        return memory, np.union1d(new, np.intersect1d(written, memory.gpas))

    def _copy(self, memory: PagesOfMemory, pages: U64Array) -> None:
        """Store pages at their places in the file; what has none gets one."""
        self.gpas = np.concatenate((self.gpas, pages[~np.isin(pages, self.gpas)]))
        order = np.argsort(self.gpas, kind="stable")
        places = order[np.searchsorted(self.gpas[order], pages)]
        by_place = np.argsort(places)
        places, pages = places[by_place], pages[by_place]
        for first in range(0, len(pages), _AT_ONCE):
            some = places[first : first + _AT_ONCE]
            data = memory.copy(pages[first : first + _AT_ONCE])
            cut = np.flatnonzero(np.diff(some) != 1) + 1
            for begin, end in zip([0, *cut.tolist()], [*cut.tolist(), len(some)], strict=True):
                self._file.seek(PAGE * (1 + int(some[begin])))
                self._file.write(data[begin:end].data)
