"""What the compiled callbacks of every architecture are made of; each has a module `callbacks` with its own.

Callbacks run inside the guest's execution without the GIL. What they cannot settle is noted in the state block, and the
run ends. They own nothing that would be lost when the library jumps out of them, as x86's let it do.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from ...formats.outcome import USER_SHIFT
from ...formats.u64 import u64
from ...tables.compiled import callback, inlined, load, numba
from ...tables.raw import call_1, call_3, peek, peek_byte, poke, poke_byte
from .state import PAGE_EXECUTED, PAGE_WRITTEN, Reason, Word

ACCESS_READ, ACCESS_WRITE, ACCESS_FETCH = 16, 17, 18
"""UC_MEM_READ, UC_MEM_WRITE and UC_MEM_FETCH."""
PROT_READ, PROT_WRITE, PROT_EXEC = 1, 2, 4

# Plain numbers, because compiled code folds globals but not members of an enumeration.
_FAULT, _SLICE, _DEVICE = (int(reason) for reason in (Reason.FAULT, Reason.SLICE, Reason.DEVICE))
_HOST_DELTA, _HOST_START, _HOST_END, _HOST_FURTHER, _HOST_COUNT, _HOST_BASE, _ROOT, _LEVELS, _ROOT_BITS, _CONTROLS = (
    int(word)
    for word in (
        Word.HOST_DELTA, Word.HOST_START, Word.HOST_END, Word.HOST_FURTHER, Word.HOST_COUNT, Word.HOST_BASE,
        Word.ROOT, Word.LEVELS, Word.ROOT_BITS, Word.CONTROLS,
    )
)  # fmt: skip
_REASON, _STATUS, _ADDRESS, _GPA, _ACCESS, _TABLE_LEVEL, _USER = (
    int(word) for word in (Word.REASON, Word.STATUS, Word.ADDRESS, Word.GPA, Word.ACCESS, Word.TABLE_LEVEL, Word.USER)
)
_FLUSH_TLB, _FORGET_CODE, _STOP_RUN, _PAGE_STATE, _PEERS, _PEER_COUNT, _FILLS, _FLIPS = (
    int(word)
    for word in (
        Word.FLUSH_TLB, Word.FORGET_CODE, Word.STOP_RUN, Word.PAGE_STATE, Word.PEERS, Word.PEER_COUNT, Word.FILLS,
        Word.FLIPS,
    )
)  # fmt: skip
_CLOCK_AT, _SLICE_END = int(Word.CLOCK_AT), int(Word.SLICE_END)


@cache
def define() -> None:
    """Make the functions below callable from compiled code."""
    for helper in (allow_page, count_fill, host_of, regime_2_of, need_of, grant, refuse, pass_time):
        inlined(helper)


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


def count_fill(state: int) -> None:
    """One more fill."""
    poke(state, u64(_FILLS), peek(state, u64(_FILLS)) + u64(1))


def host_of(state: int) -> tuple[int, int, int, int, int]:
    """Host physical memory, as walks take it."""
    return (
        peek(state, u64(_HOST_DELTA)),
        peek(state, u64(_HOST_START)),
        peek(state, u64(_HOST_END)),
        peek(state, u64(_HOST_FURTHER)),
        peek(state, u64(_HOST_COUNT)),
    )


def regime_2_of(state: int) -> tuple[int, int, int, int]:
    """The stage-2 regime, as walks take it."""
    return (
        peek(state, u64(_ROOT)),
        peek(state, u64(_LEVELS)),
        peek(state, u64(_ROOT_BITS)),
        peek(state, u64(_CONTROLS)),
    )


def need_of(access: int, user: bool) -> int:
    """The effective permissions that an access asks for."""
    need = u64(1) << u64(access - ACCESS_READ)
    if user:
        need <<= u64(USER_SHIFT)
    return need


def grant(state: int, result: int, hpa: int, gpa: int, granted: int, user: bool, access: int) -> bool:
    """Answer a fill with a translation: the page and what the CPU's TLB may allow there."""
    if user:
        granted >>= u64(USER_SHIFT)
    granted &= u64(PROT_READ | PROT_WRITE | PROT_EXEC)
    page = hpa & ~u64(0xFFF)
    status, _ = load(host_of(state), page)
    if status != u64(0):
        poke(state, u64(_REASON), u64(_DEVICE))
        poke(state, u64(_GPA), gpa)
        return False
    poke(result, u64(0), page - peek(state, u64(_HOST_BASE)))
    poke(result, u64(1), allow_page(state, page, granted, access))
    return True


def refuse(state: int, status: int, gva: int, gpa: int, level: int, user: bool, access: int) -> bool:
    """Note why there is no translation."""
    poke(state, u64(_REASON), u64(_FAULT))
    poke(state, u64(_STATUS), status)
    poke(state, u64(_ADDRESS), gva)
    poke(state, u64(_GPA), gpa)
    poke(state, u64(_TABLE_LEVEL), level)
    poke(state, u64(_USER), u64(1) if user else u64(0))
    poke(state, u64(_ACCESS), u64(access - ACCESS_READ))
    return False


def fill_signature() -> Any:
    """bool fill(uc, page of a GVA, access, result, state).

    `result` takes the engine's physical address and the permissions. False: refused, the state says why.
    """
    types = numba().types
    return types.boolean(types.uint64, types.uint64, types.int32, types.uint64, types.uint64)


def trap_signature() -> Any:
    """void trap(uc, exception number, state)."""
    types = numba().types
    return types.void(types.uint64, types.uint32, types.uint64)


def block_signature() -> Any:
    """void block(uc, address, size, state)."""
    types = numba().types
    return types.void(types.uint64, types.uint64, types.uint32, types.uint64)


def pass_time(uc: int, size: int, state: int) -> bool:
    """Let virtual time go on by the bytes of a block that is about to be executed.

    False when the guest is left before it instead, because its time is over; then the block is yet to come and has
    taken no time.
    """
    clock_at = peek(state, u64(_CLOCK_AT))
    now = peek(clock_at, u64(0))
    if now < peek(state, u64(_SLICE_END)):
        poke(clock_at, u64(0), now + u64(size))
        return True
    poke(state, u64(_REASON), u64(_SLICE))
    call_1(peek(state, u64(_STOP_RUN)), uc)
    return False


@cache
def block_callback() -> Any:
    """A block callback that does nothing but let time pass."""
    define()

    def block(uc: int, address: int, size: int, state: int) -> None:
        pass_time(uc, size, state)

    return callback(block_signature(), block)
