"""EL2's own regimes on QEMU's AArch64 CPU: random tables, hand-made ones, and that each control is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from opening import machine_fixture, oracle_or_skip
from stage2.address import Hpa, Range
from stage2.conform.oracle import Case, Pair
from stage2.conform.oracles import usual
from stage2.conform.oracles.aarch64 import DATA, TABLES
from stage2.conform.oracles.own_aarch64 import EL2, EL2_VHE, fixtures
from stage2.conform.oracles.qemu_aarch64 import ORACLE
from stage2.conform.plant import plant
from stage2.conform.probe import PROBE, Means, Probes
from stage2.conform.run import chosen_pairs, run
from stage2.conform.trial import Trial
from stage2.conform.verdict import Verdict
from stage2.errors import EncodingError
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats import by_name
from stage2.formats.arm.layout import AF, DBM, TABLE_OR_PAGE, VALID
from stage2.formats.arm.par import encode_translated
from stage2.formats.arm.stage1 import (
    AP_TABLE_NO_USER,
    MAIR,
    NOT_GLOBAL,
    PXN,
    PXN_TABLE,
    READ_ONLY,
    USER,
    UXN,
    UXN_TABLE,
)
from stage2.machines.aarch64 import AArch64Machine, OwnInstruction
from stage2.machines.mailbox import PROBE_ENTRY, TRANSLATE
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.tables.pagetable import PageTable
from stage2.tables.regime import Regime

OWNER, OTHERS = Owner(OwnerKind.TABLES, "compared"), Owner(OwnerKind.TABLES, "others")
USED = Range(TABLES.start, TABLES.start + (8 << 20))
R, W, X, U = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE, MappingFlags.USER
PAIRS = [pair for pair in ORACLE.pairs if pair.regime is not None]
_SHAREABILITY = 3 << 7
"""Of PAR_EL1."""
SHORT = 30_000
"""Cases of each regime: what the short form of the suite has of them."""
ASKED = [found.name for found in usual() if found.kind == ORACLE.kind]
machine = machine_fixture(ORACLE.open)


def pair_of(regime: str, name: str = "arm-s1-4k-39") -> Pair:
    return next(pair for pair in PAIRS if pair.name == f"{name} in {regime}")


@contextmanager
def tables(machine: AArch64Machine, pair: Pair, *switches: str) -> Iterator[PageTable]:
    """A table of a regime that maps what the monitor needs and nothing else."""
    frames = FrameAllocator(machine.memory)
    for span in (Range(machine.RAM.start, USED.start), Range(USED.end, machine.RAM.end)):
        frames.claim(span, owner=OTHERS)
    fmt = by_name(pair.second)
    controls = fmt.controls_with(*switches, *(("el2",) if pair.regime == EL2 else ()))
    table = PageTable(fmt, frames, owner=OWNER, controls=controls, identifier=0 if pair.regime == EL2 else 1)
    try:
        for fixture in fixtures(pair):
            table.map_range(fixture.address, Hpa(fixture.target), fixture.size, fixture.flags)
        yield table
    finally:
        machine.memory.zero(USED)


Build = Callable[[PageTable], None]


def compared(machine: AArch64Machine, pair: Pair, probes: Probes, build: Build, *switches: str) -> Verdict:
    """Hand-made tables, compared as the suite compares random ones."""
    trial = Trial(ORACLE, ORACLE.version())
    with tables(machine, pair, *switches) as table:
        build(table)
        case = Case(pair, None, table.regime, probes)
        verdict = trial.case(machine, case, ORACLE.places(machine, pair), USED)
    trial.close()
    return verdict


def every_kind(pair: Pair, addresses: list[int]) -> Probes:
    """Accesses of EL2, and where there is one of EL0 by itself and by EL2 for it, and translations of both."""
    listed = []
    for means in Means:
        for access in Access:
            if means is Means.TRANSLATE and access is Access.FETCH:
                continue
            for user in pair.users:
                upper = 0x800 if access is Access.WRITE else 0
                # Bit 3 says who makes the access.
                listed += [(at | upper | itself, 0x5555, access, user, means) for at in addresses for itself in (0, 8)]
    return np.array(listed, PROBE)


def base_of(pair: Pair) -> int:
    """The lowest address of the half."""
    fmt = by_name(pair.second)
    return (1 << 64) - (1 << fmt.input_bits) if fmt.high_half else 0


RIGHTS = [R | more | user for more in (MappingFlags(0), W, X, W | X) for user in (MappingFlags(0), U)]


# --- random tables ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("regime", [EL2, EL2_VHE])
def test_the_machine_agrees_with_our_walker_on_its_own_regimes(name: str, regime: str) -> None:
    found = oracle_or_skip(name)
    pairs = chosen_pairs(found, [regime])
    report = run(found, cases=SHORT, seed=1, pairs=pairs)
    assert report.mismatches == 0, [(item.pair.name, item.seed, item.lost) for item in report.found]
    assert set(report.verdict.formats) == {pair.name for pair in pairs}
    assert all(pair.regime == regime for pair in pairs)
    assert report.verdict.outcomes["made"] > SHORT // 5
    assert report.verdict.outcomes["refused by stage 1"] > SHORT // 5
    assert report.verdict.outcomes["refused by stage 2"] == 0
    assert report.verdict.unjudged < report.verdict.cases // 3


@pytest.mark.parametrize("planted", ["writable", "address", "hole"])
@pytest.mark.parametrize("regime", [EL2, EL2_VHE])
def test_a_planted_error_is_found_in_its_own_regimes(regime: str, planted: str) -> None:
    found = oracle_or_skip(ORACLE.name)
    assert run(found, cases=3000, seed=1, pairs=[pair_of(regime)], planted=plant(planted)).mismatches


def test_all_granules_and_both_halves_are_judged() -> None:
    assert {by_name(pair.second).page_shift for pair in PAIRS if pair.regime == EL2} == {12, 14, 16}
    vhe = {(by_name(pair.second).page_shift, by_name(pair.second).high_half) for pair in PAIRS if pair.regime != EL2}
    assert vhe == {(shift, high) for shift in (12, 14, 16) for high in (False, True)}
    assert not any(by_name(pair.second).high_half for pair in PAIRS if pair.regime == EL2)
    # A fair share of the short and the long form.
    whole = sum(pair.weight for pair in ORACLE.pairs)
    for regime in (EL2, EL2_VHE):
        assert 0.1 < sum(pair.weight for pair in PAIRS if pair.regime == regime) / whole < 0.2


# --- hand-made ones --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_every_permission_and_every_leaf_is_compared(machine: AArch64Machine, pair: Pair) -> None:
    fmt, base = by_name(pair.second), base_of(pair)
    sizes = [size for size in fmt.leaf_sizes if size <= DATA.size]
    # Beyond what the monitor has at the bottom of the low half.
    places = [base + (4 << 30) + index * fmt.page_size for index in range(len(RIGHTS))]
    blocks = [base + (8 << 30) + index * (4 << 30) for index in range(len(sizes))]

    def build(table: PageTable) -> None:
        for index, (address, flags) in enumerate(zip(places, RIGHTS, strict=True)):
            table.map_range(address, Hpa(DATA.start + index * fmt.page_size), fmt.page_size, flags)
        for address, size in zip(blocks, sizes, strict=True):
            table.map_range(address, Hpa(DATA.start), size, RWX, largest=size)

    # A hole beside them, one at the end of the half, and what no half has: the other half is not walked.
    page, end = fmt.page_size, base + (1 << fmt.input_bits)
    more = [places[-1] + page, end - page, base - page if fmt.high_half else end, 1 << 55, 5 << 60 | 7 << 30]
    if not fmt.high_half:
        more.append((1 << 64) - page)
    probes = every_kind(pair, [*places, *(at + 0x3000 for at in blocks), *more])
    verdict = compared(machine, pair, probes, build)
    assert verdict.mismatches == []
    # QEMU 7.2 is not asked about the hole of a root that cannot hold blocks, if the access is a real one.
    assert verdict.cases + verdict.unjudged == len(probes)
    assert verdict.cases >= len(probes) * 9 // 10
    assert verdict.deviations == {}


SMALL = (pair_of(EL2), pair_of(EL2_VHE), pair_of(EL2_VHE, "arm-s1-4k-39-high"))
SWITCHES = [(pair, name) for pair in SMALL for name in ("af", "ad", "wxn", "hpd", "pan")
            if name != "pan" or pair.regime == EL2_VHE]  # fmt: skip


@pytest.mark.parametrize(("pair", "switch"), SWITCHES, ids=lambda found: getattr(found, "name", found))
def test_each_control_is_the_machines_too(
    machine: AArch64Machine, monkeypatch: pytest.MonkeyPatch, pair: Pair, switch: str
) -> None:
    fmt, start = by_name(pair.second), base_of(pair) + (4 << 30)

    def build(table: PageTable) -> None:
        for index, flags in enumerate(RIGHTS):
            table.map_range(start + 4096 * index, Hpa(DATA.start + 4096 * index), 4096, flags)
        steps = table.explain(start).steps
        memory = machine.memory
        for index in range(0, len(RIGHTS), 2):
            slot = Hpa(steps[-1].slot + 8 * index)
            entry = memory.load_u64(slot)
            if switch == "af":
                memory.store_u64(slot, entry & ~AF)
            elif switch == "ad":
                memory.store_u64(slot, (entry | DBM | READ_ONLY) & ~AF)
        if switch == "hpd":
            slot = Hpa(steps[-2].slot)
            memory.store_u64(slot, memory.load_u64(slot) | 1 << 62)

    probes = every_kind(pair, [start + 4096 * index for index in range(len(RIGHTS))])
    if switch == "ad":
        # A fetch from a clean page is a known deviation.
        probes = probes[probes["access"] != Access.FETCH]
    verdict = compared(machine, pair, probes, build, switch)
    assert (verdict.mismatches, verdict.cases, verdict.deviations) == ([], len(probes), {})

    enter = machine.enter_own
    bit = fmt.switches[switch].sets

    def without(own: Regime) -> None:
        enter(replace(own, controls=own.controls & ~bit))

    monkeypatch.setattr(machine, "enter_own", without)
    assert compared(machine, pair, probes, build, switch).mismatches


@pytest.mark.parametrize(
    ("leaf", "allowed"),
    [
        (0, "rwx"),
        (USER, "rwx"),
        (NOT_GLOBAL | PXN, "rwx"),
        (UXN, "rw"),
        (READ_ONLY, "rx"),
        (READ_ONLY | USER | UXN, "r"),
    ],
)
def test_one_privilege_has_one_xn_and_no_ap_1(machine: AArch64Machine, leaf: int, allowed: str) -> None:
    """DDI 0487, D8.4.1 "Data accesses permissions", "Instruction execution permissions": a regime of one exception
    level has AP[1] res1, PXN and nG res0; AP[2] and bit 54, XN, alone count. Hierarchically so APTable[1] and XNTable.
    """
    pair, start = pair_of(EL2), 4 << 30

    def build(table: PageTable) -> None:
        table.map_page(start, Hpa(DATA.start), R)
        steps = table.explain(start).steps
        word = DATA.start | VALID | TABLE_OR_PAGE | AF | leaf
        machine.memory.store_u64(steps[-1].slot_hpa, word)
        above = machine.memory.load_u64(steps[-2].slot_hpa)
        machine.memory.store_u64(steps[-2].slot_hpa, above | AP_TABLE_NO_USER | PXN_TABLE)
        found = table.query(start)
        assert found is not None
        granted = found.permissions
        assert {letter for bit, letter in ((1, "r"), (2, "w"), (4, "x")) if granted & bit} == set(allowed)

    verdict = compared(machine, pair, every_kind(pair, [start]), build)
    assert (verdict.mismatches, verdict.unjudged) == ([], 0)
    assert verdict.outcomes["made"] == sum({"r": 4, "w": 4, "x": 2}[letter] for letter in allowed)


def test_xn_table_and_ap_table_1_hold_below_in_the_el2_regime(machine: AArch64Machine) -> None:
    pair, start = pair_of(EL2), 4 << 30

    def build(table: PageTable) -> None:
        table.map_page(start, Hpa(DATA.start), RWX)
        slot = table.explain(start).steps[-2].slot_hpa
        machine.memory.store_u64(slot, machine.memory.load_u64(slot) | UXN_TABLE | 1 << 62)

    verdict = compared(machine, pair, every_kind(pair, [start]), build)
    assert (verdict.mismatches, verdict.unjudged) == ([], 0)
    assert verdict.outcomes == {"made": 4, "refused by stage 1": 6, "refused by stage 2": 0}


@pytest.mark.parametrize("pair", SMALL, ids=lambda pair: pair.name)
def test_par_has_the_memory_type_that_the_leaf_chose(machine: AArch64Machine, pair: Pair) -> None:
    start = base_of(pair) + (4 << 30)
    kinds = [(index, share) for index in range(4) for share in (0, 2, 3)]
    with tables(machine, pair) as table:
        table.map_range(start, Hpa(DATA.start), 4096 * len(kinds), R, largest=4096)
        first = table.explain(start).steps[-1].slot
        for at, (index, share) in enumerate(kinds):
            word = DATA.start + 4096 * at | VALID | TABLE_OR_PAGE | AF | index << 2 | share << 8
            machine.memory.store_u64(Hpa(first + 8 * at), word)
        listed = np.zeros(len(kinds), PROBE_ENTRY)
        listed["address"] = np.uint64(start) + np.arange(len(kinds), dtype=np.uint64) * np.uint64(4096)
        listed["kind"], listed["reserved"] = TRANSLATE, OwnInstruction.AT_S1E2R
        machine.enter_own(table.regime)
        pars = machine.probe(listed)["value"].tolist()
    for at, (index, share) in enumerate(kinds):
        ours = encode_translated(DATA.start + 4096 * at, MAIR >> 8 * index & 0xFF, share)
        if not ORACLE.newer and index in (1, 2):
            # Of Device and Non-cacheable memory QEMU 7.2 gives the leaf's shareability, if stage 1 is alone.
            ours = ours & ~_SHAREABILITY | share << 7
        assert pars[at] == ours


# --- the machine -----------------------------------------------------------------------------------------------------
def test_a_guest_is_judged_as_before_once_its_hypervisor_was(machine: AArch64Machine) -> None:
    """HCR_EL2.E2H gives the names of EL1's registers to EL2's; it must be gone before a guest's are loaded."""
    trial = Trial(ORACLE, ORACLE.version())
    both = next(pair for pair in ORACLE.pairs if pair.first is not None)
    for pair in (pair_of(EL2_VHE), both, pair_of(EL2), both, pair_of(EL2_VHE, "arm-s1-4k-39-high"), both):
        verdict = trial.batch(machine, pair, 7, 300)
        assert verdict.mismatches == []
        assert verdict.cases > 100
    trial.close()


def test_the_el2_regime_of_the_high_half_is_refused(machine: AArch64Machine) -> None:
    high = by_name("arm-s1-4k-39-high")
    with pytest.raises(EncodingError, match="no TTBR1"):
        machine.enter_own(Regime(high, TABLES.start, high.controls_with("el2")))
