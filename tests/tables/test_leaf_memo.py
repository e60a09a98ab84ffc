"""A batch remembers how leaves were decoded, which must not let pass what a leaf alone would be refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tables import switches_of

from effort import examples
from format_lists import KINDS
from kernel_forms import looking_ahead
from stage2.address import MIB, Hpa, Range
from stage2.conform.entries import Maker
from stage2.flags import MappingFlags, MemoryType
from stage2.formats import by_name, names
from stage2.formats.u64 import MASK_64, u64
from stage2.memory.physical import PhysicalMemory
from stage2.tables.batch import translate_batch
from stage2.tables.compiled import host_memory
from stage2.tables.explain import explain_stage
from stage2.tables.leaf_memo import address_field
from stage2.tables.regime import Regime
from stage2.tables.result import Fault

RAM = Range.sized(0x8000_0000, 4 * MIB)
_RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, (1 << 32) - 1))
@settings(max_examples=examples(6))
def test_leaves_of_few_kinds_and_any_address_are_each_answered_as_alone(name: str, seed: int) -> None:
    fmt, rng = by_name(name), np.random.default_rng(seed)
    with PhysicalMemory([RAM]) as memory:
        maker = Maker(fmt, rng, [RAM.start], [RAM.start], flaws=0.3)
        controls = maker.choose(switches_of(fmt))
        if "napot" in fmt.switches and seed % 2:
            controls = fmt.controls_with("napot", base=controls)
        regime = Regime.of(fmt, RAM.start, controls=controls)
        first = MASK_64 << (fmt.input_bits - fmt.sign_extended) & MASK_64 if fmt.high_half else 0
        table = RAM.start
        for level in range(fmt.levels - 1, 0, -1):
            below = Range.sized(table, fmt.root_size if level == fmt.levels - 1 else fmt.table_size).end
            below += -below % fmt.table_size
            memory.write(Hpa(table), fmt.table_entry(below, regime.controls).to_bytes(8, "little"))
            table = below
        mask, _ = address_field(fmt)
        good = fmt.leaf_entry(0, 0, _RWX, MemoryType.WRITE_BACK, regime.controls)
        # A leaf of a group holds the group's address, or one that is reserved (RISC-V NAPOT).
        grouped = int(fmt.rules.group(u64(good), u64(0))) & ~mask
        kinds = [good, grouped, *(maker.entry(0) & ~mask for _ in range(3)), 0]
        count = fmt.table_size // 8
        for i in range(count):
            width = int(rng.integers(fmt.page_shift, 64))
            address = int(fmt.pack_address(u64(int(rng.integers(0, 1 << 63)) & ((1 << width) - 1) & -fmt.page_size)))
            memory.write(
                Hpa(table + 8 * i), (kinds[int(rng.integers(len(kinds)))] | address & mask).to_bytes(8, "little")
            )
        pages = np.array([first + i * fmt.page_size + 8 for i in range(count)], np.uint64)
        many = rng.permutation(np.concatenate([pages, pages]))
        with looking_ahead(fmt):
            batch = translate_batch(host_memory(memory), regime, many, threads=1)
        alone = {int(page): explain_stage(memory, regime, int(page)).result for page in pages}
        for i, address in enumerate(many.tolist()):
            wanted = alone[address]
            if isinstance(wanted, Fault):
                assert batch.fault(i) == wanted
            else:
                assert (batch.fault(i), int(batch.hpa[i])) == (None, wanted.hpa)
                granted = fmt.permissions(int(batch.attributes[i]) & 0xFF_FFFF, regime.controls)
                assert granted == wanted.permissions


@pytest.mark.parametrize("name", names())
def test_the_address_field_of_a_leaf_holds_every_page_that_it_says_and_nothing_else(name: str) -> None:
    fmt = by_name(name)
    mask, shift = address_field(fmt)
    assert mask.bit_count() >= 32, "a memo that knows only part of an address would seldom know a leaf"
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            kind, output, _ = fmt.decode(
                u64(fmt.leaf_entry(0, 1 << bit - shift, _RWX, MemoryType.WRITE_BACK) & (MASK_64)), u64(0),
                u64(fmt.default_controls),
            )  # fmt: skip
            assert (kind, output) == (fmt.decode(u64(fmt.leaf_entry(0, 0, _RWX, MemoryType.WRITE_BACK)), u64(0),
                                                 u64(fmt.default_controls))[0], 1 << bit - shift)  # fmt: skip
