"""Which frames of one memory range are free: bits, without owners, contents or locks.

A block is 2 MiB of 512 frames, aligned. A block that is wholly free is one flag in an array; a block that is
partly free has a 512-bit integer (bit n: frame n is free) and its order; a block without a free frame has nothing.
64 GiB thus cost 32 KiB, plus about 300 bytes for every partly used block. Partly free blocks are kept by *order*: the
largest k for which 2^k free frames, aligned to as many, are in it.

Everything is taken from the top down, because guests whose memory is identity mapped sit at low addresses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..address import SIZE_1G, SIZE_2M, SIZE_4K, Range, align_down, align_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

FRAMES = SIZE_2M // SIZE_4K
"""Frames in a block."""
GROUP = SIZE_1G // SIZE_2M
"""Blocks in a group, which is 1 GiB, aligned."""
BLOCK_ORDER = 9
_FULL = (1 << FRAMES) - 1
# Bit n of _NATURAL[k] is set when n is a multiple of 2^k: where an aligned piece of order k may begin.
_NATURAL = [_FULL // ((1 << (1 << order)) - 1) for order in range(BLOCK_ORDER + 1)]


def _starts_of(bits: int, order: int) -> int:
    """Where free, aligned pieces of 2^order frames begin."""
    for step in range(order):
        bits &= bits >> (1 << step)
    return bits & _NATURAL[order]


def _order_of(bits: int) -> int:
    """The order of the largest free, aligned piece; `bits` is not zero."""
    lowest = bits & -bits
    if not bits & (bits + lowest):  # one run, as it nearly always is
        first, end = lowest.bit_length() - 1, bits.bit_length()
        order = (end - first).bit_length() - 1
        while ((first - 1 >> order) + 2) << order > end:
            order -= 1
        return order
    order = 0
    while order < BLOCK_ORDER:
        bits &= (bits >> (1 << order)) & _NATURAL[order + 1]
        if not bits:
            break
        order += 1
    return order


def _runs_of(bits: int, length: int) -> int:
    """Where runs of at least `length` free frames contain `length` of them from here on."""
    have = 1
    while have < length and bits:
        step = min(have, length - have)
        bits &= bits >> step
        have += step
    return bits


def _ones(bits: int) -> int:
    """How many of the lowest bits are set in a row."""
    return (~bits & (bits + 1)).bit_length() - 1


def _lowest(bits: int) -> int:
    """The number of the lowest set bit; `bits` is not zero."""
    return (bits & -bits).bit_length() - 1


def _last(blocks: dict[int, None]) -> int:
    """The entry added last. Popping and adding again keeps this cheap where `reversed` would pass over removed ones."""
    block, _ = blocks.popitem()
    blocks[block] = None
    return block


class Arena:
    """The free frames of one contiguous range of memory.

    Frames are numbered from the multiple of 1 GiB at or below the range's start. Nothing is checked here: the
    caller knows from its owner map what is free, and holds a lock.

    Args:
        span: the range, whole 4 KiB frames.
    """

    def __init__(self, span: Range) -> None:
        self.span = span
        self.origin = align_down(span.start, SIZE_1G)
        blocks = (align_up(span.end, SIZE_1G) - self.origin) // SIZE_2M
        self._whole: npt.NDArray[np.bool_] = np.zeros(blocks, dtype=np.bool_)
        # The same; single elements of a memory view are read several times faster.
        self._is_whole = self._whole.data
        self._wholes: npt.NDArray[np.uint16] = np.zeros(blocks // GROUP, dtype=np.uint16)
        self._partial: dict[int, int] = {}
        self._orders: dict[int, int] = {}
        self._by_order: list[dict[int, None]] = [{} for _ in range(BLOCK_ORDER)]
        self.free_frames = 0
        self.give(span)

    def take(self, span: Range) -> None:
        """Mark the frames of `span`, all free, as used."""
        (block, mask), first, last, (last_block, last_mask) = self._split(span)
        if mask:
            self._change(block, self._bits(block) & ~mask)
        if last_mask:
            self._change(last_block, self._bits(last_block) & ~last_mask)
        if first < last:
            self._whole[first:last] = False
            self._count_groups(first, last)
        self.free_frames -= (span.end - span.start) // SIZE_4K

    def give(self, span: Range) -> None:
        """Mark the frames of `span`, all used, as free."""
        (block, mask), first, last, (last_block, last_mask) = self._split(span)
        if mask:
            self._change(block, self._bits(block) | mask)
        if last_mask:
            self._change(last_block, self._bits(last_block) | last_mask)
        if first < last:
            self._whole[first:last] = True
            self._count_groups(first, last)
        self.free_frames += (span.end - span.start) // SIZE_4K

    def find_piece(self, order: int) -> int | None:
        """The HPA of a free, aligned piece of 2^order frames (order < 9) in the partly used block it suits best."""
        for fitting in self._by_order[order:]:
            if fitting:
                block = _last(fitting)
                found = _starts_of(self._partial[block], order)
                return self._address(block * FRAMES + _lowest(found))
        return None

    def find_block(self) -> int | None:
        """The HPA of a wholly free block, from a gigabyte that is broken already if there is one."""
        groups = ((self._wholes > 0) & (self._wholes < GROUP)).nonzero()[0]
        if not groups.size:
            groups = self._wholes.nonzero()[0]
            if not groups.size:
                return None
        first = int(groups[-1]) * GROUP
        inside = self._whole[first : first + GROUP].nonzero()[0]
        return self._address((first + int(inside[-1])) * FRAMES)

    def find_blocks(self, count: int, align: int) -> int | None:
        """The HPA of `count` wholly free blocks in a row, `align` (bytes, at least 2 MiB) aligned."""
        if count > self._whole.size:
            return None
        before = np.zeros(self._whole.size + 1, dtype=np.int64)
        np.cumsum(self._whole, out=before[1:])
        first = (-self.origin % align) // SIZE_2M
        starts = np.arange(first, self._whole.size - count + 1, align // SIZE_2M)
        fitting = starts[before[starts + count] - before[starts] == count]
        return self._address(int(fitting[-1]) * FRAMES) if fitting.size else None

    def find_run(self, frames: int, align: int) -> int | None:
        """The HPA of `frames` free frames in a row, `align` bytes aligned, wherever they are.

        The exhaustive search, for when the quick ones found nothing: its time grows with the number of partly used
        blocks.
        """
        step = align // SIZE_4K
        if frames <= FRAMES:
            # A run of n frames holds an aligned piece of at least half of n, rounded down to a power of two.
            least = max((frames + 1).bit_length() - 2, 0)
            # Blocks begin at multiples of 2 MiB: within one, larger alignments leave its first frame.
            within = _NATURAL[min(step.bit_length() - 1, BLOCK_ORDER)]
            for fitting in self._by_order[least:]:
                for block in fitting:
                    starts = _runs_of(self._partial[block], frames) & within
                    if starts and not (align > SIZE_2M and self._address(block * FRAMES) % align):
                        return self._address(block * FRAMES + _lowest(starts))
        for start, end in self._crossing_runs():
            found = align_up(self._address(start), align)
            if found + frames * SIZE_4K <= self._address(end):
                return found
        return None

    def take_gigabytes(self, most: int) -> list[Range]:
        """Take up to `most` whole, aligned gigabytes; touching ones come as one range."""
        if not most:
            return []
        groups = np.flatnonzero(self._wholes == GROUP)
        return self._take_blocks(groups[groups.size - min(most, groups.size) :], GROUP)

    def take_blocks(self, most: int) -> list[Range]:
        """Take up to `most` wholly free blocks, those of broken gigabytes first; touching ones come as one range."""
        if not most:
            return []
        if most == 1:
            found = self.find_block()
            return [] if found is None else [self._taken(Range(found, found + SIZE_2M))]
        # The groups to take from, broken ones last, as many from the end as it takes.
        broken = (self._wholes > 0) & (self._wholes < GROUP)
        groups = np.concatenate((np.flatnonzero(self._wholes == GROUP), np.flatnonzero(broken)))
        enough = int(np.searchsorted(np.cumsum(self._wholes[groups[::-1]]), most)) + 1
        groups = groups[max(groups.size - enough, 0) :]
        rows, columns = np.nonzero(self._whole.reshape(-1, GROUP)[groups])
        blocks = groups[rows] * GROUP + columns
        return self._take_blocks(np.sort(blocks[max(blocks.size - most, 0) :]), 1)

    def largest_order(self) -> int:
        """The order of the largest aligned piece in partly used blocks; -1 when there is none."""
        return max((order for order, fitting in enumerate(self._by_order) if fitting), default=-1)

    def take_run(self, order: int, most: int) -> Range:
        """Take up to `most` frames in a row around an aligned piece of `order`, which some partly used block has."""
        block = _last(self._by_order[order])
        bits = self._partial[block]
        at = _lowest(_starts_of(bits, order))
        at = (~bits & ((1 << at) - 1)).bit_length()  # down to just above the next used frame
        length = min(_ones(bits >> at), most)
        span = Range.sized(self._address(block * FRAMES + at), length * SIZE_4K)
        self.take(span)
        return span

    def run_at(self, hpa: int) -> Range | None:
        """The free frames from `hpa` to the first used one or the end of its block."""
        frame = (hpa - self.origin) // SIZE_4K
        length = _ones(self._bits(frame // FRAMES) >> frame % FRAMES)
        return Range.sized(hpa, length * SIZE_4K) if length else None

    def _address(self, frame: int) -> int:
        return self.origin + frame * SIZE_4K

    def _bits(self, block: int) -> int:
        return _FULL if self._is_whole[block] else self._partial.get(block, 0)

    def _split(self, span: Range) -> tuple[tuple[int, int], int, int, tuple[int, int]]:
        """A partly covered first block and its mask, the wholly covered blocks, a partly covered last block."""
        start, end = (span.start - self.origin) // SIZE_4K, (span.end - self.origin) // SIZE_4K
        first, last = -(-start // FRAMES), end // FRAMES
        if first > last:  # inside one block
            mask = ((1 << (end - start)) - 1) << (start % FRAMES)
            return (last, mask), first, first, (last, 0)
        head = (1 << (first * FRAMES - start)) - 1
        tail = (1 << (end - last * FRAMES)) - 1
        return (first - 1, head << (start % FRAMES)), first, last, (last, tail)

    def _change(self, block: int, bits: int) -> None:
        """Give one block new bits."""
        if self._is_whole[block]:
            self._whole[block] = False
            self._wholes[block // GROUP] = int(self._wholes[block // GROUP]) - 1
        else:
            order = self._orders.pop(block, None)
            if order is not None:
                del self._by_order[order][block], self._partial[block]
        if bits == _FULL:
            self._whole[block] = True
            self._wholes[block // GROUP] = int(self._wholes[block // GROUP]) + 1
        elif bits:
            self._partial[block] = bits
            order = self._orders[block] = _order_of(bits)
            self._by_order[order][block] = None

    def _count_groups(self, first: int, last: int) -> None:
        """Count the free blocks again in the groups that hold blocks [first, last)."""
        low, high = first // GROUP, -(-last // GROUP)
        flags = self._whole[low * GROUP : high * GROUP].reshape(-1, GROUP)
        self._wholes[low:high] = flags.sum(axis=1, dtype=np.uint16)

    def _take_blocks(self, indices: npt.NDArray[np.intp], unit: int) -> list[Range]:
        """Take units of `unit` blocks each, given by ascending index."""
        if not indices.size:
            return []
        cuts = np.flatnonzero(np.diff(indices) != 1) + 1
        firsts = indices[np.concatenate(([0], cuts))] * unit
        lasts = (indices[np.concatenate((cuts - 1, [indices.size - 1]))] + 1) * unit
        spans = [
            Range(self._address(first * FRAMES), self._address(last * FRAMES))
            for first, last in zip(firsts.tolist(), lasts.tolist(), strict=True)
        ]
        return [self._taken(span) for span in spans]

    def _taken(self, span: Range) -> Range:
        self.take(span)
        return span

    def _crossing_runs(self) -> Iterator[tuple[int, int]]:
        """The maximal runs [start, end) of free frames that reach a block's border."""
        edges = np.flatnonzero(np.diff(self._whole, prepend=False, append=False)).tolist()
        pieces: list[tuple[int, int]] = list(zip(edges[::2], edges[1::2], strict=True))
        pieces += [(block, block + 1) for block in self._partial]
        start = border = -1
        for first, last in sorted(pieces):
            if first != border:
                if border >= 0:
                    yield start, border * FRAMES
                start, border = first * FRAMES, first
            bits = self._partial.get(first)
            if bits is None:
                border = last
                continue
            yield start, first * FRAMES + _ones(bits)
            start = last * FRAMES - (FRAMES - (bits ^ _FULL).bit_length())
            border = last
        if border >= 0:
            yield start, border * FRAMES
