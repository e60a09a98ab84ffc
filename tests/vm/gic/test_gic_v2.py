"""A GICv2's distributor and CPU interfaces, against Arm IHI 0048B."""

from __future__ import annotations

import pytest
from gic_model import Model
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import Gpa, Range
from stage2.errors import OutOfRangeError
from stage2.vm.devices import DeviceBus
from stage2.vm.gic.gic import Listed, Signal
from stage2.vm.gic.list_registers import decode_gich_lr, encode_gich_lr
from stage2.vm.gic.v2 import CPU_INTERFACE_BYTES, DISTRIBUTOR_BYTES, GicV2

GICD, GICC = 0x800_0000, 0x801_0000
IGROUPR, ISENABLER, ISPENDR, ICPENDR, ISACTIVER, IPRIORITYR, ITARGETSR = 0x80, 0x100, 0x200, 0x280, 0x300, 0x400, 0x800
SGIR, CPENDSGIR, SPENDSGIR = 0xF00, 0xF10, 0xF20
CTLR, PMR, BPR, IAR, EOIR, RPR, HPPIR, ABPR, AIAR, AEOIR, AHPPIR, DIR = (
    0x0, 0x4, 0x8, 0xC, 0x10, 0x14, 0x18, 0x1C, 0x20, 0x24, 0x28, 0x1000,
)  # fmt: skip
NONE = 1023


class Board:
    """A GICv2 behind a bus, as its CPUs see it; everything is forwarded, enabled and of group 0."""

    def __init__(self, cpus: int = 2) -> None:
        self.gic = GicV2(cpus, 96)
        self.bus = DeviceBus()
        self.bus.attach(Range.sized(GICD, DISTRIBUTOR_BYTES), self.gic.distributor)
        self.bus.attach(Range.sized(GICC, CPU_INTERFACE_BYTES), self.gic.cpu_interface)
        self.set_d(0, CTLR, 3)
        for cpu in range(cpus):
            self.set_c(cpu, CTLR, 3)
            self.set_c(cpu, PMR, 0xFF)
            for number in range(4):
                self.set_d(cpu, ISENABLER + 4 * number, 0xFFFF_FFFF)
        for offset in range(32, 128, 4):
            self.set_d(0, ITARGETSR + offset, 0x0101_0101)

    def d(self, cpu: int, offset: int, width: int = 4) -> int | None:
        return self.bus.read(Gpa(GICD + offset), width, cpu)

    def set_d(self, cpu: int, offset: int, value: int, width: int = 4) -> None:
        self.bus.write(Gpa(GICD + offset), width, value, cpu)

    def c(self, cpu: int, offset: int) -> int | None:
        return self.bus.read(Gpa(GICC + offset), 4, cpu)

    def set_c(self, cpu: int, offset: int, value: int) -> None:
        self.bus.write(Gpa(GICC + offset), 4, value, cpu)


def test_the_identification_registers_say_what_there_is() -> None:
    board = Board()
    assert board.d(0, 4) == 1 << 5 | 3
    assert board.d(0, 0xFE8) == 0x20
    assert board.c(0, 0xFC) == 2 << 16
    with pytest.raises(OutOfRangeError, match="a GICv2 has at most 8 CPU interfaces, not 9"):
        GicV2(9)


def test_each_cpu_sees_its_own_private_interrupts() -> None:
    board = Board()
    board.gic.set_level(1, 27, True)
    assert (board.d(0, ISPENDR), board.d(1, ISPENDR)) == (0, 1 << 27)
    assert (board.d(0, ITARGETSR), board.d(1, ITARGETSR + 31, 1)) == (0x0101_0101, 2)


def test_an_spi_goes_to_all_its_targets_until_one_takes_it() -> None:
    board = Board()
    board.set_d(0, ITARGETSR + 40, 0xFF, 1)
    assert board.d(1, ITARGETSR + 40) == 0x0101_0103
    board.gic.set_level(0, 40, True)
    assert (board.c(0, HPPIR), board.c(1, HPPIR)) == (40, 40)
    assert (board.c(1, IAR), board.c(0, IAR)) == (40, NONE)


def test_the_only_cpu_is_every_interrupts_target() -> None:
    board = Board(1)
    board.set_d(0, ITARGETSR + 40, 0, 1)
    assert board.d(0, ITARGETSR + 40) == board.d(0, ITARGETSR) == 0
    board.gic.set_level(0, 40, True)
    assert board.c(0, IAR) == 40


