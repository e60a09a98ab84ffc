"""Time in whole nanoseconds, and clocks that do not go back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2.errors import OutOfRangeError
from stage2.hypervisor.clock import MonotonicClock, VirtualClock
from stage2.hypervisor.time import NANOS_PER_SEC, TimeValue

nanos = st.integers(0, 1 << 70)


@given(first=nanos, second=nanos, count=st.integers(0, 1000))
def test_times_add_subtract_and_compare_as_whole_nanoseconds(first: int, second: int, count: int) -> None:
    low, high = sorted((first, second))
    assert (TimeValue(first) + TimeValue(second)).nanos == first + second
    assert (TimeValue(high) - TimeValue(low)).nanos == high - low
    assert TimeValue(low).since(TimeValue(high)).nanos == 0
    assert (TimeValue(first) < TimeValue(second)) is (first < second)
    assert (TimeValue(first) * count, count * TimeValue(first)) == (TimeValue(first * count),) * 2
    assert (TimeValue(first).seconds, TimeValue(first).subsec_nanos) == divmod(first, NANOS_PER_SEC)


@given(ticks=st.integers(0, 1 << 60), frequency=st.sampled_from([1, 3, 32_768, 10_000_000, 62_500_000, 4_000_000_000]))
def test_the_time_of_a_tick_is_the_first_nanosecond_at_which_the_counter_shows_it(ticks: int, frequency: int) -> None:
    when = TimeValue.of_ticks(ticks, frequency)
    if frequency <= NANOS_PER_SEC:
        assert when.ticks(frequency) == ticks
    assert when.ticks(frequency) >= ticks
    if when.nanos:
        assert TimeValue(when.nanos - 1).ticks(frequency) < ticks


def test_a_time_never_is_a_float_and_never_below_zero() -> None:
    with pytest.raises(TypeError):
        TimeValue(5) * 0.5  # type: ignore[operator]
    with pytest.raises(TypeError):
        TimeValue(5) / 2  # type: ignore[operator]
    with pytest.raises(OutOfRangeError, match="time does not go below 0"):
        TimeValue(5) - TimeValue(6)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (TimeValue(), "0 s"),
        (TimeValue.of(seconds=3), "3 s"),
        (TimeValue.of(millis=250), "250 ms"),
        (TimeValue.of(micros=1500), "1500 us"),
        (TimeValue.of(seconds=1, nanos=1), "1.000000001 s"),
        (TimeValue.of(seconds=2, millis=500), "2.5 s"),
        (TimeValue(7), "7 ns"),
    ],
)
def test_a_time_is_shown_in_the_unit_that_leaves_no_rest(value: TimeValue, shown: str) -> None:
    assert str(value) == shown


def test_a_virtual_clock_goes_where_it_is_told_but_not_back() -> None:
    clock = VirtualClock(TimeValue(10))
    clock.advance(TimeValue(5))
    clock.advance_to(TimeValue(15))
    with pytest.raises(OutOfRangeError, match="a clock does not go back: it is 15 ns, and 14 ns was wanted"):
        clock.advance_to(TimeValue(14))
    assert clock.now() == TimeValue(15)


def test_the_monotonic_clock_does_not_go_back() -> None:
    clock = MonotonicClock()
    shown = [clock.now() for _ in range(1000)]
    assert shown == sorted(shown)
