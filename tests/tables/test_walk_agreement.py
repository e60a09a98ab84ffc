"""The batch kernels against the explained walk, on tables full of garbage: the two must never differ."""

from contextlib import nullcontext
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import FRAMES, OUTSIDE, RANGES, switches_of

from effort import FACTOR, examples
from format_lists import KINDS
from kernel_forms import looking_ahead
from stage2.address import SIZE_4K, Gva, Hpa, Range
from stage2.conform.entries import Maker
from stage2.flags import Access
from stage2.formats import by_name, names
from stage2.formats.outcome import FaultKind
from stage2.formats.record import Format
from stage2.formats.riscv.formats import BARE_STAGE_1, BARE_STAGE_2
from stage2.formats.u64 import MASK_64
from stage2.memory.physical import PhysicalMemory
from stage2.tables.batch import translate_batch, translate_two_stage_batch
from stage2.tables.compiled import host_memory
from stage2.tables.explain import explain_stage, explain_two_stage
from stage2.tables.regime import Regime
from stage2.tables.result import Fault, Mapped, need_mask
from stage2.tables.single import Single
from stage2.tables.two_stage_kernel import UNMAPPED

SEEDS = st.integers(0, (1 << 32) - 1)
PAIRS = [
    ("sv39", "sv39x4"), ("sv39", "bare-s2"), ("bare-s1", "sv39x4"), ("x86-4level", "ept4"),
    ("arm-s1-4k-39", "arm-s2-4k-40"),
]  # fmt: skip
if FACTOR > 1:
    # A kernel of two formats takes ten seconds to compile.
    PAIRS += [
        ("sv39", "sv48x4"), ("sv39", "ept4"), ("sv48", "sv57x4"), ("sv57", "sv39x4"), ("bare-s1", "bare-s2"),
        ("x86-5level", "npt4"),
    ]  # fmt: skip
ATTEMPTS = [(None, False), *product(Access, (False, True))]


def any_format(name: str) -> Format:
    bare = {"bare-s1": BARE_STAGE_1, "bare-s2": BARE_STAGE_2}
    return bare.get(name) or by_name(name)


def root_for(fmt: Format, rng: np.random.Generator) -> int:
    starts = [hpa for hpa in FRAMES if hpa % fmt.root_size == 0]
    fitting = [hpa for hpa in starts if any(span.covers(Range.sized(hpa, fmt.root_size)) for span in RANGES)]
    return int(rng.choice(fitting))


def garbage(fmt: Format, seed: int, memory: PhysicalMemory, flaws: float = 1.0) -> tuple[Regime, Maker]:
    """A regime over tables that point anywhere: to each other, to themselves, into holes and out of memory."""
    rng = np.random.default_rng(seed)
    root = root_for(fmt, rng)
    fitting = [hpa for hpa in FRAMES if hpa % fmt.table_size == 0 and memory.contains(hpa, fmt.table_size)]
    tables = [int(hpa) for hpa in rng.choice(fitting, 6)]
    maker = Maker(fmt, rng, [*tables, *tables, *tables, root, int(rng.choice(OUTSIDE))], FRAMES, flaws=flaws)
    # A table may be met at any level, so its entries suit any.
    for table in tables:
        maker.fill(memory, table, int(rng.integers(0, max(fmt.levels, 1))))
    if not fmt.is_bare:
        maker.fill(memory, root, fmt.levels - 1, fmt.root_bits)
    return Regime.of(fmt, root, controls=maker.choose(switches_of(fmt))), maker


