"""A GICv3's distributor and redistributors, against Arm IHI 0069."""

from __future__ import annotations

import pytest
from gic_model import Model
from hypothesis import given
from hypothesis import strategies as st

from stage2.address import Gpa, Range
from stage2.errors import EngineError, OutOfRangeError
from stage2.vm.devices import DeviceBus
from stage2.vm.gic.gic import Listed, Signal
from stage2.vm.gic.list_registers import decode_ich_lr, encode_ich_lr
from stage2.vm.gic.v3 import DISTRIBUTOR_BYTES, REDISTRIBUTOR_BYTES, GicV3

GICD, GICR = 0x800_0000, 0x80A_0000
SGI_BASE = 0x1_0000
CTLR, TYPER, PIDR2 = 0, 4, 0xFFE8
IGROUPR, ISENABLER, ICENABLER, ISPENDR, ICPENDR, ISACTIVER, ICACTIVER, IPRIORITYR, ICFGR, IROUTER = (
    0x80, 0x100, 0x180, 0x200, 0x280, 0x300, 0x380, 0x400, 0xC00, 0x6000,
)  # fmt: skip
WAKER = 0x14
SECOND = 0x1_0000_0002
"""Aff3 = 1, Aff0 = 2."""


class Board:
    """A GICv3 behind a bus, as a guest sees it."""

    def __init__(self, *, awake: bool = True) -> None:
        self.told: list[int] = []
        self.gic = GicV3([0, SECOND], 96, awake=awake, notify=self.told.append)
        self.bus = DeviceBus()
        self.bus.attach(Range.sized(GICD, DISTRIBUTOR_BYTES), self.gic.distributor)
        self.bus.attach(Range.sized(GICR, 2 * REDISTRIBUTOR_BYTES), self.gic.redistributors)

    def d(self, offset: int, width: int = 4) -> int | None:
        return self.bus.read(Gpa(GICD + offset), width)

    def set_d(self, offset: int, value: int, width: int = 4) -> None:
        self.bus.write(Gpa(GICD + offset), width, value)

    def r(self, cpu: int, offset: int, width: int = 4) -> int | None:
        return self.bus.read(Gpa(GICR + cpu * REDISTRIBUTOR_BYTES + offset), width)

    def set_r(self, cpu: int, offset: int, value: int, width: int = 4) -> None:
        self.bus.write(Gpa(GICR + cpu * REDISTRIBUTOR_BYTES + offset), width, value)

    def serving(self) -> Board:
        """Everything is in group 1, forwarded, and enabled."""
        self.set_d(CTLR, 2)
        for n in (4, 8, 12):
            self.set_d(IGROUPR + n, 0xFFFF_FFFF)
            self.set_d(ISENABLER + n, 0xFFFF_FFFF)
        for cpu in (0, 1):
            self.set_r(cpu, SGI_BASE + IGROUPR, 0xFFFF_FFFF)
            self.set_r(cpu, SGI_BASE + ISENABLER, 0xFFFF_FFFF)
        self.told.clear()
        return self


def test_the_identification_registers_say_what_there_is() -> None:
    board = Board()
    assert board.d(CTLR) == 0x50
    assert board.d(TYPER) == 1 << 25 | 9 << 19 | 3
    assert board.d(PIDR2) == 0x30
    assert board.r(0, PIDR2) == 0x30
    assert board.r(0, 8, 8) == 0
    assert board.r(1, 8, 8) == 0x0100_0002 << 32 | 1 << 8 | 1 << 4
    assert board.r(1, 0xC) == 0x0100_0002


def test_the_distributor_shows_no_private_interrupts() -> None:
    board = Board().serving()
    board.set_d(ISENABLER, 0xFFFF_FFFF)
    assert [board.d(offset) for offset in (IGROUPR, ISENABLER, ISPENDR, IPRIORITYR, ICFGR)] == [0] * 5


