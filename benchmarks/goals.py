"""What each row aims at, and what the compiled peers took when they were measured beside an earlier state.

The crates of Rust hypervisors cannot be built from a package index, so their figures are those of one earlier
machine (x86 EPT, thread CPU time); where the aim is a share of theirs, it stands here as a time. The C twin's ratio
to them is not known, so reports give both.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Goal:
    """An aim.

    Args:
        most: the largest figure, in the row's unit, or the largest ratio to the C twin.
        by_twin: whether it is the ratio.
        crates: what the crates took, as text; empty where they have no such work.
    """

    most: float
    by_twin: bool = False
    crates: str = ""

    def met(self, ours: float, ratio: float | None) -> bool:
        """Whether a figure is within it."""
        figure = ratio if self.by_twin else ours
        return figure is not None and figure <= self.most


GOALS = {
    "map 1 GiB in 4 KiB pages": Goal(0.12 * 1.51, crates="1.51 ms"),
    "unmap it, tables freed": Goal(0.25 * 0.96, crates="0.96 ms, tables kept"),
    "protect it": Goal(0.4 * 0.82, crates="0.82 ms"),
    "map 1 GiB in 2 MiB blocks": Goal(15, crates="3 us"),
    "unmap 1 GiB in 2 MiB blocks": Goal(15, crates="3 us"),
    "map 1 GiB in one 1 GiB block": Goal(8, crates="0.3 us"),
    "unmap 1 GiB in one 1 GiB block": Goal(8, crates="0.3 us"),
    "list 262,144 leaves, each": Goal(0.6 * 0.55, crates="0.55 ms"),
    "list 262,144 leaves, merged": Goal(0.8 * 0.55, crates="0.55 ms"),
    "batch translate, full result, 1 GiB mapped": Goal(0.6 * 6.8, crates="6.8 ns"),
    "batch translate, full result, 64 GiB mapped": Goal(0.5 * 24.0, crates="24 ns"),
    "two-stage batch, 1 GiB": Goal(0.35, by_twin=True),
    "two-stage batch, 64 GiB": Goal(0.5, by_twin=True),
    "one translate, result object": Goal(1.2),
    "one hpa_of": Goal(0.5),
    "explained two-stage walk": Goal(60),
    "a page fault, populated": Goal(2),
    "a page fault, already present": Goal(2),
    "262,144 page faults in bulk": Goal(8),
    "split a 2 MiB block": Goal(8),
    "merge a 2 MiB block": Goal(8),
}
BOOT_GOAL = 1.08
"""Linux, lazily populated, over the library's own MMU."""