@pytest.mark.parametrize("name", names())
@given(seed=SEEDS)
def test_a_batch_answers_as_the_explained_walk_on_garbage(name: str, seed: int) -> None:
    fmt = by_name(name)
    with PhysicalMemory(RANGES) as memory:
        regime, maker = garbage(fmt, seed, memory)
        addresses = maker.addresses(100)
        with looking_ahead(fmt) if seed % 2 else nullcontext():
            batch = translate_batch(host_memory(memory), regime, np.array(addresses, np.uint64))
        for i, address in enumerate(addresses):
            wanted = explain_stage(memory, regime, address)
            level = int(batch.attributes[i]) >> 24
            if isinstance(wanted.result, Fault):
                assert batch.fault(i) == wanted.result, f"{address:#x}: {wanted}"
                assert int(batch.hpa[i]) == UNMAPPED
            else:
                assert batch.fault(i) is None, f"{address:#x}: {wanted}"
                assert int(batch.hpa[i]) == wanted.result.hpa
                assert fmt.leaf_size(level) == wanted.result.size
                granted = fmt.permissions(int(batch.attributes[i]) & 0xFF_FFFF, regime.controls)
                assert granted == wanted.result.permissions
            assert len(wanted.steps) <= fmt.levels, "a walk is bounded, whatever the tables say"
        del batch


@pytest.mark.parametrize("name", KINDS)
@given(seed=SEEDS)
@settings(max_examples=examples(40))
def test_one_compiled_translation_answers_as_the_explained_walk_on_garbage(name: str, seed: int) -> None:
    fmt = by_name(name)
    with PhysicalMemory(RANGES) as memory:
        regime, maker = garbage(fmt, seed, memory)
        before = [memory.read(Hpa(hpa), SIZE_4K) for hpa in FRAMES if memory.contains(hpa, SIZE_4K)]
        single = Single(host_memory(memory), regime)
        addresses = maker.addresses(20)
        for address, (access, user) in product(addresses, ATTEMPTS):
            wanted = explain_stage(memory, regime, address, access, user=user).result
            assert single.translate(address, access, need_mask(access, user=user)) == wanted
            if access is None:
                assert single.hpa_of(address) == (wanted.hpa if isinstance(wanted, Mapped) else None)
        after = [memory.read(Hpa(hpa), SIZE_4K) for hpa in FRAMES if memory.contains(hpa, SIZE_4K)]
        assert after == before, "a lookup leaves accessed and dirty bits alone"


@pytest.mark.parametrize("name", names())
def test_the_garbage_meets_every_way_a_walk_can_end(name: str) -> None:
    """The property above is only worth something if its tables reach every outcome."""
    fmt = by_name(name)
    seen = set()
    for seed in range(60):
        with PhysicalMemory(RANGES) as memory:
            regime, maker = garbage(fmt, seed, memory)
            batch = translate_batch(host_memory(memory), regime, np.array(maker.addresses(100), np.uint64))
            seen |= set(zip(batch.status.tolist(), (batch.attributes >> 24).tolist(), strict=True))
    kinds = {kind for kind, _ in seen}
    walk_ends = {FaultKind.TRANSLATION, FaultKind.MISCONFIGURATION, FaultKind.ADDRESS_SIZE}
    if fmt.family == "arm":
        # What is reserved is invalid to Arm; too wide an output is an address size fault at its level.
        walk_ends -= {FaultKind.MISCONFIGURATION}
    assert kinds == {0, *walk_ends, FaultKind.TABLE_OUTSIDE_MEMORY}
    assert {level for kind, level in seen if kind == 0} == set(range(fmt.top_leaf_level + 1))
    reserved = FaultKind.ADDRESS_SIZE if fmt.family == "arm" else FaultKind.MISCONFIGURATION
    met = {level for kind, level in seen if kind == reserved}
    assert met == set(range(fmt.levels)) or (fmt.family == "arm" and len(met) >= fmt.levels - 1)


