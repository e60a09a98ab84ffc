"""What the prover does to many entries, leaves and ranges at once, against the same one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import Range
from stage2.formats import by_name, names
from stage2.prove import scattered
from stage2.prove.decoding import joined
from stage2.prove.lookup import clusters, distinct, within
from stage2.prove.packing import packing_of
from stage2.prove.scattered import joined_spans

Pairs = list[tuple[int, int]]
spans = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), max_size=12)


def array(rows: Sequence[tuple[int, ...]], columns: int = 2) -> np.ndarray:
    return np.array(rows, np.uint64).reshape(-1, columns)


@pytest.mark.parametrize("name", names())
@given(data=st.data())
def test_a_packing_takes_out_what_the_format_packs(name: str, data: st.DataObject) -> None:
    fmt = by_name(name)
    packing = packing_of(fmt)
    every = (1 << fmt.output_bits) - fmt.page_size
    addresses = [every, *data.draw(st.lists(st.integers(0, every).map(lambda at: at & every), max_size=4))]
    entries = np.array([int(fmt.pack_address(at)) | (1 << 64) - 1 & ~packing.mask() for at in addresses], np.uint64)
    assert packing.outputs(entries).tolist() == addresses
    low = data.draw(st.integers(0, fmt.output_bits))
    assert packing.mask() == int(fmt.pack_address(every))
    assert packing.mask(low) == int(fmt.pack_address(every >> low << low))


@given(spans, spans)
def test_a_stretch_is_within_the_range_that_has_all_of_it(found: Pairs, gaps: Pairs) -> None:
    ranges, at = [], 0
    for gap, size in gaps:
        ranges.append(Range.sized(at + gap, size))
        at += gap + size
    places = within(array(found)[:, 0], array(found)[:, 1], ranges)
    for (start, size), place in zip(found, places.tolist(), strict=True):
        whole = [number for number, span in enumerate(ranges) if span.start <= start and start + size <= span.end]
        assert [place] == (whole or [-1])


def test_a_stretch_may_end_with_the_last_address() -> None:
    last = (1 << 64) - 0x1000
    ranges = [Range(0, 0x1000), Range(0x8000, 1 << 64)]
    assert within(array([(last, 0x1000)])[:, 0], array([(last, 0x1000)])[:, 1], ranges).tolist() == [1]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 2)), max_size=20))
def test_the_first_of_each_combination_is_kept(found: list[tuple[int, int, int]]) -> None:
    columns = array(found, 3).T
    assert distinct(*columns).tolist() == sorted({found.index(one) for one in found})


@given(spans)
def test_spans_that_meet_are_clusters_and_no_others(found: Pairs) -> None:
    groups: list[Pairs] = []
    end = -1
    for start, size in sorted(found, key=lambda one: one[0]):
        if start >= end:
            groups.append([])
        groups[-1].append((start, size))
        end = max(end, start + size)
    made = list(clusters(array(found)))
    assert [[tuple(one) for one in cluster.spans.tolist()] for cluster in made] == [g for g in groups if len(g) > 1]
    for cluster in made:
        assert array(found)[cluster.places].tolist() == cluster.spans.tolist()


@given(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), max_size=5), st.sampled_from([4, 1 << 28]))
def test_blocks_are_marked_piece_by_piece_in_any_order(pieces: list[list[int]], window: int) -> None:
    kept, scattered._WINDOW = scattered._WINDOW, window
    try:
        reach = scattered._Reach()
        for piece in pieces:
            reach.add(np.array(piece, np.uint64) << np.uint64(12), 12)
    finally:
        scattered._WINDOW = kept
    assert reach.count == sum(map(len, pieces))
    wanted = joined_spans(array([(at << 12, at + 1 << 12) for piece in pieces for at in piece]))
    assert reach.spans(12).tolist() == wanted.tolist()


@given(spans)
def test_ranges_are_joined_where_they_touch(found: Pairs) -> None:
    made = joined_spans(array([(start, start + size) for start, size in found]))
    addresses = sorted({at for start, size in found for at in range(start, start + size)})
    assert [at for start, size in made.tolist() for at in range(start, start + size)] == addresses
    assert all(one[0] + one[1] < other[0] for one, other in zip(made.tolist(), made[1:].tolist(), strict=False))


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2), st.integers(0, 1), st.integers(0, 1)), max_size=12))
def test_rows_that_continue_each_other_are_one(steps: list[tuple[int, int, int, int]]) -> None:
    rows: list[tuple[int, ...]] = []
    expected: list[list[int]] = []
    at = 0
    for gap, size, jump, attributes in steps:
        row = [at + gap, 100 + at + gap + 50 * jump, size, attributes]
        at += gap + size
        rows.append(tuple(row))
        last = expected[-1] if expected else None
        if last is not None and [last[0] + last[2], last[1] + last[2], last[3]] == [row[0], row[1], row[3]]:
            last[2] += size
        else:
            expected.append(row)
    assert joined(array(rows, 4)).tolist() == expected
