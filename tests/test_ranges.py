"""RangeMap against a plain dict from address to value."""

import random
from itertools import groupby

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from effort import examples
from stage2 import ranges
from stage2.address import Range
from stage2.errors import OverlapError
from stage2.ranges import RangeMap

LIMIT = 48
VALUES = st.sampled_from("abc")


@st.composite
def spans(draw: st.DrawFn) -> Range:
    start = draw(st.integers(0, LIMIT - 1))
    return Range(start, draw(st.integers(start + 1, min(LIMIT, start + 12))))


class RangeMapMachine(RuleBasedStateMachine):
    """Random edits; the model has one entry per address."""

    @initialize(merge=st.booleans())
    def begin(self, merge: bool) -> None:
        self.merge = merge
        self.map: RangeMap[str] = RangeMap(merge=merge)
        self.model: dict[int, str] = {}

    @rule(span=spans(), value=VALUES)
    def add(self, span: Range, value: str) -> None:
        before = list(self.map)
        if any(address in self.model for address in range(span.start, span.end)):
            with pytest.raises(OverlapError):
                self.map.add(span, value)
            assert list(self.map) == before
        else:
            self.map.add(span, value)
            self.model.update(dict.fromkeys(range(span.start, span.end), value))

    @rule(span=spans(), value=VALUES)
    def set(self, span: Range, value: str) -> None:
        self.map.set(span, value)
        self.model.update(dict.fromkeys(range(span.start, span.end), value))

    @rule(span=spans(), value=VALUES)
    def extend(self, span: Range, value: str) -> None:
        before = list(self.map)
        if self.map.extend(span.start, span.end, value):
            assert self.model[span.start - 1] == value
            assert not any(address in self.model for address in range(span.start, span.end))
            self.model.update(dict.fromkeys(range(span.start, span.end), value))
        else:
            assert list(self.map) == before

    @rule(span=spans())
    def remove(self, span: Range) -> None:
        removed = {a: value for part, value in self.map.remove(span) for a in range(part.start, part.end)}
        inside = {a: value for a, value in self.model.items() if span.contains(a)}
        assert removed == inside
        for address in inside:
            del self.model[address]

    @rule(span=spans(), value=VALUES)
    def ask(self, span: Range, value: str) -> None:
        addresses = range(span.start, span.end)
        holes = {address for gap in self.map.gaps(span) for address in range(gap.start, gap.end)}
        assert holes == {address for address in addresses if address not in self.model}
        assert self.map.covered(span, value) == all(self.model.get(address) == value for address in addresses)
        assert self.map.overlapping(span) == [entry for entry in self.map if entry[0].overlaps(span)]

    @rule()
    def clear(self) -> None:
        self.map.clear()
        self.model.clear()

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        entries = list(self.map)
        held = {address: value for span, value in entries for address in range(span.start, span.end)}
        assert held == self.model
        assert sum(span.size for span, _ in entries) == len(self.model), "ranges overlap"
        assert entries == sorted(entries)
        assert len(self.map) == len(entries)
        assert bool(self.map) == bool(entries)
        for address in range(LIMIT):
            found = self.map.find(address)
            assert (found[1] if found else None) == self.model.get(address) == self.map.get(address)
            assert found is None or found[0].contains(address)
        if self.merge:
            runs = groupby(sorted(self.model), key=lambda a: (self.model.get(a), a - sorted(self.model).index(a)))
            assert len(entries) == len([key for key, _ in runs])


RangeMapMachine.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=30, deadline=None)
TestRangeMap = RangeMapMachine.TestCase


def test_a_refused_entry_names_both_ranges_and_the_value_there() -> None:
    held: RangeMap[str] = RangeMap()
    held.add(Range(0x1000, 0x3000), "uart")
    with pytest.raises(OverlapError, match=r"^\[0x2000, 0x4000\) overlaps \[0x1000, 0x3000\) \(uart\)$"):
        held.add(Range(0x2000, 0x4000), "timer")


def test_iteration_shows_the_map_as_it_was() -> None:
    held: RangeMap[int] = RangeMap()
    for start in range(0, 100, 10):
        held.add(Range(start, start + 5), start)
    for span, _ in held:
        held.remove(span)
    assert not held


@pytest.mark.parametrize("seed", range(5))
def test_thousands_of_ranges_stay_in_order(seed: int) -> None:
    """Enough entries to split and to drop the chunks of the index."""
    dice = random.Random(seed)
    held: RangeMap[int] = RangeMap()
    starts = [2 * number for number in range(3 * ranges._CHUNK)]
    dice.shuffle(starts)
    for start in starts:
        held.add(Range(start, start + 1), start)
    assert [span.start for span, _ in held] == sorted(starts)
    gone = set(starts[: len(starts) // 2])
    for start in starts[: len(starts) // 2]:
        assert held.remove(Range(start, start + 1)) == [(Range(start, start + 1), start)]
    assert [span.start for span, _ in held] == sorted(set(starts) - gone)
    middle = Range(ranges._CHUNK, 5 * ranges._CHUNK)
    assert [span for span, _ in held.overlapping(middle)] == [
        Range(start, start + 1) for start in sorted(set(starts) - gone) if middle.contains(start)
    ]
    held.set(middle, -1)
    assert held.find(middle.start) == (middle, -1)
    assert held.gaps(middle) == []
