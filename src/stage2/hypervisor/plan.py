"""What the hypervisor maps for itself: a plan of virtual ranges, each with its physical side and its rights.

All of RAM is seen through the linear map (HVA = HPA + phys-virt-offset), readable and writable, never executable. The
image lies over it with the rights of its parts; where the linear map shows the code or the constants a second time, it
shows them read-only. Device windows are device memory. The lowest page of the boot stack is left out, so that a stack
that grows too far faults instead of damaging what lies below it; so are ranges that are to be protected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..address import SIZE_4K, Range, align_down, align_up
from ..config.platform import PlatformConfig
from ..errors import ConfigError, MappingError
from ..flags import MappingFlags
from ..memory.linear import LinearMap
from ..ranges import RangeMap
from .layout import RW, KernelLayout, Part, R

DEVICE = RW | MappingFlags.DEVICE
BOOT_STACK = "boot stack"


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of the hypervisor's virtual addresses.

    Args:
        span: its HVAs, whole pages.
        hpa: what its first byte is.
        flags: rights, and DEVICE for registers.
        name: what it is: `.text`, `RAM`, `device`.
    """

    span: Range
    hpa: int
    flags: MappingFlags
    name: str

    @property
    def physical(self) -> Range:
        """Its HPAs."""
        return Range.sized(self.hpa, self.span.size)


@dataclass(frozen=True, slots=True)
class _Rights:
    """A value of the map of ranges: equal neighbours become one piece."""

    delta: int
    flags: MappingFlags
    name: str


class SpacePlan:
    """What is mapped where.

    Args:
        layout: of the kernel.
        platform: the host.
        protected: HPAs that the linear map leaves out: the tables of VMs. The attribute holds their HVAs.

    Raises:
        ConfigError: the platform does not say where the linear map is, or where the kernel is loaded.
        MappingError: two parts of the image share a page that would be writable and executable.
    """

    def __init__(self, layout: KernelLayout, platform: PlatformConfig, protected: Iterable[Range] = ()) -> None:
        if platform.phys_virt_offset is None:
            raise ConfigError("has no phys-virt-offset, so nobody knows the linear map", file=platform.file)
        if layout.load is None:
            raise ConfigError(f"where {layout.origin} is loaded is not known: give the platform's file")
        self.offset = platform.phys_virt_offset
        self.layout = layout
        self._map: RangeMap[_Rights] = RangeMap()
        ends = [edge for span in (*platform.memory, *platform.mmio) for edge in (span.start, span.end)]
        self.linear = LinearMap(self.offset, Range(min(ends), max(ends)))
        for ram in platform.memory:
            self._put(Range(ram.start, ram.end), self.offset, RW, "RAM")
        for window in platform.mmio:
            whole = Range(align_down(window.start, SIZE_4K), align_up(window.end, SIZE_4K))
            self._put(whole, self.offset, DEVICE, "device")
        self._lay_image()
        self.protected = tuple(Range(span.start + self.offset, span.end + self.offset) for span in protected)
        for span in self.protected:
            self._map.remove(span)

    def at(self, hva: int) -> Piece | None:
        """The piece that an HVA is in."""
        found = self._map.find(hva)
        return None if found is None else _piece(*found)

    @property
    def guard(self) -> Range | None:
        """The HVAs of the boot stack's guard page."""
        stack = self.layout.part(BOOT_STACK)
        return None if stack is None else Range.sized(align_down(stack.span.start, SIZE_4K), SIZE_4K)

    def __iter__(self) -> Iterator[Piece]:
        """The pieces in order of their addresses."""
        for span, rights in self._map:
            yield _piece(span, rights)

    # --- inside ------------------------------------------------------------------------------------------

    def _put(self, physical: Range, delta: int, flags: MappingFlags, name: str) -> None:
        self._map.set(Range(physical.start + delta, physical.end + delta), _Rights(delta, flags, name))

    def _lay_image(self) -> None:
        pages: RangeMap[_Rights] = RangeMap()
        for part in self.layout.parts:
            if part.load is None:
                continue
            whole = Range(align_down(part.span.start, SIZE_4K), align_up(part.span.end, SIZE_4K))
            delta = part.span.start - part.load
            for span, other in pages.overlapping(whole):
                shared = span.intersection(whole)
                assert shared is not None, "they overlap"
                self._require_compatible(part, delta, other, shared)
                pages.set(shared, _Rights(delta, part.flags | other.flags, f"{other.name} + {part.name}"))
            for gap in pages.gaps(whole):
                pages.set(gap, _Rights(delta, part.flags, part.name))
        for span, rights in pages:
            physical = Range(span.start - rights.delta, span.end - rights.delta)
            self._map.set(span, rights)
            if rights.delta != self.offset:
                seen = R if not rights.flags & MappingFlags.WRITE else RW
                self._put(physical, self.offset, seen, f"{rights.name} through the linear map")
        if self.guard is not None:
            self._map.remove(self.guard)

    @staticmethod
    def _require_compatible(part: Part, delta: int, other: _Rights, shared: Range) -> None:
        """Refuse a page that two parts share, and that both cannot have."""
        both = part.flags | other.flags
        if both & MappingFlags.WRITE and both & MappingFlags.EXECUTE:
            raise MappingError(
                f"{other.name} and {part.name} of the image share the pages {shared}, which would have to be writable "
                "and executable: align them to 4 KiB"
            )
        if delta != other.delta:
            raise MappingError(
                f"{other.name} and {part.name} of the image share the pages {shared}, and are loaded apart: align them "
                "to 4 KiB"
            )


def _piece(span: Range, rights: _Rights) -> Piece:
    return Piece(span, span.start - rights.delta, rights.flags, rights.name)
