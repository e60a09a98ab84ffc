"""Translating whole arrays of addresses: one compiled kernel per format, one per pair of formats. They only read.

The single-stage kernel does what hardware does: it remembers the tables that the upper levels led to, and it asks the
cache for leaf entries well before it looks at them, which hides most of the memory's latency on large tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..address import Gva
from ..errors import OutOfRangeError
from ..flags import Access
from ..formats.outcome import MAPPED, FaultKind
from ..formats.record import Format
from ..formats.u64 import u64
from .assembly import compiled_lookup, compiled_walk, folded_walk, locating
from .compiled import HostMemory, Kernel, inlined, kernel, load
from .folded import FEW
from .leaf_memo import MEMO_WORDS, make_last_leaf
from .mapping import ATTRIBUTES, LEVEL_FIELD, U64Array
from .parallel import in_pieces
from .raw import peek, poke, prefetch, room
from .regime import Regime
from .result import Fault, fault_from_status, need_mask
from .two_stage_kernel import UNMAPPED, steps, two_stage_kernel
from .walk import AT_STAGE_2, PENDING
from .walk_cache import ROW_SHIFT, make_announce, make_upper, rows_for, settled

AHEAD = 16
"""How many addresses the upper levels are walked ahead of the leaves, and announced ahead of that."""
_PLAIN_STEPS = 2
"""Steps of a walk that take as long here, as plain Python, as one entry that another kernel goes over: constants are
worked out (`folded`), and what upper entries say is remembered."""
_RING = 32
"""Addresses under way, a power of two above AHEAD."""


@dataclass(slots=True)
class Batch:
    """Translations of an array of addresses, element by element.

    Args:
        hpa: output addresses, 2^64-1 where unmapped.
        status: 0, or the number of a FaultKind.
        attributes: the walk's combined attributes (`formats.outcome`), the last entry's level in bits 31:24.
        addresses: the input; None in a result that is yet to be written.
        stage: of the regime.
    """

    hpa: U64Array
    status: npt.NDArray[np.uint8]
    attributes: npt.NDArray[np.uint32]
    addresses: U64Array | None = None
    stage: int = 2

    def __repr__(self) -> str:
        return f"Batch(stage {self.stage}, {_told(self.status)})"

    def fault(self, index: int | tuple[int, ...]) -> Fault | None:
        """Why an element does not translate; None for one that does."""
        status = int(self.status[index])
        if not status or self.addresses is None:
            return None
        level = int(self.attributes[index]) >> LEVEL_FIELD
        return Fault(FaultKind(status), self.stage, level, int(self.addresses[index]))


@dataclass(frozen=True, slots=True)
class TwoStageBatch:
    """Two-stage translations of an array of addresses, element by element.

    Args:
        hpa: output addresses, 2^64-1 where unmapped.
        gpa: what stage 1 answered; on a stage-2 fault, the GPA that stage 2 refused.
        permissions: effective permissions of both stages, as in `Mapped`.
        status: 0, or a fault; `fault` tells it.
        gva: the input.
        access: for which access.
    """

    hpa: U64Array
    gpa: U64Array
    permissions: npt.NDArray[np.uint8]
    status: npt.NDArray[np.uint32]
    gva: U64Array
    access: Access | None

    def __repr__(self) -> str:
        return f"TwoStageBatch({self.access.name if self.access else 'no access'}, {_told(self.status)})"

    def fault(self, index: int | tuple[int, ...]) -> Fault | None:
        """Why an element does not translate; None for one that does."""
        status = int(self.status[index])
        if not status:
            return None
        gva = int(self.gva[index])
        refused = int(self.gpa[index]) if status & AT_STAGE_2 else gva
        return fault_from_status(status, refused, stage=1, gva=Gva(gva), access=self.access)


def _told(status: npt.NDArray[Any]) -> str:
    """How many addresses, and how many of them do not translate."""
    return f"{status.size} addresses, {np.count_nonzero(status)} of them faults: `fault(index)` tells one"


def _numbers(regime: Regime) -> tuple[np.uint64, ...]:
    """A regime as kernels take it."""
    return tuple(np.uint64(number) for number in regime.numbers)


def _require_fit(parts: tuple[npt.NDArray[Any], ...], kinds: tuple[type, ...], shape: tuple[int, ...]) -> None:
    """Refuse results that cannot take the answers for so many addresses.

    Raises:
        OutOfRangeError: an array is of another shape or kind, or in pieces, or read-only.
    """
    for part, kind in zip(parts, kinds, strict=True):
        if part.shape != shape or part.dtype != kind or not (part.flags.c_contiguous and part.flags.writeable):
            raise OutOfRangeError(f"results for {shape} addresses cannot be written to an array of {part.shape}")


def translate_batch(
    host: HostMemory,
    regime: Regime,
    addresses: npt.ArrayLike,
    out: Batch | None = None,
    *,
    threads: int | None = None,
) -> Batch:
    """Translate an array of addresses by one regime whose tables lie in host memory.

    Args:
        out: a result whose arrays are written to instead of new ones, which saves the host the zeroing of new pages.
        threads: how many work on it; None for every CPU once the array is large.

    Raises:
        OutOfRangeError: `out` is not shaped like the addresses, or the threads are too few or too many.
    """
    inputs = np.require(addresses, np.uint64, ["C", "A"])
    shape, flat = inputs.shape, inputs.reshape(-1)
    kinds = np.uint64, np.uint32, np.uint8
    if out is None:
        out = Batch(np.empty(shape, np.uint64), np.empty(shape, np.uint8), np.empty(shape, np.uint32))
    results = out.hpa, out.attributes, out.status
    _require_fit(results, kinds, shape)
    translate = translate_kernel(regime.format).for_work(lambda: len(flat) * regime.format.levels // _PLAIN_STEPS)
    numbers = _numbers(regime)
    columns = [part.reshape(-1) for part in results]

    def work(piece: slice) -> None:
        translate(host, numbers, flat[piece], *[column[piece] for column in columns])

    in_pieces(work, len(flat), threads)
    out.addresses, out.stage = inputs, regime.format.stage
    return out


def translate_two_stage_batch(
    host: HostMemory,
    stage_1: Regime,
    stage_2: Regime,
    gvas: npt.ArrayLike,
    access: Access | None = None,
    out: TwoStageBatch | None = None,
    *,
    user: bool = False,
    marks: bool = False,
    ahead: bool = True,
    threads: int | None = None,
) -> TwoStageBatch:
    """Translate an array of GVAs by both stages; the batch form of `explain_two_stage`.

    Args:
        out: a result whose arrays are written to instead of new ones.
        marks: store accessed and dirty bits as hardware would, one address after the other.
        ahead: look ahead, as hardware does; False where that is not worth a longer wait for the compiler.
        threads: how many work on it, 1 with `marks`; None for every CPU once the array is large.

    Raises:
        OutOfRangeError: `out` is not shaped like the addresses, or the threads are too few or too many.
    """
    inputs = np.require(gvas, np.uint64, ["C", "A"])
    shape, flat = inputs.shape, inputs.reshape(-1)
    kinds = np.uint64, np.uint64, np.uint8, np.uint32
    if out is None:
        hpa, gpa, permissions, status = (np.empty(shape, kind) for kind in kinds)
    else:
        hpa, gpa, permissions, status = out.hpa, out.gpa, out.permissions, out.status
    results = hpa, gpa, permissions, status
    _require_fit(results, kinds, shape)
    first, second = _numbers(stage_1), _numbers(stage_2)
    need, write = np.uint64(need_mask(access, user=user)), np.uint64(access is Access.WRITE)
    formats = stage_1.format, stage_2.format
    both = two_stage_kernel(*formats, marks=marks, ahead=ahead)
    translate = both.for_work(lambda: len(flat) * steps(*formats) // _PLAIN_STEPS)
    columns = [part.reshape(-1) for part in results]

    def work(piece: slice) -> None:
        translate(host, first, second, need, write, flat[piece], *[column[piece] for column in columns])

    in_pieces(work, len(flat), 1 if marks else threads)
    return TwoStageBatch(hpa, gpa, permissions, status, inputs, access)


@cache
def translate_kernel(fmt: Format) -> Kernel:
    """kernel(host, regime, addresses, outputs, attributes, statuses) for one stage.

    outputs are UNMAPPED and statuses the FaultKind where an address does not translate; attributes are the
    combined ones of the walk with the level of the last entry in bits 31:24.
    """
    walk, look_up, locate = compiled_walk(fmt), compiled_lookup(fmt), locating(fmt, inlined)
    upper = inlined(make_upper(fmt, walk, look_up, inlined(settled)))
    announce = inlined(make_announce(fmt, locate))
    last_leaf = inlined(make_last_leaf(fmt, look_up, locate, inlined(load)))
    inlined(rows_for)
    levels, root_bits, large_mask = fmt.levels, fmt.root_bits, fmt.leaf_size(1) - 1
    last_bits = fmt.bits if levels > 1 else root_bits

    def translate(host: Any, regime: Any, addresses: Any, outputs: Any, attributes: Any, statuses: Any) -> None:
        count = u64(addresses.shape[0])
        rows = rows_for(count)
        # By address, because passing an array on costs counting who holds it.
        scratch = room(u64(4 * _RING + MEMO_WORDS) + (rows << u64(ROW_SHIFT - 2)))
        ring = u64(scratch.ctypes.data)
        memo = ring + u64(_RING << ROW_SHIFT)
        near = memo + u64(8 * MEMO_WORDS)
        cache = (near, near + (rows << u64(ROW_SHIFT)), rows - u64(1))
        root, _levels, _root_bits, controls = regime
        # What the format says anyway, as constants, which make shifts cheap.
        regime = (root, u64(levels), u64(root_bits), controls)
        for turn in range(count + u64(AHEAD)):
            if turn + u64(AHEAD) < count:
                announce(host[0], regime, cache, addresses[turn + u64(AHEAD)])
            if turn < count:
                row = ring + ((turn & u64(_RING - 1)) << u64(ROW_SHIFT))
                address = addresses[turn]
                status, output, attribute, level, _entry = upper(host, regime, cache, address)
                if status == u64(PENDING):
                    slot, _rest = locate(output, address, u64(0), u64(last_bits))
                    prefetch(slot + host[0])
                poke(row, u64(0), status)
                poke(row, u64(1), output)
                poke(row, u64(2), attribute)
                poke(row, u64(3), level)
            if turn >= u64(AHEAD):
                i = turn - u64(AHEAD)
                row = ring + ((i & u64(_RING - 1)) << u64(ROW_SHIFT))
                status, output = peek(row, u64(0)), peek(row, u64(1))
                attribute, level = peek(row, u64(2)), peek(row, u64(3))
                if status == u64(PENDING):
                    status, output, attribute, level, _slot, _entry = last_leaf(
                        host, memo, (output, u64(last_bits), attribute), addresses[i], controls
                    )
                elif status == u64(MAPPED):
                    output |= addresses[i] & u64(large_mask)
                statuses[i] = status
                outputs[i] = output if status == u64(MAPPED) else u64(UNMAPPED)
                attributes[i] = (attribute & u64(ATTRIBUTES)) | level << u64(LEVEL_FIELD)

    def one_by_one(host: Any, regime: Any, addresses: Any, outputs: Any, attributes: Any, statuses: Any) -> None:
        root, _levels, _root_bits, controls = regime
        many = addresses.shape[0] > FEW
        walk_one = folded_walk(fmt) if many else walk
        for i in range(addresses.shape[0]):
            status, output, attribute, level, _slot, _entry = walk_one(
                host, root, addresses[i], levels, root_bits, 0, controls
            )
            statuses[i] = status
            outputs[i] = output if status == MAPPED else UNMAPPED
            attributes[i] = (attribute & ATTRIBUTES) | level << LEVEL_FIELD

    return kernel(translate, fmt, plain=one_by_one)
