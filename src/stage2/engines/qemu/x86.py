"""An x86-64 VM on QEMU's q35 with SVM: our monitor is the host, and Python answers where the guest exits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...address import SIZE_4K, Gpa, Gva, Range, align_offset
from ...errors import EngineError, MachineError
from ...flags import Access, MappingFlags, MapType
from ...formats.invalidation import Operation
from ...formats.outcome import FaultKind
from ...formats.x86 import longmode, paging
from ...formats.x86.paging import EFER_LMA, OTHER, mode_of
from ...formats.x86.registers import stage_2_registers
from ...formats.x86.syndromes import DOUBLE_FAULT, GENERAL_PROTECTION, INVALID_OPCODE, nested_page_fault
from ...guest.x86_regime import regime_of
from ...images import linux_x86
from ...images.acpi import is_pc
from ...machines.core import Core
from ...machines.vmcb import (
    CODE_32,
    CODE_64,
    DATA,
    EVENT_ERROR_VALID,
    EVENT_TYPE,
    EVENT_TYPE_SHIFT,
    EVENT_VALID,
    EVENT_VECTOR,
    EXCEPTION,
    LDT,
    NMI,
    SOFTWARE,
    TASK,
    Exit,
    Field,
    Segment,
    Vmcb,
    intercepts,
)
from ...machines.x86_board import FLUSH_BY_ASID, MSR_MAP, PORT_MAP, X86Board
from ...space.region import MemoryRegion
from ...tables.result import Fault, Mapped
from ...vm.exits import MemoryFault
from ...vm.pc_boot import WAKEUP
from ...vm.pc_ports import COM1, Ports
from ...vm.pc_wakeup import WakeupMailbox
from ...vm.vm import Vm
from .machine import Ended, QemuVm
from .x86_cpuid import Cpuid, shown
from .x86_instruction import LONGEST, STATUS_FLAGS, Move, Verb, decode
from .x86_msrs import OWN, READ_ONLY, Msrs

_RAX, _RCX, _RDX, _RBX, _RSP, _RSI = 0, 1, 2, 3, 4, 6
_MASK_32 = (1 << 32) - 1
_EVERY_INTERCEPT = (
    Exit.NMI, Exit.SMI, Exit.INIT, Exit.CPUID, Exit.INVD, Exit.IOIO, Exit.MSR, Exit.SHUTDOWN,
    *(Exit.VMRUN + n for n in range(7)), Exit.MONITOR, Exit.MWAIT, Exit.MWAIT_ARMED,
)  # fmt: skip
"""Of every guest; external interrupts are not among them, and neither are writes to control registers."""
_INVALID_TO_GUESTS = (*range(Exit.VMRUN, Exit.SKINIT + 1), Exit.MONITOR, Exit.MWAIT, Exit.MWAIT_ARMED)
"""Instructions that a guest's CPUID does not have."""
_PC_PORTS = (
    Range.sized(0x20, 2), Range.sized(0xA0, 2), Range.sized(0x4D0, 2), Range.sized(0x40, 4), Range.sized(0x61, 1),
    Range.sized(0x70, 2), Range.sized(0x80, 1), COM1,
)  # fmt: skip
"""Ports of who is given a PC's interrupt controllers: both 8259s, the 8254, the clock, the delay port and COM1. None of
them leads to memory; PCI configuration, DMA and firmware's ports do, and are nobody's."""
_FLUSH_ALL, _FLUSH_THIS = 1, 3
"""TLB_CONTROL (APM 15.16.1)."""
_CR0_PROTECTED = paging.CR0_PE | paging.CR0_ET
_CR0_LONG, _CR4_LONG = _CR0_PROTECTED | paging.CR0_NE | paging.CR0_PG, paging.CR4_PAE
_EFER_LONG = paging.EFER_LME | paging.EFER_LMA | paging.EFER_NXE
"""EFER.LME, LMA and NXE; Linux begins on other CPUs by tables of its own that have NX set."""
_FLAGS = 2
_PAT = 0x0007_0406_0007_0406
_FLAT = 0xFFFF_FFFF
_LONG_ATTRIBUTE = 1 << 9
_TWO_BYTES = 2
_NMI_VECTOR = 2
_MAILBOX = MemoryRegion(Gpa(WAKEUP.start), WAKEUP.size, MappingFlags(0), MapType.EMULATED, name="wakeup mailbox")
_FITS = {Access.READ: MappingFlags.READ, Access.WRITE: MappingFlags.WRITE, Access.FETCH: MappingFlags.EXECUTE}


