"""Isolation proved after every edit of a table, while VMs run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from ..errors import IsolationError
from ..prove.again import Rereader
from ..prove.prover import prove_world
from ..prove.theorem import Proof
from ..tables.mapping import Edit
from ..tlb.checker import TlbChecker
from .isolation import subject_of

if TYPE_CHECKING:
    from .host import Host


class IsolationGuard:
    """Proves a host's isolation after every operation on a VM's memory that changed its tables.

    All VMs get one lock, so that no other is in the midst of something while a proof goes on; guests run meanwhile, and
    wait where they fault. Each table is watched by the checker of invalidations, whose findings the theorem `tlb` has.
    `dma` alone refutes nothing here: no edit of a table changes it.

    Args:
        host: whose VMs; none of them may run while the guard starts or stops.
        refuted: is given the first proof that fails, on the thread whose operation made it fail; None to raise it.

    Raises:
        IsolationError: out of the operation that made a theorem false, where nobody is told.
    """

    def __init__(self, host: Host, refuted: Callable[[Proof], None] | None = None) -> None:
        self.proofs = 0
        """How often the host was proved."""
        self.failed: Proof | None = None
        """The first proof that failed."""
        self._host, self._tell = host, refuted
        self._reader = Rereader()
        self._edited = False
        self._stale: list[str] = []
        self._gate = _Gate(self._leave)
        self.checkers: list[TlbChecker] = []
        """Of invalidations, one for each VM."""
        self._locks: list[AbstractContextManager[object]] = []

    def __enter__(self) -> IsolationGuard:
        for vm in self._host.vms:
            space = vm.space
            checker = TlbChecker(space.page_table, lean=True, told=self._stale.append)
            space.page_table.editor.watcher = _Mark(self, checker)
            self.checkers.append(checker)
            self._locks.append(space.lock)
            space.lock = self._gate
        self.prove()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for vm, lock, checker in zip(self._host.vms, self._locks, self.checkers, strict=True):
            checker.stop()
            vm.space.lock = lock

    def prove(self) -> Proof:
        """Prove the host as it is now, with what TLBs may hold.

        Raises:
            IsolationError: a theorem does not hold, and nobody is told.
        """
        with self._gate:
            self._edited = False
            proof = prove_world(self._reader.world(replace(subject_of(self._host), stale=tuple(self._stale))))
            self.proofs += 1
            if not proof.proved_for_cpus and self.failed is None:
                self.failed = proof
                if self._tell is None:
                    raise IsolationError(f"isolation {proof}")
                self._tell(proof)
        return proof

    def __repr__(self) -> str:
        state = "" if self.failed is None else ", refuted"
        return f"IsolationGuard({len(self._host.vms)} VMs, proved {self.proofs} times{state})"

    def note_edit(self) -> None:
        """A table was changed: it is proved when the operation is over."""
        self._edited = True

    def _leave(self) -> None:
        """An operation is over. One that failed is no reason to look further."""
        if self._edited and self.failed is None:
            self.prove()


class _Gate:
    """The lock of all VMs' memory: says when the outermost holder leaves it, before others may enter.

    Args:
        leave: called then.
    """

    def __init__(self, leave: Callable[[], None]) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._leave = leave

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._depth == 1:
                self._leave()
        finally:
            self._depth -= 1
            self._lock.release()


class _Mark:
    """A table's watcher: the checker of invalidations, and word of every edit to the guard."""

    def __init__(self, guard: IsolationGuard, checker: TlbChecker) -> None:
        self._guard, self._checker = guard, checker

    def before(self) -> None:
        self._guard.note_edit()
        self._checker.before()

    def between(self) -> None:
        self._checker.between()

    def after(self, done: Edit) -> None:
        self._checker.after(done)
