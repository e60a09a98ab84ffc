"""A RISC-V VM on QEMU's board: its vCPUs in VS-mode, our monitor in HS-mode, and Python where an access is refused."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence

from ...address import Gpa, Gva
from ...flags import Access
from ...formats.invalidation import Holds, Operation
from ...formats.outcome import FaultKind
from ...formats.riscv.instruction import LoadStore, attempted, load_store
from ...formats.riscv.invalidation import MANUAL_SFENCE, hfence_vvma_all
from ...formats.riscv.registers import stage_2_registers
from ...formats.riscv.syndromes import (
    ACCESS_FAULTS,
    GUEST_CALL,
    GUEST_PAGE_FAULTS,
    ILLEGAL_INSTRUCTION,
    INTERRUPT,
    VIRTUAL_INSTRUCTION,
    WALK_READS,
    WALK_WRITES,
    guest_report,
    report,
)
from ...machines import mailbox
from ...machines.core import Core
from ...machines.riscv_board import PENDING, Context, Exit, RiscvBoard, exit_of, load_rest, save_rest
from ...space.faults import FaultResult
from ...tables.result import Fault
from ...vm.exits import Hypercall, MemoryFault
from ...vm.sbi import HartState, Sbi
from ...vm.vm import Vm
from .machine import Ended
from .riscv_saved import SPP, UXL_64, enter, problem_of, put, registers_of
from .saved import SavedQemuVm

_VECTORED = 0b11
"""The mode in a trap vector's low bits."""
_SIE, _SPIE = 1 << 1, 1 << 5
_VSSI, _VSTI, _VSEI = 1 << 2, 1 << 6, 1 << 10
"""Bits of hvip."""
_A0, _A1 = 10, 11
_NEVER = (1 << 64) - 1
_FENCE_I = Operation("FENCE.I", Holds.NOTHING, MANUAL_SFENCE)
_ACCESSES = {cause: access for access, cause in GUEST_PAGE_FAULTS.items()}


def unhandled(exit_: Exit) -> str:
    """An exception that the engine does not deal with, in a sentence with its registers."""
    said = report(exit_.scause, exit_.stval, exit_.htval, exit_.htinst)
    registers = f"scause {exit_.scause:#x}, stval {exit_.stval:#x}, htval {exit_.htval:#x}, htinst {exit_.htinst:#x}"
    return f"{said.title} at PC {exit_.pc:#x} ({registers}): {said.sentences[0]}"