def test_an_sgi_is_pending_for_each_that_sent_it() -> None:
    board = Board()
    board.set_d(0, SGIR, 2 << 16 | 5)
    board.set_d(1, SGIR, 2 << 24 | 5)
    assert board.d(1, SPENDSGIR + 4) == board.d(1, CPENDSGIR + 4) == 3 << 8
    assert board.c(1, IAR) == 5
    assert board.c(1, IAR) == NONE
    board.set_c(1, EOIR, 5)
    assert board.c(1, IAR) == 1 << 10 | 5
    assert board.d(1, ISPENDR) == 0
    board.set_d(0, SGIR, 1 << 24 | 6)
    assert (board.c(0, HPPIR), board.d(1, ISPENDR)) == (NONE, 1 << 6)
    board.set_d(1, ICPENDR, 1 << 6)
    assert board.d(1, ISPENDR) == 1 << 6
    board.set_d(1, CPENDSGIR + 6, 1, 1)
    assert board.d(1, ISPENDR) == 0


def test_a_higher_priority_preempts_and_an_equal_one_does_not() -> None:
    board = Board()
    for intid, priority in ((40, 0x80), (41, 0x80), (42, 0x40)):
        board.set_d(0, IPRIORITYR + intid, priority, 1)
    board.gic.set_level(0, 40, True)
    assert (board.c(0, IAR), board.c(0, RPR)) == (40, 0x80)
    board.gic.set_level(0, 41, True)
    assert (board.c(0, IAR), board.c(0, HPPIR)) == (NONE, 41)
    board.gic.set_level(0, 42, True)
    assert (board.c(0, IAR), board.c(0, RPR)) == (42, 0x40)
    board.gic.set_level(0, 42, False)
    board.set_c(0, EOIR, 42)
    assert board.c(0, RPR) == 0x80
    board.gic.set_level(0, 40, False)
    board.set_c(0, EOIR, 40)
    assert (board.c(0, RPR), board.c(0, IAR)) == (0xFF, 41)


def test_a_binary_point_says_what_preempts() -> None:
    board = Board()
    board.set_c(0, BPR, 0)
    board.set_c(0, ABPR, 0)
    assert (board.c(0, BPR), board.c(0, ABPR)) == (2, 3)
    board.set_c(0, BPR, 6)
    for intid, priority in ((40, 0x60), (41, 0x08)):
        board.set_d(0, IPRIORITYR + intid, priority, 1)
        board.gic.set_level(0, intid, True)
        if intid == 40:
            assert (board.c(0, IAR), board.c(0, RPR)) == (40, 0)
    assert board.c(0, IAR) == NONE


def test_each_group_has_its_acknowledge_register() -> None:
    board = Board()
    board.set_d(0, IGROUPR + 4, 1 << 8)
    board.gic.set_level(0, 40, True)
    assert (board.c(0, HPPIR), board.c(0, AHPPIR)) == (1022, 40)
    assert (board.c(0, IAR), board.c(0, AIAR)) == (1022, 40)
    board.set_c(0, AEOIR, 40)
    board.set_c(0, CTLR, 3 | 1 << 2)
    assert board.c(0, IAR) == 40


def test_a_fast_interrupt_is_one_of_group_0_where_it_is_asked_for() -> None:
    board = Board()
    assert board.gic.interrupts(0) == (False, False)
    board.gic.set_level(0, 40, True)
    assert board.gic.interrupts(0) == (True, False)
    board.set_c(0, CTLR, 3 | 1 << 3)
    assert board.gic.interrupts(0) == (False, True)
    board.set_c(0, PMR, 0)
    assert board.gic.interrupts(0) == (False, False)


def test_a_split_end_drops_the_priority_first() -> None:
    board = Board()
    board.set_c(0, CTLR, 3 | 1 << 9)
    board.gic.set_level(0, 27, True)
    assert board.c(0, IAR) == 27
    board.set_c(0, EOIR, 27)
    assert (board.c(0, RPR), board.d(0, ISACTIVER), board.c(0, IAR)) == (0xFF, 1 << 27, NONE)
    board.set_c(0, DIR, 27)
    assert (board.d(0, ISACTIVER), board.c(0, IAR)) == (0, 27)


