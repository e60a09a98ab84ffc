"""Which formats a test goes through."""

from __future__ import annotations

from effort import COMPILED, FACTOR, compiles
from stage2.formats import by_name, names

SMALL_PAGES = tuple(name for name in names() if by_name(name).page_size == 4096 and not by_name(name).high_half)
"""Formats with 4 KiB pages whose addresses begin at 0: for tests written in such pages."""
SECOND_STAGES = tuple(name for name in SMALL_PAGES if by_name(name).stage == 2)
ALL_SECOND_STAGES = tuple(name for name in names() if by_name(name).stage == 2)
COMPILED_SECOND_STAGES = tuple(name for name in ALL_SECOND_STAGES if compiles(by_name(name)))
"""For tests that go over many entries: those whose kernels run compiled, all in a soak."""
COMPILED_FORMATS = tuple(name for name in names() if compiles(by_name(name)))
"""The same of both stages."""
_KINDS = COMPILED | {
    "arm-s1-4k-48-high", "arm-s1-16k-47", "arm-s2-4k-52-lpa2", "arm-s2-16k-40", "arm-s2-64k-52", "sv48x4", "npt5"
}  # fmt: skip
KINDS = tuple(name for name in names() if name in _KINDS or FACTOR > 1)
"""For tests that take long in every format: those that differ in more than their number of levels, all in a soak."""
