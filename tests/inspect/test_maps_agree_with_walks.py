"""Maps and looked-up translations against the explained walk, on tables full of garbage: they must never differ."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_source import Memory

sys.path.insert(0, str(Path(__file__).parents[1] / "tables"))
from random_tables import RANGES
from test_walk_agreement import any_format, garbage

from effort import examples
from stage2.address import Range
from stage2.conform.entries import Maker
from stage2.errors import SourceError
from stage2.formats import names
from stage2.inspect import translate as translating
from stage2.inspect.mapping import map_parts
from stage2.inspect.root import Root
from stage2.inspect.route import Route
from stage2.inspect.translate import translate, translate_many
from stage2.memory.physical import PhysicalMemory

SEEDS = st.integers(0, (1 << 32) - 1)
PAIRS = [
    ("sv39", "sv39x4"), ("sv39", "sv48x4"), ("sv48", "sv57x4"), ("x86-4level", "ept4"), ("x86-4level", "npt4"),
    ("arm-s1-4k-39", "arm-s2-4k-40"), ("arm-s1-16k-47", "arm-s2-4k-40"), ("arm-s1-64k-48", "arm-s2-4k-44"),
]  # fmt: skip
FEW_TABLES = 300
"""Garbage leads to itself: more tables than this are not listed in a test."""


@pytest.fixture(autouse=True)
def always_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translating, "FEW", 0)
    monkeypatch.setattr(translating, "_MOST_TABLES", FEW_TABLES)


def same(source: Memory, route: Route, addresses: list[int]) -> None:
    many = translate_many(source, route, np.array(addresses, np.uint64))
    for address, looked_up in zip(addresses, many, strict=True):
        walked = translate(source, route, address)
        assert (looked_up.hpa, looked_up.permissions) == (walked.hpa, walked.permissions), hex(address)
        assert (looked_up.fault is None) == (walked.fault is None), hex(address)
        if looked_up.fault is not None and walked.fault is not None:
            told = [(one.kind, one.stage, one.level, one.on_table) for one in (looked_up.fault, walked.fault)]
            assert told[0] == told[1], hex(address)
        if route.second is not None and walked.hpa is not None:
            assert looked_up.gpa == walked.gpa


def addresses_of(maker: Maker, rng: np.random.Generator) -> list[int]:
    """Addresses in and around the tables, and others close to each."""
    found = maker.addresses(60)
    near = [address ^ int(rng.integers(0, 1 << 21)) for address in found]
    return [*found, *near, 0, (1 << 64) - 1, 1 << 63]


@given(name=st.sampled_from(names()), seed=SEEDS)
@settings(max_examples=examples(60))
def test_looking_up_answers_as_walking_on_garbage(name: str, seed: int) -> None:
    with PhysicalMemory(RANGES) as memory:
        regime, maker = garbage(any_format(name), seed, memory)
        root = Root(regime)
        route = Route((root,), None) if root.stage == 1 else Route((), root)
        same(Memory(memory), route, addresses_of(maker, np.random.default_rng(seed)))


@given(pair=st.sampled_from(PAIRS), seed=SEEDS)
@settings(max_examples=examples(60))
def test_looking_up_answers_as_walking_both_stages_on_garbage(pair: tuple[str, str], seed: int) -> None:
    first, second = pair
    with PhysicalMemory(RANGES) as memory:
        stage_2, outer = garbage(any_format(second), seed, memory, flaws=0.3)
        stage_1, maker = garbage(any_format(first), seed ^ 1, memory, flaws=0.3)
        below = Root(stage_2)
        route = Route((Root(stage_1, under=below),), below)
        same(Memory(memory), route, addresses_of(maker, np.random.default_rng(seed)) + outer.addresses(10))


@given(name=st.sampled_from(names()), seed=SEEDS)
@settings(max_examples=examples(60))
def test_a_map_is_in_order_and_both_ends_of_each_range_are_walked_alike(name: str, seed: int) -> None:
    with PhysicalMemory(RANGES) as memory:
        regime, _ = garbage(any_format(name), seed, memory)
        root, source = Root(regime), Memory(memory)
        first, second = (root, None) if root.stage == 1 else (None, root)
        route = Route((root,), None) if root.stage == 1 else Route((), root)
        end = 0
        count = 0
        with suppress(SourceError):  # more tables than are listed here
            for part in map_parts(source, first, second, most=FEW_TABLES):
                for one in part.told():
                    assert one.start >= end
                    end = one.start + one.size
                    count += 1
                    if count % 50 < 2:
                        for offset in (0, one.size - 1):
                            walked = translate(source, route, one.start + offset)
                            assert walked.hpa == (one.hpa or 0) + offset
                            assert walked.permissions == one.permissions


@given(seed=SEEDS, start=st.integers(0, (1 << 39) - 1), size=st.integers(1, 1 << 39))
def test_a_part_of_a_map_is_the_whole_cut_to_it(seed: int, start: int, size: int) -> None:
    span = Range(start, min(start + size, 1 << 39))
    with PhysicalMemory(RANGES) as memory:
        regime, _ = garbage(any_format("arm-s1-4k-39"), seed, memory, flaws=0.1)
        root, source = Root(regime), Memory(memory)
        try:
            whole = [one for part in map_parts(source, root, None, most=FEW_TABLES) for one in part.told()]
        except SourceError:
            return
        cut = [one for part in map_parts(source, root, None, span=span) for one in part.told()]
    wanted = [
        (max(one.start, span.start), min(one.start + one.size, span.end), one.permissions)
        for one in whole
        if one.start < span.end and one.start + one.size > span.start
    ]
    assert [(one.start, one.start + one.size, one.permissions) for one in cut] == wanted