def test_an_end_drops_the_highest_priority_in_service_of_either_group() -> None:
    board = Board()
    board.set_c(0, CTLR, 3 | 1 << 2)
    board.set_d(0, IGROUPR + 4, 1 << 8)
    for intid, priority in ((40, 0x80), (41, 0x40), (42, 0x20)):
        board.set_d(0, IPRIORITYR + intid, priority, 1)
        board.gic.pulse(0, intid)
        board.set_d(0, ISPENDR + 4, 1 << intid - 32)
        assert board.c(0, IAR) == intid
        board.set_d(0, IGROUPR + 4, 1 << 8 if intid == 40 else 1 << 10 | 1 << 8)
    assert (board.c(0, 0xD0), board.c(0, 0xE0)) == (1 << 8, 1 << 16 | 1 << 4)
    for intid, running in ((42, 0x40), (41, 0x80), (40, 0xFF)):
        board.set_c(0, EOIR, intid)
        assert board.c(0, RPR) == running


def test_an_interrupt_with_several_targets_is_taken_by_the_first_that_acknowledges_it() -> None:
    board = Board()
    board.set_d(0, ITARGETSR + 40, 3, 1)
    board.gic.set_level(0, 40, True)
    assert (board.gic.best(0), board.gic.best(1)) == (Signal(40, 0, 0),) * 2
    assert (board.gic.acknowledge(1, 40), board.gic.acknowledge(0, 40)) == (0, None)


def test_a_list_register_names_one_sender_after_the_other() -> None:
    gic = Board().gic
    gic.send_sgi(0, 2 << 16 | 5)
    gic.send_sgi(1, 2 << 16 | 5)
    assert gic.fill(1, 4) == ([Listed(5, 0, 0, True, False, True, 0)], False)
    gic.take_back(1, [(5, False, True)])
    assert gic.fill(1, 4) == ([Listed(5, 0, 0, False, True, True, 0)], False)
    gic.take_back(1, [])
    assert gic.fill(1, 4) == ([Listed(5, 0, 0, True, False, False, 1)], False)


@given(st.builds(Listed, st.integers(0, 1019), st.integers(0, 31).map(lambda n: n << 3), st.integers(0, 1),
                 st.booleans(), st.booleans(), st.booleans(), st.integers(0, 7)))  # fmt: skip
def test_a_list_register_says_what_went_into_it(listed: Listed) -> None:
    value = encode_gich_lr(listed)
    here = listed.pending or listed.active
    assert value < 1 << 31
    assert decode_gich_lr(value) == ((listed.intid, listed.pending, listed.active) if here else None)
    assert (value >> 23 & 31, value >> 30 & 1, value >> 19 & 1) == (listed.priority >> 3, listed.group, listed.resample)
    assert value >> 10 & 7 == (listed.source if listed.intid < 16 else 0)


_LINES = (16, 27, 32, 33, 127)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("level"), st.integers(0, 1), st.sampled_from(_LINES), st.booleans()),
        st.tuples(st.just("priority"), st.integers(0, 1), st.sampled_from(_LINES), st.sampled_from([0, 8, 0x40, 0xF8])),
        st.tuples(st.just("target"), st.just(0), st.sampled_from(_LINES[2:]), st.integers(0, 1)),
        st.tuples(st.just("take"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("take"), st.integers(0, 1), st.just(0), st.just(0)),
        st.tuples(st.just("end"), st.integers(0, 1), st.just(0), st.just(0)),
    ),
    min_size=20,
    max_size=60,
)


@given(_STEPS)
def test_cpus_take_and_end_what_a_model_says(steps: list[tuple[str, int, int, int]]) -> None:
    board, model = Board(), Model(2, 96)
    model.groups = 3
    for one in (*model.own[0].values(), *model.own[1].values(), *model.shared.values()):
        one.enabled = True
    served: list[list[tuple[int, int]]] = [[], []]
    for what, cpu, intid, value in steps:
        if what == "level":
            board.gic.set_level(cpu, intid, bool(value))
            model.level(cpu, intid, bool(value))
        elif what == "priority":
            board.set_d(cpu, IPRIORITYR + intid, value, 1)
            model.of(cpu, intid).priority = value
        elif what == "target":
            board.set_d(0, ITARGETSR + intid, 1 << value, 1)
            model.target[intid] = value
        elif what == "take":
            running = min((priority for priority, _ in served[cpu]), default=0xFF)
            best = model.best(cpu, min(running, 0xF8))
            assert board.gic.interrupts(cpu) == (best is not None, False)
            assert board.c(cpu, IAR) == (NONE if best is None else best[1])
            if best is not None:
                model.acknowledge(cpu, best[1])
                served[cpu].append(best)
        elif served[cpu]:
            _, last = served[cpu].pop()
            board.set_c(cpu, EOIR, last)
            model.of(cpu, last).active = False
        assert board.c(cpu, RPR) == min((priority for priority, _ in served[cpu]), default=0xFF)