def test_what_is_reserved_reads_as_zero_and_takes_writes() -> None:
    board = Board()
    for offset in (0x10, 0x40, ISENABLER + 16, 0x800, 0xD04, 0xF00, 0x6000, IROUTER + 8 * 128, 0xFFFC):
        board.set_d(offset, 0xFFFF_FFFF)
        assert board.d(offset) == 0, hex(offset)


def test_a_register_that_takes_words_takes_no_bytes_and_priorities_do() -> None:
    board = Board()
    board.set_d(ISENABLER + 4, 0xFF, 1)
    board.set_d(ISENABLER + 4, 0xFFFF, 2)
    assert board.d(ISENABLER + 4) == 0
    board.set_d(IPRIORITYR + 33, 0xA7, 1)
    assert board.d(IPRIORITYR + 33, 1) == 0xA0
    assert board.d(IPRIORITYR + 32) == 0xA000


def test_a_route_is_written_by_words_and_by_doublewords() -> None:
    board = Board().serving()
    board.gic.set_level(0, 40, True)
    assert (board.gic.best(0), board.gic.best(1)) == (Signal(40, 0, 1), None)
    board.set_d(IROUTER + 8 * 40, SECOND, 8)
    assert (board.gic.best(0), board.gic.best(1)) == (None, Signal(40, 0, 1))
    board.set_d(IROUTER + 8 * 40 + 4, 2)
    assert board.d(IROUTER + 8 * 40, 8) == 0x2_0000_0002
    assert (board.gic.best(0), board.gic.best(1)) == (None, None)


def test_a_cpu_whose_redistributor_sleeps_is_told_of_nothing() -> None:
    board = Board(awake=False).serving()
    assert board.r(0, WAKER) == 6
    board.gic.set_level(0, 27, True)
    assert board.gic.best(0) is None
    assert board.gic.fill(0, 4) == ([], False)
    board.set_r(0, WAKER, 0)
    assert board.r(0, WAKER) == 0
    assert board.gic.best(0) == Signal(27, 0, 1)


def test_an_sgi_reaches_those_whom_its_word_names() -> None:
    board = Board().serving()
    board.gic.send_sgi(0, 1 << 48 | 7 << 24 | 1 << 2)
    assert (board.gic.best(0), board.gic.best(1)) == (None, Signal(7, 0, 1))
    assert board.told == [1]
    board.gic.send_sgi(1, 1 << 40 | 3 << 24)
    assert board.gic.best(0) == Signal(3, 0, 1)
    board.gic.acknowledge(0, 3)
    board.gic.send_sgi(0, 3 << 24 | 1, group=0)
    board.gic.deactivate(0, 3)
    assert board.gic.best(0) is None


def test_a_level_stays_pending_as_long_as_its_line_is_raised() -> None:
    board = Board().serving()
    board.gic.set_level(0, 27, True)
    board.gic.acknowledge(0, 27)
    assert board.r(0, SGI_BASE + ISACTIVER) == board.r(0, SGI_BASE + ISPENDR) == 1 << 27
    assert board.gic.best(0) is None
    board.set_r(0, SGI_BASE + ICPENDR, 1 << 27)
    board.gic.deactivate(0, 27)
    assert board.gic.best(0) == Signal(27, 0, 1)
    board.gic.set_level(0, 27, False)
    assert board.gic.best(0) is None


def test_an_edge_is_noted_once_and_again_while_it_is_active() -> None:
    board = Board().serving()
    board.set_d(ICFGR + 8, 2 << 2)
    board.gic.pulse(0, 33)
    board.gic.acknowledge(0, 33)
    assert board.d(ISPENDR + 4) == 0
    board.gic.pulse(0, 33)
    assert board.gic.best(0) is None
    board.gic.deactivate(0, 33)
    assert board.gic.best(0) == Signal(33, 0, 1)


def test_what_is_pending_by_software_alone_is_gone_when_it_is_acknowledged() -> None:
    board = Board().serving()
    board.set_d(ISPENDR + 4, 1)
    assert board.gic.best(0) == Signal(32, 0, 1)
    board.gic.acknowledge(0, 32)
    board.set_d(ICACTIVER + 4, 1)
    assert board.gic.best(0) is None


