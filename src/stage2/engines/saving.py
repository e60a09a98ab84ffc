"""What of a run's VM is saved to files, and from which file it goes on."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SnapshotError, Stage2Error
from ..hypervisor.time import TimeValue
from ..vm.snapshots.precopy import ROUNDS, UNTIL, PrecopyReport, precopy
from ..vm.snapshots.snapshot import Snapshot
from ..vm.snapshots.taking import machine_of, require_saveable

if TYPE_CHECKING:
    from ..vm.vm import Vm
    from .run import Runs


@dataclass(frozen=True, slots=True)
class Saving:
    """What is wanted.

    Args:
        restore: the file of a snapshot that the VM goes on from.
        snapshot: the file that gets one.
        precopy: the file that memory is copied to while the guest runs; the guest is stopped when all is there.
        at: the guest's time at which that is done, or begins; None for a snapshot at the end, and a copy from the
            beginning.
        rounds, until: see `vm.snapshots.precopy.precopy`.
    """

    restore: Path | None = None
    snapshot: Path | None = None
    precopy: Path | None = None
    at: TimeValue | None = None
    rounds: int = ROUNDS
    until: int = UNTIL


@dataclass(frozen=True, slots=True)
class SnapshotReport:
    """A snapshot that a file holds.

    Args:
        file: it.
        pages: populated pages, of 4 KiB.
        nanos: the guest's clock.
    """

    file: Path
    pages: int
    nanos: int


@dataclass(slots=True)
class Saved:
    """What was done of what was wanted.

    Args:
        restored: what the VM went on from.
        snapshot: what was taken.
        precopy: how memory was copied.
        problem: why something was not done, in a sentence.
    """

    restored: SnapshotReport | None = None
    snapshot: SnapshotReport | None = None
    precopy: PrecopyReport | None = None
    problem: str | None = None


class Saver:
    """Sees to one VM of a run.

    Args:
        vm: it.
        machine: what runs it.
        saving: what is wanted.

    Raises:
        SnapshotError: the VM cannot be saved, or not go on from that file.
    """

    def __init__(self, vm: Vm, machine: Runs, saving: Saving) -> None:
        self._vm, self._machine, self._saving = vm, machine, saving
        self.saved = Saved()
        if vm.machine is None:
            raise SnapshotError(f"the {machine.ENGINE} engine cannot save VM {vm.name} yet; unicorn can")
        saved_machine = machine_of(vm)
        require_saveable(vm, saved_machine)
        if saving.restore is not None:
            self.saved.restored = _restored(vm, saving.restore)
        self._begun, self._over = threading.Event(), False
        self._copier = None if saving.precopy is None else threading.Thread(
            target=self._precopy, name=f"pre-copy of VM {vm.name}", daemon=True
        )  # fmt: skip
        if saving.at is None:
            self._begun.set()
        else:
            work = self._begun.set if saving.snapshot is None else self._snapshot
            saved_machine.when(saving.at.nanos, work)

    def start(self) -> None:
        """The guest begins to run."""
        if self._copier is not None:
            self._copier.start()

    def end(self) -> None:
        """The guest runs no more: do what is left to do."""
        self._over = True
        before = not self._begun.is_set()
        self._begun.set()
        if self._copier is not None:
            self._copier.join()
        if self._saving.snapshot is not None and self._saving.at is None:
            self._snapshot()
        elif before and self.saved.problem is None:
            what = "a snapshot was to be taken" if self._saving.precopy is None else "pre-copy was to begin"
            self.saved.problem = f"VM {self._vm.name} ended before its time was {self._saving.at}, when {what}"

    def _snapshot(self) -> None:
        file = self._saving.snapshot
        assert file is not None, "it is wanted"
        self._begun.set()
        try:
            snapshot = self._vm.snapshot(follow=False)
            snapshot.save(file)
        except Stage2Error as error:
            self.saved.problem = f"no snapshot of VM {self._vm.name}: {error}"
        else:
            self.saved.snapshot = SnapshotReport(file, len(snapshot.pages), snapshot.state.machine.nanos)

    def _precopy(self) -> None:
        saving = self._saving
        assert saving.precopy is not None, "it is wanted"
        self._begun.wait()
        if self._over:
            return
        try:
            self.saved.precopy = precopy(
                self._vm, saving.precopy, rounds=saving.rounds, until=saving.until, then=self._stop
            )
        except Stage2Error as error:
            self.saved.problem = f"VM {self._vm.name} is not copied: {error}"

    def _stop(self) -> None:
        self._machine.stop("copied", f"its memory and state are in {self._saving.precopy}")


def _restored(vm: Vm, file: Path) -> SnapshotReport:
    """Put a file's snapshot back.

    Raises:
        SnapshotError: it cannot be read, does not fit, or leaves nothing to run.
    """
    snapshot = Snapshot.open(file)
    if snapshot.state.machine.off is not None:
        raise SnapshotError(f"{file}: VM {snapshot.state.vm} had powered off: there is nothing to go on from")
    try:
        vm.restore(snapshot)
    except SnapshotError as error:
        raise SnapshotError(f"{file}: {error}") from None
    return SnapshotReport(file, len(snapshot.pages), snapshot.state.machine.nanos)
