"""What tests of both x86 oracles share: tables of both stages made by hand, and accesses that end alike on both."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest

from stage2.address import SIZE_1G, SIZE_2M, Gva, Hpa, Range
from stage2.conform.oracle import Case, Machine, Oracle, Pair, Predictions
from stage2.conform.probe import PROBE, Answers
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.record import Format
from stage2.formats.x86 import longmode
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.batch import translate_two_stage_batch
from stage2.tables.compiled import host_memory
from stage2.tables.explain import explain_two_stage
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime

Probe = tuple[int, Access, bool]
"""(address, access, user)."""
OWNER = Owner(OwnerKind.TABLES, "test")
R, W, X, U = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER
READ, WRITE, FETCH = Access.READ, Access.WRITE, Access.FETCH
EVERYTHING = [(access, user) for access in Access for user in (False, True)]
P, WR, US, RSV, ID = 1, 2, 4, 8, 16
"""Bits of a page fault's error code."""
NOT_MAPPED = [0, US, WR, WR | US, ID, ID | US]
"""Error codes of EVERYTHING where stage 1 maps nothing."""
GVA = 0x7000_0000_0000
"""A 2 MiB window for the tests' own pages, as `World.gpa` is: GVA leads to it, and it to the oracle's data."""

kernel_accesses = pytest.mark.parametrize(
    ("on", "off", "flags", "access", "error"),
    [
        (0, 0, R | X, WRITE, P | WR),
        (0, longmode.WP, R | X, WRITE, None),
        (0, 0, RWX | U, FETCH, None),
        (longmode.SMEP, 0, RWX | U, FETCH, P | ID),
        (longmode.SMEP, 0, RWX | U, READ, None),
        (longmode.SMAP, 0, RWX | U, READ, P),
        (longmode.SMAP, 0, RWX | U, WRITE, P | WR),
        (longmode.SMAP, 0, RWX | U, FETCH, None),
        (longmode.SMAP | longmode.SMEP, 0, RWX, FETCH, None),
        (0, longmode.NXE, RWX, FETCH, None),
    ],
)
"""Controls turned on and off, a page of stage 1, the kernel's access to it, and its error code if it is refused."""