def test_a_priority_mask_leaves_out_what_is_not_above_it() -> None:
    board = Board().serving()
    board.set_d(IPRIORITYR + 40, 0x80, 1)
    board.gic.set_level(0, 40, True)
    assert board.gic.best(0, 0x80) is None
    assert board.gic.best(0, 0x88) == Signal(40, 0x80, 1)


def test_who_is_to_look_is_told_without_the_lock() -> None:
    board = Board().serving()
    seen: list[object] = []
    board.gic.notify = lambda cpu: seen.append((cpu, board.gic.best(cpu)))
    board.gic.set_level(1, 27, True)
    board.gic.set_level(1, 27, True)
    assert seen == [(1, Signal(27, 0, 1))]


def test_a_guest_has_its_interrupts_by_list_registers() -> None:
    board = Board().serving()
    gic = board.gic
    board.set_d(IPRIORITYR + 40, 0x10, 1)
    board.set_d(IPRIORITYR + 41, 0x20, 1)
    board.set_r(0, SGI_BASE + IPRIORITYR + 27, 0x30, 1)
    for intid in (27, 40, 41):
        gic.set_level(0, intid, True)
    listed, more = gic.fill(0, 2)
    assert listed == [Listed(40, 0x10, 1, True, False, True), Listed(41, 0x20, 1, True, False, True)]
    assert more
    with pytest.raises(EngineError, match="list registers of CPU 0 were filled and not taken back"):
        gic.fill(0, 2)
    # It has ended 40, whose peripheral was served, and is in the midst of 41.
    gic.set_level(0, 40, False)
    gic.take_back(0, [(41, False, True)])
    assert board.d(ISACTIVER + 4) == board.d(ISPENDR + 4) == 1 << 9
    listed, more = gic.fill(0, 4)
    assert listed == [Listed(41, 0x20, 1, False, True, True), Listed(27, 0x30, 1, True, False, True)]
    assert not more


def test_an_edge_that_comes_while_it_is_listed_is_not_lost() -> None:
    board = Board().serving()
    gic = board.gic
    board.set_d(ICFGR + 8, 2)
    gic.pulse(0, 32)
    assert gic.fill(0, 4) == ([Listed(32, 0, 1, True, False, False)], False)
    assert board.d(ISPENDR + 4) == 1
    gic.pulse(0, 32)
    gic.take_back(0, [(32, False, True)])
    assert gic.fill(0, 4) == ([Listed(32, 0, 1, True, True, False)], False)
    gic.take_back(0, [(32, True, False)])
    assert gic.best(0) == Signal(32, 0, 1)


def test_what_another_cpu_clears_while_it_is_listed_does_not_come_back() -> None:
    board = Board().serving()
    gic = board.gic
    gic.send_sgi(0, 5 << 24 | 1)
    gic.send_sgi(0, 6 << 24 | 1)
    gic.acknowledge(0, 5)
    assert len(gic.fill(0, 4)[0]) == 2
    board.set_r(0, SGI_BASE + ICPENDR, 1 << 6)
    board.set_r(0, SGI_BASE + ICACTIVER, 1 << 5)
    gic.take_back(0, [(5, False, True), (6, True, False)])
    assert gic.fill(0, 4) == ([], False)
    gic.send_sgi(0, 5 << 24 | 1)
    gic.take_back(0, [(one.intid, False, True) for one in gic.fill(0, 4)[0]])
    assert board.r(0, SGI_BASE + ISACTIVER) == 1 << 5


