"""A vCPU on Unicorn: a CPU whose MMU is our compiled walker. What every architecture's has in common."""

from __future__ import annotations

import ctypes
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...address import Gpa, Gva
from ...errors import EngineError
from ...flags import Access
from ...space.faults import FaultResult
from ...tables.compiled import host_memory
from ...tables.explain import Walk
from ...tables.result import fault_from_status
from ...tables.walk import AT_STAGE_2, ON_MARK, ON_TABLE
from ...vm.exits import Action, MemoryFault
from ...vm.vm import Vm
from .abi import CpuAbi, library, symbol, unicorn
from .plain_fill import PlainFill
from .registers import Register, put_values, require_values, values_of
from .state import NEVER, Reason, State, Word
from .windows import Windows

_RETRIES = 64
"""A translation touches at most 5 stage-1 tables and a page; far beyond that something is wrong."""
_TCG_BUFFER = 32 << 20
_ACCESSES = tuple(Access)
_REASON, _STATUS, _GPA, _ACCESS = (int(word) for word in (Word.REASON, Word.STATUS, Word.GPA, Word.ACCESS))
_FAULT, _NOTHING = int(Reason.FAULT), int(Reason.NOTHING)


def new_cpu(arch: int, mode: int, *, page_size: int | None = None, model: int | None = None) -> Any:
    """An instance of the library whose MMU is to be a hook.

    Args:
        arch, mode: the library's constants.
        page_size: of its TLB, where it is not 4096 by itself.
        model: the library's constant for a CPU model.
    """
    package = unicorn()
    uc: Any = package.Uc(arch, mode)
    if page_size is not None:
        uc.ctl_set_page_size(page_size)
    if model is not None:
        uc.ctl_set_cpu_model(model)
    uc.ctl_set_tcg_buffer_size(_TCG_BUFFER)
    uc.ctl_set_tlb_mode(package.unicorn_const.UC_TLB_VIRTUAL)
    return uc


_SIGNATURE = (ctypes.c_bool, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int32, ctypes.c_uint64, ctypes.c_uint64)
"""See `callbacks.fill_signature`."""
_FILL = ctypes.CFUNCTYPE(*_SIGNATURE)


def fill_function(compiled: Any) -> Callable[..., bool]:
    """A compiled fill, to be called from Python, with the GIL held: it is over sooner than that changes hands."""
    return ctypes.PYFUNCTYPE(*_SIGNATURE)(compiled.address)


def _address(callback: Any) -> int:
    """Of a Python function that C calls."""
    address = ctypes.cast(callback, ctypes.c_void_p).value
    assert address is not None
    return address


