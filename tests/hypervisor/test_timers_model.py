"""Timer lists of several CPUs against a sorted list, with cancels, raising callbacks, full slabs and jumps of time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from stage2.address import MIB, Range
from stage2.errors import OutOfMemoryError
from stage2.hypervisor.clock import VirtualClock
from stage2.hypervisor.time import TimeValue
from stage2.hypervisor.timer_service import TimerService
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory

CPUS, CAPACITY = 3, 12


class CallbackError(Exception):
    """What a callback of the test raises."""


@dataclass(eq=False)
class Model:
    """Pending events of one CPU as (deadline, token), kept sorted; what they do when they fire."""

    pending: list[tuple[int, int]] = field(default_factory=list)
    acts: dict[int, str] = field(default_factory=dict)


class Timers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.memory = PhysicalMemory([Range.sized(0x8000_0000, 4 * MIB)])
        self.frames = FrameAllocator(self.memory)
        self.clock = VirtualClock()
        self.service = TimerService(self.clock, self.frames, cpus=CPUS, capacity=CAPACITY)
        self.models = [Model() for _ in range(CPUS)]
        self.fired: list[tuple[int, int, int]] = []
        """(CPU, token, time) in the order of firing."""
        self.tokens: list[int] = []

    def _register(self, cpu: int, deadline: int, act: str) -> int:
        holder: list[int] = []

        def callback(now: TimeValue) -> None:
            token = holder[0]
            self.fired.append((cpu, token, now.nanos))
            self._leave(cpu, token)
            if act == "raise":
                raise CallbackError
            if act == "again" and len(self.models[cpu].pending) < CAPACITY:
                self._enter(cpu, now.nanos, self._register(cpu, 0, "nothing"), "nothing")
            if act == "cancel itself":
                assert not self.service.cancel_timer(token)
            if act == "cancel next" and self.models[cpu].pending:
                victim = self.models[cpu].pending.pop()
                assert self.service.cancel_timer(victim[1])

        with self.service.on_cpu(cpu):
            token = self.service.register_timer(TimeValue(deadline), callback)
        holder.append(token)
        return token

    def _leave(self, cpu: int, token: int) -> None:
        self.models[cpu].pending = [entry for entry in self.models[cpu].pending if entry[1] != token]

    def _enter(self, cpu: int, due: int, token: int, act: str) -> None:
        model = self.models[cpu]
        model.pending.append((due, token))
        model.pending.sort()
        model.acts[token] = act

    @rule(
        cpu=st.integers(0, CPUS - 1),
        ahead=st.integers(-5, 20),
        act=st.sampled_from(["nothing", "raise", "again", "cancel itself", "cancel next"]),
    )
    def register(self, cpu: int, ahead: int, act: str) -> None:
        now = self.clock.now().nanos
        deadline = max(now + ahead, 0)
        if len(self.models[cpu].pending) == CAPACITY:
            with pytest.raises(OutOfMemoryError, match=f"CPU {cpu}: no timer is left: all {CAPACITY} are in use"):
                self._register(cpu, deadline, act)
            return
        token = self._register(cpu, deadline, act)
        assert token not in self.tokens
        self.tokens.append(token)
        self._enter(cpu, max(deadline, now), token, act)

    @rule(data=st.data(), cpu=st.integers(0, CPUS - 1))
    def cancel_from_any_cpu(self, data: st.DataObject, cpu: int) -> None:
        token = data.draw(st.sampled_from([*self.tokens, 10**9]))
        owner = next((model for model in self.models if any(found == token for _, found in model.pending)), None)
        with self.service.on_cpu(cpu):
            assert self.service.cancel_timer(token) is (owner is not None)
        if owner is not None:
            self._leave(self.models.index(owner), token)

    @rule(by=st.sampled_from([0, 1, 3, 10, 10**12]))
    def let_time_go_by(self, by: int) -> None:
        self.clock.advance(TimeValue(by))

    @rule(cpu=st.integers(0, CPUS - 1), limit=st.integers(1, 6))
    def check(self, cpu: int, limit: int) -> None:
        now, model = self.clock.now().nanos, self.models[cpu]
        before = list(model.pending)
        self.fired.clear()
        with self.service.on_cpu(cpu):
            checked = self.service.check_events(limit)
        # What fired is a prefix of what was due, in order, but for what a callback took out of it on the way.
        due = [token for deadline, token in before if deadline <= now]
        tokens = [token for _, token, _ in self.fired]
        left_out = [token for token in due[: due.index(tokens[-1]) + 1] if token not in tokens] if tokens else []
        assert tokens == [token for token in due if token in tokens]
        assert all(token not in [found for _, found in model.pending] for token in left_out)
        deadlines = {token: deadline for deadline, token in before}
        assert all(when >= deadlines[token] for _, token, when in self.fired)
        assert checked.fired == len(tokens) <= limit
        assert [failure.event.token for failure in checked.failures] == [
            token for token in tokens if model.acts[token] == "raise"
        ]
        assert all(isinstance(failure.error, CallbackError) for failure in checked.failures)
        remaining = [token for deadline, token in model.pending if deadline <= now and token in due]
        assert checked.more is bool(remaining)
        if remaining:
            assert checked.fired == limit

    @invariant()
    def the_lists_say_what_the_model_says(self) -> None:
        for cpu, (timers, model) in enumerate(zip(self.service.lists, self.models, strict=True)):
            assert [(event.deadline.nanos, event.token) for event in timers] == model.pending
            assert all(event.cpu == cpu for event in timers)
            assert len(timers) == timers.use.used == len(model.pending)
            expected = TimeValue(model.pending[0][0]) if model.pending else None
            assert timers.next_deadline == expected

    def teardown(self) -> None:
        self.service.close()
        assert self.frames.used_bytes == 0
        self.memory.close()


TestTimers = Timers.TestCase
TestTimers.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
