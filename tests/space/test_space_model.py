"""An address space against a plain dict: random maps, unmaps, protects, faults and refused edits, in every format."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

import format_lists
from effort import examples
from stage2.address import MIB, Gpa, Hpa, Range, align_up
from stage2.errors import Stage2Error
from stage2.flags import Access, MappingFlags, MapType
from stage2.formats import by_name
from stage2.formats.invalidation import Operation
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.faults import Resolution
from stage2.space.region import MemoryRegion, Populate
from stage2.tables.mapping import U64Array
from stage2.tlb.checker import TlbChecker

BASE = 0x8000_0000
PAGES = 3 * 512
PAGE = 4096
"""The format's smallest page; set by the machine that runs."""
STAGE_2 = format_lists.COMPILED_SECOND_STAGES
R, W, X = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE
FLAGS = st.sampled_from([R, R | W, R | X, R | W | X])
STARTS = st.one_of(st.integers(0, PAGES - 1), st.sampled_from([0, 512, 1024, 511, 1023]))
COUNTS = st.one_of(st.integers(1, 40), st.sampled_from([512, 513, 600, 1024, 1536]))
SHARE_HPA_PAGES = 600
LARGE_PAGES = 192
"""Pages of the model in formats with large ones; starts and counts are folded into that."""


@dataclass(slots=True)
class Page:
    """What the model knows of a page: its kind and flags, and its HPA once it has one."""

    kind: MapType
    flags: MappingFlags
    hpa: int | None


