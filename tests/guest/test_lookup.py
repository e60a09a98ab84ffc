"""Lookups of few addresses answer as batches do, whatever the tables say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from stage2.address import Hpa, Range
from stage2.conform.oracle import Places
from stage2.conform.world import Builder, probes_for
from stage2.flags import Access
from stage2.formats import by_name
from stage2.guest.lookup import look_up
from stage2.memory.physical import PhysicalMemory
from stage2.tables.batch import translate_two_stage_batch
from stage2.tables.compiled import host_memory

RAM = Range.sized(0x4000_0000, 4 << 30)
PLACES = Places(Range.sized(RAM.start + (3 << 30), 16 << 20), Range.sized(RAM.start, 1 << 30), ())


@pytest.mark.parametrize("flaws", [0.0, 0.3, 1.0])
def test_a_lookup_answers_as_a_batch_does_and_leaves_the_tables_alone(flaws: float) -> None:
    first, second = by_name("sv39"), by_name("sv39x4")
    chance = np.random.default_rng(5)
    with PhysicalMemory([RAM]) as memory:
        controls = first.default_controls, second.controls_with("ad")
        world = Builder(memory, PLACES, chance, flaws).build(first, second, *controls)
        assert world.stage_1 is not None
        gvas = probes_for(world, chance, 2000, translates=False)["address"]
        host, before = host_memory(memory), memory.read(Hpa(world.used.start), world.used.size)
        outcomes = set()
        for access, user in product((None, *Access), (False, True)):
            ours = look_up(host, world.stage_1, world.stage_2, gvas, access, user=user)
            theirs = translate_two_stage_batch(host, world.stage_1, world.stage_2, gvas, access, user=user)
            for column in ("hpa", "gpa", "permissions", "status", "gva"):
                assert (getattr(ours, column) == getattr(theirs, column)).all(), column
            assert ours.access == theirs.access
            outcomes |= set(ours.status.tolist())
        assert len(outcomes) > 3, "nearly all addresses end in one way"
        assert memory.read(Hpa(world.used.start), world.used.size) == before