class Vcpu(ABC):
    """A CPU.

    Args:
        number: its number in the VM.
        vm: whose memory it sees.
        uc: the library's instance.
        cpu: its private parts.
        page_state: address of the page-state bytes of the VM.
        windows: the machine's device windows.
        callbacks: the compiled fill, block and trap callbacks.
    """

    PLAIN_ENV = 0
    """Bytes of the CPU's private state that its fill reads; 0 where the fill runs compiled only, since the library may
    leave it for good in the middle."""

    def __init__(
        self,
        number: int,
        vm: Vm,
        uc: Any,
        cpu: CpuAbi,
        page_state: int,
        windows: Windows,
        callbacks: Sequence[Any],
    ) -> None:
        self.number, self._vm, self._uc, self._windows = number, vm, uc, windows
        self._cpu, self._unicorn = cpu, unicorn()
        self.state = State()
        self.guest_faults = 0
        self.pending: tuple[Action, MemoryFault, Any] | None = None
        memory = vm.space.frames.memory
        uc.mem_map_ptr(0, memory.span, self._unicorn.UC_PROT_ALL, memory.hva)
        windows.install(uc, self)
        self._fill_state(page_state)
        self._callbacks = list(callbacks)
        self._fill_again: Callable[[int, int, int, int, int], bool]
        self._plain_hook: ctypes.c_size_t | None = None
        """The library's handle of a fill in plain Python; None as long as the compiled one is the MMU."""
        self._install_hooks()
        uc.ctl_exits_enabled(True)
        uc.ctl_set_exits([])

    def _fill_state(self, page_state: int) -> None:
        state, space, cpu = self.state, self._vm.space, self._cpu
        memory = space.frames.memory
        host = (int(number) for number in host_memory(memory))
        words = (Word.HOST_DELTA, Word.HOST_START, Word.HOST_END, Word.HOST_FURTHER, Word.HOST_COUNT)
        for word, value in zip(words, host, strict=True):
            state[word] = value
        regime = zip((Word.ROOT, Word.LEVELS, Word.ROOT_BITS, Word.CONTROLS), space.regime.numbers, strict=True)
        for word, value in regime:
            state[word] = value
        state[Word.HOST_BASE] = memory.base
        state[Word.ENV], state[Word.CPU], state[Word.UC] = cpu.env, cpu.cpu, cpu.uc
        state[Word.FLUSH_TLB] = symbol(cpu.FLUSH_TLB)
        state[Word.FORGET_CODE] = symbol(cpu.FORGET_CODE)
        state[Word.DELIVER] = symbol(cpu.DELIVER)
        state[Word.STOP_RUN] = symbol("uc_emu_stop")
        state[Word.PAGE_STATE] = page_state
        state[Word.SLICE_END] = NEVER

    def _install_hooks(self) -> None:
        constants = self._unicorn.unicorn_const
        fill, block, trap = self._callbacks
        self._install(constants.UC_HOOK_BLOCK, block.address)
        self._install(constants.UC_HOOK_INTR, trap.address)
        # Python called by the library. The package's own wrapper would take as long as a fault does.
        self._refusal, self._plain_fill = _FILL(self._refused), _FILL(self._fill_plainly)
        if self.PLAIN_ENV and not fill.pays(0):
            pages = (self._vm.space.frames.memory.span >> 12) + 8
            self._fill_again = PlainFill(fill.function, self.state, self.PLAIN_ENV, pages)
            self._plain_hook = self._install(constants.UC_HOOK_TLB_FILL, _address(self._plain_fill))
        else:
            self._install_fill()

    def _install_fill(self) -> None:
        """Let the compiled fill be the MMU."""
        if self._plain_hook is not None:
            library().uc_hook_del(self._uc._uch, self._plain_hook)
            self._plain_hook = None
        constants, fill = self._unicorn.unicorn_const, self._callbacks[0]
        self._install(constants.UC_HOOK_TLB_FILL, fill.address)
        self._fill_again = fill_function(fill)
        # Runs only when the compiled fill has refused.
        self._install(constants.UC_HOOK_TLB_FILL, _address(self._refusal))

    def _fill_plainly(self, uc: int, page: int, access: int, result: int, state: int) -> bool:
        """The MMU as plain Python, until there were so many fills that the compiled one pays."""
        try:
            if self._callbacks[0].pays(self.state[Word.FILLS]):
                self.leave()
            if self._fill_again(uc, page, access, result, state):
                return True
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._fail(error)
            return False
        return self._refused(uc, page, access, result, state)

    def _install(self, kind: int, function: int) -> ctypes.c_size_t:
        """Make a C function one of the library's hooks, with the state block as its user data; the hook's handle."""
        handle = ctypes.c_size_t()
        error = library().uc_hook_add(
            self._uc._uch, ctypes.byref(handle), kind, ctypes.c_void_p(function),
            ctypes.c_void_p(self.state.address), ctypes.c_uint64(1), ctypes.c_uint64(0),
        )  # fmt: skip
        if error:
            raise EngineError(f"unicorn refused a hook: error {error}")
        return handle

    # --- faults ------------------------------------------------------------------------------------------

    def _refused(self, _uc: int, page: int, access: int, result: int, _state: int) -> bool:
        """The compiled walker could not translate: let the VM resolve what stage 2 refused, then walk again."""
        try:
            resolved = self._resolve(page, access, result)
            if resolved:
                # The refusal is settled: whatever ends the run later has its own reason.
                self.state.words[_REASON] = _NOTHING
            return resolved
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._fail(error)
            return False

    def leave(self) -> None:
        """End the run at the next block; callable from any thread."""
        self.state[Word.SLICE_END] = 0

    def _fail(self, error: BaseException) -> None:
        """End the run because of an exception in a callback; the machine raises it again."""
        self._windows.failure = error
        self.leave()

    def _resolve(self, page: int, access: int, result: int) -> bool:
        """Settle a refusal.

        Args:
            page, access: what the CPU asked for.
            result: address of the entry that answers it, see `callbacks.fill_signature`.
        """
        words, address = self.state.words, self.state.address
        for _ in range(_RETRIES):
            if words[_REASON] != _FAULT:
                self._change_walker(page)
            else:
                status = words[_STATUS]
                if not status & AT_STAGE_2:
                    return False
                outcome = self._vm.space.handle_page_fault(words[_GPA], self._attempted(status))
                if not outcome.retry:
                    return self._forbidden(page, outcome, result)
            if self._fill_again(0, page, access, result, address):
                return True
        raise EngineError(f"the page at {page:#x} keeps faulting after it was populated")

    def _forbidden(self, page: int, outcome: FaultResult, result: int) -> bool:
        """The page is not there and will not be: lead the access elsewhere, or end the run before it."""
        fault = self._memory_fault(page)
        action = self._vm.action_for(fault, outcome)
        if action in (Action.EMULATE, Action.DISCARD):
            window, permissions = self._windows.open(fault, action, outcome)
            entry = (ctypes.c_uint64 * 2).from_address(result)
            entry[0], entry[1] = window, permissions
            return True
        self.pending = (action, fault, outcome)
        return False

    def _attempted(self, status: int) -> Access:
        """What stage 2 was asked for, which for a stage-1 table is not what the CPU attempted."""
        if status & ON_TABLE:
            return Access.WRITE if status & ON_MARK else Access.READ
        return _ACCESSES[self.state.words[_ACCESS]]

    def _change_walker(self, page: int) -> None:
        """The walker cannot serve the guest as it is now: set another one, if there is one.

        Raises:
            EngineError: there is none.
        """
        if Reason(self.state[Word.REASON]) is Reason.DEVICE:
            gpa = self.state[Word.GPA]
            raise EngineError(f"GPA {gpa:#x} is a passed-through device, which this engine does not have")
        raise EngineError(f"the fill of the page at {page:#x} was refused without a reason")

    def _memory_fault(self, gva: int) -> MemoryFault:
        state = self.state
        status, gpa = state[Word.STATUS], state[Word.GPA]
        fault = fault_from_status(status, gpa, stage=2, gva=Gva(gva), access=Access(state[Word.ACCESS]))
        return MemoryFault(self.number, Gpa(gpa), Gva(gva), self._attempted(status), self.pc, fault)

    def exact(self, fault: MemoryFault) -> MemoryFault:
        """The fault with the exact address and PC, known once the run has ended."""
        address = self._cpu.invalid_address
        if address >> 12 != fault.gva >> 12:
            return replace(fault, pc=self.pc)
        gpa = fault.gpa if fault.fault.on_table else Gpa(fault.gpa & ~0xFFF | address & 0xFFF)
        return replace(fault, gpa=gpa, gva=Gva(address), pc=self.pc)

    def walk(self, fault: MemoryFault) -> Walk:
        """The explained walk of a fault, under the guest's present registers."""
        return self._walk(fault.gva, Access(self.state[Word.ACCESS]), user=bool(self.state[Word.USER]))

    def instruction(self) -> int | None:
        """The word of the present instruction, on architectures whose hardware tells of it; None where it cannot be
        read."""
        return None

    @abstractmethod
    def _walk(self, gva: int, access: Access, *, user: bool) -> Walk:
        """An explained walk under the guest's present registers."""

    # --- running -----------------------------------------------------------------------------------------

    @abstractmethod
    def start(self, address: int, argument: int) -> None:
        """Set the registers as a guest of this architecture is entered.

        Args:
            address: where it begins.
            argument: what it is told, such as the address of its device tree; 0 for nothing.
        """

    def run(self) -> Reason:
        """Execute until something happens that the callbacks cannot settle.

        Returns:
            Why. NOTHING means that it waits for an interrupt.
        """
        if self._plain_hook is not None and self._callbacks[0].pays(self.state[Word.FILLS]):
            self._install_fill()
        self.state[Word.REASON] = Reason.NOTHING
        self.pending = None
        try:
            self._uc.emu_start(self.pc, 0)
        except self._unicorn.UcError as error:
            if error.errno != self._unicorn.UC_ERR_EXCEPTION:
                raise EngineError(f"unicorn stopped at PC {self.pc:#x}: {error}") from None
            if self.state[Word.REASON] == Reason.NOTHING:
                return Reason.EXCEPTION
        return Reason(self.state[Word.REASON])

    @abstractmethod
    def inject_stage_1_fault(self) -> None:
        """Give the guest the fault that its own tables ask for."""

    @abstractmethod
    def inject_access_fault(self, fault: MemoryFault) -> None:
        """Give the guest its architecture's answer of a bus that refuses an access."""

    @property
    @abstractmethod
    def pc(self) -> int:
        """The program counter, as a linear address."""

    # --- saved and put back ------------------------------------------------------------------------------

    @abstractmethod
    def _registers(self) -> list[Register]:
        """All that a guest has of this CPU, in the order in which it can be put back."""

    def save(self) -> dict[str, int]:
        """The values of its registers, by name. It must not be running."""
        return values_of(self._registers())

    def require(self, values: Mapping[str, int]) -> None:
        """Make sure that values can be put back.

        Raises:
            SnapshotError: they are not those of such a CPU.
        """
        require_values(self._registers(), values)

    def load(self, values: Mapping[str, int]) -> None:
        """Put values back that `require` accepts, and forget what was derived from registers and memory."""
        self.pending = None
        put_values(self._registers(), values)
        self._settle()
        self._uc.ctl_flush_tb()
        self.flush()

    @abstractmethod
    def _settle(self) -> None:
        """All registers were put: let the CPU derive from them what it derives."""

    def flush(self) -> None:
        """Drop all translations."""
        self._cpu.flush_tlb()

    @property
    def peer(self) -> tuple[int, int]:
        """(uc, cpu) for the callbacks of all vCPUs of the machine."""
        return self._cpu.uc, self._cpu.cpu

    def close(self) -> None:
        """Free the library's instance. Harmless when repeated; it must not be running."""
        self._windows.forget(self.number)
        self._uc = None
