"""Large batches: what the kernels remember from one address must not show in the answer for another."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import RANGES
from test_walk_agreement import ATTEMPTS, PAIRS, SEEDS, any_format, garbage, two_stages

from effort import examples
from kernel_forms import looking_ahead
from stage2.errors import OutOfRangeError
from stage2.flags import Access
from stage2.formats import names
from stage2.memory.physical import PhysicalMemory
from stage2.tables.batch import Batch, TwoStageBatch, translate_batch, translate_two_stage_batch
from stage2.tables.compiled import host_memory
from stage2.tables.parallel import MOST, in_pieces

U64Array = npt.NDArray[np.uint64]


def shuffled(addresses: list[int], seed: int) -> U64Array:
    """The addresses several times over with near neighbours, in random order: prefixes come back all the time."""
    chance = np.random.default_rng(seed)
    known = np.array(addresses, np.uint64)
    near = known ^ chance.integers(0, 1 << 30, len(known), dtype=np.uint64)
    return chance.permutation(np.concatenate([known, known, near, known ^ np.uint64(0x1000), known]))


def rows_of(batch: TwoStageBatch) -> list[list[int]]:
    columns = batch.hpa, batch.gpa, batch.permissions, batch.status
    return [list(row) for row in zip(*[column.tolist() for column in columns], strict=True)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
@given(seed=SEEDS, attempt=st.sampled_from(ATTEMPTS))
@settings(max_examples=examples(15))
def test_an_address_of_a_two_stage_batch_gets_the_answer_that_it_gets_alone(
    first: str, second: str, seed: int, attempt: tuple[Access | None, bool]
) -> None:
    access, user = attempt
    with PhysicalMemory(RANGES) as memory:
        regime_1, regime_2, gvas = two_stages(any_format(first), any_format(second), seed, memory)
        host, many = host_memory(memory), shuffled(gvas, seed)
        with looking_ahead(regime_1.format, regime_2.format):
            together = rows_of(translate_two_stage_batch(host, regime_1, regime_2, many, access, user=user))
        alone = [
            rows_of(translate_two_stage_batch(host, regime_1, regime_2, [gva], access, user=user))[0]
            for gva in many.tolist()
        ]
        assert together == alone


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16, 17, 33])
def test_batches_of_any_length_are_answered_to_the_last_address(count: int) -> None:
    seed = 3
    with PhysicalMemory(RANGES) as memory:
        regime_1, regime_2, gvas = two_stages(any_format("sv39"), any_format("sv39x4"), seed, memory)
        host, many = host_memory(memory), shuffled(gvas, seed)
        whole = rows_of(translate_two_stage_batch(host, regime_1, regime_2, many, Access.READ))
        some = rows_of(translate_two_stage_batch(host, regime_1, regime_2, many[:count], Access.READ))
        assert some == whole[:count]
        assert len({row[3] for row in whole}) > 3, "nearly all addresses end in one way"


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
@pytest.mark.parametrize("name", ["ept4", "sv39x4", "arm-s2-16k-40"])
def test_any_number_of_threads_gives_the_answers_of_one(name: str, threads: int) -> None:
    assert name in names()
    with PhysicalMemory(RANGES) as memory:
        regime, maker = garbage(any_format(name), 11, memory)
        host, many = host_memory(memory), np.tile(shuffled(maker.addresses(200), 5), 3).reshape(3, -1)
        one = translate_batch(host, regime, many, threads=1)
        out = Batch(np.empty_like(one.hpa), np.empty_like(one.status), np.empty_like(one.attributes))
        several = translate_batch(host, regime, many, out, threads=threads)
        assert several.hpa is out.hpa
        for part in ("hpa", "status", "attributes"):
            assert (getattr(one, part) == getattr(several, part)).all()


@pytest.mark.parametrize("threads", [2, 5])
def test_two_stage_batches_are_the_same_on_several_threads_and_in_a_result_used_before(threads: int) -> None:
    with PhysicalMemory(RANGES) as memory:
        regime_1, regime_2, gvas = two_stages(any_format("x86-5level"), any_format("npt4"), 8, memory)
        host, many = host_memory(memory), shuffled(gvas, 8)
        one = translate_two_stage_batch(host, regime_1, regime_2, many, Access.WRITE, threads=1)
        used = translate_two_stage_batch(host, regime_1, regime_2, many, Access.FETCH)
        again = translate_two_stage_batch(host, regime_1, regime_2, many, Access.WRITE, used, threads=threads)
        assert again.hpa is used.hpa
        assert rows_of(again) == rows_of(one)
        with pytest.raises(OutOfRangeError, match="cannot be written"):
            translate_two_stage_batch(host, regime_1, regime_2, many[1:], Access.WRITE, used)


def test_a_batch_refuses_threads_that_cannot_be() -> None:
    for threads in (0, -1, MOST + 1):
        with pytest.raises(OutOfRangeError, match=f"{threads} threads"):
            in_pieces(lambda _: None, 10, threads)


def test_an_error_in_one_piece_comes_out_when_all_pieces_are_done() -> None:
    done: list[slice] = []

    def work(piece: slice) -> None:
        done.append(piece)
        if piece.start == 0:
            raise ValueError("the first")

    with pytest.raises(ValueError, match="the first"):
        in_pieces(work, 9, 3)
    assert sorted(piece.start for piece in done) == [0, 3, 6]
