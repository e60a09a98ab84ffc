"""The verifier's arithmetic of ranges, against sets of addresses."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stage2.prove import verify_spans
from stage2.prove.verify_spans import Span, Spans, common, meetings, uncovered

spans = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)).map(lambda one: (one[0], one[0] + one[1])))


def addresses(found: list[Span]) -> list[int]:
    return [at for start, end in found for at in range(start, end)]


def joined(found: list[Span]) -> Spans:
    made = Spans()
    for start, end in found:
        made.add(start, end)
    return made


@given(spans, st.integers(0, 4))
def test_spans_are_joined_in_order_and_say_what_came_twice(found: list[Span], room: int) -> None:
    kept, verify_spans.ROOM = verify_spans.ROOM, room
    try:
        made = joined(found)
    finally:
        verify_spans.ROOM = kept
    everything = addresses(found)
    assert addresses(list(made.joined)) == sorted(set(everything))
    assert all(one[1] < other[0] for one, other in zip(made.joined, made.joined[1:], strict=False))
    twice = {at for at in everything if everything.count(at) > 1}
    assert (made.twice in twice) if twice else made.twice is None


@given(spans, spans)
def test_the_first_common_address_is_found(one: list[Span], other: list[Span]) -> None:
    both = set(addresses(one)) & set(addresses(other))
    assert common(joined(one).joined, joined(other).joined) == min(both, default=None)


@given(st.lists(spans, max_size=4))
def test_parties_meet_where_they_have_an_address_in_common(parties: list[list[Span]]) -> None:
    labelled = [[(start, end, number) for start, end in sorted(found)] for number, found in enumerate(parties)]
    met = list(meetings(labelled))
    for at, one, other in met:
        assert at in addresses(parties[one])
        assert at in addresses(parties[other])
        assert one != other
    pairs = {
        frozenset((one, other))
        for one in range(len(parties))
        for other in range(one)
        if set(addresses(parties[one])) & set(addresses(parties[other]))
    }
    assert {frozenset((one, other)) for _, one, other in met} == pairs


@given(spans, spans)
def test_the_first_address_outside_a_cover_is_found(found: list[Span], cover: list[Span]) -> None:
    ranges = [(at, at + 1) for at in sorted(set(addresses(cover)))]
    outside = set(addresses(found)) - set(addresses(cover))
    assert uncovered(joined(found).joined, joined(cover).joined) == min(outside, default=None)
    assert uncovered(joined(found).joined, ranges) == min(outside, default=None)