def test_ends_that_no_list_register_held_are_of_the_highest_priority() -> None:
    board = Board().serving()
    gic = board.gic
    for intid, priority in ((3, 0x30), (4, 0x20), (5, 0x10)):
        board.set_r(0, SGI_BASE + IPRIORITYR + intid, priority, 1)
        gic.send_sgi(0, intid << 24 | 1)
        gic.acknowledge(0, intid)
    assert [one.intid for one in gic.fill(0, 1)[0]] == [5]
    gic.end_unlisted(0, 1)
    gic.take_back(0, [(5, False, True)])
    assert board.r(0, SGI_BASE + ISACTIVER) == 1 << 5 | 1 << 3


@given(st.builds(Listed, st.integers(0, 1019), st.integers(0, 31).map(lambda n: n << 3), st.integers(0, 1),
                 st.booleans(), st.booleans(), st.booleans()))  # fmt: skip
def test_a_list_register_says_what_went_into_it(listed: Listed) -> None:
    value = encode_ich_lr(listed)
    here = listed.pending or listed.active
    assert decode_ich_lr(value) == ((listed.intid, listed.pending, listed.active) if here else None)
    assert (value >> 48 & 0xFF, value >> 60 & 1, value >> 41 & 1) == (listed.priority, listed.group, listed.resample)


def test_a_line_that_does_not_exist_is_refused() -> None:
    with pytest.raises(OutOfRangeError, match="no line has INTID 128 of CPU 0: there are 2 CPUs, and INTIDs from 16"):
        Board().gic.set_level(0, 128, True)


_INTIDS = st.sampled_from([0, 15, 16, 27, 32, 127])
_CPUS = st.integers(0, 1)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("level"), _CPUS, _INTIDS, st.booleans()),
        st.tuples(st.sampled_from(["pend", "deactivate"]), _CPUS, _INTIDS, st.just(0)),
        st.tuples(st.sampled_from(["enable", "disable", "unpend", "activate", "group"]), _CPUS, _INTIDS, st.just(0)),
        st.tuples(st.just("priority"), _CPUS, _INTIDS, st.integers(0, 255)),
        st.tuples(st.just("edge"), _CPUS, _INTIDS, st.booleans()),
        st.tuples(st.just("route"), _CPUS, _INTIDS, st.just(0)),
        st.tuples(st.just("groups"), st.just(0), st.just(32), st.integers(0, 3)),
        st.tuples(st.just("sgi"), _CPUS, st.sampled_from([0, 1, 15]), st.integers(0, 1)),
        st.tuples(st.just("take"), _CPUS, st.just(0), st.sampled_from([0x80, 256])),
        st.tuples(st.just("run"), _CPUS, st.integers(0, 3), st.integers(1, 4)),
    ),
    min_size=20,
    max_size=60,
)  # fmt: skip


