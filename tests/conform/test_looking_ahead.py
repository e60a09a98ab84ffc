"""Batches answer the same whether they look ahead or not, whatever the tables say."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from stage2.address import Hpa, Range
from stage2.conform.oracle import Places
from stage2.conform.world import Builder, probes_for
from stage2.flags import Access
from stage2.formats import by_name
from stage2.memory.physical import PhysicalMemory
from stage2.tables.batch import translate_two_stage_batch
from stage2.tables.compiled import host_memory

RAM = Range.sized(0x4000_0000, 4 << 30)
PLACES = Places(Range.sized(RAM.start + (3 << 30), 16 << 20), Range.sized(RAM.start, 1 << 30), ())


@pytest.mark.parametrize("flaws", [0.0, 0.3, 1.0])
def test_batches_that_look_ahead_answer_as_those_that_do_not_and_leave_the_tables_alone(flaws: float) -> None:
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
            asked = host, world.stage_1, world.stage_2, gvas, access
            there, here = (translate_two_stage_batch(*asked, user=user, ahead=ahead) for ahead in (True, False))
            for column in ("hpa", "gpa", "permissions", "status", "gva"):
                assert (getattr(there, column) == getattr(here, column)).all(), column
            assert there.access == here.access
            outcomes |= set(here.status.tolist())
        assert len(outcomes) > 3, "nearly all addresses end in one way"
        assert memory.read(Hpa(world.used.start), world.used.size) == before
