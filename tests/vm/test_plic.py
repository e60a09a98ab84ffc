"""The PLIC, against the RISC-V Platform-Level Interrupt Controller Specification 1.0.0."""

from __future__ import annotations

from stage2.vm.plic import SOURCES, Plic, size_of

PENDING, ENABLES, CONTEXTS = 0x1000, 0x2000, 0x20_0000


class Bench:
    """A PLIC with two harts, of which both have every source enabled, at priority 1."""

    def __init__(self) -> None:
        self.plic = Plic("plic", 2)
        self.told: list[int] = []
        self.plic.notify = self.told.append
        for source in range(1, SOURCES + 1):
            self.write(4 * source, 1)
        for hart in range(2):
            for word in range(4):
                self.write(ENABLES + 0x80 * hart + 4 * word, 0xFFFF_FFFF)

    def read(self, offset: int) -> int:
        return self.plic.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        self.plic.write(offset, 4, value)

    def claim(self, hart: int = 0) -> int:
        return self.read(CONTEXTS + 0x1000 * hart + 4)

    def complete(self, source: int, hart: int = 0) -> None:
        self.write(CONTEXTS + 0x1000 * hart + 4, source)

    @property
    def harts(self) -> list[bool]:
        return [self.plic.interrupts(hart) for hart in range(2)]


def test_a_level_is_told_to_all_harts_and_claimed_by_one() -> None:
    bench = Bench()
    bench.told.clear()
    bench.plic.set_level(10, True)
    assert bench.told == [0, 1]
    assert bench.harts == [True, True]
    assert bench.read(PENDING) == 1 << 10
    assert (bench.claim(1), bench.claim(0)) == (10, 0)
    assert bench.harts == [False, False]
    assert bench.read(PENDING) == 0


def test_a_line_that_stays_up_is_pending_again_after_completion_and_not_before() -> None:
    bench = Bench()
    bench.plic.set_level(10, True)
    assert bench.claim() == 10
    bench.plic.set_level(10, False)
    bench.plic.set_level(10, True)
    assert not bench.harts[0]
    bench.complete(10)
    assert bench.claim() == 10
    bench.plic.set_level(10, False)
    bench.complete(10)
    assert bench.claim() == 0


def test_a_request_outlives_the_line_that_made_it() -> None:
    bench = Bench()
    bench.plic.set_level(3, True)
    bench.plic.set_level(3, False)
    assert bench.claim() == 3
    bench.complete(3)
    assert bench.claim() == 0


def test_the_highest_priority_comes_first_and_the_lowest_number_among_equals() -> None:
    bench = Bench()
    bench.write(4 * 40, 5)
    for source in (9, 40, 2):
        bench.plic.set_level(source, True)
    assert [bench.claim() for _ in range(4)] == [40, 2, 9, 0]


def test_priority_0_never_interrupts_nor_is_claimed() -> None:
    bench = Bench()
    bench.write(4 * 7, 0)
    bench.plic.set_level(7, True)
    assert bench.harts == [False, False]
    assert bench.claim() == 0
    assert bench.read(PENDING) == 1 << 7


def test_a_threshold_masks_what_is_not_above_it_but_not_claims() -> None:
    bench = Bench()
    bench.write(4 * 7, 3)
    bench.write(CONTEXTS, 3)
    bench.plic.set_level(7, True)
    assert bench.harts == [False, True]
    bench.write(CONTEXTS, 2)
    assert bench.harts == [True, True]
    bench.write(CONTEXTS, 7)
    assert bench.claim() == 7


def test_a_completion_of_what_is_not_enabled_is_ignored() -> None:
    bench = Bench()
    bench.plic.set_level(33, True)
    assert bench.claim(0) == 33
    bench.write(ENABLES + 0x80 + 4, 0)
    bench.complete(33, hart=1)
    bench.complete(0)
    bench.complete(SOURCES + 1)
    assert not bench.harts[0]
    bench.complete(33)
    assert bench.harts == [True, False]


def test_what_is_not_there_reads_as_zero_and_takes_writes() -> None:
    bench = Bench()
    for offset in (0, 4 * (SOURCES + 1), PENDING + 0x40, ENABLES + 0x100, CONTEXTS + 8, CONTEXTS + 0x2000, 0x3F_FFFC):
        bench.write(offset, 0xFFFF_FFFF)
        assert bench.read(offset) == 0, hex(offset)
    assert bench.read(ENABLES) == 0xFFFF_FFFE, "source 0 is none"
    bench.write(4, 0xFF)
    assert bench.read(4) == 7
    assert bench.plic.read(4, 8) == 0
    assert size_of(2) == CONTEXTS + 0x2000
