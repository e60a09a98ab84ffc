"""The hypervisor's own tables: its kernel with the rights of each part, a linear map of RAM, devices, a guard page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from platforms import make_platform, platform_text
from stage2.address import SIZE_1G, SIZE_2M, SIZE_4K, Hpa, Range
from stage2.flags import RWX
from stage2.hypervisor.layout import of_platform
from stage2.hypervisor.space import HypervisorSpace
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.tables.result import Mapped

OFFSET = 0xFFFF_8000_0000_0000


@pytest.fixture
def space(tmp_path: Path) -> Iterator[HypervisorSpace]:
    text = platform_text("x86_64", base=0, kernel=0x20_0000, mmio=((0xFEC0_0000, 0x1000),))
    platform = make_platform(tmp_path, text)
    with PhysicalMemory(platform.memory) as memory:
        found = HypervisorSpace(of_platform(platform, smp=4), platform, FrameAllocator(memory))
        yield found
        found.destroy()


def rights(space: HypervisorSpace, hva: int) -> str:
    result = space.explain(hva).result
    if not isinstance(result, Mapped):
        return "none"
    return "".join(letter if result.permissions >> bit & 1 else "-" for bit, letter in enumerate("RWX"))


def test_every_part_of_the_kernel_has_its_own_rights(space: HypervisorSpace) -> None:
    parts = {part.name: rights(space, part.span.end - 1) for part in space.layout.parts}
    assert parts == {
        ".text": "R-X", ".rodata": "R--", ".data": "RW-", ".percpu": "RW-", "boot stack": "RW-", ".bss": "RW-",
    }  # fmt: skip


def test_the_lowest_page_of_the_boot_stack_is_not_mapped(space: HypervisorSpace) -> None:
    guard = space.plan.guard
    assert guard is not None
    assert [rights(space, guard.start), rights(space, guard.end - 1), rights(space, guard.end)] == [
        "none",
        "none",
        "RW-",
    ]


def test_linear_translation_is_what_the_tables_say(space: HypervisorSpace) -> None:
    for hpa in (0, 0x1234, 0x20_0000, 0x49_3000, 0x700_0FFF):
        hva = space.phys_to_virt(Hpa(hpa))
        assert hva == hpa + OFFSET
        assert space.virt_to_phys(hva) == hpa
        result = space.explain(hva).result
        assert isinstance(result, Mapped)
        assert result.hpa == hpa


def test_devices_are_neither_executable_nor_memory(space: HypervisorSpace) -> None:
    assert rights(space, 0xFEC0_0000 + OFFSET) == "RW-"
    piece = space.piece_at(0xFEC0_0000 + OFFSET)
    assert piece is not None
    assert piece.name == "device"


def test_no_host_memory_is_both_writable_and_executable(space: HypervisorSpace) -> None:
    assert space.writable_code() == []


def test_a_seeded_alias_that_makes_code_writable_is_found_and_named(space: HypervisorSpace) -> None:
    text = space.layout.parts[0]
    assert text.load is not None
    alias = 0xFFFF_9000_0000_0000
    space.tables[0].map_range(alias, Hpa(text.load), 0x2000, RWX)
    found = space.writable_code()
    assert {(entry.hpa, entry.writable.start) for entry in found} == {(Range.sized(text.load, 0x2000), alias)}


def test_free_memory_is_what_the_image_leaves(space: HypervisorSpace) -> None:
    assert space.free_memory == (Range(0, 0x20_0000), Range(space.layout.span.end - OFFSET, 0x800_0000))


def test_the_linear_map_is_made_of_the_largest_blocks_that_fit(tmp_path: Path) -> None:
    # 4 GiB of RAM from 0 and the kernel in the first 2 MiB block but one: all else is 1 GiB or 2 MiB leaves.
    platform = make_platform(tmp_path, platform_text("x86_64", base=0, size=4 * SIZE_1G, kernel=0x20_0000, mmio=()))
    with PhysicalMemory(platform.memory) as memory:
        own = HypervisorSpace(of_platform(platform), platform, FrameAllocator(memory))
        leaves = own.tables[0].statistics().leaves
        image = own.layout.span
        blocks = -(-image.end // SIZE_2M) - image.start // SIZE_2M
        assert leaves == {
            SIZE_1G: 3,
            SIZE_2M: 512 - blocks,
            # All of the blocks that the image touches, without the guard page.
            SIZE_4K: 512 * blocks - 1,
        }
        own.destroy()