class RiscvQemu(SavedQemuVm[RiscvBoard]):
    """Runs one RISC-V VM."""

    ARCH = "riscv64"
    TIME = "time"

    def __init__(self, vm: Vm, board: RiscvBoard, cores: Sequence[Core], *, console: bool) -> None:
        super().__init__(vm, board, cores, console=console)
        self.count = len(self.cores)
        self._sbi = Sbi(self, vm.memory, vm.console, None if vm.channels is None else (vm.channels, vm.id))
        self._started = [False] * self.count
        self._caller = self.cores[0]
        self._pending = threading.Lock()
        """Of the words of interrupts for guests that run."""
        vm.machine = self
        if vm.plic is not None:
            vm.plic.notify = self._external
        self._exit: Exit
        self._attempted: Access

    def _start(self) -> None:
        self._load_tables()
        self.start(0, self.vm.boot.entry, self.vm.boot.device_tree or 0)

    def _load_tables(self) -> None:
        """Let all cores use the VM's tables, and know of each other."""
        space = self.vm.space
        values = stage_2_registers(space.format, space.regime.root, space.regime.controls, space.regime.identifier)
        harts = sum(1 << core.number for core in self.cores)
        for core in self.cores:
            core.load([values["hgatp"], harts])

    def _serve(self, core: Core) -> Ended | None:
        self._caller, self._exit = core, exit_of(core)
        exit_ = self._exit
        if exit_.scause in _ACCESSES:
            ended = self._page_fault(core, exit_)
            if ended is not None:
                return ended
        elif exit_.scause == GUEST_CALL:
            if not self._call(core, exit_):
                return None
        elif exit_.scause == VIRTUAL_INSTRUCTION:
            # The guest has no hypervisor extension: there the instruction does not exist, or may not be used.
            self._is(core, "virtual instruction", instruction=exit_.stval, pc=exit_.pc)
            self._take(core, ILLEGAL_INSTRUCTION, exit_.stval)
        elif exit_.scause & INTERRUPT:
            self._is(core, "kicked")
        else:
            self._is(core, "exception", scause=exit_.scause, pc=exit_.pc)
            return "stopped", unhandled(exit_)
        self._go_on(core)
        return None

    # --- interrupts ------------------------------------------------------------------------------------------

    def _go_on(self, core: Core) -> None:
        """Let a core's guest run on, with the external interrupt that it has."""
        if self.vm.plic is not None:
            others = core.guest(Context.HVIP) & ~_VSEI
            high = self.vm.plic.interrupts(self.cores.index(core))
            core.set_guest(Context.HVIP, others | (_VSEI if high else 0))
        core.resume()

    def _external(self, hart: int) -> None:
        """A hart's external interrupt has changed, or may have. One that waits for us is told when it runs on, one that
        has less to do than it thinks finds out when it asks for the source."""
        core, plic = self.cores[hart], self.vm.plic
        if plic is not None and not core.waits and plic.interrupts(hart):
            self._interrupt(core, _VSEI)

    def _interrupt(self, core: Core, bits: int) -> None:
        """Make interrupts of a guest that runs pending: at once if another of its cores is served, else at the next
        tick."""
        with self._pending:
            core.set_word(PENDING, core.word(PENDING) | bits)
        if self._caller.waits:
            self._caller.set_word(mailbox.SEND, self._caller.word(mailbox.SEND) | 1 << core.number)

    # --- firmware (vm.sbi.Harts) -----------------------------------------------------------------------------

    def _call(self, core: Core, exit_: Exit) -> bool:
        """Answer a call; whether it returns."""
        hart = self.cores.index(core)
        arguments = tuple(core.guest(number) for number in range(_A0, _A0 + 8))
        self._is(core, "hypercall", extension=arguments[7], function=arguments[6], pc=exit_.pc)
        error, value = self._sbi.call(Hypercall(hart, arguments))
        core.set_guest(_A0, error)
        if value is not None:
            core.set_guest(_A1, value)
        core.set_guest(Context.PC, exit_.pc + 4)
        return self._started[hart] and self._off is None

    def set_timer(self, hart: int, deadline: int) -> None:
        core = self.cores[hart]
        core.set_guest(Context.CLOCK, deadline)
        core.set_guest(Context.HVIP, core.guest(Context.HVIP) & ~_VSTI)

    def send_ipi(self, hart: int) -> None:
        core = self.cores[hart]
        if core.waits:
            core.set_guest(Context.HVIP, core.guest(Context.HVIP) | _VSSI)
            return
        self._interrupt(core, _VSSI)

    def flush(self, hart: int) -> None:
        # The caller's monitor asks all harts of the guest, and goes on when they have done it.
        self._caller.owe([hfence_vvma_all(self.vm.space.regime.identifier), _FENCE_I])

    def start(self, hart: int, address: int, opaque: int) -> None:
        core = self.cores[hart]
        for number in range(1, 32):
            core.set_guest(number, 0)
        core.set_guest(_A0, hart)
        core.set_guest(_A1, opaque)
        for which in Context:
            if which < Context.F0:
                core.set_guest(which, 0)
        core.set_guest(Context.PC, address)
        enter(core, user=False)
        core.set_guest(Context.VSSTATUS, UXL_64)
        core.set_guest(Context.CLOCK, _NEVER)
        self._started[hart] = True
        self._go_on(core)

    def stop_hart(self, hart: int) -> None:
        self._started[hart] = False

    def state(self, hart: int) -> HartState:
        return HartState.STARTED if self._started[hart] else HartState.STOPPED

    # --- saved and put back (saved.SavedQemuVm) ------------------------------------------------------------------

    def _let_go(self, core: Core) -> bool:
        # The guest's PC is at the instruction that exited, also at a call's.
        exit_of(core)
        return True

    @property
    def _running(self) -> Sequence[bool]:
        return self._started

    def _registers_of(self, core: Core) -> dict[str, int]:
        return registers_of(core)

    def _problem_of(self, values: Mapping[str, int]) -> str | None:
        return problem_of(values)

    def _put(self, cpus: Sequence[Mapping[str, int]], running: list[bool]) -> None:
        self._started = running
        self._load_tables()
        save_rest(self.cores[0])
        ours = self.cores[0].guest(Context.TIME) - self.cores[0].guest(Context.DELTA)
        for core, values in zip(self.cores, cpus, strict=True):
            put(core, values)
            # The same on all harts, whose clocks are one.
            core.set_guest(Context.DELTA, cpus[0]["time"] - ours)
            load_rest(core)

    def _stopped(self, fault: MemoryFault, result: FaultResult) -> Ended:
        exit_, reason = super()._stopped(fault, result)
        core = self.cores[fault.vcpu]
        handler = core.guest(Context.VSTVEC) & ~_VECTORED
        if fault.access is Access.FETCH and fault.pc == handler:
            # What it is about happened before: the guest has no handler, as an image that is none of a kernel.
            cause, value, pc = (core.guest(one) for one in (Context.VSCAUSE, Context.VSTVAL, Context.VSEPC))
            said = guest_report(cause, value)
            reason += (
                f", the guest's own trap handler (vstvec), after {said.title} at PC {pc:#x}"
                f" (vscause {cause:#x}, vstval {value:#x}): {said.sentences[0]}"
            )
        return exit_, reason

    # --- refused accesses ------------------------------------------------------------------------------------

    def _page_fault(self, core: Core, exit_: Exit) -> Ended | None:
        on_table = exit_.htinst in WALK_READS | WALK_WRITES
        access = self._attempted = _attempted(exit_, on_table)
        if on_table:
            access = Access.WRITE if exit_.htinst in WALK_WRITES else Access.READ
        gpa = exit_.htval << 2 | (0 if on_table else exit_.stval & 3)
        # The registers do not say why.
        kind = FaultKind.TRANSLATION if self.vm.space.hpa_of(gpa) is None else FaultKind.PERMISSION
        fault = Fault(kind, 2, 0, gpa, Gva(exit_.stval), access, on_table)
        refused = MemoryFault(self.cores.index(core), Gpa(gpa), Gva(exit_.stval), access, exit_.pc, fault)
        return self._refused(core, refused, known=load_store(exit_.htinst, exit_.instruction) is not None)

    def _operand(self, core: Core) -> tuple[int, int]:
        access = self._access()
        return access.width, core.guest(access.register) if access.write and access.register else 0

    def _complete(self, core: Core, value: int) -> None:
        access = self._access()
        if not access.write and access.register:
            core.set_guest(access.register, access.extended(value))
        core.set_guest(Context.PC, self._exit.pc + access.size)

    def _access(self) -> LoadStore:
        access = load_store(self._exit.htinst, self._exit.instruction)
        assert access is not None, "the base asks for known ones only"
        return access

    def _inject(self, core: Core, fault: MemoryFault) -> None:
        """Give the guest an access fault, as from a bus that answers with an error."""
        self._take(core, ACCESS_FAULTS[self._attempted], self._exit.stval)

    def _take(self, core: Core, cause: int, value: int) -> None:
        """Let VS-mode take an exception (Privileged, "Trap Entry")."""
        status, before = core.guest(Context.SSTATUS), core.guest(Context.VSSTATUS)
        after = before & ~(SPP | _SPIE | _SIE) | status & SPP | (_SPIE if before & _SIE else 0)
        core.set_guest(Context.VSSTATUS, after)
        core.set_guest(Context.VSCAUSE, cause)
        core.set_guest(Context.VSTVAL, value)
        core.set_guest(Context.VSEPC, self._exit.pc)
        core.set_guest(Context.PC, core.guest(Context.VSTVEC) & ~3)
        core.set_guest(Context.SSTATUS, status | SPP)


def _attempted(exit_: Exit, on_table: bool) -> Access:
    """What the guest's instruction wanted.

    QEMU reports atomic instructions as loads, and QEMU 7 all refused accesses to tables of the guest. No load does that
    at its own address, from where it has just been fetched; what else it is the instruction says.
    """
    access = _ACCESSES[exit_.scause]
    if access is not Access.READ:
        return access
    if on_table and exit_.stval - exit_.pc in (0, 2):
        return Access.FETCH
    return attempted(exit_.htinst | 2 if exit_.htinst & 1 else exit_.instruction)
