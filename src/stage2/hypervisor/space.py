"""The hypervisor's own address space: the plan as real tables, and linear translation beside them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

from ..address import SIZE_4K, Hpa, Hva, Range
from ..config.platform import PlatformConfig
from ..errors import ConfigError, OutOfRangeError
from ..flags import Access
from ..formats import by_name, family_of
from ..formats.outcome import EXECUTE, USER_SHIFT, WRITE
from ..formats.record import Format
from ..memory.frames import FrameAllocator
from ..memory.owners import Owner, OwnerKind
from ..processor import Processor
from ..ranges import RangeMap
from ..tables.explain import Walk
from ..tables.mapping import Mapping
from ..tables.pagetable import PageTable
from ..tables.regime import Regime
from .layout import KernelLayout
from .plan import Piece, SpacePlan

OWN_TABLES = Owner(OwnerKind.TABLES)
FORMATS = {
    "x86_64": ("x86-4level", "x86-5level"),
    "aarch64": ("arm-s1-4k-48",),
    "riscv64": ("sv39", "sv48", "sv57"),
}
"""Formats that the hypervisor's tables get unless one is named: the first whose addresses are wide enough."""
_HIGH = 1 << 63
"""Arm's other root, TTBR1, serves addresses from here on."""
_EVERYONE = 1 | 1 << USER_SHIFT
"""Times a right: the privileged level's and the user's bit of it."""


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
    """The hypervisor's tables: one, or on Arm one for each half of the addresses that it uses.

    A hypervisor of Arm whose addresses are all low runs in the EL2 regime (HCR_EL2.E2H = 0), which has TTBR0_EL2
    alone; one with high addresses runs in EL2&0 (E2H = 1, FEAT_VHE), which has TTBR1_EL2 as well (Arm ARM DDI 0487,
    D8.1.2 "Translation regimes").

    Args:
        layout: of its kernel.
        platform: the host.
        frames: where tables come from.
        fmt: a stage-1 format of 4 KiB pages, or its name; None for the narrowest of the architecture that is wide
            enough. On Arm it is the format of both halves.
        processor: what the tables are for; None for no particular one.
        protected: HPAs that it must not see: the tables of VMs under `--protect-tables`.

    Raises:
        ConfigError: the platform does not say what is needed, or no format is wide enough.
        EncodingError: the processor does not have the format.
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
        processor: Processor | None = None,
        protected: Iterable[Range] = (),
    ) -> None:
        self.plan = SpacePlan(layout, platform, protected)
        self.layout, self.platform, self.frames, self.processor = layout, platform, frames, processor
        halves = _halves(tuple(self.plan), fmt, platform)
        self.tables: tuple[PageTable, ...] = ()
        try:
            for found, pieces in halves:
                family = family_of(found)
                controls = family.own_controls(found, processor, both=found.high_half or len(halves) > 1)
                table = PageTable(found, frames, owner=OWN_TABLES, controls=controls)
                self.tables += (table,)
                for flags in dict.fromkeys(piece.flags for piece in pieces):
                    alike = [piece for piece in pieces if piece.flags == flags]
                    table.map_extents([(piece.span.start, piece.hpa, piece.span.size) for piece in alike], flags)
        except BaseException:
            self.destroy()
            raise

    @property
    def regimes(self) -> tuple[Regime, ...]:
        """What hardware runs the tables with: low addresses first."""
        return tuple(table.regime for table in self.tables)

    def registers(self) -> dict[str, int]:
        """The registers to load, by the manual's names."""
        return own_registers(self.regimes)

    def table_for(self, hva: int) -> PageTable:
        """The table that translates an HVA; the low half's where none does."""
        return self.tables[half_of(self.regimes, hva)]

    # --- translation -------------------------------------------------------------------------------------

    def phys_to_virt(self, hpa: Hpa, size: int = 1) -> Hva:
        """The HVA at which the linear map shows host memory or a device; by one addition, both ends checked.

        Raises:
            OutOfRangeError: not all of it is in the linear map.
        """
        self._require_there(Range.sized(hpa, size), f"{size} bytes at HPA {hpa:#x}")
        return self.plan.linear.phys_to_virt(hpa, size)

    def virt_to_phys(self, hva: Hva, size: int = 1) -> Hpa:
        """The HPA of an address of the linear map.

        Raises:
            OutOfRangeError: not all of it is in the linear map.
        """
        hpa = self.plan.linear.virt_to_phys(hva, size)
        self._require_there(Range.sized(hpa, size), f"{size} bytes at HVA {hva:#x}")
        return hpa

    def explain(self, hva: Hva | int, access: Access | None = None) -> Walk:
        """The walk of an HVA through the tables, step by step."""
        return self.table_for(hva).explain(hva, access)

    def piece_at(self, hva: int) -> Piece | None:
        """What the plan says of an HVA."""
        return self.plan.at(hva)

    # --- what it holds -----------------------------------------------------------------------------------

    @property
    def table_ranges(self) -> list[Range]:
        """The HPAs of the tables, in order."""
        return sorted(chain.from_iterable(table.table_ranges for table in self.tables))

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
        return writable_code(list(chain.from_iterable(table.mappings() for table in self.tables)))

    def destroy(self) -> None:
        """Give the tables back."""
        for table in self.tables:
            table.destroy()
        self.tables = ()

    # --- inside ------------------------------------------------------------------------------------------

    def _require_there(self, span: Range, what: str) -> None:
        if not any(there.intersection(span) == span for there in (*self.platform.memory, *self.platform.mmio)):
            raise OutOfRangeError(f"{what} are neither RAM nor a device of the platform")