class X86Qemu(QemuVm[X86Board]):
    """Runs one x86-64 VM, whose tables are AMD's nested ones."""

    ARCH = "x86_64"

    def __init__(self, vm: Vm, board: X86Board, cores: Sequence[Core], *, console: bool) -> None:
        if vm.space.format.name != "npt4":
            raise EngineError(
                f"VM {vm.name}: the qemu engine runs x86-64 guests on npt4 tables, not {vm.space.format.name}: "
                "leave the format out, or give --stage2-format npt4"
            )
        self._owing = {core.number for core in cores}
        """Cores that have something to flush before their guest CPU runs on."""
        self._flushing: set[int] = set()
        """Cores whose control block asks for a flush."""
        super().__init__(vm, board, cores, console=console)
        self._ports = Ports(vm, self.power_off)
        self._core, self._vmcb = cores[0], board.vmcb(cores[0].number)
        """The core that is dealt with, and its control block."""
        if is_pc(vm.has_registers) and len(cores) > 1:
            vm.space.map(_MAILBOX)
            vm.bus.attach(WAKEUP, WakeupMailbox([core.number for core in cores], self.wake))
        self._is_pc = is_pc(vm.has_registers)
        self._move: Move | None = None

    def _owe(self, operations: Iterable[Operation]) -> None:
        # By address there is INVLPGA only, which takes a GVA: an ASID's entries go together (APM 15.16).
        if any(True for _ in operations):
            self._owing |= {core.number for core in self.cores}
            for core in self.cores:
                if not core.waits:
                    self.board.kick(core)

    def _take(self, core: Core) -> None:
        """Deal with this core from now on."""
        self._core, self._vmcb = core, self.board.vmcb(core.number)

    def _run(self) -> None:
        """Let the guest run on, after the invalidation that is owed."""
        number = self._core.number
        owes = number in self._owing
        if owes or number in self._flushing:
            self._owing.discard(number)
            this = _FLUSH_THIS if self.board.svm_features & FLUSH_BY_ASID else _FLUSH_ALL
            self._vmcb.set(Field.TLB_CONTROL, this if owes else 0)
            (self._flushing.add if owes else self._flushing.discard)(number)
        self._core.resume()

    # --- start -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for number in OWN:
            self.board.allow_msr(number)
        for number in READ_ONLY:
            self.board.allow_msr(number, write=False)
        for span in _PC_PORTS if self._is_pc else ():
            self.board.allow_ports(span)
        boot = self.vm.boot
        self._begin(0, boot.entry, boot.boot_params, boot.device_tree or 0)

    def wake(self, cpu: int, address: int) -> None:
        """A guest CPU that is off is to begin at a GPA (`WakeupMailbox`)."""
        before = self._core
        self._begin(cpu, address, 0, 0)
        self._take(before)

    def _begin(self, cpu: int, address: int, boot_params: int | None, argument: int) -> None:
        """Let a guest CPU start: in 64-bit mode with `boot_params`, or in protected mode with an argument."""
        self._take(self.cores[cpu])
        block = self._vmcb
        self._control(block)
        for number in range(16):
            self._set_register(number, 0)
        if boot_params is not None:
            self._start_long(block)
            self._set_register(_RSI, boot_params)
        else:
            self._start_protected(block)
            self._set_register(_RBX, argument)
        block.set(Field.RIP, address)
        self._run()

    def _control(self, block: Vmcb) -> None:
        space = self.vm.space
        values = stage_2_registers(space.format, space.regime.root, space.regime.controls, space.regime.identifier)
        halted = () if self._is_pc else (Exit.HLT,)
        first, second = intercepts(*_EVERY_INTERCEPT, *halted)
        block.clear()
        for field, value in (
            (Field.INTERCEPTS, first), (Field.INTERCEPTS_2, second), (Field.IOPM_BASE, PORT_MAP),
            (Field.MSRPM_BASE, MSR_MAP), (Field.ASID, values["ASID"]),
            (Field.NP_ENABLE, values["NP_ENABLE"]), (Field.N_CR3, values["N_CR3"]), (Field.DR6, 0xFFFF_0FF0),
            (Field.DR7, 0x400), (Field.RFLAGS, _FLAGS), (Field.G_PAT, _PAT),
        ):  # fmt: skip
            block.set(field, value)

    def _start_long(self, block: Vmcb) -> None:
        """Linux's 64-bit boot protocol."""
        self._segments(block, linux_x86.CODE_SELECTOR, CODE_64, linux_x86.DATA_SELECTOR)
        block.set_segment(Segment.GDTR, 0, 0, len(linux_x86.GDT_BYTES) - 1, linux_x86.GDT)
        for field, value in (
            (Field.CR0, _CR0_LONG), (Field.CR3, linux_x86.TABLES), (Field.CR4, _CR4_LONG),
            (Field.EFER, _EFER_LONG | paging.EFER_SVME),
        ):  # fmt: skip
            block.set(field, value)

    def _start_protected(self, block: Vmcb) -> None:
        """32-bit protected mode without paging, as the Multiboot Specification (3.2) has it."""
        self._segments(block, 0x08, CODE_32, 0x10)
        block.set_segment(Segment.GDTR, 0, 0, 0)
        block.set(Field.CR0, _CR0_PROTECTED)
        block.set(Field.EFER, paging.EFER_SVME)

    def _segments(self, block: Vmcb, code: int, attributes: int, data: int) -> None:
        block.set_segment(Segment.CS, code, attributes, _FLAT)
        for segment in (Segment.DS, Segment.ES, Segment.SS, Segment.FS, Segment.GS):
            block.set_segment(segment, data, DATA, _FLAT)
        block.set_segment(Segment.LDTR, 0, LDT, 0xFFFF)
        block.set_segment(Segment.TR, 0, TASK, 0xFFFF)
        block.set_segment(Segment.IDTR, 0, 0, 0)

    # --- registers ---------------------------------------------------------------------------------------------

    def _register(self, number: int) -> int:
        if number == _RAX:
            return self._vmcb.get(Field.RAX)
        return self._vmcb.get(Field.RSP) if number == _RSP else self._core.guest(number)

    def _set_register(self, number: int, value: int) -> None:
        if number in (_RAX, _RSP):
            self._vmcb.set(Field.RAX if number == _RAX else Field.RSP, value)
        else:
            self._core.set_guest(number, value)

    # --- exits -------------------------------------------------------------------------------------------------

    def _serve(self, core: Core) -> Ended | None:
        self._take(core)
        block = self._vmcb
        try:
            core.exit()
        except MachineError:
            # GIF should hold the INIT back (APM 15.17), but QEMU resets the core, and its monitor begins anew.
            if block.get(Field.EXITCODE) != Exit.INIT:
                raise
            return self._end(Exit.INIT, block.get(Field.RIP))
        code, rip = block.get(Field.EXITCODE), block.get(Field.RIP)
        ended = self._deliver_again(block)
        if ended is None:
            ended = self._by_code(core, code, rip)
        if ended is None and self._off is None:
            self._run()
        return ended

    def _by_code(self, core: Core, code: int, rip: int) -> Ended | None:
        if code == Exit.NPF:
            return self._nested_fault(core, rip)
        if code == Exit.IOIO:
            return self._port(core, rip)
        if code == Exit.CPUID:
            self._is(core, "CPUID", pc=rip)
            self._cpuid(core, rip)
        elif code == Exit.MSR:
            self._is(core, "MSR", pc=rip)
            self._msr(rip)
        elif code == Exit.NMI:
            if self.board.was_kicked(core):
                self._is(core, "kick", pc=rip)
            else:
                # The guest's own, which the monitor has taken (APM 15.13.3).
                self._is(core, "NMI", pc=rip)
                self._vmcb.set(Field.EVENTINJ, EVENT_VALID | NMI << EVENT_TYPE_SHIFT | _NMI_VECTOR)
        elif code == Exit.INVD:
            self._is(core, "invd", pc=rip)
            self._step_over(rip + _TWO_BYTES)
        elif code in _INVALID_TO_GUESTS:
            self._is(core, "invalid instruction", pc=rip)
            self._raise(INVALID_OPCODE)
        else:
            self._is(core, "end", code=code, pc=rip)
            return self._end(code, rip)
        return None

    def _end(self, code: int, rip: int) -> Ended:
        if code == Exit.SHUTDOWN:
            return "stopped", f"a triple fault at RIP {rip:#x}: the guest's IDT leads nowhere"
        if code == Exit.HLT:
            return "stopped", f"HLT at RIP {rip:#x}: there is no interrupt that could wake the guest"
        if code == Exit.INIT:
            return "stopped", f"the guest sent its own CPU an INIT, at RIP {rip:#x}"
        if code == Exit.SMI:
            return "stopped", f"the guest sent its own CPU an SMI, at RIP {rip:#x}"
        if code == Exit.INVALID:
            return "error", f"VMRUN refused the guest's state, at RIP {rip:#x}"
        return "error", f"#VMEXIT {code:#x} at RIP {rip:#x}, which was not asked for"

    def _deliver_again(self, block: Vmcb) -> Ended | None:
        """Deliver the event again whose delivery an exit cut short (APM 15.7.2).

        A software interrupt is not: RIP is at its instruction, which comes again by itself.
        """
        event = block.get(Field.EXITINTINFO)
        block.set(Field.EVENTINJ, 0)
        if not event & EVENT_VALID:
            return None
        kind = (event & EVENT_TYPE) >> EVENT_TYPE_SHIFT
        if kind == SOFTWARE:
            return None
        if kind == EXCEPTION and event & EVENT_VECTOR >= 32:
            # QEMU tells so of an interrupt; an exception with such a vector would be refused.
            event &= ~EVENT_TYPE
        block.set(Field.EVENTINJ, event)
        return None

    def _raise(self, vector: int, error_code: int | None = None) -> None:
        """Give the guest an exception at its present RIP."""
        pending = self._vmcb.get(Field.EVENTINJ)
        if pending & EVENT_VALID and (pending & EVENT_TYPE) >> EVENT_TYPE_SHIFT == EXCEPTION:
            # It came up while another was being delivered (APM 8.2.9).
            vector, error_code = DOUBLE_FAULT, 0
        event = EVENT_VALID | EXCEPTION << EVENT_TYPE_SHIFT | vector
        if error_code is not None:
            event |= EVENT_ERROR_VALID | error_code << 32
        self._vmcb.set(Field.EVENTINJ, event)

    def _step_over(self, rip: int) -> None:
        self._vmcb.set(Field.RIP, rip)
        self._vmcb.set(Field.INTERRUPT_SHADOW, 0)

    def _cpuid(self, core: Core, rip: int) -> None:
        found = Cpuid(*(core.info(number) & _MASK_32 for number in range(4)))
        told = shown(self._register(_RAX) & _MASK_32, found, self._vmcb.get(Field.CR4))
        for number, value in zip((_RAX, _RBX, _RCX, _RDX), told, strict=True):
            self._set_register(number, value)
        self._step_over(rip + _TWO_BYTES)

    def _msr(self, rip: int) -> None:
        number, write = self._register(_RCX) & _MASK_32, self._vmcb.get(Field.EXITINFO1) & 1
        msrs = Msrs(self._vmcb, first=self._core is self.cores[0])
        if write:
            value = (self._register(_RDX) & _MASK_32) << 32 | self._register(_RAX) & _MASK_32
            done = msrs.write(number, value)
        else:
            found = msrs.read(number)
            done = found is not None
            if found is not None:
                self._set_register(_RAX, found & _MASK_32)
                self._set_register(_RDX, found >> 32)
        if done:
            self._step_over(rip + _TWO_BYTES)
        else:
            self._raise(GENERAL_PROTECTION, 0)

    def _port(self, core: Core, rip: int) -> Ended | None:
        """IN and OUT (APM 15.10.2)."""
        info = self._vmcb.get(Field.EXITINFO1)
        port, width, read = info >> 16 & 0xFFFF, info >> 4 & 7, bool(info & 1)
        self._is(core, "I/O port", port=port, width=width, access="read" if read else "write", pc=rip)
        if info & 1 << 2:
            name = "INS" if read else "OUTS"
            return "stopped", f"{name} at port {port:#x}, RIP {rip:#x}: string instructions reach no emulated port"
        if read:
            value, before = self._ports.read(port, width), self._register(_RAX)
            mask = (1 << 8 * width) - 1
            self._set_register(_RAX, value if width == 4 else before & ~mask | value)
        else:
            self._ports.write(port, width, self._register(_RAX) & (1 << 8 * width) - 1)
        self._step_over(self._vmcb.get(Field.EXITINFO2))
        return None

    # --- refused accesses --------------------------------------------------------------------------------------

    def _nested_fault(self, core: Core, rip: int) -> Ended | None:
        gpa = self._vmcb.get(Field.EXITINFO2)
        said = nested_page_fault(self._vmcb.get(Field.EXITINFO1), gpa)
        access, on_table = said.access or Access.READ, said.on_table
        self._move = None
        gva = 0
        region = self.vm.space.region_at(gpa)
        if region is None or not region.map_type.is_ram or not region.flags & _FITS[access]:
            # Only then is it of interest what the instruction is.
            linear = rip if self._is_long else rip + self._vmcb.base(Segment.CS) & _MASK_32
            gva = linear
            if access is not Access.FETCH and not on_table:
                self._move = self._decoded(linear, rip)
                if self._move is not None and (self._move.write is not (access is Access.WRITE)
                                               or align_offset(self._move.address ^ gpa, SIZE_4K)):  # fmt: skip
                    self._move = None
                gva = 0 if self._move is None else self._move.address
        fault = Fault(said.kind or FaultKind.TRANSLATION, 2, 0, gpa, Gva(gva), access, on_table)
        refused = MemoryFault(self.cores.index(core), Gpa(gpa), Gva(gva), access, rip, fault)
        return self._refused(core, refused, known=self._move is not None)

    @property
    def _is_long(self) -> bool:
        in_long_mode = self._vmcb.get(Field.EFER) & EFER_LMA
        return bool(in_long_mode and self._vmcb.attributes(Segment.CS) & _LONG_ATTRIBUTE)

    def _decoded(self, linear: int, rip: int) -> Move | None:
        code = self._code(linear)
        return decode(code, long=self._is_long, rip=rip, register=self._register,
                      base=lambda name: self._vmcb.base(Segment[name.upper()]))  # fmt: skip

    def _code(self, linear: int) -> bytes:
        """The bytes at a linear address, up to those of the longest instruction, as far as they are there."""
        block, space = self._vmcb, self.vm.space
        cr0, cr4, efer = block.get(Field.CR0), block.get(Field.CR4), block.get(Field.EFER)
        if mode_of(cr0, cr4, efer) == OTHER:
            return b""
        regime = regime_of(
            cr0=cr0, cr3=block.get(Field.CR3), cr4=cr4, efer=efer, eflags=block.get(Field.RFLAGS),
            processor=longmode.AMD | 48 << longmode.MAXPHYADDR_SHIFT,
        )  # fmt: skip
        code = b""
        while len(code) < LONGEST:
            at = linear + len(code)
            size = min(LONGEST - len(code), SIZE_4K - align_offset(at, SIZE_4K))
            found = space.walk(at, regime, Access.FETCH, user=block.get(Field.CPL) == 3).result
            if not isinstance(found, Mapped) or not space.frames.memory.contains(found.hpa, size):
                break
            code += bytes(space.frames.memory.read(found.hpa, size))
        return code

    def _operand(self, core: Core) -> tuple[int, int]:
        move = self._known()
        return move.width, move.stored(self._register) if move.write else 0

    def _complete(self, core: Core, value: int) -> None:
        self._make(self._known(), value)

    def _known(self) -> Move:
        assert self._move is not None, "the base asks for known ones only"
        return self._move

    def _make(self, move: Move, value: int) -> None:
        """The access is made; a load gets a value."""
        if move.verb is not Verb.MOVE:
            flags = self._vmcb.get(Field.RFLAGS) & ~STATUS_FLAGS
            self._vmcb.set(Field.RFLAGS, flags | move.flags(value, move.other(self._register)))
        elif not move.write and move.register is not None:
            before = self._register(move.register)
            self._set_register(move.register, move.loaded(value, before))
        self._step_over(self._vmcb.get(Field.RIP) + move.length)

    def _inject(self, core: Core, fault: MemoryFault) -> None:
        """Give the guest a general-protection fault with error code 0.

        x86 has no exception for a bus error but the machine check, which nobody returns from; and a page fault would
        tell the guest to look into tables that are in order.
        """
        self._raise(GENERAL_PROTECTION, 0)