class _Pair:
    """The controller and the model, told the same."""

    def __init__(self) -> None:
        self.board, self.model = Board(), Model(2, 96)
        self.gic = self.board.gic

    def register(self, cpu: int, intid: int, block: int, value: int) -> None:
        """Write a word of a bit for each interrupt, or of two."""
        offset = block + intid // (16 if block == ICFGR else 32) * 4
        if intid < 32:
            self.board.set_r(cpu, SGI_BASE + offset, value)
        else:
            self.board.set_d(offset, value)

    def word(self, cpu: int, intid: int, block: int) -> int:
        offset = block + intid // (16 if block == ICFGR else 32) * 4
        found = self.board.r(cpu, SGI_BASE + offset) if intid < 32 else self.board.d(offset)
        assert found is not None
        return found

    def do(self, what: str, cpu: int, intid: int, value: int) -> None:
        one, bit = self.model.of(cpu, intid), 1 << intid % 32
        if what == "level" and intid >= 16:
            self.gic.set_level(cpu, intid, bool(value))
            self.model.level(cpu, intid, bool(value))
        elif what == "enable":
            self.register(cpu, intid, ISENABLER, bit)
            one.enabled = True
        elif what == "disable":
            self.register(cpu, intid, ICENABLER, bit)
            one.enabled = False
        elif what == "pend":
            self.register(cpu, intid, ISPENDR, bit)
            one.noted = True
        elif what == "unpend":
            self.register(cpu, intid, ICPENDR, bit)
            one.noted = False
        elif what == "activate":
            self.register(cpu, intid, ISACTIVER, bit)
            one.active = True
        elif what == "deactivate":
            self.gic.deactivate(cpu, intid)
            one.active = False
        elif what == "group":
            self.register(cpu, intid, IGROUPR, self.word(cpu, intid, IGROUPR) ^ bit)
            one.group ^= 1
        elif what == "priority":
            if intid < 32:
                self.board.set_r(cpu, SGI_BASE + IPRIORITYR + intid, value, 1)
            else:
                self.board.set_d(IPRIORITYR + intid, value, 1)
            one.priority = value // 8 * 8
        elif what == "edge" and intid >= 16:
            field = 3 << 2 * (intid % 16)
            word = self.word(cpu, intid, ICFGR) & ~field
            self.register(cpu, intid, ICFGR, word | (field if value else 0))
            one.edge = bool(value)
        elif what == "route" and intid >= 32:
            self.board.set_d(IROUTER + 8 * intid, (0, SECOND)[cpu], 8)
            self.model.target[intid] = cpu
        elif what == "groups":
            self.board.set_d(CTLR, value)
            self.model.groups = value
        elif what == "sgi":
            self.gic.send_sgi(cpu, intid << 24 | 1, group=value)
            first = self.model.of(0, intid)
            first.noted |= first.group == value
        elif what == "take":
            found = self.gic.best(cpu, value)
            wanted = self.model.best(cpu, value)
            assert wanted == (None if found is None else (found.priority, found.intid))
            if found is not None:
                self.gic.acknowledge(cpu, found.intid)
                self.model.acknowledge(cpu, found.intid)
        elif what == "run":
            self.run(cpu, acknowledged=intid, count=value)

    def run(self, cpu: int, *, acknowledged: int, count: int) -> None:
        """A guest runs with list registers: it takes interrupts, and ends every second one."""
        wanted = self.model.best(cpu, 256)
        listed, _ = self.gic.fill(cpu, count)
        assert len(listed) <= count
        states = {one.intid: (one.pending, one.active) for one in listed}
        pending = [one for one in listed if one.pending and not one.active]
        if pending and wanted is not None:
            assert (pending[0].priority, pending[0].intid) == wanted
        for one in listed:
            model = self.model.of(cpu, one.intid)
            able = model.pending and model.enabled and bool(self.model.groups >> model.group & 1)
            assert (one.pending, one.active) == (able and (model.edge or not model.active), model.active)
        for number, one in enumerate(pending[:acknowledged]):
            self.model.acknowledge(cpu, one.intid)
            states[one.intid] = (False, True)
            if number % 2:
                self.model.of(cpu, one.intid).active = False
                states[one.intid] = (False, False)
        self.gic.take_back(cpu, [(intid, *state) for intid, state in states.items() if any(state)])

    def compare(self) -> None:
        for cpu in (0, 1):
            for mask in (0x80, 256):
                found = self.gic.best(cpu, mask)
                assert (None if found is None else (found.priority, found.intid)) == self.model.best(cpu, mask)
            for intid in range(0, 128, 32):
                ones = [self.model.of(cpu, number) for number in range(intid, intid + 32)]
                for block, of in ((ISPENDR, "pending"), (ICACTIVER, "active"), (ISENABLER, "enabled")):
                    word = sum(1 << number for number, one in enumerate(ones) if getattr(one, of))
                    assert self.word(cpu, intid, block) == word, (of, intid)


@given(_STEPS)
def test_states_and_priorities_are_those_of_a_model(steps: list[tuple[str, int, int, int]]) -> None:
    pair = _Pair()
    pair.do("groups", 0, 32, 3)
    for cpu in (0, 1):
        for intid in (0, 15, 16, 27, 32, 127):
            pair.do("enable", cpu, intid, 0)
    for step in steps:
        pair.do(*step)
        pair.compare()
