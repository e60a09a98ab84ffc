"""Timer lists, case by case; the model is in `test_timers_model`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from stage2.address import MIB, Hpa, Range
from stage2.errors import OutOfMemoryError, OutOfRangeError
from stage2.hypervisor.clock import VirtualClock
from stage2.hypervisor.time import TimeValue
from stage2.hypervisor.timer_service import TimerService
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory


class Bench:
    def __init__(self, frames: FrameAllocator, cpus: int, capacity: int, ticks_per_sec: int = 100) -> None:
        self.clock, self.frames = VirtualClock(), frames
        self.service = TimerService(self.clock, frames, cpus=cpus, capacity=capacity, ticks_per_sec=ticks_per_sec)
        self.fired: list[object] = []

    def at(self, nanos: int, what: object) -> int:
        return self.service.register_timer(TimeValue(nanos), lambda _now: self.fired.append(what))


Make = Callable[..., Bench]


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Bench] = []
    with PhysicalMemory([Range.sized(0x8000_0000, 64 * MIB)]) as memory:

        def bench(**settings: int) -> Bench:
            made.append(Bench(FrameAllocator(memory), **settings))
            return made[-1]

        yield bench
        for one in made:
            one.service.close()


@pytest.fixture
def bench(make: Make) -> Bench:
    return make(cpus=2, capacity=100)


def test_upstreams_five_deadlines_fire_in_order(bench: Bench) -> None:
    """timer_list's own test: 3 s, 0.5 s, 4 s (cancelled), 2.99 s and 1 s fire as 1, 4, 3, 0."""
    second = 1_000_000_000
    tokens = [bench.at(nanos, number) for number, nanos in enumerate(
        (3 * second, second // 2, 4 * second, 2_990_000_000, second)
    )]  # fmt: skip
    assert bench.service.cancel_timer(tokens[2])
    for _ in range(50):
        bench.clock.advance(TimeValue(second // 10))
        bench.service.check_events()
    assert bench.fired == [1, 4, 3, 0]


def test_equal_deadlines_fire_in_the_order_of_registration(bench: Bench) -> None:
    for number in range(50):
        bench.at(1000, number)
    bench.clock.advance(TimeValue(1000))
    assert bench.service.check_events().fired == 50
    assert bench.fired == list(range(50))


def test_a_callback_that_raises_is_reported_and_loses_no_other(bench: Bench) -> None:
    def fail(_now: TimeValue) -> None:
        raise ValueError("a bad callback")

    bench.at(1, "before")
    token = bench.service.register_timer(TimeValue(2), fail)
    bench.at(3, "after")
    bench.clock.advance(TimeValue(10))
    checked = bench.service.check_events()
    assert bench.fired == ["before", "after"]
    (failure,) = checked.failures
    assert (failure.event.token, failure.event.deadline, str(failure.error)) == (token, TimeValue(2), "a bad callback")


def test_a_callback_that_registers_itself_at_once_keeps_nobody_from_his_turn(bench: Bench) -> None:
    def again(_now: TimeValue) -> None:
        bench.fired.append("again")
        bench.service.register_timer(TimeValue(0), again)

    again(TimeValue())
    bench.clock.advance(TimeValue(5))
    bench.at(5, "other")
    for _ in range(3):
        checked = bench.service.check_events(limit=2)
        assert checked.fired <= 2
    assert "other" in bench.fired


def test_a_check_runs_no_more_than_its_limit_and_says_that_some_are_left(bench: Bench) -> None:
    for number in range(5):
        bench.at(1, number)
    bench.clock.advance(TimeValue(1))
    assert [(done.fired, done.more) for done in (bench.service.check_events(2) for _ in range(3))] == [
        (2, True),
        (2, True),
        (1, False),
    ]
    with pytest.raises(OutOfRangeError, match="1 is the least"):
        bench.service.check_events(0)


def test_cancelling_says_whether_it_was_in_time_from_any_cpu(bench: Bench) -> None:
    with bench.service.on_cpu(1):
        token, late = bench.at(10, "never"), bench.at(1, "fires")
        bench.clock.advance(TimeValue(1))
        bench.service.check_events()
    with bench.service.on_cpu(0):
        assert bench.service.cancel_timer(token)
        assert not bench.service.cancel_timer(token)
        assert not bench.service.cancel_timer(late)
        assert not bench.service.cancel_timer(-1)
        assert not bench.service.cancel_timer(10**6)


def test_a_full_list_refuses_in_one_sentence_and_loses_nothing(make: Make) -> None:
    bench = make(cpus=1, capacity=3)
    tokens = [bench.at(5, number) for number in range(3)]
    with pytest.raises(OutOfMemoryError, match="CPU 0: no timer is left: all 3 are in use: cancel some"):
        bench.at(5, "too many")
    assert bench.service.cancel_timer(tokens[1])
    bench.at(5, "in its place")
    bench.clock.advance(TimeValue(5))
    bench.service.check_events()
    assert bench.fired == [0, 2, "in its place"]


def test_events_lie_in_frames_that_the_hypervisor_owns(make: Make) -> None:
    bench = make(cpus=2, capacity=1000)
    with bench.service.on_cpu(1):
        token = bench.at(0x1234_5678_9ABC, "far")
    timers = bench.service.lists[1]
    spans = bench.frames.owners.of(Owner(OwnerKind.TIMERS))
    assert sum(span.size for span in spans) == 2 * 0x4000
    assert (timers.span.size, timers.use.used, timers.use.capacity) == (0x4000, 1, 1000)
    assert any(span.covers(timers.span) for span in spans)
    words = bench.frames.memory.read(Hpa(timers.span.start), 16)
    assert words == (0x1234_5678_9ABC).to_bytes(8, "little") + (1).to_bytes(8, "little")
    assert [event.token for event in timers] == [token]


def test_ticks_do_not_drift_and_those_slept_through_are_left_out(make: Make) -> None:
    bench = make(cpus=1, capacity=10, ticks_per_sec=3)
    seen = []
    for late in (0, 5, 0, 1_000_000_000, 0):
        bench.service.scheduler_next_event()
        due = bench.service.next_deadline
        assert due is not None
        seen.append(due.nanos)
        bench.clock.advance_to(due + TimeValue(late))
        assert bench.service.check_events().fired == 1
    third = [-(-n * 1_000_000_000 // 3) for n in range(10)]
    assert seen == [third[1], third[2], third[3], third[4], third[8]]


def test_a_stale_heap_is_cleaned_so_that_cancelled_timers_do_not_pile_up(make: Make) -> None:
    bench = make(cpus=1, capacity=10)
    for _ in range(10_000):
        assert bench.service.cancel_timer(bench.at(10**12, "never"))
    assert bench.service.lists[0].bytes_beside < 10_000


@pytest.mark.parametrize("cpu", [-1, 2])
def test_a_cpu_that_the_machine_does_not_have_is_refused(bench: Bench, cpu: int) -> None:
    with pytest.raises(OutOfRangeError, match=f"CPU {cpu} is none of the machine's 2"), bench.service.on_cpu(cpu):
        pass