def two_stages(first: Format, second: Format, seed: int, memory: PhysicalMemory) -> tuple[Regime, Regime, list[int]]:
    """Stage-2 garbage in which most of the stage-1 tables' pages are reachable, and stage-1 garbage in those pages."""
    regime_2, maker_2 = garbage(second, seed, memory, flaws=0.3)
    rng = maker_2.rng
    if second.is_bare:
        gpas = {hpa: hpa for hpa in FRAMES}
    else:
        found: dict[int, int] = {}
        for gpa in maker_2.addresses(300):
            page = gpa & ~(SIZE_4K - 1)
            end = explain_stage(memory, regime_2, page).result
            if isinstance(end, Mapped) and memory.contains(end.hpa, SIZE_4K):
                found[page] = int(end.hpa)
        gpas = {gpa: hpa for gpa, hpa in found.items() if gpa < 1 << 56}
    reachable = sorted(gpas) or [0]
    unreachable = [gpa & (1 << 56) - SIZE_4K for gpa in maker_2.addresses(2)]
    if first.is_bare:
        root = 0
        addresses = [*maker_2.addresses(60), *reachable]
    else:
        chosen = [int(gpa) for gpa in rng.choice(np.array(reachable, np.uint64), 5)]
        root = chosen[0]
        maker_1 = Maker(first, rng, [*chosen, *chosen, *unreachable], [*reachable, *unreachable])
        for gpa in chosen:
            if gpa in gpas:
                maker_1.fill(memory, gpas[gpa], first.levels - 1 if gpa == root else int(rng.integers(0, first.levels)))
        addresses = maker_1.addresses(60)
    regime_1 = Regime.of(first, root, controls=maker_2.choose(switches_of(first)))
    return regime_1, regime_2, addresses


@pytest.mark.parametrize(("first", "second"), PAIRS)
@given(seed=SEEDS, attempt=st.sampled_from(ATTEMPTS))
@settings(max_examples=examples(25))
def test_a_two_stage_batch_answers_as_the_explained_walk_on_garbage(
    first: str, second: str, seed: int, attempt: tuple[Access | None, bool]
) -> None:
    access, user = attempt
    with PhysicalMemory(RANGES) as memory:
        regime_1, regime_2, gvas = two_stages(any_format(first), any_format(second), seed, memory)
        before = [memory.read(Hpa(span.start), span.size) for span in RANGES]
        with looking_ahead(regime_1.format, regime_2.format) if seed % 2 else nullcontext():
            batch = translate_two_stage_batch(
                host_memory(memory), regime_1, regime_2, np.array(gvas, np.uint64), access, user=user
            )
        assert [memory.read(Hpa(span.start), span.size) for span in RANGES] == before, "a batch wrote to memory"
        for i, gva in enumerate(gvas):
            wanted = explain_two_stage(memory, regime_1, regime_2, Gva(gva), access, user=user).result
            fault = batch.fault(i)
            if fault is not None:
                assert fault == wanted
                assert int(batch.hpa[i]) == MASK_64
            else:
                assert isinstance(wanted, Mapped), f"{gva:#x}: {wanted}"
                assert (int(batch.hpa[i]), int(batch.gpa[i])) == (wanted.hpa, wanted.gpa)
                assert int(batch.permissions[i]) == wanted.permissions


def test_the_two_stage_garbage_meets_every_sort_of_fault() -> None:
    seen = set()
    mapped = 0
    for seed in range(100):
        with PhysicalMemory(RANGES) as memory:
            regime_1, regime_2, gvas = two_stages(by_name("sv39"), by_name("sv39x4"), seed, memory)
            for access in Access:
                batch = translate_two_stage_batch(
                    host_memory(memory), regime_1, regime_2, np.array(gvas, np.uint64), access
                )
                faults = [batch.fault(i) for i in range(len(gvas))]
                mapped += faults.count(None)
                seen |= {(fault.kind, fault.stage, fault.on_table, fault.on_mark) for fault in faults if fault}
    assert mapped
    assert {kind for kind, stage, _, _ in seen if stage == 1} >= set(FaultKind) - {FaultKind.TABLE_OUTSIDE_MEMORY}
    on_table = {kind for kind, stage, table, _ in seen if stage == 2 and table}
    assert on_table >= {FaultKind.TRANSLATION, FaultKind.PERMISSION, FaultKind.MISCONFIGURATION}
    at_the_end = {kind for kind, stage, table, _ in seen if stage == 2 and not table}
    assert at_the_end >= {FaultKind.TRANSLATION, FaultKind.PERMISSION, FaultKind.MISCONFIGURATION}
    assert any(mark for *_, mark in seen), "no write of an accessed or dirty bit was refused"
