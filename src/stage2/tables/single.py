"""One address at a time, compiled: a function that takes and gives plain numbers, called without a dispatcher.

It answers with one number, so that any thread may call it at any time:

    bit 63      not translated: bits 31:0 are the status (`tables.walk`)
    bit 62      nothing was there, and now the page is: `PLACED` and nothing else
    bits 55:12  the output page
    bits 8:6    the leaf's level
    bits 5:0    effective permissions

The bits of the output below the page are those of the address.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from ..address import Gpa, Hpa
from ..flags import Access
from ..formats.outcome import MAPPED, TABLE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .assembly import assemble_stage_2, compiled_descent, locating
from .compiled import Direct, HostMemory, inlined, keep_marks_back, load, store
from .descent import visit_nothing
from .raw import peek
from .regime import Regime
from .result import Fault, Mapped, fault_from_status, mapped
from .walk import AT_STAGE_2

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOT_TRANSLATED = 1 << 63
PLACED = 1 << 62
STATUS = 0xFFFF_FFFF
PERMISSIONS = 0x3F
LEVEL_AT = 6
LEVEL = 7
OUTPUT = 0x00FF_FFFF_FFFF_F000
OFFSET = 0xFFF
"""Bits of an address that no page size changes."""
ONLY_HPA = 1 << 63
"""As the need: nothing is, and the answer is the whole output address, without level and permissions."""
NO_FRAME = MASK_64
"""As the frame: nothing is placed."""


@cache
def single(fmt: Format) -> Direct:
    """The compiled function of a format: (numbers, address, need, write, frame, leaf bits) -> answer.

    Where there is a frame, the address's table is there and its entry is free, the page is mapped by one store.
    Otherwise the address is translated, and nothing is written. See `Single` for the numbers, which are passed by
    their address.
    """
    descend, locate = compiled_descent(fmt), locating(fmt, inlined)
    inlined(store)
    translate = assemble_stage_2(fmt, load, keep_marks_back, visit_nothing, inlined)
    levels, root_bits, pack_address = fmt.levels, fmt.root_bits, inlined(fmt.pack_address)

    def answer(numbers: int, address: int, need: int, write: int, frame: int, leaf_bits: int) -> int:
        host = (
            peek(numbers, u64(0)), peek(numbers, u64(1)), peek(numbers, u64(2)), peek(numbers, u64(3)),
            peek(numbers, u64(4)),
        )  # fmt: skip
        root, controls = peek(numbers, u64(5)), peek(numbers, u64(6))
        if frame != u64(NO_FRAME):
            (status, _, _, _), (kind, _, _), (held, index_bits, _) = descend(
                host, (root, u64(root_bits), u64(MASK_64)), address, u64(levels), u64(1), controls
            )
            if status == u64(0) and kind == u64(TABLE):
                slot, _rest = locate(held, address, u64(0), index_bits)
                status, entry = load(host, slot)
                if status == u64(0) and entry == u64(0):
                    store(host, slot, pack_address(frame) | leaf_bits)
                    return u64(PLACED)
        regime = (root, u64(levels), u64(root_bits), controls)
        status, output, granted, level = translate(host, regime, address, need & u64(PERMISSIONS), write)
        if status != u64(MAPPED):
            return u64(NOT_TRANSLATED) | status  # type: ignore[no-any-return]  # injected
        if need == u64(ONLY_HPA):
            return output  # type: ignore[no-any-return]  # injected
        return (output & u64(OUTPUT)) | level << u64(LEVEL_AT) | granted  # type: ignore[no-any-return]  # injected

    return Direct(answer, fmt)


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
        self.ask: Callable[[int, int, int, int, int, int], int] = single(fmt).entry
        """See `single`; the first argument is always `at`."""
        self.at: int = self._numbers.ctypes.data
        self._sizes = [fmt.leaf_size(level) for level in range(fmt.levels)]
        self._stage = fmt.stage

    def translate(self, address: int, access: Access | None, need: int) -> Mapped | Fault:
        """What the explained walk says of an address, without its steps.

        Raises:
            OverflowError: the address is negative or has more than 64 bits.
        """
        answer = self.ask(self.at, address, need, access is Access.WRITE, NO_FRAME, 0)
        if answer & NOT_TRANSLATED:
            return fault_from_status(answer & STATUS & ~AT_STAGE_2, address, stage=self._stage, access=access)
        return mapped(
            Hpa(answer & OUTPUT | address & OFFSET),
            answer & PERMISSIONS,
            self._sizes[answer >> LEVEL_AT & LEVEL],
            Gpa(address),
        )

    def hpa_of(self, address: int) -> Hpa | None:
        """Where an address leads; None where nothing is mapped.

        Raises: as `translate`.
        """
        hpa = self.ask(self.at, address, ONLY_HPA, 0, NO_FRAME, 0)
        return None if hpa >= NOT_TRANSLATED else Hpa(hpa)

    def place(self, address: int, hpa: int, leaf_bits: int) -> bool:
        """Map a page where that takes one store; False, and nothing changed, where it takes more or is refused.

        Args:
            address: a page of the format, below 2^64 and without sign extension.
            hpa: where it leads.
            leaf_bits: the leaf without its address.
        """
        return self.ask(self.at, address, ONLY_HPA, 0, hpa, leaf_bits) == PLACED
