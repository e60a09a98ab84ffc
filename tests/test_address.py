"""Addresses, alignment and half-open ranges; the cases of upstream's memory_addr that apply."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import (
    ADDRESS_LIMIT,
    Range,
    align_down,
    align_offset,
    align_up,
    format_size,
    is_aligned,
    is_power_of_two,
    require_aligned,
)
from stage2.errors import AddressError, EmptyRangeError, MisalignedError, OutOfRangeError

ADDRESSES = st.integers(0, ADDRESS_LIMIT - 1)
ALIGNMENTS = st.integers(0, 63).map(lambda bit: 1 << bit)


@st.composite
def ranges(draw: st.DrawFn, limit: int = 64) -> Range:
    start = draw(st.integers(0, limit - 1))
    return Range(start, draw(st.integers(start + 1, limit)))


@pytest.mark.parametrize(
    ("alignment", "down", "offset", "up"),
    [
        (0x1000, 0x12345000, 0x678, 0x12346000),
        (0x20_0000, 0x12200000, 0x145678, 0x12400000),
        (0x4000_0000, 0, 0x12345678, 0x40000000),
        (8, 0x12345678, 0, 0x12345678),
        (1, 0x12345678, 0, 0x12345678),
    ],
)
def test_alignment_of_an_odd_address(alignment: int, down: int, offset: int, up: int) -> None:
    assert align_down(0x12345678, alignment) == down
    assert align_offset(0x12345678, alignment) == offset
    assert align_up(0x12345678, alignment) == up
    assert is_aligned(0x12345678, alignment) == (offset == 0)


@given(ADDRESSES, ALIGNMENTS)
def test_alignment_brackets_the_address(address: int, alignment: int) -> None:
    down, up = align_down(address, alignment), align_up(address, alignment)
    assert down <= address <= up
    assert down % alignment == 0
    assert up % alignment == 0
    assert up - down in (0, alignment)
    assert down + align_offset(address, alignment) == address


def test_a_misaligned_value_is_named_with_what_it_should_be() -> None:
    require_aligned("GPA", 0x3000, 0x1000)
    with pytest.raises(MisalignedError, match=r"^GPA 0x3008 is not a multiple of 0x1000$"):
        require_aligned("GPA", 0x3008, 0x1000)


def test_powers_of_two() -> None:
    assert [value for value in range(-4, 20) if is_power_of_two(value)] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (4096, "4 KiB"),
        (4097, "4097 B"),
        (3 << 20, "3 MiB"),
        (1 << 30, "1 GiB"),
        (1 << 62, "4194304 TiB"),
    ],
)
def test_sizes_are_written_in_the_largest_unit_that_fits(size: int, text: str) -> None:
    assert format_size(size) == text


@pytest.mark.parametrize(("start", "end"), [(0x1000, 0x1000), (0x2000, 0x1000), (0, 0)])
def test_a_range_without_a_byte_is_refused(start: int, end: int) -> None:
    with pytest.raises(EmptyRangeError):
        Range(start, end)


@pytest.mark.parametrize(("start", "end"), [(-1, 5), (0, ADDRESS_LIMIT + 1), (1 << 62, 1 << 65)])
def test_a_range_outside_64_bits_is_refused(start: int, end: int) -> None:
    with pytest.raises(OutOfRangeError):
        Range(start, end)


def test_a_range_may_end_with_the_last_address() -> None:
    assert Range(ADDRESS_LIMIT - 1, ADDRESS_LIMIT).size == 1
    with pytest.raises(AddressError):
        Range.sized(ADDRESS_LIMIT - 1, 2)


def test_a_range_is_half_open() -> None:
    span = Range(0x1000, 0x2000)
    assert [span.contains(address) for address in (0xFFF, 0x1000, 0x1FFF, 0x2000)] == [False, True, True, False]
    assert str(span) == "[0x1000, 0x2000)"
    assert span == Range.sized(0x1000, 0x1000)
    assert not span.overlaps(Range(0x2000, 0x3000))
    assert not span.overlaps(Range(0, 0x1000))


def test_ranges_sort_by_start() -> None:
    assert sorted([Range(5, 6), Range(1, 9), Range(1, 2)]) == [Range(1, 2), Range(1, 9), Range(5, 6)]


@given(ranges(), ranges())
def test_range_relations_are_those_of_sets(one: Range, other: Range) -> None:
    first, second = set(range(one.start, one.end)), set(range(other.start, other.end))
    assert one.size == len(first)
    assert one.overlaps(other) == bool(first & second)
    assert one.covers(other) == (first >= second)
    both = one.intersection(other)
    assert (set(range(both.start, both.end)) if both else set()) == first & second
