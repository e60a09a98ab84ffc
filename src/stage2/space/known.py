"""What a region says of every fault in it, worked out once: faults come by the thousand, regions by the dozen."""

from __future__ import annotations

from ..flags import Access
from ..tables.pagetable import PageTable
from ..tables.placing import ASK, PLACE, RULE
from .fault_window import FaultWindow
from .faults import FaultResult, Resolution
from .policy import Policy
from .region import MemoryRegion


class Known:
    """The answers of one region, and the leaf that its pages are mapped with.

    Args:
        region: of a space.
        table, policy: the space's.
    """

    __slots__ = (
        "end",
        "lazy",
        "page_bits",
        "populated",
        "present",
        "refused",
        "region",
        "start",
        "tracked",
        "violation",
        "window",
    )

    def __init__(self, region: MemoryRegion, table: PageTable, policy: Policy) -> None:
        self.region, self.start, self.end = region, int(region.start), region.end
        self.lazy = region.map_type.may_be_lazy
        self.violation = FaultResult(Resolution.VIOLATION, region, policy.violation_of(region))
        self.populated = FaultResult(Resolution.POPULATED, region)
        self.present = FaultResult(Resolution.PRESENT, region)
        self.tracked = FaultResult(Resolution.TRACKED, region)
        device = FaultResult(Resolution.DEVICE, region)
        self.refused: tuple[FaultResult | None, ...] = tuple(
            (None if region.flags & access.flag else self.violation) if region.map_type.is_mapped else device
            for access in Access
        )
        """By access: the answer where that needs no look at the table."""
        self.page_bits = table.page_bits(region.flags) if self.lazy else 0
        """A leaf of the smallest page without its address."""
        self.window = FaultWindow(region.range, table.format.page_size) if self.lazy and policy.adaptive else None
        """How much a fault populates, where that goes by the faults."""

    def rules(self, rule: int) -> int:
        """What an array of faults is told of each access, see `tables.placing.ROW_START`.

        Args:
            rule: for those that need a look at the table; PLACE becomes ASK where frames are not given one by one.
        """
        if rule == PLACE and not self.lazy:
            rule = ASK
        return sum(
            (rule if refused is None else refused.resolution.number) << (RULE * access)
            for access, refused in enumerate(self.refused)
        )