class SpaceModel(RuleBasedStateMachine):
    """The machine; subclasses name the format."""

    format_name = ""

    @initialize(limit=st.sampled_from([None, 768]), around=st.sampled_from([1, 16]))
    def build(self, limit: int | None, around: int) -> None:
        global PAGE
        PAGE = by_name(self.format_name).page_size
        self.pages = PAGES if PAGE == 4096 else LARGE_PAGES
        limit, around = None if limit is None else limit * PAGE, around * PAGE
        aside = align_up(self.pages * PAGE * 4 // 3, 2 * MIB)
        self.memory = PhysicalMemory([Range.sized(BASE, self.pages * PAGE), Range.sized(0x1_0000_0000, aside)])
        self.frames = FrameAllocator(self.memory)
        self.share_pages = min(SHARE_HPA_PAGES, self.pages // 2)
        self.share_owner = Owner(OwnerKind.SHARE, "box")
        self.share = self.frames.allocate(self.share_pages * PAGE, align=2 * MIB, owner=self.share_owner)
        self.flushed: list[Operation] = []
        self.space = AddressSpace(
            self.format_name,
            self.frames,
            name="model",
            limit=limit,
            fault_around=around,
            flush=self.flushed.extend,
        )
        # Whatever an edit forgets to invalidate ends the test.
        self.checker = TlbChecker(self.space.page_table)
        self.model: dict[int, Page] = {}

    def fold(self, start: int, count: int) -> tuple[int, int]:
        """A start and a count that the model's pages hold or, as before, run a little beyond."""
        return (start, count) if self.pages == PAGES else (start % self.pages, count % self.pages + 1)

    # --- edits -------------------------------------------------------------------------------------------

    @rule(start=STARTS, count=COUNTS, flags=FLAGS, eager=st.booleans())
    def map_alloc(self, start: int, count: int, flags: MappingFlags, eager: bool) -> None:
        start, count = self.fold(start, count)
        populate = Populate.EAGER if eager else Populate.LAZY
        region = MemoryRegion(Gpa(BASE + start * PAGE), count * PAGE, flags, MapType.MAP_ALLOC, populate=populate)
        self.try_map(region, start, count, present=eager)

    @rule(start=STARTS, count=COUNTS, flags=FLAGS)
    def map_identical(self, start: int, count: int, flags: MappingFlags) -> None:
        start, count = self.fold(start, count)
        region = MemoryRegion(Gpa(BASE + start * PAGE), count * PAGE, flags, MapType.MAP_IDENTICAL)
        self.try_map(region, start, count, present=True)

    @rule(start=STARTS, count=st.integers(1, SHARE_HPA_PAGES), write=st.booleans())
    def map_share(self, start: int, count: int, write: bool) -> None:
        start, count = self.fold(start, count)
        flags = R | W if write else R
        count = min(count, self.share_pages)
        region = MemoryRegion(Gpa(BASE + start * PAGE), count * PAGE, flags, MapType.SHARE, hpa=Hpa(self.share))
        self.try_map(region, start, count, present=True)

    @rule(start=STARTS, count=COUNTS)
    def unmap(self, start: int, count: int) -> None:
        start, count = self.fold(start, count)
        before = self.image()
        try:
            self.space.unmap(BASE + start * PAGE, count * PAGE)
        except Stage2Error:
            assert self.image() == before
            return
        for page in range(start, start + count):
            self.model.pop(page, None)

    @rule(start=STARTS, count=COUNTS, flags=FLAGS)
    def protect(self, start: int, count: int, flags: MappingFlags) -> None:
        start, count = self.fold(start, count)
        before = self.image()
        inside = [self.model.get(page) for page in range(start, start + count)]
        refused = any(page is None or (page.kind is MapType.SHARE and flags & X) for page in inside)
        try:
            self.space.protect(BASE + start * PAGE, count * PAGE, flags)
        except Stage2Error:
            assert self.image() == before
            return
        assert not refused
        for page in inside:
            assert page is not None
            page.flags = flags

    @precondition(lambda self: self.model)
    @rule(data=st.data(), access=st.sampled_from(Access))
    def fault(self, data: st.DataObject, access: Access) -> None:
        page = data.draw(st.sampled_from(sorted(self.model)))
        known = self.model[page]
        result = self.space.handle_page_fault(BASE + page * PAGE + 8, access)
        if not known.flags & access.flag:
            assert result.resolution is Resolution.VIOLATION
        elif known.hpa is not None:
            assert result.resolution is Resolution.PRESENT
        else:
            assert result.resolution in (Resolution.POPULATED, Resolution.OUT_OF_MEMORY)
            self.learn()

    @rule(page=STARTS)
    def fault_in_a_hole(self, page: int) -> None:
        if page not in self.model:
            before = self.image()
            assert self.space.handle_page_fault(BASE + page * PAGE, Access.READ).resolution is Resolution.HOLE
            assert self.image() == before

    # --- what must always hold ---------------------------------------------------------------------------

    @invariant()
    def the_table_says_what_the_model_says(self) -> None:
        if not hasattr(self, "space"):
            return
        seen = self.mapped()
        expected = {page: known for page, known in self.model.items() if known.hpa is not None}
        assert seen.keys() == expected.keys()
        for page, (hpa, permissions) in seen.items():
            assert hpa == expected[page].hpa
            assert permissions & 7 == int(expected[page].flags)

    @invariant()
    def regions_cover_exactly_what_was_declared(self) -> None:
        if hasattr(self, "space"):
            declared = {
                page: (region.map_type, region.flags)
                for region in self.space.memory_regions
                for page in range((region.start - BASE) // PAGE, (region.end - BASE) // PAGE)
            }
            assert declared == {page: (known.kind, known.flags) for page, known in self.model.items()}

    @invariant()
    def every_private_page_has_its_own_frame_and_the_owner_holds_no_other(self) -> None:
        if not hasattr(self, "space"):
            return
        private = [
            known.hpa for known in self.model.values() if known.hpa is not None and known.kind is not MapType.SHARE
        ]
        assert len(set(private)) == len(private)
        assert self.frames.used_by(self.space.owner) == len(private) * PAGE
        assert all(self.frames.owners.at(hpa) == self.space.owner for hpa in private[:8])

    def teardown(self) -> None:
        if not hasattr(self, "space"):
            return
        self.space.destroy()
        self.frames.free(Range.sized(self.share, self.share_pages * PAGE), owner=self.share_owner)
        assert self.frames.used_bytes == 0
        assert list(self.frames.owners) == []
        for span in self.memory.ranges:
            assert not words_of(self.memory, span).any(), "a freed frame is not zero"
        self.memory.close()

    # --- helpers -----------------------------------------------------------------------------------------

    def try_map(self, region: MemoryRegion, start: int, count: int, *, present: bool) -> None:
        before = self.image()
        taken = any(page in self.model for page in range(start, start + count))
        try:
            self.space.map(region)
        except Stage2Error:
            assert self.image() == before
            return
        assert not taken
        for page in range(start, start + count):
            self.model[page] = Page(region.map_type, region.flags, None)
        if present:
            self.learn()
            assert all(self.model[page].hpa is not None for page in range(start, start + count))
            if region.map_type is MapType.MAP_IDENTICAL:
                assert all(self.model[page].hpa == BASE + page * PAGE for page in range(start, start + count))

    def learn(self) -> None:
        """Take over the HPAs of pages that have just got one; those that had one must not have moved."""
        for page, (hpa, _) in self.mapped().items():
            known = self.model[page]
            assert known.hpa in (None, hpa)
            known.hpa = hpa

    def mapped(self) -> dict[int, tuple[int, int]]:
        return {
            (mapping.start - BASE + offset) // PAGE: (mapping.hpa + offset, mapping.permissions)
            for mapping in self.space.page_table.mappings()
            for offset in range(0, mapping.size, PAGE)
        }

    def image(self) -> tuple[object, ...]:
        """Everything an edit could change: the words of host memory that are not zero, and values."""
        words = tuple(nonzero_words(words_of(self.memory, span)) for span in self.memory.ranges)
        owners = tuple((span, owner) for span, owner in self.frames.owners)
        return words, owners, self.frames.free_bytes, self.space.memory_regions


def words_of(memory: PhysicalMemory, span: Range) -> U64Array:
    return np.frombuffer(memory.view(Hpa(span.start), span.size), np.uint64)


def nonzero_words(words: U64Array) -> tuple[bytes, bytes]:
    """Where they are and what they are. Nearly all of memory is zero, and to hash it all took most of the test."""
    places = np.flatnonzero(words)
    return places.tobytes(), words[places].tobytes()


@pytest.mark.parametrize("name", STAGE_2)
def test_any_sequence_of_edits_and_faults_agrees_with_a_dict(name: str) -> None:
    machine = type("SpaceModelOf" + name, (SpaceModel,), {"format_name": name})
    run_state_machine_as_test(machine, settings=settings(max_examples=examples(12), stateful_step_count=25))
