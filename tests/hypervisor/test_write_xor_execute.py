"""No host memory of a hypervisor is both writable and executable, whatever its platform and layout; a seeded violation
is found and named."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from platforms import OFFSETS, make_platform, platform_text
from stage2.address import MIB, SIZE_4K, Hpa, Range
from stage2.config.kernel_sizes import KernelSizes
from stage2.flags import MappingFlags
from stage2.hypervisor.layout import of_platform
from stage2.hypervisor.space import HypervisorSpace
from stage2.memory.frames import FrameAllocator
from stage2.memory.physical import PhysicalMemory
from stage2.tables.result import Mapped

RAM = 64 * MIB
SPARE = {"x86_64": 0xFFFF_9000_0000_0000, "aarch64": 0x70_0000_0000, "riscv64": 0xFFFF_FFF0_0000_0000}
"""Addresses that no platform here uses."""

sizes = st.builds(
    KernelSizes,
    text=st.integers(1, 3 * MIB),
    rodata=st.integers(0, MIB),
    data=st.integers(0, MIB),
    tdata=st.integers(0, 5000),
    tbss=st.integers(0, 5000),
    percpu=st.integers(0, 9000),
    boot_stack=st.integers(0, 64).map(lambda pages: pages * SIZE_4K),
    bss=st.integers(0, 2 * MIB),
)


@contextmanager
def spaces(draw: st.DataObject) -> Iterator[tuple[HypervisorSpace, str]]:
    """Any platform and layout, and its tables; some of RAM is left out of the linear map, as tables of VMs are."""
    arch = draw.draw(st.sampled_from(sorted(OFFSETS)))
    base = draw.draw(st.sampled_from((0x4000_0000, 0x8000_0000, 0x8012_3000)))
    kernel = base + draw.draw(st.integers(0, 0x1000)) * SIZE_4K
    away = draw.draw(st.booleans())
    vaddr = SPARE[arch] + 0x1000_0000 + draw.draw(st.integers(0, 0x200)) * SIZE_4K if away else None
    mmio = draw.draw(st.sampled_from(((), ((0x1000_0000, 0x1000),), ((0x0900_0000, 0x800), (0x0800_0000, 0x2_0000)))))
    text = platform_text(arch, base=base, size=RAM, kernel=kernel, vaddr=vaddr, mmio=mmio)
    left_out = draw.draw(
        st.lists(st.integers(0x2000, 0x3FF0).map(lambda page: page * SIZE_4K), max_size=5, unique=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        platform = make_platform(Path(folder), text)
    layout = of_platform(platform, smp=draw.draw(st.integers(1, 9)), sizes=draw.draw(sizes))
    with PhysicalMemory(platform.memory) as memory:
        protected = [Range.sized(base + start, SIZE_4K) for start in left_out]
        space = HypervisorSpace(layout, platform, FrameAllocator(memory), protected=protected)
        try:
            yield space, arch
        finally:
            space.destroy()


@given(st.data())
def test_no_memory_of_any_hypervisor_is_writable_and_executable(draw: st.DataObject) -> None:
    with spaces(draw) as (space, _):
        assert space.writable_code() == []
        for piece in space.plan:
            for hva in (piece.span.start, piece.span.end - 1):
                result = space.explain(hva).result
                assert isinstance(result, Mapped)
                assert result.hpa == piece.hpa + (hva - piece.span.start)
                if MappingFlags.DEVICE not in piece.flags and piece.name == "RAM":
                    assert space.phys_to_virt(Hpa(result.hpa)) == hva
                rights = "".join(letter for bit, letter in enumerate("rwx") if result.permissions >> bit & 1)
                assert rights == piece.flags.short[:3].replace("-", "")


@given(st.data())
def test_protected_memory_and_the_guard_page_are_in_no_mapping(draw: st.DataObject) -> None:
    with spaces(draw) as (space, _):
        for hole in (*space.plan.protected, *filter(None, [space.plan.guard])):
            assert space.piece_at(hole.start) is None
            assert not isinstance(space.explain(hole.start).result, Mapped)


@given(st.data())
def test_a_writable_alias_of_code_is_found_and_named(draw: st.DataObject) -> None:
    with spaces(draw) as (space, arch):
        code = space.layout.part(".text")
        assert code is not None
        assert code.load is not None
        pages = -(-code.span.size // SIZE_4K)
        page = draw.draw(st.integers(0, pages - 1))
        alias = SPARE[arch] + page * SIZE_4K
        hpa = Hpa(code.load + page * SIZE_4K)
        space.table_for(alias).map_range(alias, hpa, SIZE_4K, MappingFlags.READ | MappingFlags.WRITE)
        (found,) = space.writable_code()
        assert found.hpa == Range.sized(hpa, SIZE_4K)
        assert found.writable.start == alias
        assert (
            found.executable.start <= code.span.start + page * SIZE_4K < found.executable.start + found.executable.size
        )
