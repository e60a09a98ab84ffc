"""The frame allocator against a model: a dict from frame to owner."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from effort import examples
from stage2.address import SIZE_2M, SIZE_4K, Hpa, Range
from stage2.errors import OutOfMemoryError, OwnerConflictError
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory

OWNERS = [Owner(OwnerKind.VM, "one"), Owner(OwnerKind.VM, "two"), Owner(OwnerKind.TABLES, "one")]
# Heads and tails within blocks, a range within one block, and two that share a block without touching.
RANGES = [
    Range(0x1F_D000, 0x80_3000),
    Range(0x80_5000, 0x80_9000),
    Range(0xC0_0000, 0x100_0000),
    Range(0x4000_0000 - SIZE_2M, 0x4000_0000 + SIZE_2M),
]
FRAMES = [hpa for span in RANGES for hpa in range(span.start, span.end, SIZE_4K)]
OWNER = st.sampled_from(OWNERS)
COUNTS = st.one_of(st.integers(1, 20), st.sampled_from([64, 200, 256, 511, 512, 513, 1000, 1024, 1500]))


class AllocatorMachine(RuleBasedStateMachine):
    """Random requests. Every frame held has its number written in it, so that sharing and stale bytes show."""

    @initialize(backing=st.sampled_from(["anonymous", "memfd"]))
    def begin(self, backing: Any) -> None:
        self.memory = PhysicalMemory(RANGES, backing=backing)
        self.allocator = FrameAllocator(self.memory)
        self.model: dict[int, Owner] = {}

    def teardown(self) -> None:
        if hasattr(self, "memory"):
            self.memory.close()

    def enter(self, span: Range, owner: Owner) -> None:
        assert self.memory.contains(span.start, span.size)
        for hpa in range(span.start, span.end, SIZE_4K):
            assert hpa not in self.model, f"{hpa:#x} was handed out twice"
            assert self.memory.load_u64(Hpa(hpa)) == 0, f"{hpa:#x} is not zero"
            self.memory.store_u64(Hpa(hpa), hpa | 1)
            self.model[hpa] = owner

    def has_run(self, frames: int, align: int) -> bool:
        free = [hpa for hpa in FRAMES if hpa not in self.model]
        run, previous = 0, -1
        start = 0
        for hpa in free:
            if hpa != previous + SIZE_4K:
                run, start = 0, hpa
            run += 1
            previous = hpa
            first = -(-start // align) * align
            if first + frames * SIZE_4K <= hpa + SIZE_4K:
                return True
        return False

    @rule(owner=OWNER, times=st.integers(1, 600))
    def single_frames(self, owner: Owner, times: int) -> None:
        for _ in range(times):
            if len(self.model) == len(FRAMES):
                with pytest.raises(OutOfMemoryError):
                    self.allocator.allocate(owner=owner)
                return
            self.enter(Range.sized(self.allocator.allocate(owner=owner), SIZE_4K), owner)

    @rule(owner=OWNER, frames=COUNTS, shift=st.one_of(st.none(), st.integers(12, 23)))
    def contiguous(self, owner: Owner, frames: int, shift: int | None) -> None:
        align = 1 << shift if shift is not None else None
        multiple = align or 1 << (frames * SIZE_4K - 1).bit_length()
        if self.has_run(frames, multiple):
            hpa = self.allocator.allocate(frames * SIZE_4K, align=align, owner=owner)
            assert hpa % multiple == 0
            self.enter(Range.sized(hpa, frames * SIZE_4K), owner)
        else:
            with pytest.raises(OutOfMemoryError):
                self.allocator.allocate(frames * SIZE_4K, align=align, owner=owner)

    @rule(owner=OWNER, frames=COUNTS, largest=st.sampled_from([SIZE_4K, SIZE_2M, 1 << 30]))
    def extents(self, owner: Owner, frames: int, largest: int) -> None:
        if frames > len(FRAMES) - len(self.model):
            with pytest.raises(OutOfMemoryError):
                self.allocator.allocate_extents(frames * SIZE_4K, owner=owner, largest=largest)
            return
        extents = self.allocator.allocate_extents(frames * SIZE_4K, owner=owner, largest=largest)
        assert sum(span.size for span in extents) == frames * SIZE_4K
        whole = [span.start % SIZE_2M == 0 and span.size % SIZE_2M == 0 for span in extents]
        assert whole == sorted(whole, reverse=True), "blocks come first"
        for span in extents:
            self.enter(span, owner)

    @rule(owner=OWNER, index=st.integers(0, len(FRAMES) - 1), frames=COUNTS)
    def claim(self, owner: Owner, index: int, frames: int) -> None:
        span = Range.sized(FRAMES[index], frames * SIZE_4K)
        if not self.memory.contains(span.start, span.size):
            return
        if any(hpa in self.model for hpa in range(span.start, span.end, SIZE_4K)):
            with pytest.raises(OwnerConflictError):
                self.allocator.claim(span, owner=owner)
        else:
            self.allocator.claim(span, owner=owner)
            self.enter(span, owner)

    @rule(owner=OWNER, index=st.integers(0, len(FRAMES) - 1), frames=COUNTS)
    def free(self, owner: Owner, index: int, frames: int) -> None:
        span = Range.sized(FRAMES[index], frames * SIZE_4K)
        if not self.memory.contains(span.start, span.size):
            return
        held = range(span.start, span.end, SIZE_4K)
        if all(self.model.get(hpa) == owner for hpa in held):
            self.allocator.free(span, owner=owner)
            for hpa in held:
                del self.model[hpa]
        else:
            with pytest.raises(OwnerConflictError):
                self.allocator.free(span, owner=owner)

    @rule(data=st.data())
    def free_part_of_a_holding(self, data: st.DataObject) -> None:
        holdings = list(self.allocator.owners)
        if not holdings:
            return
        held, owner = data.draw(st.sampled_from(holdings))
        span = self.memory.ranges[[part.covers(held) for part in self.memory.ranges].index(True)].intersection(held)
        assert span is not None
        start = data.draw(st.integers(0, span.size // SIZE_4K - 1))
        frames = data.draw(st.integers(1, span.size // SIZE_4K - start))
        self.free(owner, FRAMES.index(span.start) + start, frames)

    @rule(owner=OWNER)
    def free_owner(self, owner: Owner) -> None:
        held = [hpa for hpa, holder in self.model.items() if holder == owner]
        assert self.allocator.free_owner(owner) == len(held) * SIZE_4K
        for hpa in held:
            del self.model[hpa]

    @invariant()
    def books_are_true(self) -> None:
        if not hasattr(self, "allocator"):
            return
        assert self.allocator.used_bytes == len(self.model) * SIZE_4K
        owned = {hpa: owner for span, owner in self.allocator.owners for hpa in range(span.start, span.end, SIZE_4K)}
        assert owned == self.model
        assert all(self.memory.load_u64(Hpa(hpa)) == hpa | 1 for hpa in self.model), "a held frame was changed"


AllocatorMachine.TestCase.settings = settings(max_examples=examples(40), stateful_step_count=25, deadline=None)
TestAllocator = AllocatorMachine.TestCase
