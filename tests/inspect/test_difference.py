"""How two maps differ, against an account page by page."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stage2.formats import by_name
from stage2.inspect.difference import difference
from stage2.inspect.kinds import NONE
from stage2.inspect.mapping import MapPart
from stage2.tables.regime import Regime

PAGE = 0x1000
REGIME = Regime.of(by_name("sv39x4"), 0x8000_0000)
READ, WRITE = 1, 2
KEYS = {right: READ | right | 1 << 11 for right in (READ, WRITE)}
"""Attributes of leaves that may be read, and written."""
Pages = dict[int, tuple[int, int]]
"""Page -> where it leads, and what may be done."""
PAGES = st.dictionaries(st.integers(0, 12), st.tuples(st.integers(0, 3), st.sampled_from([READ, WRITE])))


def part(pages: Pages) -> MapPart:
    rows = [
        (page * PAGE, (page + target) * PAGE, KEYS[right])
        for page, (target, right) in sorted(pages.items())
    ]  # fmt: skip
    start, output, key = (np.array([row[column] for row in rows], np.uint64) for column in range(3))
    size, none = np.full(len(rows), PAGE, np.uint64), np.full(len(rows), NONE, np.uint64)
    return MapPart(None, REGIME, start, start, output, size, none, key)


@given(before=PAGES, after=PAGES)
def test_every_page_is_told_once_as_what_became_of_it(before: Pages, after: Pages) -> None:
    found = difference([part(before)], [part(after)])
    told = {
        "added": [(one.start, one.size) for one in found.added],
        "removed": [(one.start, one.size) for one in found.removed],
        "changed": [(one.after.start, one.after.size) for one in found.changed],
    }
    pages = {kind: [at // PAGE + n for at, size in spans for n in range(size // PAGE)] for kind, spans in told.items()}
    assert pages["added"] == sorted(set(after) - set(before))
    assert pages["removed"] == sorted(set(before) - set(after))
    both = set(before) & set(after)
    assert pages["changed"] == sorted(page for page in both if before[page] != after[page])
    assert found.same == PAGE * sum(before[page] == after[page] for page in both)
    for change in found.changed:
        first = change.after.start // PAGE
        (was, could), (now, can) = before[first], after[first]
        assert ("target" in change.what, "permissions" in change.what) == (was != now, could != can)


@given(before=PAGES, after=PAGES)
def test_two_ways_round_what_came_is_what_went(before: Pages, after: Pages) -> None:
    there, back = difference([part(before)], [part(after)]), difference([part(after)], [part(before)])
    assert there.added == back.removed
    assert there.removed == back.added
    assert [(one.before, one.after) for one in there.changed] == [(one.after, one.before) for one in back.changed]
