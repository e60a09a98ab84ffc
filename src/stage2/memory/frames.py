"""The frame allocator: who gets which frames of host memory, and takes them back zeroed."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from typing import TYPE_CHECKING

from ..address import (
    SIZE_1G,
    SIZE_2M,
    SIZE_4K,
    Hpa,
    Range,
    align_down,
    format_size,
    is_aligned,
    is_power_of_two,
    require_aligned,
)
from ..errors import EmptyRangeError, MisalignedError, OutOfMemoryError, OutOfRangeError
from .arena import BLOCK_ORDER, FRAMES, Arena
from .owners import Growth, Owner, OwnerMap
from .physical import PHYSICAL_LIMIT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .physical import PhysicalMemory

_REMEMBERED = 1024
"""Limit: freed frames remembered for each owner, to be used again before a new block is begun."""


class Run(Growth):
    """Frames set aside for the single-page requests of one owner: [next, end), inside one block.

    Args:
        owner: whose.
        page: bytes of a page, a power of two of at least 4 KiB.
    """

    __slots__ = ("end", "freed", "page")

    def __init__(self, owner: Owner, page: int = SIZE_4K) -> None:
        super().__init__(owner)
        self.page = page
        self.end = 0
        self.freed: deque[int] = deque(maxlen=_REMEMBERED)


class FrameAllocator:
    """Hands out the frames of host memory, none twice, all reading as zero.

    Single frames of one owner come from a 2 MiB block of its own, in rising order, so that runs stay contiguous
    and the owner map small; when no whole block is left, any free frame will do. Everything is taken from the top
    of memory, which leaves low addresses to guests that are identity mapped. All calls are safe between threads.

    Frames are zeroed when they are freed; who frees them must have flushed the translations that lead to them.

    Args:
        memory: the memory to hand out, which reads as zero.
    """

    def __init__(self, memory: PhysicalMemory) -> None:
        self.memory = memory
        self.lock = threading.RLock()
        """Held during every call."""
        self.owners = OwnerMap(self.lock)
        """Who holds what. Look it up here; host memory is claimed and freed through the allocator only."""
        self._arenas = [Arena(part) for part in memory.ranges]
        self._top_down = self._arenas[::-1]
        self._starts = [part.start for part in memory.ranges]
        self._runs: dict[Owner, Run] = {}

    @property
    def total_bytes(self) -> int:
        return self.memory.size

    @property
    def free_bytes(self) -> int:
        with self.lock:
            aside = sum(run.end - run.next for run in self._runs.values())
            return sum(arena.free_frames for arena in self._arenas) * SIZE_4K + aside

    @property
    def used_bytes(self) -> int:
        return self.total_bytes - self.free_bytes

    def used_by(self, owner: Owner) -> int:
        """Bytes of host memory that `owner` holds; devices do not count."""
        return sum(piece.size for span in self.owners.of(owner) for _, piece in self._pieces(span))

    def allocate(self, size: int = SIZE_4K, *, align: int | None = None, owner: Owner) -> Hpa:
        """Give `owner` a contiguous run of zeroed frames.

        Args:
            size: bytes, a positive multiple of 4 KiB.
            align: what the HPA is a multiple of, a power of two of at least 4 KiB; None for `size` rounded up to
                a power of two.
            owner: who holds them from now on.

        Returns:
            The HPA of the first byte.

        Raises:
            OutOfMemoryError: there is no such run; nothing changed.
            EmptyRangeError, MisalignedError: size or align are wrong.
        """
        if size == SIZE_4K and (align is None or align == SIZE_4K):
            return self.allocate_page(SIZE_4K, owner=owner)
        _check_size(size)
        if align is None:
            align = 1 << (size - 1).bit_length()
        if align < SIZE_4K or not is_power_of_two(align):
            raise MisalignedError(f"alignment {align:#x} is not a power of two of at least 4 KiB")
        return self._allocate(size, align, owner)

    def allocate_page(self, page: int, *, owner: Owner) -> Hpa:
        """Give `owner` an aligned, zeroed page, behind the last one if it can be.

        Args:
            page: bytes, a power of two of at least 4 KiB. Those of the size that an owner asked for first come fast.

        Raises:
            OutOfMemoryError: there is none; nothing changed.
        """
        with self.lock:
            run = self.run_of(owner, page)
            if run.page != page:
                return self._allocate(page, page, owner)
            if run.next == run.end:
                self._refill(run)
            found = run.next
            self.owners.grow(run, found + page)
            return Hpa(found)

    def run_of(self, owner: Owner, page: int = SIZE_4K) -> Run:
        """Where the next single pages of an owner come from, until `free_owner`.

        Who holds `lock` may use the page at `next` where that is not `end`, and then says so by `owners.grow`; that
        is as good as `allocate_page`.

        Args:
            page: bytes of a page, for an owner that has had none yet.
        """
        run = self._runs.get(owner)
        if run is None:
            run = self._runs[owner] = Run(owner, page)
        return run

    def allocate_extents(self, size: int, *, owner: Owner, largest: int = SIZE_1G) -> list[Range]:
        """Give `owner` exactly `size` bytes of zeroed frames in few and large pieces, wherever they are.

        Args:
            size: bytes, a positive multiple of 4 KiB.
            owner: who holds them from now on.
            largest: the largest block the caller can map: with less than 1 GiB, unbroken gigabytes are spared.

        Returns:
            The pieces, the most useful for block mappings first: whole gigabytes, then whole 2 MiB blocks, then
            runs of 4 KiB frames; each sort by address, touching pieces of one sort as one range.

        Raises:
            OutOfMemoryError: that much is not free; nothing changed.
            EmptyRangeError, MisalignedError: the size is wrong.
        """
        if size <= 0 or size & (SIZE_4K - 1):
            _check_size(size)
        with self.lock:
            self._close_runs()
            extents = [] if size >= SIZE_2M else self._take_in_a_row(size // SIZE_4K)
            if not extents:
                extents = self._take_extents(size, owner, largest)
            for span in extents:
                self.owners.claim(span, owner)
            return extents

    def allocate_pages(self, size: int, page: int, *, owner: Owner) -> list[Range]:
        """Give `owner` exactly `size` bytes of zeroed frames in pieces that begin and end at multiples of `page`.

        Args:
            size: bytes, a positive multiple of `page`.
            page: a power of two, at least 4 KiB: the smallest page of a format, or the size of its tables.

        Raises:
            OutOfMemoryError: that much is not free in such pieces; nothing changed.
        """
        if page == SIZE_4K:
            return self.allocate_extents(size, owner=owner)
        _check_size(size)
        taken: list[Range] = []
        with self.lock:
            try:
                left = size
                # The largest aligned pieces that can be had: all at once first, single pages last.
                piece = max(1 << (size.bit_length() - 1), page)
                while left:
                    if piece > left:
                        piece >>= 1
                        continue
                    try:
                        taken.append(Range.sized(self.allocate(piece, align=piece, owner=owner), piece))
                        left -= piece
                    except OutOfMemoryError:
                        if piece == page:
                            raise
                        piece >>= 1
            except BaseException:
                for span in taken:
                    self.free(span, owner=owner)
                raise
        return taken

    def claim(self, span: Range, *, owner: Owner) -> None:
        """Give `owner` exactly these frames, zeroed as all are.

        Raises:
            OwnerConflictError: somebody holds part of them; the text names who and what. Nothing changed.
            OutOfRangeError: they are not in one range of host memory (see `claim_device`).
            MisalignedError: the span is no whole frames.
        """
        _check_span(span)
        with self.lock:
            arena = self._arena_of(span)
            self.owners.require_unheld(span, owner)
            for run in self._runs.values():
                if run.next < span.end and span.start < run.end:
                    self._close(run)
            self.owners.claim(span, owner)
            arena.take(span)

    def claim_device(self, span: Range, *, owner: Owner) -> None:
        """Record that `owner` holds addresses that are no host memory, as a device's registers are.

        Raises:
            OwnerConflictError: somebody holds part of them; nothing changed.
            OutOfRangeError: part of them is host memory.
        """
        with self.lock:
            self._require_device(span)
            self.owners.claim(span, owner)

    def release_device(self, span: Range, *, owner: Owner) -> None:
        """Undo `claim_device`.

        Raises:
            OwnerConflictError: `owner` does not hold all of it; nothing changed.
            OutOfRangeError: part of it is host memory.
        """
        with self.lock:
            self._require_device(span)
            self.owners.release(span, owner)

    def free(self, span: Range, *, owner: Owner) -> None:
        """Take frames back from `owner` and zero them.

        Raises:
            OwnerConflictError: `owner` does not hold all of them, for instance because they were freed already;
                nothing changed.
            OutOfRangeError: they are not in one range of host memory.
            MisalignedError: the span is no whole frames.
        """
        start, end = span.start, span.end
        if (start | end) & (SIZE_4K - 1):
            _check_span(span)
        with self.lock:
            arena = self._arena_of(span)
            self.owners.release(span, owner, self.memory.zero)
            run = self._runs.get(owner)
            if run is not None and end == run.next and end - start == run.page:
                run.next = run.entered = start  # the frame given last comes next again
                return
            arena.give(span)
            if run is not None and end - start < SIZE_2M and not start & (run.page - 1):
                run.freed.append(start)

    def free_owner(self, owner: Owner) -> int:
        """Take back everything `owner` holds, devices included.

        Returns:
            Bytes of host memory freed.
        """
        with self.lock:
            spans = self.owners.of(owner)
            pieces = [found for span in spans for found in self._pieces(span)]
            for _, piece in pieces:
                self.memory.zero(piece)
            for span in spans:
                self.owners.release(span, owner)
            for arena, piece in pieces:
                arena.give(piece)
            run = self._runs.pop(owner, None)
            if run is not None:
                self._close(run)
            return sum(piece.size for _, piece in pieces)

    def _allocate(self, size: int, align: int, owner: Owner) -> Hpa:
        """A contiguous run of any size."""
        with self.lock:
            found = self._find(size, min(align, PHYSICAL_LIMIT))
            if found is None:
                raise OutOfMemoryError(
                    f"no {format_size(size)} of memory in a row, aligned to {format_size(align)}, for {owner}: "
                    f"{self._balance()}"
                )
            span = Range.sized(found, size)
            self.owners.claim(span, owner)
            self._arena_of(span).take(span)
            return Hpa(found)

    def _refill(self, run: Run) -> None:
        """Set frames aside for the single-page requests of an owner."""
        span = self._rest_of_block(run) or self._fresh_block() or self._any_frames(run.page)
        if span is None:
            self._close_runs()
            span = self._any_frames(run.page)
        if span is None:
            what = "frame" if run.page == SIZE_4K else f"page of {format_size(run.page)}"
            raise OutOfMemoryError(f"no {what} of memory left for {run.owner}: {self._balance()}")
        self.owners.settle()
        run.next = run.entered = span.start
        run.end = span.end

    def _rest_of_block(self, run: Run) -> Range | None:
        """Free frames where the owner was: freed ones, or behind its last frame after its run was closed."""
        if run.next and not is_aligned(run.next, SIZE_2M):
            run.freed.append(run.next)
        while run.freed:
            hpa = run.freed.pop()
            arena = self._arenas[bisect_right(self._starts, hpa) - 1]
            span = arena.run_at(hpa) if arena.span.contains(hpa) else None
            end = align_down(span.end, run.page) if span else 0
            if hpa < end:
                span = Range(hpa, end)
                arena.take(span)
                return span
        return None

    def _fresh_block(self) -> Range | None:
        for arena in self._top_down:
            found = arena.find_block()
            if found is not None:
                span = Range.sized(found, SIZE_2M)
                arena.take(span)
                return span
        return None

    def _any_frames(self, page: int) -> Range | None:
        if page != SIZE_4K:
            found = self._find(page, page)
            if found is None:
                return None
            span = Range.sized(found, page)
            self._arena_of(span).take(span)
            return span
        arena = max(self._top_down, key=Arena.largest_order)
        order = arena.largest_order()
        return arena.take_run(order, FRAMES) if order >= 0 else None

    def _close_runs(self) -> None:
        for run in self._runs.values():
            if run.next < run.end:
                self._close(run)

    def _close(self, run: Run) -> None:
        """Make the frames set aside free for all."""
        if run.next < run.end:
            rest = Range(run.next, run.end)
            self._arena_of(rest).give(rest)
            run.end = run.next

    def _find(self, size: int, align: int) -> int | None:
        """A free run of memory, tried where it hurts least first."""
        order = (max(size, align) // SIZE_4K - 1).bit_length()
        if order <= BLOCK_ORDER:
            found = self._find_small(order)
            if found is not None:
                return found
        self._close_runs()
        if order <= BLOCK_ORDER:
            found = self._find_small(order)
        else:
            blocks = -(-size // SIZE_2M)
            tried = (arena.find_blocks(blocks, max(align, SIZE_2M)) for arena in self._top_down)
            found = next((hpa for hpa in tried if hpa is not None), None)
        if found is None:
            tried = (arena.find_run(size // SIZE_4K, align) for arena in self._top_down)
            found = next((hpa for hpa in tried if hpa is not None), None)
        return found

    def _find_small(self, order: int) -> int | None:
        """An aligned piece of at most one block, in a broken block if it can be."""
        if order < BLOCK_ORDER:
            for arena in self._top_down:
                found = arena.find_piece(order)
                if found is not None:
                    return found
        for arena in self._top_down:
            found = arena.find_block()
            if found is not None:
                return found
        return None

    def _take_extents(self, size: int, owner: Owner, largest: int) -> list[Range]:
        """See `allocate_extents`."""
        if size > self.free_bytes:
            raise OutOfMemoryError(f"no {format_size(size)} of memory for {owner}: {self._balance()}")
        left = size
        gigabytes: list[Range] = []
        blocks: list[Range] = []
        for arena in self._top_down if largest >= SIZE_1G else ():
            gigabytes += arena.take_gigabytes(left // SIZE_1G - _total(gigabytes) // SIZE_1G)
        left -= _total(gigabytes)
        for arena in self._top_down:
            blocks += arena.take_blocks(left // SIZE_2M - _total(blocks) // SIZE_2M)
        left -= _total(blocks)
        return sorted(gigabytes) + sorted(blocks) + _joined(self._take_runs(left // SIZE_4K))

    def _take_in_a_row(self, frames: int) -> list[Range]:
        """Take that many frames, at most a block, in one aligned piece; nothing where there is none."""
        found = self._find_small((frames - 1).bit_length())
        if found is None:
            return []
        span = Range(found, found + frames * SIZE_4K)
        self._arena_of(span).take(span)
        return [span]

    def _take_runs(self, frames: int) -> list[Range]:
        """Take `frames` frames, which are free, in few runs that each lie in one block."""
        taken = self._take_in_a_row(frames) if 0 < frames <= FRAMES else []
        if taken:
            return taken
        while frames:
            arena = max(self._top_down, key=Arena.largest_order)
            span = arena.take_run(arena.largest_order(), frames)
            taken.append(span)
            frames -= span.size // SIZE_4K
        return taken

    def _arena_of(self, span: Range) -> Arena:
        index = bisect_right(self._starts, span.start) - 1
        if index < 0 or span.end > self._arenas[index].span.end:
            raise OutOfRangeError(f"HPA {span} is not in one range of host memory")
        return self._arenas[index]

    def _pieces(self, span: Range) -> Iterator[tuple[Arena, Range]]:
        """The parts of `span` that are host memory."""
        for arena in self._arenas[max(bisect_right(self._starts, span.start) - 1, 0) :]:
            if arena.span.start >= span.end:
                return
            part = arena.span.intersection(span)
            if part:
                yield arena, part

    def _require_device(self, span: Range) -> None:
        for _, part in self._pieces(span):
            raise OutOfRangeError(f"HPA {span} is no device: {part} of it is host memory")

    def _balance(self) -> str:
        return f"{format_size(self.free_bytes)} of {format_size(self.total_bytes)} are free"

    def __repr__(self) -> str:
        return f"FrameAllocator({self.used_bytes:#x} of {self.total_bytes:#x} bytes used)"


def _total(spans: list[Range]) -> int:
    return sum(span.size for span in spans)


def _joined(spans: list[Range]) -> list[Range]:
    """The spans in order, touching ones as one."""
    joined: list[Range] = []
    for span in sorted(spans):
        if joined and joined[-1].end == span.start:
            joined[-1] = Range(joined[-1].start, span.end)
        else:
            joined.append(span)
    return joined


def _check_size(size: int) -> None:
    if size <= 0:
        raise EmptyRangeError(f"size {size} of an allocation is not positive")
    require_aligned("size of an allocation", size, SIZE_4K)


def _check_span(span: Range) -> None:
    require_aligned("first HPA of frames", span.start, SIZE_4K)
    require_aligned("end HPA of frames", span.end, SIZE_4K)
