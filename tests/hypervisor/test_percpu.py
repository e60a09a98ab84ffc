"""Per-CPU areas: one for each CPU, in the hypervisor's frames, each variable declared once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from stage2.address import GIB, MIB, Range
from stage2.errors import ConfigError, OutOfRangeError
from stage2.hypervisor.percpu import OWNER, PerCpu, PerCpuLayout
from stage2.memory.frames import FrameAllocator
from stage2.memory.linear import LinearMap
from stage2.memory.physical import PhysicalMemory

IMAGE = bytes(range(1, 101))


@pytest.fixture
def frames() -> Iterator[FrameAllocator]:
    with PhysicalMemory([Range.sized(0x8000_0000, 16 * MIB)]) as memory:
        yield FrameAllocator(memory)


def test_every_cpu_begins_with_the_images_bytes_and_the_initial_values(frames: FrameAllocator) -> None:
    layout = PerCpuLayout(IMAGE)
    small, wide = layout.declare("small", np.uint8, 7), layout.declare("wide", np.uint64, 1 << 63)
    areas = PerCpu(layout, frames, cpus=5)
    assert (small.offset, wide.offset, layout.size, areas.stride) == (100, 104, 112, 128)
    for cpu in range(5):
        area = areas.area(cpu)
        assert frames.memory.read(area.start, 100) == IMAGE  # type: ignore[arg-type]
        assert (areas.read(small, cpu), areas.read(wide, cpu)) == (7, 1 << 63)
        assert area.start == areas.span.start + cpu * 128
    assert frames.owners.of(OWNER) == [areas.span]


def test_what_one_cpu_stores_no_other_sees(frames: FrameAllocator) -> None:
    layout = PerCpuLayout()
    count = layout.declare("count", np.uint32)
    areas = PerCpu(layout, frames, cpus=4)
    areas.write(count, 2, 99)
    assert areas.all(count).tolist() == [0, 0, 99, 0]
    areas.all(count)[:] += np.uint32(1)
    assert [areas.read(count, cpu) for cpu in range(4)] == [1, 1, 100, 1]
    areas.reset(2)
    assert areas.read(count, 2) == 0


@pytest.mark.parametrize(("arch", "register"), [("x86_64", "GS_BASE"), ("aarch64", "TPIDR_EL2"), ("riscv64", "gp")])
def test_the_base_register_holds_the_virtual_address_of_the_area(
    frames: FrameAllocator, arch: str, register: str
) -> None:
    offset = 0xFFFF_8000_0000_0000
    linear = LinearMap(offset, Range.sized(0, 4 * GIB))
    areas = PerCpu(PerCpuLayout(IMAGE), frames, cpus=3, linear=linear)
    assert areas.base_register(arch, 2) == (register, areas.area(2).start + offset)


def test_areas_take_whole_cache_lines_and_give_their_frames_back(frames: FrameAllocator) -> None:
    areas = PerCpu(PerCpuLayout(bytes(65)), frames, cpus=64)
    assert (areas.stride, areas.span.size) == (128, 0x2000)
    areas.close()
    assert frames.used_bytes == 0


def test_wrong_declarations_and_values_are_refused(frames: FrameAllocator) -> None:
    layout = PerCpuLayout()
    field = layout.declare("field", np.uint8)
    with pytest.raises(ConfigError, match="the per-CPU field field is declared twice"):
        layout.declare("field", np.uint8)
    with pytest.raises(OutOfRangeError, match="256 is no value of uint8"):
        layout.declare("large", np.uint8, 256)
    with pytest.raises(OutOfRangeError, match="has no fixed size in memory"):
        layout.declare("object", object)
    areas = PerCpu(layout, frames, cpus=1)
    with pytest.raises(OutOfRangeError, match="-1 is no value of uint8"):
        areas.write(field, 0, -1)
    with pytest.raises(OutOfRangeError, match="CPU 1 is none of the machine's 1"):
        areas.read(field, 1)
    with pytest.raises(ConfigError, match="late is not part of these areas"):
        areas.all(layout.declare("late", np.uint8))
    with pytest.raises(ConfigError, match="mips has no base register"):
        areas.base_register("mips", 0)
    with pytest.raises(OutOfRangeError, match="a machine of 0 CPUs"):
        PerCpu(layout, frames, cpus=0)