class World:
    """Tables of both stages: the guest's own lie where GPA equals HPA, GVA leads to `gpa` and that to the data.

    Args:
        pair: the oracle's first when left out.
        off_1, on_1, off_2, on_2: control bits that differ from the oracle's usual ones.
    """

    oracle: ClassVar[Oracle]
    gpa: ClassVar[int]

    def __init__(
        self,
        machine: Machine,
        pair: Pair | None = None,
        *,
        on_1: int = 0,
        off_1: int = 0,
        on_2: int = 0,
        off_2: int = 0,
    ) -> None:
        oracle, memory = self.oracle, machine.memory
        self.machine, self.pair = machine, pair or oracle.pairs[0]
        self.places = oracle.places(machine, self.pair)
        tables, data = self.places.tables, self.places.data
        memory.zero(tables)
        memory.zero(data)
        frames = FrameAllocator(memory)
        for part in memory.ranges:
            for start, end in ((part.start, min(part.end, tables.start)), (max(part.start, tables.end), part.end)):
                if start < end:
                    frames.claim(Range(start, end), owner=Owner(OwnerKind.RESERVED, "rest"))

        def table(fmt: Format, controls: int) -> PageTable:
            return PageTable(fmt, frames, owner=OWNER, controls=controls)

        self.second = table(by_name(self.pair.second), oracle.controls(self.pair, 2) & ~off_2 | on_2)
        self.first = table(by_name(self.pair.first or ""), oracle.controls(self.pair, 1) & ~off_1 | on_1)
        self.second.map_range(tables.start, Hpa(tables.start), tables.size, RWX)
        self.second.map_range(self.gpa, Hpa(data.start), SIZE_2M, RWX)
        for fixture in self.places.fixtures:
            stage = self.first if fixture.stage == 1 else self.second
            stage.map_range(fixture.address, Hpa(fixture.target), fixture.size, fixture.flags)

    def page(self, number: int, flags: MappingFlags) -> int:
        """Map one page of GVA; its address."""
        self.first.map_page(GVA + 4096 * number, Hpa(self.gpa + 4096 * number), flags)
        return GVA + 4096 * number

    def slot(self, address: int, stage: int = 1, level: int = 0) -> Hpa:
        """Where the entry for an address is, at a level."""
        if stage == 2:
            return next(step.slot_hpa for step in self.second.explain(address).steps if step.level == level)
        walk = explain_two_stage(self.machine.memory, *self.regimes, Gva(address))
        return next(step.slot_hpa for step in walk.steps if step.stage == 1 and step.level == level)

    def change(self, slot: Hpa, *, sets: int = 0, clears: int = 0) -> None:
        """Change bits of an entry behind the tables' back."""
        memory = self.machine.memory
        memory.store_u64(slot, memory.load_u64(slot) & ~clears | sets)

    @property
    def regimes(self) -> tuple[Regime, Regime]:
        return self.first.regime, self.second.regime

    def ask(self, *probes: Probe, agrees: bool = True) -> Answers:
        """The machine's answers, which are to be as expected, or are not to be."""
        case, predictions = self.case(*probes)
        arrives = (predictions.status == 0) & (case.probes["access"] != WRITE)
        for index in np.flatnonzero(arrives).tolist():
            predictions.memory[index] = self.oracle.tag(index + 1)
            self.machine.memory.store_u64(Hpa(int(predictions.hpa[index])), self.oracle.tag(index + 1))
        assert self.oracle.allows(case, predictions).all()
        answers, self.expected = self.answers(case), self.oracle.expected(case, predictions)
        assert (answers == self.expected).all() == agrees, (answers, self.expected)
        return answers

    def answers(self, case: Case) -> Answers:
        return self.oracle.answers(self.machine, case)

    def case(self, *probes: Probe) -> tuple[Case, Predictions]:
        made = np.zeros(len(probes), PROBE)
        for index, (address, access, user) in enumerate(probes):
            made[index] = (address, 0x5700 + index if access is WRITE else 0, access, user, 0)
        case = Case(self.pair, *self.regimes, made)
        host = host_memory(self.machine.memory)
        found = [
            translate_two_stage_batch(host, *self.regimes, [address], access, user=user, ahead=False)
            for address, access, user in probes
        ]

        def column(name: str) -> Any:
            return np.concatenate([getattr(batch, name) for batch in found])

        return case, Predictions(
            column("status"), column("hpa"), column("gpa"), column("permissions"), np.zeros(len(found), np.uint64),
            self.machine.memory,
        )  # fmt: skip

    def forbidden(self) -> list[tuple[Probe, int]]:
        """Accesses to pages 0 to 2 that stage 1 forbids, and their error codes."""
        kernel, fixed, data = self.page(0, RWX), self.page(1, R | X | U), self.page(2, R | W | U)
        return [
            ((kernel, READ, True), P | US),
            ((fixed, WRITE, False), P | WR),
            ((fixed, WRITE, True), P | WR | US),
            ((data, FETCH, False), P | ID),
            ((data, FETCH, True), P | ID | US),
        ]

    def require_blocks(self, gpa: int) -> None:
        """Blocks of 1 GiB and 2 MiB, of stage 1 over one of 1 GiB at `gpa`, lead where they should."""
        data = self.places.data.start
        self.second.map_range(gpa, Hpa(data), SIZE_1G, RWX)
        self.first.map_range(SIZE_1G, Hpa(gpa), SIZE_1G, RWX | U)
        self.first.map_range(0, Hpa(gpa + SIZE_2M), SIZE_2M, RWX | U)
        probes = [(SIZE_1G + 0x123_4568, READ, True), (SIZE_1G + 0x3FFF_F008, FETCH, False), (0x1F_F008, WRITE, True)]
        assert self.ask(*probes)["ok"].all()
        assert self.machine.memory.load_u64(Hpa(data + SIZE_2M + 0x1F_F008)) == 0x5702


def codes(answers: Answers) -> list[int]:
    return [int(code) for code in answers["code"]]
