"""The hypervisor's own address space: the plan as real tables, and linear translation beside them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..address import Hpa, Hva, Range
from ..config.platform import PlatformConfig
from ..errors import ConfigError
from ..formats import by_name
from ..formats.outcome import EXECUTE, WRITE
from ..formats.record import Format
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner, OwnerKind
from ..ranges import RangeMap
from ..tables.explain import Walk
from ..tables.mapping import Mapping
from ..tables.pagetable import PageTable
from .layout import KernelLayout
from .plan import Piece, SpacePlan

OWN_TABLES = Owner(OwnerKind.TABLES)
FORMATS = {
    "x86_64": ("x86-4level", "x86-5level"),
    "aarch64": ("arm-s1-4k-48",),
    "riscv64": ("sv39", "sv48", "sv57"),
}
"""Formats that the hypervisor's tables get unless one is named: the first whose addresses are wide enough."""


@dataclass(frozen=True, slots=True)
class WritableCode:
    """Host memory that the hypervisor can both write and run, through whichever of its mappings.

    Args:
        hpa: the memory.
        writable, executable: the two mappings; one and the same when a single one allows both.
    """

    hpa: Range
    writable: Mapping
    executable: Mapping


class HypervisorSpace:
    """The hypervisor's tables.

    Args:
        layout: of its kernel.
        platform: the host.
        frames: where tables come from.
        fmt: a stage-1 format, or its name; None for the narrowest of the architecture that is wide enough.
        controls: the regime's; None for those of the hypervisor's regime (`controls_of`).
        protected: HPAs that it must not see: the tables of VMs under `--protect-tables`.

    Raises:
        ConfigError: the platform does not say what is needed, or no format is wide enough.
        MappingError: two parts of the image share a page that would be writable and executable.
        OutOfMemoryError: the host has no frames for the tables.
    """

    def __init__(
        self,
        layout: KernelLayout,
        platform: PlatformConfig,
        frames: FrameAllocator,
        *,
        fmt: Format | str | None = None,
        controls: int | None = None,
        protected: Iterable[Range] = (),
    ) -> None:
        self.plan = SpacePlan(layout, platform, protected)
        self.layout, self.platform = layout, platform
        pieces = tuple(self.plan)
        self.format = self._choose(pieces, fmt, platform)
        self.page_table = PageTable(self.format, frames, owner=OWN_TABLES, controls=controls)
        try:
            for flags in dict.fromkeys(piece.flags for piece in pieces):
                extents = [(piece.span.start, piece.hpa, piece.span.size) for piece in pieces if piece.flags == flags]
                self.page_table.map_extents(extents, flags)
        except BaseException:
            self.page_table.destroy()
            raise

    # --- translation -------------------------------------------------------------------------------------

    def phys_to_virt(self, hpa: Hpa, size: int = 1) -> Hva:
        """The HVA at which the linear map shows host memory; by one addition, both ends checked.

        Raises:
            OutOfRangeError: not all of it is in the linear map.
        """
        return self.plan.linear.phys_to_virt(hpa, size)

    def virt_to_phys(self, hva: Hva, size: int = 1) -> Hpa:
        """The HPA of an address of the linear map.

        Raises:
            OutOfRangeError: not all of it is in the linear map.
        """
        return self.plan.linear.virt_to_phys(hva, size)

    def explain(self, hva: Hva | int) -> Walk:
        """The walk of an HVA through the tables, step by step."""
        return self.page_table.explain(hva)

    def piece_at(self, hva: int) -> Piece | None:
        """What the plan says of an HVA."""
        return next((piece for piece in self.plan if piece.span.contains(hva)), None)

    # --- what it holds -----------------------------------------------------------------------------------

    @property
    def free_memory(self) -> tuple[Range, ...]:
        """RAM that the kernel does not occupy: from the end of its image on, and below it."""
        image = self.layout.hpa
        found = []
        for ram in self.platform.memory:
            part = None if image is None else ram.intersection(image)
            if part is None:
                found.append(ram)
                continue
            found += [Range(ram.start, part.start)] if ram.start < part.start else []
            found += [Range(part.end, ram.end)] if part.end < ram.end else []
        return tuple(found)

    def writable_code(self) -> list[WritableCode]:
        """Host memory that is both writable and executable through any pair of its mappings; sound tables have none.

        Judged on the tables, not on the plan.
        """
        return writable_code(self.page_table)

    def destroy(self) -> None:
        """Give the tables back."""
        self.page_table.destroy()

    # --- inside ------------------------------------------------------------------------------------------

    @staticmethod
    def _choose(pieces: tuple[Piece, ...], fmt: Format | str | None, platform: PlatformConfig) -> Format:
        if fmt is not None:
            found = by_name(fmt) if isinstance(fmt, str) else fmt
            if found.stage != 1:
                raise ConfigError(f"{found.name} is a format of stage 2: the hypervisor's own tables are of stage 1")
            return found
        if platform.arch is None:
            raise ConfigError("names no architecture", file=platform.file)
        for name in FORMATS[platform.arch]:
            found = by_name(name)
            if all(_fits(found, piece.span) for piece in pieces):
                return found
        widest = max(piece.span.end for piece in pieces)
        raise ConfigError(
            f"the hypervisor's addresses reach {widest:#x}, and no format of {', '.join(FORMATS[platform.arch])} "
            "translates that",
            file=platform.file,
        )


def _fits(fmt: Format, span: Range) -> bool:
    """Whether a format translates all of a range."""
    width = 1 << fmt.input_bits
    if fmt.high_half:
        return span.start >= (1 << 64) - width
    if fmt.sign_extended:
        return span.end <= width >> 1 or span.start >= (1 << 64) - (width >> 1)
    return span.end <= width


def writable_code(table: PageTable) -> list[WritableCode]:
    """Host memory that a table makes both writable and executable, through any pair of its mappings."""
    mappings = table.mappings()
    writable: RangeMap[int] = RangeMap(merge=False)
    for number, mapping in enumerate(mappings):
        if mapping.permissions & WRITE:
            for gap in writable.gaps(Range.sized(mapping.hpa, mapping.size)):
                writable.add(gap, number)
    found = []
    for mapping in mappings:
        if not mapping.permissions & EXECUTE:
            continue
        span = Range.sized(mapping.hpa, mapping.size)
        for other, number in writable.overlapping(span):
            both = other.intersection(span)
            assert both is not None, "they overlap"
            found.append(WritableCode(both, mappings[number], mapping))
    return found
