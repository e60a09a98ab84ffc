"""Walks by folded functions say what walks by the functions as they are written say, step by step."""

import ast
from functools import partial
from inspect import unwrap
from itertools import count, product
from types import FunctionType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import RANGES
from test_walk_agreement import ATTEMPTS, PAIRS, SEEDS, any_format, garbage, two_stages

from effort import examples
from stage2.address import SIZE_4K, Gva, Hpa, Range
from stage2.flags import Access
from stage2.formats import by_name, names
from stage2.formats.outcome import ACCESSED, DIRTY
from stage2.formats.record import Format
from stage2.formats.riscv import entry as riscv
from stage2.formats.u64 import MASK_64, u64
from stage2.memory.physical import PhysicalMemory
from stage2.tables import explain
from stage2.tables.assembly import check, locating, lookup, plain
from stage2.tables.descent import Function, entry_at, visit_nothing
from stage2.tables.explain import explain_stage, explain_two_stage
from stage2.tables.folded import FEW, folded, folded_format
from stage2.tables.regime import Regime

PAGE = Range(0x8000_0000, 0x8000_0000 + 4 * SIZE_4K)
FACTOR = 3


def both_forms(monkeypatch: pytest.MonkeyPatch, walk: partial[explain.Walk]) -> tuple[explain.Walk, explain.Walk]:
    found = []
    for often in (False, True):
        monkeypatch.setattr(explain, "_often", lambda often=often: often)
        found.append(walk())
    return found[0], found[1]


@pytest.mark.parametrize("name", names())
@given(seed=SEEDS)
@settings(max_examples=examples(25))
def test_one_stage_walks_the_same_by_either_form(name: str, seed: int) -> None:
    with PhysicalMemory(RANGES) as memory, pytest.MonkeyPatch.context() as monkeypatch:
        regime, maker = garbage(by_name(name), seed, memory)
        for address, (access, user) in product(maker.addresses(20), ATTEMPTS):
            written, quick = both_forms(monkeypatch, partial(explain_stage, memory, regime, address, access, user=user))
            assert written == quick


@pytest.mark.parametrize(("first", "second"), PAIRS)
@given(seed=SEEDS, attempt=st.sampled_from(ATTEMPTS))
@settings(max_examples=examples(25))
def test_both_stages_walk_the_same_by_either_form(
    first: str, second: str, seed: int, attempt: tuple[Access | None, bool]
) -> None:
    access, user = attempt
    with PhysicalMemory(RANGES) as memory, pytest.MonkeyPatch.context() as monkeypatch:
        regimes = two_stages(any_format(first), any_format(second), seed, memory)
        for gva in regimes[2]:
            walk = partial(explain_two_stage, memory, *regimes[:2], Gva(gva), access, user=user)
            written, quick = both_forms(monkeypatch, walk)
            assert written == quick


def test_walks_are_made_by_folded_functions_once_there_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []
    stage = explain._stage

    def noting(fmt: Format, often: bool) -> Function:
        made.append(often)
        return stage(fmt, often)

    monkeypatch.setattr(explain, "_stage", noting)
    monkeypatch.setattr(explain, "_walks", count())
    with PhysicalMemory([PAGE]) as memory:
        for _ in range(FEW + 2):
            explain_stage(memory, Regime.of(by_name("sv39x4"), PAGE.start), 0)
    assert made == [False] * FEW + [True] * 2


@pytest.mark.parametrize("name", names())
def test_no_call_of_u64_on_constants_is_left_in_what_a_walk_is_made_of(name: str) -> None:
    fmt = folded_format(by_name(name))
    parts = [
        unwrap(fmt.decode), unwrap(fmt.permissions), fmt.mark, check(fmt, folded), locating(fmt, folded),
        lookup(fmt, folded, visit_nothing, folded),
    ]  # fmt: skip
    for part in parts:
        assert isinstance(part, FunctionType)
        assert "u64" not in part.__code__.co_names, part.__name__


def test_constants_of_modules_and_of_makers_are_worked_out_and_arguments_are_not() -> None:
    by_maker = 5

    def function(value: int) -> tuple[int, int, int, int, int]:
        return u64(value), u64(by_maker), u64(FACTOR << 2 | 1), u64(ACCESSED ^ DIRTY), u64(riscv.SUM)

    quick = folded(function)
    assert quick is not function
    assert quick.__code__.co_names.count("u64") == 1
    assert "FACTOR" not in quick.__code__.co_names
    assert "by_maker" not in quick.__code__.co_freevars
    for value in (0, -1, 1 << 64, 1 << 70 | 3):
        assert quick(value) == function(value) == (value & MASK_64, 5, 13, ACCESSED ^ DIRTY, riscv.SUM)


def test_a_name_that_the_function_sets_itself_is_no_constant() -> None:
    def function(value: int) -> int:
        FACTOR = value + 1  # noqa: N806  # as the module's
        return u64(FACTOR)

    assert folded(function)(1) == 2


def test_what_stays_of_a_function_is_as_it_was() -> None:
    shared = [1]

    def function(value: int, step: int = 2) -> int:
        shared[0] += u64(1)
        return value + step * u64(FACTOR)

    quick = folded(function)
    assert (quick(1), shared) == (7, [2]), "cells and defaults are those of the function"
    assert quick.__name__ == "function"
    positions = [line for *_, line in quick.__code__.co_lines() if line]
    assert min(positions) >= function.__code__.co_firstlineno, "a traceback shows the lines of the source"
    assert {*positions} <= {line for *_, line in function.__code__.co_lines()}


def test_what_has_no_source_or_nothing_to_work_out_stays_the_function_it_is() -> None:
    scope: dict[str, object] = {"u64": u64}
    exec("def nowhere(value):\n    return value + u64(1)", scope)
    nowhere = scope["nowhere"]
    assert isinstance(nowhere, FunctionType)
    assert folded(nowhere) is nowhere
    assert folded(plain) is plain
    assert folded(len) is len
    assert folded(ast.parse) is ast.parse


def test_a_helper_that_is_called_by_name_is_folded_too() -> None:
    def function(base: int) -> int:
        return entry_at(base, u64(2))

    assert folded(function).__globals__["entry_at"] is folded(entry_at) is not entry_at
    assert folded(function)(0x1000) == 0x1010


def test_a_word_is_there_or_none_and_only_where_words_are() -> None:
    with PhysicalMemory([PAGE, Range(PAGE.end + SIZE_4K, PAGE.end + 2 * SIZE_4K)]) as memory:
        memory.store_u64(Hpa(PAGE.end - 8), 7)
        assert memory.word_at(PAGE.end - 8) == 7
        assert [memory.word_at(hpa) for hpa in (PAGE.start - 8, PAGE.end, PAGE.end + SIZE_4K - 8)] == [None] * 3
        assert memory.word_at(PAGE.end + SIZE_4K) == 0
    assert memory.word_at(PAGE.start) is None, "a closed memory has no words"
