"""The bits of free frames: the block, group and order indices agree with the frames, whatever was taken."""

import random

import numpy as np
import pytest

from stage2.address import GIB, MIB, SIZE_1G, SIZE_2M, SIZE_4K, Range
from stage2.memory import arena as bits
from stage2.memory.arena import FRAMES, GROUP, Arena

ODD = Range(GIB - 5 * SIZE_2M - 3 * SIZE_4K, GIB + 4 * SIZE_2M + 7 * SIZE_4K)


def free_frames(arena: Arena) -> set[int]:
    """The HPAs of free frames, from the arena's own state; checks its indices against each other."""
    found = set()
    partial = arena._partial
    for block in range(arena._whole.size):
        assert not (arena._whole[block] and block in partial)
        value = arena._bits(block)
        base = arena.origin + block * SIZE_2M
        found |= {base + frame * SIZE_4K for frame in range(FRAMES) if value >> frame & 1}
    assert arena._wholes.tolist() == arena._whole.reshape(-1, GROUP).sum(axis=1).tolist()
    assert all(0 < value < (1 << FRAMES) - 1 for value in partial.values())
    by_order = {block: order for order, fitting in enumerate(arena._by_order) for block in fitting}
    assert by_order == {block: bits._order_of(value) for block, value in partial.items()}
    assert len(found) == arena.free_frames
    return found


def frames_of(span: Range) -> set[int]:
    return set(range(span.start, span.end, SIZE_4K))


def places_for(free: set[int], frames: int, align: int) -> list[int]:
    """Where so many of the free frames, in a row and aligned, begin."""
    run, found = 0, []
    for hpa in sorted(free, reverse=True):
        run = run + 1 if hpa + SIZE_4K in free else 1
        if run >= frames and hpa % align == 0:
            found.append(hpa)
    return found


def test_a_range_that_begins_and_ends_within_blocks_is_free_exactly() -> None:
    assert free_frames(Arena(ODD)) == frames_of(ODD)


@pytest.mark.parametrize(
    ("value", "order"),
    [(0b1, 0), (0b110, 0), (0b11, 1), (0b1111_0000, 2), (0b0111_1110, 1), ((1 << 512) - 2, 8), ((1 << 512) - 1, 9)],
)
def test_order_is_that_of_the_largest_aligned_piece(value: int, order: int) -> None:
    assert bits._order_of(value) == order


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8, 13, 511, 512])
def test_runs_are_found_at_every_place_they_begin(length: int) -> None:
    dice = random.Random(length)
    value = (1 << 512) - 1
    for _ in range(512 // length):
        value &= ~(1 << dice.randrange(512))
    text = f"{value:0512b}"[::-1]
    expected = {start for start in range(512) if text[start : start + length] == "1" * length}
    found = bits._runs_of(value, length)
    assert {start for start in range(512) if found >> start & 1} == expected


def test_taking_and_giving_at_random_keeps_the_indices_true() -> None:
    dice = random.Random(7)
    arena = Arena(ODD)
    model = frames_of(ODD)
    taken: list[Range] = []
    for step in range(400):
        if taken and dice.random() < 0.45:
            span = taken.pop(dice.randrange(len(taken)))
            arena.give(span)
            model |= frames_of(span)
        else:
            frames = dice.choice([1, 2, 3, 7, 16, 300, 512, 513, 1024, 1500])
            align = 1 << dice.randrange(12, 23)
            found = arena.find_run(frames, align)
            if found is None:
                assert not places_for(model, frames, align)
                continue
            assert found % align == 0
            span = Range.sized(found, frames * SIZE_4K)
            assert frames_of(span) <= model
            arena.take(span)
            model -= frames_of(span)
            taken.append(span)
        if step % 10 == 0:
            assert free_frames(arena) == model


def test_gigabytes_and_blocks_come_from_the_top_and_broken_ones_first() -> None:
    arena = Arena(Range(0, 4 * GIB))
    arena.take(Range.sized(GIB + 4 * MIB, SIZE_4K))
    assert arena.take_blocks(2) == [Range(2 * GIB - 4 * MIB, 2 * GIB)]
    assert arena.take_gigabytes(2) == [Range(2 * GIB, 4 * GIB)]
    assert arena.take_gigabytes(5) == [Range(0, GIB)]
    assert arena.take_gigabytes(1) == []
    rest = arena.take_blocks(10_000)
    assert rest == [Range(GIB, GIB + 4 * MIB), Range(GIB + 6 * MIB, 2 * GIB - 4 * MIB)]
    assert arena.take_blocks(1) == []
    assert arena.free_frames == FRAMES - 1


def test_blocks_in_a_row_are_found_at_large_alignments() -> None:
    arena = Arena(Range(3 * GIB, 9 * GIB))
    assert arena.find_blocks(2 * GROUP, 4 * SIZE_1G) == 4 * GIB
    assert arena.find_blocks(GROUP, 8 * SIZE_1G) == 8 * GIB
    assert arena.find_blocks(6 * GROUP, SIZE_2M) == 3 * GIB
    assert arena.find_blocks(6 * GROUP + 1, SIZE_2M) is None
    assert arena.find_blocks(1, 1 << 56) is None


def test_the_books_of_64_gib_are_small() -> None:
    arena = Arena(Range(0, 64 * GIB))
    assert arena._whole.nbytes + arena._wholes.nbytes <= 64 * 1024
    assert arena._whole.dtype == np.bool_
    assert not arena._partial
