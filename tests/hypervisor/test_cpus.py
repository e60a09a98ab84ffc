"""The CPUs of a machine: what their areas hold, and the calls that work on the machine at hand."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

import stage2
from stage2.address import MIB, Hpa, Range
from stage2.errors import OutOfMemoryError, OutOfRangeError
from stage2.hypervisor.clock import VirtualClock
from stage2.hypervisor.cpus import Cpus
from stage2.hypervisor.current import current_timers, working_for
from stage2.hypervisor.slab import NOTHING
from stage2.hypervisor.time import TimeValue
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.tlb.identifiers import Identifiers


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([Range.sized(0x8000_0000, 4 * MIB)]) as memory:
        yield FrameAllocator(memory)


@pytest.fixture
def cpus(frames: FrameAllocator) -> Iterator[Cpus]:
    made = Cpus(VirtualClock(), frames, count=3, machine="linux", capacity=100, image=b"percpu")
    yield made
    made.close()
    assert frames.used_bytes == 0


def word(frames: FrameAllocator, cpus: Cpus, cpu: int, name: str) -> int:
    """A field, read from host memory."""
    field = next(field for field in cpus.areas.layout.fields if field.name == name)
    return int.from_bytes(frames.memory.read(Hpa(cpus.areas.area(cpu).start + field.offset), 8), "little")


def test_a_timer_list_lives_in_its_cpus_area(frames: FrameAllocator, cpus: Cpus) -> None:
    assert [word(frames, cpus, cpu, "timer_next_deadline") for cpu in range(3)] == [NOTHING] * 3
    with cpus.timers.on_cpu(1):
        first = cpus.timers.register_timer(700, print)
        cpus.timers.register_timer(900, print)
    assert word(frames, cpus, 1, "timer_events") == cpus.timers.lists[1].span.start
    assert word(frames, cpus, 1, "timers_registered") == 2
    assert word(frames, cpus, 1, "timer_next_deadline") == 700
    assert cpus.timers.cancel_timer(first)
    assert word(frames, cpus, 1, "timer_next_deadline") == 900
    assert word(frames, cpus, 0, "timers_registered") == 0
    with cpus.timers.on_cpu(2):
        cpus.timers.scheduler_next_event()
    assert word(frames, cpus, 2, "scheduler_tick") == 1


def test_areas_and_events_are_in_the_owner_map_under_the_machines_name(frames: FrameAllocator, cpus: Cpus) -> None:
    assert frames.owners.bytes_of(Owner(OwnerKind.PER_CPU, "linux")) == cpus.areas.span.size
    assert frames.owners.bytes_of(Owner(OwnerKind.TIMERS, "linux")) == sum(
        timers.span.size for timers in cpus.timers.lists
    )
    assert frames.memory.read(Hpa(cpus.areas.area(2).start), 6) == b"percpu"


def test_a_cpu_drops_everything_once_after_vmids_have_started_again(frames: FrameAllocator, cpus: Cpus) -> None:
    identifiers = Identifiers(2)
    for number in range(4):
        identifiers.acquire(number)
        identifiers.leave(number)
    assert identifiers.generation == 1
    assert [cpus.enter(0, identifiers), cpus.enter(0, identifiers)] == [True, False]
    assert [cpus.generation(cpu) for cpu in range(3)] == [1, 0, 0]
    assert word(frames, cpus, 0, "vmid_generation") == 1
    assert cpus.enter(2, identifiers)


def test_a_host_without_room_for_the_events_keeps_all_its_frames(frames: FrameAllocator) -> None:
    with pytest.raises(OutOfMemoryError):
        Cpus(VirtualClock(), frames, count=3, capacity=MIB // 8)
    assert frames.used_bytes == 0


def test_the_calls_of_the_package_root_are_about_the_machine_that_the_thread_works_for(cpus: Cpus) -> None:
    seen: list[TimeValue] = []
    with working_for(cpus.timers):
        token = stage2.register_timer(5_000, seen.append)
        stage2.register_timer(stage2.TimeValue(6_000), seen.append)
        stage2.scheduler_next_event(seen.append)
        assert [event.deadline.nanos for event in cpus.timers.lists[0]] == [5_000, 6_000, 10_000_000]
        assert stage2.cancel_timer(token)
        assert not stage2.cancel_timer(token)
        assert isinstance(cpus.clock, VirtualClock)
        cpus.clock.advance_to(TimeValue(10_000_000))
        elsewhere: list[int] = []
        other = threading.Thread(target=lambda: elsewhere.append(stage2.check_events().fired))
        other.start()
        other.join()
        assert elsewhere == [0]
        assert stage2.check_events().fired == 2
    assert seen == [TimeValue(10_000_000)] * 2
    assert current_timers() is not cpus.timers


def test_without_a_machine_the_calls_keep_the_hosts_monotonic_time() -> None:
    seen: list[TimeValue] = []
    token = stage2.register_timer(0, seen.append)
    later = stage2.register_timer((1 << 64) - 2, seen.append)
    assert stage2.check_events().fired == 1
    assert not stage2.cancel_timer(token)
    assert stage2.cancel_timer(later)
    assert len(seen) == 1
    assert seen[0].nanos > 0


@pytest.mark.parametrize("deadline", [-1, (1 << 64) - 1])
def test_a_deadline_that_is_no_time_is_refused(cpus: Cpus, deadline: int) -> None:
    with pytest.raises(OutOfRangeError, match="does not fit the 64 bits of an event"):
        cpus.timers.register_timer(deadline, print)


def test_timers_are_had_without_numba() -> None:
    code = "import sys, stage2; stage2.register_timer(0, print); stage2.TimerList; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
