"""Real walks of both stages of every architecture, shown with the memory type that they amount to."""

from __future__ import annotations

import pytest

from stage2.address import Gva, Hpa, Range
from stage2.flags import RWX, MemoryType
from stage2.formats import by_name
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.render.tables import render_text
from stage2.render.walk import WalkView, render_walk
from stage2.render.walk_json import walk_json
from stage2.tables.explain import explain_two_stage
from stage2.tables.pagetable import PageTable

RAM = Range(0x8000_0000, 0x8080_0000)
TABLES = Owner(OwnerKind.TABLES, "vm")
GVA = Gva(0x40_0123)
UNCACHED, THROUGH = MemoryType.UNCACHED, MemoryType.WRITE_THROUGH


@pytest.mark.parametrize(
    ("first", "second", "type_1", "type_2", "name", "section"),
    [
        ("x86-4level", "ept4", UNCACHED, None, "UC", "30.3.7.2"),
        ("x86-4level", "npt4", None, THROUGH, "WT", "15.25.8"),
        ("arm-s1-4k-48", "arm-s2-4k-40", UNCACHED, None, "Normal Non-cacheable", "D8.6"),
        ("arm-s1-4k-48", "arm-s2-4k-40", None, None, "Normal Write-Back", "D8.6"),
        ("sv39", "sv39x4", None, None, "write-back", "Svpbmt"),
    ],
)
@pytest.mark.kernels
def test_a_walk_of_both_stages_ends_with_its_memory_type(
    first: str, second: str, type_1: MemoryType | None, type_2: MemoryType | None, name: str, section: str
) -> None:
    with PhysicalMemory([RAM]) as memory:
        frames = FrameAllocator(memory)
        # GPA is HPA, so that the guest's tables can be made where they are read.
        stage_1 = PageTable(by_name(first), frames, owner=TABLES)
        stage_2 = PageTable(by_name(second), frames, owner=TABLES)
        stage_1.map_range(0x40_0000, Hpa(RAM.start), 4096, RWX, memory_type=type_1)
        stage_2.map_range(RAM.start, Hpa(RAM.start), RAM.size, RWX, memory_type=type_2)
        walk = explain_two_stage(memory, stage_1.regime, stage_2.regime, GVA)
        view = WalkView(walk, stage_2.regime, stage_1.regime)
        found = walk_json(view)["result"]["memory_type"]
        assert found["name"] == name
        assert section in found["manual"]
        text = " ".join(render_text(render_walk(view)).split())
        assert " ".join(f"{found['meaning']} ({found['manual']})".split()) in text
        stage_1.destroy()
        stage_2.destroy()