def own_registers(regimes: Sequence[Regime]) -> dict[str, int]:
    """The registers to load for a hypervisor's tables, by the manual's names.

    Args:
        regimes: as `HypervisorSpace.regimes` gives them.
    """
    family = family_of(regimes[0].format)
    return family.own_registers([(regime.format, regime.root, regime.controls) for regime in regimes])


def half_of(regimes: Sequence[Regime], hva: int) -> int:
    """Which of a hypervisor's regimes translates an HVA; the first where none does."""
    return next((at for at, regime in enumerate(regimes) if regime.format.high_half and hva >= _HIGH), 0)


def _halves(
    pieces: Sequence[Piece], fmt: Format | str | None, platform: PlatformConfig
) -> list[tuple[Format, list[Piece]]]:
    """The format of each table, and what it maps: low addresses first."""
    if fmt is None and platform.arch is None:
        raise ConfigError("names no architecture", file=platform.file)
    names = FORMATS[platform.arch or ""] if fmt is None else (fmt if isinstance(fmt, str) else fmt.name,)
    low = [piece for piece in pieces if piece.span.start < _HIGH]
    high = [piece for piece in pieces if piece.span.start >= _HIGH]
    for name in names:
        found = _suitable(name)
        if platform.arch not in (None, family_of(found).arch):
            raise ConfigError(
                f"{found.name} is no format of {platform.arch}, which the platform is", file=platform.file
            )
        halves = [(found, [*low, *high])] if found.sign_extended else _of_arm(found, low, high)
        if all(_fits(half, piece.span) for half, part in halves for piece in part):
            return halves
    start, end = min(piece.span.start for piece in pieces), max(piece.span.end for piece in pieces)
    raise ConfigError(
        f"the hypervisor's addresses, {start:#x} to {end:#x}, are more than {' or '.join(names)} can translate",
        file=platform.file,
    )


def _of_arm(fmt: Format, low: list[Piece], high: list[Piece]) -> list[tuple[Format, list[Piece]]]:
    """A format without sign extension translates one half; a second root does the other."""
    name = fmt.name.removesuffix("-high")
    return [(by_name(half), part) for half, part in ((name, low), (f"{name}-high", high)) if part]


def _suitable(name: str) -> Format:
    found = by_name(name)
    if found.stage != 1:
        raise ConfigError(f"{found.name} is a format of stage 2: the hypervisor's own tables are of stage 1")
    if found.page_size != SIZE_4K:
        raise ConfigError(
            f"{found.name} has pages of {found.page_size >> 10} KiB: the hypervisor is laid out in pages of 4 KiB"
        )
    return found


def _fits(fmt: Format, span: Range) -> bool:
    """Whether a format translates all of a range."""
    width = 1 << fmt.input_bits
    if fmt.high_half:
        return span.start >= (1 << 64) - width
    if fmt.sign_extended:
        return span.end <= width >> 1 or span.start >= (1 << 64) - (width >> 1)
    return span.end <= width


def writable_code(mappings: Sequence[Mapping]) -> list[WritableCode]:
    """Host memory that mappings make both writable and executable, through any pair of them."""
    writable: RangeMap[int] = RangeMap(merge=False)
    for number, mapping in enumerate(mappings):
        if mapping.permissions & _EVERYONE * WRITE:
            for gap in writable.gaps(Range.sized(mapping.hpa, mapping.size)):
                writable.add(gap, number)
    found = []
    for mapping in mappings:
        if not mapping.permissions & _EVERYONE * EXECUTE:
            continue
        span = Range.sized(mapping.hpa, mapping.size)
        for other, number in writable.overlapping(span):
            both = other.intersection(span)
            assert both is not None, "they overlap"
            found.append(WritableCode(both, mappings[number], mapping))
    return found
