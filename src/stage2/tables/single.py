"""One address at a time, compiled: a C function that takes and gives plain numbers, called without a dispatcher.

It answers with one number, so that any thread may call it at any time:

    bit 63      not translated: bits 31:0 are the status (`tables.walk`)
    bits 55:12  the output page
    bits 8:6    the leaf's level
    bits 5:0    effective permissions

The bits of the output below the page are those of the address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from ..address import Gpa, Hpa
from ..flags import Access
from ..formats.outcome import MAPPED, TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .assembly import assemble_stage_2, compiled_descent, locating
from .compiled import Callback, HostMemory, inlined, keep_marks_back, load, numba, store
from .descent import visit_nothing
from .regime import Regime
from .result import Fault, Mapped, fault_from_status
from .walk import AT_STAGE_2

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOT_TRANSLATED = 1 << 63
STATUS = 0xFFFF_FFFF
PERMISSIONS = 0x3F
LEVEL_AT = 6
LEVEL = 7
OUTPUT = 0x00FF_FFFF_FFFF_F000
OFFSET = 0xFFF
"""Bits of an address that no page size changes."""


def _signature() -> Any:
    types = numba().types
    word = types.uint64
    return word(types.CPointer(word), word, word, word)


@cache
def translator(fmt: Format) -> Callback:
    """The C function of a format: (numbers, address, need, write) -> answer; see `Single` for the numbers."""
    translate = assemble_stage_2(fmt, load, keep_marks_back, visit_nothing, inlined)
    levels, root_bits = fmt.levels, fmt.root_bits

    def translate_one(numbers: Any, address: int, need: int, write: int) -> int:
        host = (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4])
        regime = (numbers[5], u64(levels), u64(root_bits), numbers[6])
        status, output, granted, level = translate(host, regime, address, need, write)
        if status != u64(MAPPED):
            return u64(NOT_TRANSLATED) | status  # type: ignore[no-any-return]  # injected
        return (output & u64(OUTPUT)) | level << u64(LEVEL_AT) | granted  # type: ignore[no-any-return]  # injected

    return Callback(_signature, translate_one, fmt)


@cache
def placer(fmt: Format) -> Callback:
    """The C function that maps one page where its table is there already and the entry is free.

    (numbers, address, output, leaf bits) -> 0 when it is done, else 1 and nothing was written: a table is missing,
    something is mapped there, or the table is damaged; the editor's plan says which.
    """
    descend, locate = compiled_descent(fmt), locating(fmt, inlined)
    inlined(load)
    inlined(store)
    levels, root_bits, pack_address = fmt.levels, fmt.root_bits, inlined(fmt.pack_address)

    def place(numbers: Any, address: int, output: int, leaf_bits: int) -> int:
        host = (numbers[0], numbers[1], numbers[2], numbers[3], numbers[4])
        (status, _, _, _), (kind, _, _), (held, index_bits, _) = descend(
            host, (numbers[5], u64(root_bits), u64(MASK_64)), address, u64(levels), u64(1), numbers[6]
        )
        if status != u64(0) or kind != u64(TABLE):
            return u64(1)
        slot, _rest = locate(held, address, u64(0), index_bits)
        status, entry = load(host, slot)
        if status != u64(0) or entry != u64(0):
            return u64(1)
        store(host, slot, pack_address(output) | leaf_bits)
        return u64(0)

    return Callback(_signature, place, fmt)


class Single:
    """Translates by one regime, and maps by it, address by address.

    Args:
        host: where its tables lie.
        regime: its root and controls must not change.
    """

    def __init__(self, host: HostMemory, regime: Regime) -> None:
        import numpy as np

        fmt = regime.format
        self._numbers: NDArray[Any] = np.array([*host, regime.root, regime.controls], np.uint64)
        # Of a C function that Python calls with the GIL held: it is over sooner than the GIL changes hands.
        prototype = ctypes.PYFUNCTYPE(
            ctypes.c_uint64, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64
        )
        self._call: Callable[[int, int, int, int], int] = prototype(translator(fmt).address)
        self._place: Callable[[int, int, int, int], int] = prototype(placer(fmt).address)
        self._at: int = self._numbers.ctypes.data
        self._sizes = [fmt.leaf_size(level) for level in range(fmt.levels)]
        self._stage = fmt.stage

    def translate(self, address: int, access: Access | None, need: int) -> Mapped | Fault:
        """What the explained walk says of an address below 2^64, without its steps."""
        answer = self._call(self._at, address, need, access is Access.WRITE)
        if answer & NOT_TRANSLATED:
            return fault_from_status(answer & STATUS & ~AT_STAGE_2, address, stage=self._stage, access=access)
        hpa = answer & OUTPUT | address & OFFSET
        return Mapped(Hpa(hpa), answer & PERMISSIONS, self._sizes[answer >> LEVEL_AT & LEVEL], Gpa(address))

    def hpa_of(self, address: int) -> Hpa | None:
        """Where an address below 2^64 leads; None where nothing is mapped."""
        answer = self._call(self._at, address, 0, 0)
        return None if answer & NOT_TRANSLATED else Hpa(answer & OUTPUT | address & OFFSET)

    def place(self, address: int, hpa: int, leaf_bits: int) -> bool:
        """Map a page where that takes one store; False, and nothing changed, where it takes more or is refused.

        Args:
            address: a page of the format, below 2^64 and without sign extension.
            hpa: where it leads.
            leaf_bits: the leaf without its address.
        """
        return not self._place(self._at, address, hpa, leaf_bits)
