"""The compiled callbacks of a RISC-V vCPU: its MMU, its timer, its traps.

They run inside the guest's execution without the GIL. None of them ever jumps out of its frame: what they cannot
settle is noted in the state block, and the run ends.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from ...formats.outcome import USER_SHIFT
from ...formats.record import Format
from ...formats.riscv import entry as riscv
from ...formats.riscv.formats import SV39
from ...formats.u64 import u64
from ...tables.batch import two_stage_translation
from ...tables.compiled import callback, inlined, numba, peek, poke
from .abi import (
    CPU_INTERRUPT_REQUEST,
    ENV_MIP,
    ENV_MSTATUS,
    ENV_PC,
    ENV_PRIV,
    ENV_SATP,
    INTERRUPT_HARD,
    PRIV_MACHINE,
    PRIV_SUPERVISOR,
    PRIV_USER,
)
from .state import NEVER, PAGE_EXECUTED, PAGE_WRITTEN, Reason, Word

ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH = 16, 17, 18
"""UC_MEM_READ, UC_MEM_WRITE and UC_MEM_FETCH."""
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4
SUPERVISOR_TIMER = 1 << 5
"""mip.STIP."""
ECALL = 8
"""Every ecall reaches the interrupt hook under this number."""

# Plain numbers, because compiled code folds globals but not members of an enumeration.
_FAULT, _HYPERCALL, _SLICE, _STOP = (int(r) for r in (Reason.FAULT, Reason.HYPERCALL, Reason.SLICE, Reason.STOP))
(
    _HOST_DELTA, _HOST_START, _HOST_END, _HOST_FURTHER, _HOST_COUNT, _HOST_BASE, _ROOT, _LEVELS, _ROOT_BITS, _CONTROLS,
    _ENV, _CPU, _ICOUNT, _UC, _FLUSH_TLB, _FORGET_CODE, _DELIVER, _STOP_RUN, _PAGE_STATE, _PEERS, _PEER_COUNT,
    _REASON, _STATUS, _ADDRESS, _GPA, _ACCESS, _CLOCK_AT, _ALARM, _SLICE_END, _STOP_FLAG,
    _FILLS, _STAGE_1_FAULTS, _TRAPS, _FLIPS,
) = (int(word) for word in Word)  # fmt: skip


def call_1(function: int, a: int) -> None:
    """Call a C function of the library; exists in compiled code only."""
    raise NotImplementedError


def call_3(function: int, a: int, b: int, c: int) -> None:
    """Call a C function of the library; exists in compiled code only."""
    raise NotImplementedError


def peek_byte(hva: int, index: int) -> int:
    """The byte `index` bytes after an address; exists in compiled code only."""
    raise NotImplementedError


def poke_byte(hva: int, index: int, value: int) -> None:
    """Store a byte; exists in compiled code only."""
    raise NotImplementedError


def poke_half(hva: int, value: int) -> None:
    """Store 16 bits; exists in compiled code only."""
    raise NotImplementedError


@cache
def _define() -> None:
    """Give the functions above their meaning in compiled code."""
    from llvmlite import ir

    module = numba()
    extending: Any = import_module("numba.extending")
    unsigned, void = module.types.uint64, module.types.void

    def caller(arguments: int) -> Any:
        def call(typing_context: Any, function: Any, values: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                word = ir.IntType(64)
                kind = ir.FunctionType(ir.VoidType(), [word] * arguments).as_pointer()
                values = [builder.extract_value(given[1], i) for i in range(arguments)]
                builder.call(builder.inttoptr(given[0], kind), values)
                return context.get_dummy_value()

            return void(unsigned, module.types.UniTuple(unsigned, arguments)), generate

        return extending.intrinsic(call)

    def stores(bits: int) -> Any:
        def store(typing_context: Any, hva: Any, value: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
                kind = ir.IntType(bits)
                builder.store(builder.trunc(given[1], kind), builder.inttoptr(given[0], kind.as_pointer()))
                return context.get_dummy_value()

            return void(unsigned, unsigned), generate

        return extending.intrinsic(store)

    def load(typing_context: Any, hva: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
            pointer = builder.inttoptr(given[0], ir.IntType(8).as_pointer())
            return builder.zext(builder.load(pointer), ir.IntType(64))

        return unsigned(unsigned), generate

    one, three, byte, half = caller(1), caller(3), stores(8), stores(16)
    load_byte = extending.intrinsic(load)
    overload = extending.overload
    overload(call_1, inline="always")(lambda function, a: lambda function, a: one(function, (a,)))
    overload(call_3, inline="always")(lambda function, a, b, c: lambda function, a, b, c: three(function, (a, b, c)))
    overload(peek_byte, inline="always")(lambda hva, index: lambda hva, index: load_byte(hva + index))
    overload(poke_byte, inline="always")(lambda hva, index, value: lambda hva, index, value: byte(hva + index, value))
    overload(poke_half, inline="always")(lambda hva, value: lambda hva, value: half(hva, value))


def allow_page(state: int, hpa: int, permissions: int, access: int) -> int:
    """Keep code and data of a host page apart in the TLBs of the VM; returns what of `permissions` may be granted.

    Code translated from a page goes stale when the page is written through another vCPU, another virtual address
    or by a device. So a page is either executed or written; changing over drops what was translated or cached.
    """
    physical = hpa - peek(state, u64(_HOST_BASE))
    pages = peek(state, u64(_PAGE_STATE))
    page = physical >> u64(12)
    before = peek_byte(pages, page)
    if access == ACCESS_FETCH:
        if before == u64(PAGE_WRITTEN):
            poke(state, u64(_FLIPS), peek(state, u64(_FLIPS)) + u64(1))
            for i in range(peek(state, u64(_PEER_COUNT))):
                call_1(peek(state, u64(_FLUSH_TLB)), peek(peek(state, u64(_PEERS)), u64(2) * i + u64(1)))
        poke_byte(pages, page, u64(PAGE_EXECUTED))
        return permissions & u64(PROT_READ | PROT_EXEC)
    if before == u64(PAGE_EXECUTED):
        if access == ACCESS_READ:
            return permissions & u64(PROT_READ)
        poke(state, u64(_FLIPS), peek(state, u64(_FLIPS)) + u64(1))
        for i in range(peek(state, u64(_PEER_COUNT))):
            peer = peek(state, u64(_PEERS)) + u64(16) * i
            call_3(peek(state, u64(_FORGET_CODE)), peek(peer, u64(0)), physical, physical + u64(4096))
            call_1(peek(state, u64(_FLUSH_TLB)), peek(peer, u64(1)))
    if permissions & u64(PROT_WRITE) != u64(0):
        poke_byte(pages, page, u64(PAGE_WRITTEN))
    return permissions & u64(PROT_READ | PROT_WRITE)


@cache
def fill_callback(second: Format) -> Any:
    """bool fill(uc, page of a GVA, access, result, state): the MMU of a vCPU over a stage-2 format.

    `result` takes the engine's physical address and the permissions. False: refused, the state says why.
    """
    _define()
    # Sv39, Sv48, Sv57 and Bare are one set of rules with different numbers of levels; satp says how many.
    translate = two_stage_translation(SV39, second)
    inlined(allow_page)

    def fill(uc: int, gva: int, access: int, result: int, state: int) -> bool:
        poke(state, u64(_FILLS), peek(state, u64(_FILLS)) + u64(1))
        env = peek(state, u64(_ENV))
        satp = peek(env + u64(ENV_SATP), u64(0))
        status_register = peek(env + u64(ENV_MSTATUS), u64(0))
        privilege = peek(env + u64(ENV_PRIV), u64(0))
        levels = u64(0)
        mode = satp >> u64(60)
        if mode >= u64(8) and privilege != u64(PRIV_MACHINE):
            levels = mode - u64(5)
        controls = u64(riscv.HARDWARE_AD)
        # SUM is bit 18 and MXR bit 19 of mstatus, 0 and 1 of our controls.
        controls |= (status_register >> u64(18)) & u64(riscv.SUM | riscv.MXR)
        user = privilege == u64(PRIV_USER)
        need = u64(1) << u64(access - ACCESS_READ)
        if user:
            need <<= u64(USER_SHIFT)
        write = u64(1) if access == ACCESS_WRITE else u64(0)
        host = (
            peek(state, u64(_HOST_DELTA)),
            peek(state, u64(_HOST_START)),
            peek(state, u64(_HOST_END)),
            peek(state, u64(_HOST_FURTHER)),
            peek(state, u64(_HOST_COUNT)),
        )
        regime_1 = ((satp & u64((1 << 44) - 1)) << u64(12), levels, u64(9), controls)
        regime_2 = (
            peek(state, u64(_ROOT)),
            peek(state, u64(_LEVELS)),
            peek(state, u64(_ROOT_BITS)),
            peek(state, u64(_CONTROLS)),
        )
        status, hpa, granted, gpa, _, _ = translate(host, regime_1, regime_2, gva, need, write)
        if status == u64(0):
            if user:
                granted >>= u64(USER_SHIFT)
            granted &= u64(PROT_READ | PROT_WRITE | PROT_EXEC)
            page = hpa & ~u64(0xFFF)
            poke(result, u64(0), page - peek(state, u64(_HOST_BASE)))
            poke(result, u64(1), allow_page(state, page, granted, access))
            return True
        poke(state, u64(_REASON), u64(_FAULT))
        poke(state, u64(_STATUS), status)
        poke(state, u64(_ADDRESS), gva)
        poke(state, u64(_GPA), gpa)
        poke(state, u64(_ACCESS), u64(access - ACCESS_READ))
        return False

    types = numba().types
    signature = types.boolean(types.uint64, types.uint64, types.int32, types.uint64, types.uint64)
    return callback(signature, fill, second)


@cache
def block_callback() -> Any:
    """void block(uc, address, size, state): virtual time goes on by the bytes of each executed block."""
    _define()

    def block(uc: int, address: int, size: int, state: int) -> None:
        clock = peek(peek(state, u64(_CLOCK_AT)), u64(0)) + u64(size)
        poke(peek(state, u64(_CLOCK_AT)), u64(0), clock)
        if clock >= peek(state, u64(_ALARM)):
            poke(state, u64(_ALARM), u64(NEVER))
            env, cpu = peek(state, u64(_ENV)), peek(state, u64(_CPU))
            poke(env + u64(ENV_MIP), u64(0), peek(env + u64(ENV_MIP), u64(0)) | u64(SUPERVISOR_TIMER))
            request = cpu + u64(CPU_INTERRUPT_REQUEST)
            poke_byte(request, u64(0), peek_byte(request, u64(0)) | u64(INTERRUPT_HARD))
            # The high half of the instruction counter, all ones, makes the CPU look at its interrupts.
            poke_half(peek(state, u64(_ICOUNT)) + u64(2), u64(0xFFFF))
        if peek(state, u64(_STOP_FLAG)) != u64(0):
            poke(state, u64(_REASON), u64(_STOP))
            call_1(peek(state, u64(_STOP_RUN)), uc)
        elif clock >= peek(state, u64(_SLICE_END)):
            poke(state, u64(_REASON), u64(_SLICE))
            call_1(peek(state, u64(_STOP_RUN)), uc)

    types = numba().types
    return callback(types.void(types.uint64, types.uint64, types.uint32, types.uint64), block)


@cache
def trap_callback() -> Any:
    """void trap(uc, number, state): synchronous exceptions of the guest; a supervisor's ecall is for us."""
    _define()

    def trap(uc: int, number: int, state: int) -> None:
        env = peek(state, u64(_ENV))
        if number == ECALL and peek(env + u64(ENV_PRIV), u64(0)) == u64(PRIV_SUPERVISOR):
            poke(state, u64(_REASON), u64(_HYPERCALL))
            call_1(peek(state, u64(_STOP_RUN)), uc)
            return
        # The hook sees the PC four bytes after the instruction, whatever its length.
        poke(env + u64(ENV_PC), u64(0), peek(env + u64(ENV_PC), u64(0)) - u64(4))
        poke(state, u64(_TRAPS), peek(state, u64(_TRAPS)) + u64(1))
        call_1(peek(state, u64(_DELIVER)), peek(state, u64(_CPU)))

    types = numba().types
    return callback(types.void(types.uint64, types.uint32, types.uint64), trap)
