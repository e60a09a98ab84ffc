"""What a newer QEMU's RISC-V can judge and 7.2 cannot: HLVX, Svade, MXR and Svpbmt of one stage."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from test_qemu_riscv64 import GVA, Bench, R, U, W, Witness, X

from opening import or_skip
from stage2.conform.probe import Means
from stage2.conform.trial import Trial
from stage2.flags import RWX, Access, MappingFlags
from stage2.formats.riscv import entry
from stage2.formats.riscv.syndromes import GUEST_PAGE_FAULTS, PAGE_FAULTS
from stage2.machines.emulator import Emulator
from stage2.machines.riscv64 import Riscv64Machine

GENERATION = 10
PAIRS = {pair.name: pair for pair in Witness(GENERATION).pairs}
AS_A_FETCH = {"riscv-hlvx-faults-as-a-fetch"}


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    oracle = Witness(GENERATION)
    made = Trial(oracle, or_skip(oracle.version))
    yield made
    made.close()


@pytest.fixture(scope="module")
def machine(trial: Trial) -> Iterator[Riscv64Machine]:
    with Riscv64Machine(Emulator("qemu", GENERATION)) as found:
        yield found


@pytest.fixture
def bench(trial: Trial, machine: Riscv64Machine, request: pytest.FixtureRequest) -> Iterator[Bench]:
    made = Bench(trial, machine, *request.param)
    yield made
    machine.memory.zero(made.places.tables)


def benches(*names: str, switches_1: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    given = [pytest.param((PAIRS[name], switches_1), id=name) for name in names]
    return pytest.mark.parametrize("bench", given, indirect=True)


@benches("sv39 over sv39x4, HLVX", "sv57 over sv57x4, HLVX and MXR")
@pytest.mark.parametrize(
    ("first", "second", "made"),
    [(X, X, True), (RWX, X, True), (R | W, RWX, False), (RWX, R | W, False), (RWX, RWX, True)],
)
def test_hlvx_needs_execute_permission_at_both_stages(
    bench: Bench, first: MappingFlags, second: MappingFlags, made: bool
) -> None:
    address = bench.map(first, second)
    assert bench.ask(address, Access.READ, means=Means.TRANSLATE).ok == made
    # The manual wants a load's exceptions.
    assert bench.deviations == (set() if made else AS_A_FETCH)


@benches("sv48x4 alone, HLVX")
def test_hlvx_over_stage_2_alone(bench: Bench) -> None:
    assert bench.ask(bench.map(X, X), Access.READ, means=Means.TRANSLATE).ok


@benches("sv39 over sv39x4, HLVX", switches_1=("sum",))
def test_sum_lets_hlvx_read_user_pages_as_any_load_but_not_by_qemu(bench: Bench) -> None:
    address = bench.map(X | U, X)
    assert bench.ask(address, Access.READ, user=True, means=Means.TRANSLATE).ok
    assert not bench.ask(address, Access.READ, means=Means.TRANSLATE).ok
    assert bench.deviations == {"riscv-hlvx-without-sum"}


@benches("sv39 over sv39x4, HLVX")
def test_hlvx_does_not_read_a_guests_tables_by_their_execute_permission(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    bench.stage_2.protect_range(bench.leaf(1) & ~0xFFF, 4096, X)
    answer = bench.ask(address, Access.READ, means=Means.TRANSLATE)
    assert not answer.ok
    assert answer.gpa == bench.leaf(1)


@benches("sv39 over sv39x4, Svade", "sv48x4 alone, Svade")
def test_under_svade_a_clear_bit_is_a_fault_of_its_stage(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    for stage, causes in ((1, PAGE_FAULTS), (2, GUEST_PAGE_FAULTS)):
        if stage == 1 and bench.stage_1 is None:
            continue
        for clear, access in ((entry.A, Access.READ), (entry.A, Access.FETCH), (entry.D, Access.WRITE)):
            bench.patch(stage, clear=clear)
            assert bench.ask(address, access).cause == causes[access]
            bench.patch(stage, set_=clear)
            assert bench.ask(address, access).ok


@benches("sv39 over sv39x4, Svade at stage 1")
def test_henvcfg_and_menvcfg_choose_for_their_own_stages(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    bench.patch(2, clear=entry.A | entry.D)
    assert bench.ask(address, Access.WRITE).ok
    bench.patch(1, clear=entry.D)
    assert bench.ask(address, Access.WRITE).cause == PAGE_FAULTS[Access.WRITE]


@benches("sv39 over sv39x4, MXR at stage 1")
def test_mxr_of_the_guest_does_not_bear_on_stage_2(bench: Bench) -> None:
    assert bench.ask(bench.map(X, R | X), Access.READ).ok
    bench.stage_2.protect_range(bench.data, 4096, X)
    assert bench.ask(GVA, Access.READ).cause == GUEST_PAGE_FAULTS[Access.READ]


@benches("sv39 over sv39x4, Svpbmt at stage 2")
def test_memory_types_of_stage_2_alone_are_reserved_at_stage_1(bench: Bench) -> None:
    address = bench.map(RWX, RWX)
    bench.patch(2, set_=1 << entry.PBMT_SHIFT)
    assert bench.ask(address, Access.READ).ok
    bench.patch(1, set_=1 << entry.PBMT_SHIFT)
    assert bench.ask(address, Access.READ).cause == PAGE_FAULTS[Access.READ]
