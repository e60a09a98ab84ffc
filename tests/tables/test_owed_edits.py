"""An edit that owes invalidations says so when it is thrown away."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable

from stage2 import FrameAllocator, MappingFlags, Owner, OwnerKind, PageTable, PhysicalMemory
from stage2.address import Hpa, Range
from stage2.errors import OwedInvalidationsWarning

RWX = MappingFlags.READ | MappingFlags.WRITE | MappingFlags.EXECUTE
UNREAD = (
    "an edit owed INVEPT single-context to the TLBs and was dropped unread: give the table a `flush`, "
    "or do what `Edit.owed` lists"
)


def _table(*, flush: bool = False) -> PageTable:
    memory = PhysicalMemory([Range(0x8000_0000, 0x8010_0000)])
    owner = Owner(OwnerKind.TABLES, "vm")
    table = PageTable("ept4", FrameAllocator(memory), owner=owner, flush=(lambda _owed: None) if flush else None)
    table.map_range(0x1000, Hpa(0x8000_8000), 0x4000, RWX)
    return table


def _warned(work: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        work()
        gc.collect()
    return [str(warning.message) for warning in seen if warning.category is OwedInvalidationsWarning]


def test_an_edit_dropped_unread_warns_with_the_names_of_what_is_owed() -> None:
    table = _table()
    assert _warned(lambda: table.unmap_range(0x1000, 0x1000)) == [UNREAD]


def test_an_edit_whose_debt_was_read_does_not_warn() -> None:
    table = _table()
    assert _warned(lambda: table.unmap_range(0x1000, 0x1000).owed) == []


def test_printing_an_edit_is_not_reading_what_it_owes() -> None:
    table = _table()
    assert _warned(lambda: repr(table.unmap_range(0x1000, 0x1000))) == [UNREAD]
    edit = table.unmap_range(0x2000, 0x1000)
    assert repr(edit) == "Edit(+0 -0 tables, 1 runs removed, owed: INVEPT single-context)"
    assert len(edit.owed) == 1


def test_nothing_is_owed_where_a_flush_did_it_or_no_tlb_can_hold_it() -> None:
    flushed, fresh = _table(flush=True), _table()
    assert _warned(lambda: flushed.unmap_range(0x1000, 0x1000)) == []
    assert _warned(lambda: fresh.map_range(0x10_0000, Hpa(0x8000_8000), 0x1000, RWX)) == []


def test_the_warning_is_one_that_python_shows_in_its_development_mode() -> None:
    assert issubclass(OwedInvalidationsWarning, ResourceWarning)
