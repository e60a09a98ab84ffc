"""Running VMs side by side: one thread each, while the main thread serves signals and the time limit."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from ..config.extensions import TIMER_EVENTS
from ..errors import EngineError
from ..hypervisor.clock import Clock, MonotonicClock
from ..hypervisor.cpus import Cpus
from ..hypervisor.time import NANOS_PER_SEC, TimeValue
from ..hypervisor.timers import LATEST
from ..vm.cost import HostCost, cost_of
from ..vm.host import Host
from ..vm.report import VmReport
from ..vm.vm import RunResult, Vm
from .saving import Saved, Saver, Saving

if TYPE_CHECKING:
    from ..machines.board import Board
    from ..prove.theorem import Proof
    from ..vm.paranoid import IsolationGuard

_SIGNALS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
_LOOK_S = 0.1
"""How long the main thread waits before it looks again whether there is a signal."""
_STOP_BOUND_S = 10.0
"""A guest leaves at its next block; one that has not after this long is reported as an error."""


_MACHINES = {
    "riscv64": "riscv.machine:RiscvMachine",
    "aarch64": "arm.machine:ArmMachine",
    "x86_64": "x86.machine:X86Machine",
}


class Runs(Protocol):
    """What runs one VM, whatever engine it is of."""

    ENGINE: str
    """The engine's name."""

    def run(self) -> RunResult:
        """Run the guest until it ends; once."""

    def stop(self, exit_: str, reason: str) -> None:
        """End the run soon, from any thread."""

    def log_writes(self, interval: TimeValue) -> None:
        """Keep a dirty log while the guest runs."""

    def close(self) -> None:
        """Give everything back. Harmless when repeated."""


ENGINES = ("unicorn", "qemu")


def machine_for(vm: Vm) -> Runs:
    """The machine of the unicorn engine that runs a VM of its architecture.

    Raises:
        EngineError: there is none, or the engine cannot be had.
    """
    if vm.arch not in _MACHINES:
        raise EngineError(f"the unicorn engine runs {', '.join(_MACHINES)} guests; VM {vm.name} is {vm.arch}")
    _require_shown(vm)
    # Only the VM's own architecture is imported, and so compiled.
    module, _, name = _MACHINES[vm.arch].partition(":")
    machine: Runs = getattr(import_module(f".unicorn.{module}", __package__), name)(vm)
    return machine


def _require_shown(vm: Vm) -> None:
    """Refuse a processor of which the engine cannot show a guest all that it has.

    Raises:
        EngineError: what the guest would look for in vain.
    """
    processor = vm.space.processor
    if processor is None:
        return
    missing = [name for name in processor.parts.features
               if processor.has(name) and not processor.parts.features[name].shown_to_guests]  # fmt: skip
    if missing:
        without = ",".join(f"-{name}" for name in missing)
        raise EngineError(
            f"VM {vm.name}: the unicorn engine cannot show a guest {', '.join(missing)} of {processor.name}: "
            f"take them away with --cpu {processor.name},{without}"
        )


class _Runner(threading.Thread):
    """One VM on its own thread."""

    def __init__(self, vm: Vm, machine: Runs, done: threading.Condition) -> None:
        super().__init__(name=f"VM {vm.name}", daemon=True)
        self.vm, self.machine = vm, machine
        self.result: RunResult | None = None
        self.failure: BaseException | None = None
        self._done = done

    def run(self) -> None:
        try:
            self.result = self.machine.run()
        except BaseException as error:  # noqa: BLE001  # raised again on the main thread
            self.failure = error
        with self._done:
            self._done.notify_all()


class RunOutcome:
    """How all the VMs of a run ended.

    Args:
        reports: one per VM, in order.
        cost: what the hypervisor itself needed at the end.
        signal_number: the signal that ended the run, if one did.
        proof: of isolation at the end, or the first that failed; None where none was asked for on the way.
        proofs: how often it was proved.
        saved: what was saved and put back; None where nothing was wanted.
    """

    def __init__(
        self,
        reports: list[VmReport],
        cost: HostCost,
        signal_number: int | None,
        proof: Proof | None = None,
        proofs: int = 0,
        saved: Saved | None = None,
    ) -> None:
        self.reports, self.cost, self.signal_number = reports, cost, signal_number
        self.proof, self.proofs, self.saved = proof, proofs, saved

    @property
    def exit_code(self) -> int:
        """0 every guest powered off or was copied, 1 one was stopped, isolation refuted or something not saved, 3 time
        limit, 128 + n for signal n."""
        if self.signal_number is not None:
            return 128 + self.signal_number
        if self.proof is not None and not self.proof.proved_for_cpus:
            return 1
        if self.saved is not None and self.saved.problem is not None:
            return 1
        ends = {report.exit for report in self.reports}
        if ends <= {"off", "copied"}:
            return 0
        return 3 if "time limit" in ends and not ends & {"stopped", "error"} else 1


