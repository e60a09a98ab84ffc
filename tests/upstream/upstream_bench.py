"""What the tests of upstream's defects share: a small host, its formats, a picture of all that an edit may touch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import format_lists
from stage2.address import SIZE_2M, Gpa, Hpa, Range
from stage2.errors import Stage2Error
from stage2.flags import MappingFlags, MapType
from stage2.memory.frames import FrameAllocator
from stage2.memory.owners import Owner, OwnerKind
from stage2.memory.physical import PhysicalMemory
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate

R, W, X = MappingFlags.READ, MappingFlags.WRITE, MappingFlags.EXECUTE
RW, RX = R | W, R | X
STAGE_2 = format_lists.SECOND_STAGES
RAM = Range.sized(0x8000_0000, 2 * SIZE_2M)
HOARD = Owner(OwnerKind.VM, "hoard")
every_format = pytest.mark.parametrize("fmt", STAGE_2)
every_table = pytest.mark.parametrize("fmt", format_lists.SMALL_PAGES)


@contextmanager
def host(*ranges: Range) -> Iterator[FrameAllocator]:
    """Host memory of a few MiB."""
    with PhysicalMemory(ranges or [RAM]) as memory:
        yield FrameAllocator(memory)


@contextmanager
def space_on(frames: FrameAllocator, fmt: str, name: str = "vm", **settings: object) -> Iterator[AddressSpace]:
    """A space that must leave nothing behind, whatever happened to it."""
    held = frames.used_bytes
    space = AddressSpace(fmt, frames, name=name, **settings)  # type: ignore[arg-type]  # passed on
    yield space
    space.destroy()
    assert frames.used_bytes == held, "frames or tables leaked"


def region(
    start: int, size: int, flags: MappingFlags = RW, map_type: MapType = MapType.MAP_ALLOC, **more: object
) -> MemoryRegion:
    return MemoryRegion(Gpa(start), size, flags, map_type, **more)  # type: ignore[arg-type]  # passed on


def eager(start: int, size: int, flags: MappingFlags = RW) -> MemoryRegion:
    return region(start, size, flags, populate=Populate.EAGER)


def device(start: int, size: int, hpa: int, flags: MappingFlags = RW) -> MemoryRegion:
    return region(start, size, flags | MappingFlags.DEVICE, MapType.MMIO, hpa=Hpa(hpa))


def snapshot(space: AddressSpace) -> tuple[object, ...]:
    """Every byte of host memory, every owner, every region."""
    frames = space.frames
    image = b"".join(frames.memory.read(Hpa(span.start), span.size) for span in frames.memory.ranges)
    return image, frames.free_bytes, list(frames.owners), space.memory_regions


def refused(
    space: AddressSpace, error: type[Stage2Error], edit: Callable[[], object], match: str | None = None
) -> None:
    """The edit is refused with one line and changes nothing."""
    before = snapshot(space)
    with pytest.raises(error, match=match) as caught:
        edit()
    assert "\n" not in str(caught.value)
    assert snapshot(space) == before, "a refused edit changed something"


def leave_free(frames: FrameAllocator, count: int) -> list[Range]:
    """Take all frames but `count`."""
    size = frames.free_bytes - count * 0x1000
    return frames.allocate_extents(size, owner=HOARD) if size else []


def give_back(frames: FrameAllocator, hoard: list[Range]) -> None:
    for span in hoard:
        frames.free(span, owner=HOARD)
