"""Windows: places in the engine's physical memory that lead to emulated devices, or nowhere.

An access that must not reach memory gets a window page as its translation. Every access to a window calls back
with its exact offset, width and value, so no instruction has to be decoded. The library hands an access of 8 bytes
on as two of 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...address import Gpa, Gva
from ...flags import Access
from ...space.faults import FaultResult
from ...vm.exits import Action, MemoryFault
from ...vm.vm import Vm

if TYPE_CHECKING:
    from .vcpu import Vcpu

_PAGE = 4096
_PAGES = 4096
"""Window pages; when all are in use they are used again from the first, with a TLB flush."""
_READ, _WRITE = 1, 2


class Windows:
    """The windows of one machine.

    Args:
        vm: whose bus and report the accesses go to.
    """

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        memory = vm.space.frames.memory
        self._base = (memory.span + (1 << 30) - 1) & ~((1 << 30) - 1)
        self._pages: list[tuple[MemoryFault, Action, FaultResult]] = []
        self._index: dict[tuple[int, int, Access, Action], int] = {}
        self._vcpus: dict[int, Vcpu] = {}
        self.failure: BaseException | None = None
        """An exception raised inside a callback, to be raised again when the run has ended."""
        self.unanswered: MemoryFault | None = None
        """An access that no device answered and that is to stop the guest."""

    def install(self, uc: Any, vcpu: Vcpu) -> None:
        """Make the windows part of a CPU's physical memory."""
        self._vcpus[vcpu.number] = vcpu
        uc.mmio_map(self._base, _PAGE * _PAGES, self._read, vcpu.number, self._write, vcpu.number)

    def forget(self, number: int) -> None:
        """A vCPU is gone."""
        self._vcpus.pop(number, None)

    def open(self, fault: MemoryFault, action: Action, result: FaultResult) -> tuple[int, int]:
        """(physical address, permissions) that lead a page's accesses here."""
        page = fault.gpa >> 12
        key = (page, fault.gva >> 12, fault.access, action)
        number = self._index.get(key)
        if number is None:
            if len(self._pages) == _PAGES:
                self._pages.clear()
                self._index.clear()
                for vcpu in self._vcpus.values():
                    vcpu.flush()
            number = len(self._pages)
            self._pages.append((fault, action, result))
            self._index[key] = number
        # Stage 1 has allowed this access. Where it allows writes it allows reads, but not the other way round; and
        # what is dropped as a write may be there to be read.
        permissions = _READ
        if fault.access is Access.WRITE:
            permissions = _READ | _WRITE if action is Action.EMULATE else _WRITE
        return self._base + number * _PAGE, permissions

    def _exact(self, offset: int, access: Access, number: int) -> tuple[MemoryFault, Action, FaultResult]:
        fault, action, result = self._pages[offset >> 12]
        within = offset & 0xFFF
        gpa, gva = Gpa(fault.gpa & ~0xFFF | within), Gva(fault.gva & ~0xFFF | within)
        pc = self._vcpus[number].pc
        return MemoryFault(number, gpa, gva, access, pc, fault.fault), action, result

    def _read(self, uc: Any, offset: int, width: int, number: int) -> int:
        ones = (1 << 8 * width) - 1
        try:
            fault, action, result = self._exact(offset, Access.READ, number)
            if action is Action.EMULATE:
                value = self._vm.bus.read(fault.gpa, width, number)
                if value is not None:
                    return value
            self._refuse(fault, action, result)
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._fail(error, number)
        return ones

    def _write(self, uc: Any, offset: int, width: int, value: int, number: int) -> None:
        try:
            fault, action, result = self._exact(offset, Access.WRITE, number)
            if action is Action.EMULATE and self._vm.bus.write(fault.gpa, width, value, number):
                return
            self._refuse(fault, action, result, value)
        except BaseException as error:  # noqa: BLE001  # it must not pass through the library's frames
            self._fail(error, number)

    def _refuse(self, fault: MemoryFault, action: Action, result: FaultResult, value: int | None = None) -> None:
        """Note a dropped access; one that no device answers may stop the guest."""
        if action is Action.EMULATE:
            action = self._vm.unanswered(result)
        instruction = self._vcpus[fault.vcpu].instruction
        self._vm.record_violation(fault, action, result, value=value, instruction=instruction)
        if action is Action.STOP and self.unanswered is None:
            self.unanswered = fault
            self._vcpus[fault.vcpu].leave()

    def _fail(self, error: BaseException, number: int) -> None:
        self.failure = error
        self._vcpus[number].leave()