def run_all(
    host: Host,
    *,
    max_seconds: float | None = None,
    clock: Clock | None = None,
    dirty_log: TimeValue | None = None,
    paranoid: bool = False,
    engine: str = "unicorn",
    trace: Callable[[str], None] | None = None,
    saving: Saving | None = None,
) -> RunOutcome:
    """Run every VM of a host until all have ended.

    Must be called on the main thread, which stays free for signals: Ctrl-C and SIGTERM stop the guests at once.

    Args:
        max_seconds: stop what still runs after so long.
        clock: by which that time is measured; None for the host's monotonic clock. VMs have clocks of their own.
        dirty_log: the interval of each VM's time at which the pages that it writes are harvested; None for no log.
        paranoid: prove isolation after every edit of a table; all VMs are stopped where it is refuted.
        engine: what runs the guests, of `ENGINES`.
        trace: called with a line of JSON for each exit of a guest, on the qemu engine; None where nobody wants them.
        saving: what of the host's only VM is saved, and what it goes on from.

    Raises:
        EngineError: an engine cannot be had.
        SnapshotError: the VM cannot be saved, or not go on from a file.
    """
    own = Cpus(clock or MonotonicClock(), host.frames, capacity=TIMER_EVENTS, ticks_per_sec=host.platform.ticks_per_sec)
    try:
        return _run_all(host, own, max_seconds, dirty_log, paranoid=paranoid, engine=engine, trace=trace, saving=saving)
    finally:
        own.close()


def _run_all(
    host: Host,
    own: Cpus,
    max_seconds: float | None,
    dirty_log: TimeValue | None,
    *,
    paranoid: bool,
    engine: str,
    trace: Callable[[str], None] | None,
    saving: Saving | None,
) -> RunOutcome:
    """The same; `own` is the CPU that the main thread is."""
    done = threading.Condition()
    machines: list[Runs] = []
    boards: list[Board] = []
    """What the machines stand on, to be closed after them."""
    runners: list[_Runner] = []
    received: list[int] = []
    try:
        if engine == "qemu":
            from .qemu.board import open_machines

            board, of_board = open_machines(host, trace)
            boards.append(board)
            machines.extend(of_board)
        else:
            machines.extend(machine_for(vm) for vm in host.vms)
        if dirty_log is not None:
            for machine in machines:
                machine.log_writes(dirty_log)
        saver = None if saving is None else Saver(host.vms[0], machines[0], saving)
        runners = [_Runner(vm, machine, done) for vm, machine in zip(host.vms, machines, strict=True)]

        def stop_all(exit_: str, reason: str) -> None:
            for machine in machines:
                machine.stop(exit_, reason)

        guard = _guard(host, stop_all) if paranoid else None
        with _signals(received, done), guard or nullcontext():
            for runner in runners:
                runner.start()
            if saver is not None:
                saver.start()
            if max_seconds is not None:
                limit = min(own.clock.now().nanos + int(max_seconds * NANOS_PER_SEC), LATEST)
                reason = f"still running after {max_seconds:g} s"
                own.timers.register_timer(limit, lambda _now: stop_all("time limit", reason))
            with done:
                while any(runner.is_alive() for runner in runners) and not received:
                    if any(runner.failure is not None for runner in runners):
                        # It is told below; the others would run on for ever.
                        stop_all("stopped", "another VM's engine failed")
                        break
                    if own.timers.check_events().fired:
                        break
                    due = own.timers.next_deadline
                    left = _LOOK_S if due is None else due.since(own.clock.now()).nanos / NANOS_PER_SEC
                    # A bounded wait, so that a signal that arrives in between is seen.
                    done.wait(min(left, _LOOK_S))
            if received:
                stop_all("interrupted", f"{_SIGNALS[signal.Signals(received[0])]}")
            if received or max_seconds is not None or any(runner.failure is not None for runner in runners):
                _join(runners, _STOP_BOUND_S)
                if boards and any(runner.is_alive() for runner in runners):
                    # Whoever waits for a QEMU that does not answer is told that it is gone.
                    for board in boards:
                        board.kill()
                    _join(runners, _STOP_BOUND_S)
            else:
                _join(runners, None)
            # Of one that did not stop nothing can be proved or saved: its tables may change meanwhile.
            at_rest = not any(runner.is_alive() for runner in runners)
            if saver is not None and at_rest:
                saver.end()
            proof = guard.failed or (guard.prove() if at_rest else None) if guard is not None else None
        reports = [_report(runner) for runner in runners]
        cost = cost_of(host)
    finally:
        for machine in machines:
            # One whose thread did not stop is left alone: freeing a CPU that executes would crash the process.
            if not any(runner.machine is machine and runner.is_alive() for runner in runners):
                machine.close()
        for board in boards:
            board.close()
    return RunOutcome(
        reports, cost, received[0] if received else None, proof, 0 if guard is None else guard.proofs,
        None if saver is None else saver.saved,
    )  # fmt: skip


def _join(runners: list[_Runner], seconds: float | None) -> None:
    """Wait until all have ended, or in all so many seconds."""
    gives_up = None if seconds is None else time.monotonic() + seconds
    for runner in runners:
        runner.join(None if gives_up is None else max(gives_up - time.monotonic(), 0))


def _guard(host: Host, stop_all: Callable[[str, str], None]) -> IsolationGuard:
    """Who proves isolation after every edit, and stops everybody where it does not hold."""
    from ..vm.paranoid import IsolationGuard

    return IsolationGuard(host, lambda proof: stop_all("stopped", f"isolation {proof}"))


def _report(runner: _Runner) -> VmReport:
    if runner.failure is not None:
        raise runner.failure
    if runner.result is None:
        raise EngineError(f"VM {runner.vm.name} did not stop within {_STOP_BOUND_S:g} s")
    return runner.vm.report(runner.machine.ENGINE, runner.result)


@contextmanager
def _signals(received: list[int], done: threading.Condition) -> Iterator[None]:
    """Note SIGINT and SIGTERM instead of dying of them; handlers are put back at the end."""

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
