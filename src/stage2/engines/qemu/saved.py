"""VMs on QEMU's boards that can be made to stand still: saved and put back, copied while they run, their writes logged.

What every architecture has in common (`vm.snapshots.machine.SavedMachine`); each says what a core has.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from ...address import SIZE_4K
from ...errors import EngineError, SnapshotError
from ...hypervisor.clock import MonotonicClock
from ...hypervisor.cpus import Cpus
from ...hypervisor.slab import NOTHING
from ...hypervisor.time import NANOS_PER_SEC, TimeValue
from ...machines import mailbox
from ...machines.board import Board
from ...machines.core import Core
from ...machines.mailbox import Command
from ...vm.dirty_log import DirtyLog
from ...vm.snapshots.machine import MachineState
from .machine import QemuVm

AnyBoard = TypeVar("AnyBoard", bound=Board)
T = TypeVar("T")


class SavedQemuVm(QemuVm[AnyBoard], Generic[AnyBoard]):
    """A VM whose cores can be made to stop."""

    TIME: ClassVar[str]
    """The register that has the guest's time, in ticks of the board's counter."""

    # --- at rest -----------------------------------------------------------------------------------------------

    def at_rest(self, work: Callable[[], T]) -> T:
        if self._unstoppable is not None:
            raise SnapshotError(f"VM {self.vm.name} cannot be made to stand still: {self._unstoppable}")
        return self._resting.at_rest(work)

    def when(self, nanos: int, work: Callable[[], object]) -> None:
        # The guest's clock is the board's, and that is the host's.
        left = max(nanos - self.at_rest(lambda: self._nanos_of(self._saved(self.cores[0]))), 0) / NANOS_PER_SEC
        timer = threading.Timer(left, lambda: self.at_rest(work))
        timer.daemon = True
        timer.start()

    @property
    def _unstoppable(self) -> str | None:
        """Why the cores cannot be made to stop; None where they can."""
        return None

    def _comes_to_rest(self) -> bool:
        running = [core for core in self.cores if not core.waits]
        for core in running:
            core.set_word(mailbox.KICK, 1)
        return not running

    def _run_on(self) -> None:
        for core, started in zip(self.cores, self._running, strict=True):
            if started:
                core.set_word(mailbox.KICK, 0)
                self._go_on(core)

    def _park(self) -> None:
        if self._unstoppable is not None:
            super()._park()
            return
        while not self._comes_to_rest():
            for core in self.cores:
                if not core.waits:
                    self._take_until_rung(core)
                    self._let_go(core)
        for core in self.cores:
            core.command(Command.PARK)

    # --- the dirty log -----------------------------------------------------------------------------------------

    def log_writes(self, interval: TimeValue) -> None:
        vm = self.vm
        if self._unstoppable is not None:
            raise EngineError(f"VM {vm.name} keeps no dirty log: {self._unstoppable}")
        vm.cpus = Cpus(
            MonotonicClock(), vm.space.frames, machine=vm.space.name, capacity=vm.timer_events,
            ticks_per_sec=vm.ticks_per_sec,
        )  # fmt: skip
        vm.dirty_log = DirtyLog(vm.written, vm.cpus.timers.lists[0], interval)

    def _until_due(self) -> float | None:
        cpus = self.vm.cpus
        if cpus is None or cpus.timers.next_nanos == NOTHING:
            return None
        return max(cpus.timers.next_nanos - cpus.clock.now().nanos, 0) / NANOS_PER_SEC

    def _do_due(self) -> None:
        if self.vm.cpus is not None:
            self.vm.cpus.timers.check_events()

    def close(self) -> None:
        super().close()
        vm = self.vm
        vm.machine = None
        if vm.dirty_log is not None:
            vm.dirty_log.close()
            vm.dirty_log = None
        if vm.cpus is not None:
            vm.cpus.close()
            vm.cpus = None

    # --- state ---------------------------------------------------------------------------------------------------

    @property
    def unsaved(self) -> str | None:
        regions = self.vm.space.memory_regions
        return next((one.label for one in regions if one.map_type.is_mapped and not one.map_type.holds_bytes), None)

    def save(self) -> MachineState:
        cpus = tuple(self._saved(core) for core in self.cores)
        return MachineState(
            engine=self.ENGINE,
            nanos=self._nanos_of(cpus[0]),
            started=self._entered,
            off=self._off,
            cpus=cpus,
            more={"running": list(self._running)},
        )

    def require(self, state: MachineState) -> None:
        count = len(self.cores)
        if state.engine != self.ENGINE:
            raise SnapshotError(
                f"the snapshot is of a machine of the engine {state.engine}; this one is {self.ENGINE}'s"
            )
        if len(state.cpus) != count:
            raise SnapshotError(f"the snapshot has {len(state.cpus)} CPUs; VM {self.vm.name} has {count}")
        for number, values in enumerate(state.cpus):
            problem = self._problem_of(values)
            if problem is not None:
                raise SnapshotError(f"CPU {number}: {problem}")
        running = state.more.get("running")
        if not isinstance(running, list) or [type(one) for one in running] != [bool] * count:
            raise SnapshotError(f"the snapshot says {running!r} of what its CPUs do")

    def load(self, state: MachineState) -> None:
        self._entered, self._off = state.started, state.off
        leaves = self.vm.space.leaves_of_memory().tolist()
        self.cores[0].renew([page for _, hpa, size in leaves for page in range(hpa, hpa + size, SIZE_4K)])
        self._put(state.cpus, list(state.more["running"]))

    def _saved(self, core: Core) -> dict[str, int]:
        """All registers of a core."""
        core.command(Command.SAVE)
        return self._registers_of(core)

    def _nanos_of(self, values: Mapping[str, int]) -> int:
        """The guest's clock, by the registers of its first CPU."""
        return values[self.TIME] * NANOS_PER_SEC // self.board.ticks_per_sec if self._entered else 0

    # --- for architectures -----------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def _running(self) -> Sequence[bool]:
        """Of each vCPU, whether it was started."""

    @abstractmethod
    def _go_on(self, core: Core) -> None:
        """Let a core's guest run on, with the interrupts that it has."""

    @abstractmethod
    def _registers_of(self, core: Core) -> dict[str, int]:
        """The registers of a core whose rest was saved."""

    @abstractmethod
    def _problem_of(self, values: Mapping[str, int]) -> str | None:
        """What is wrong with registers that a core is to get; None for nothing."""

    @abstractmethod
    def _put(self, cpus: Sequence[Mapping[str, int]], running: list[bool]) -> None:
        """Give cores registers that have no problem, and drop all translations of the VM."""


def registers_problem(values: Mapping[str, Any], expected: set[str]) -> str | None:
    """What is wrong with the names and sizes of registers; None for nothing.

    Args:
        values: the registers.
        expected: names that there must be, and no others.
    """
    if expected - values.keys():
        return f"the snapshot does not have its {min(expected - values.keys())}"
    if values.keys() - expected:
        return f"it has no {min(values.keys() - expected)}"
    for name, value in values.items():
        if not isinstance(value, int) or value < 0 or value >> 64:
            return f"{name} cannot be {value!r}"
    return None
