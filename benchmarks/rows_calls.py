"""Rows of single calls from Python: a translation, an explained walk, a page fault; and faults in bulk."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from stage2.address import GIB, SIZE_4K, Gpa, Gva
from stage2.flags import RWX, Access, MapType
from stage2.space.address_space import AddressSpace
from stage2.space.region import MemoryRegion, Populate

from .measure import Row
from .settings import START, host, mapped, nested, random_addresses
from .twins import Twin

_US, _NS = 1e-6, 1e-9
_FEW = 2000
"""Calls that one measurement makes."""
_BULK = GIB // SIZE_4K


@contextmanager
def call_rows(fmt: str) -> Iterator[list[Row]]:
    """One translation at a time, over 1 GiB in 4 KiB leaves."""
    with mapped(fmt, GIB) as table:
        few = random_addresses(START, GIB, _FEW).tolist()

        def translate() -> None:
            for address in few:
                table.translate(address)

        def hpa_of() -> None:
            for address in few:
                table.hpa_of(address)

        def explain() -> None:
            for address in few[:200]:
                table.explain(address)

        yield [
            Row("one translate, result object", "us", _FEW * _US, translate),
            Row("one hpa_of", "us", _FEW * _US, hpa_of),
            Row("one explained walk", "us", 200 * _US, explain),
        ]


@contextmanager
def explained_rows(fmt: str) -> Iterator[list[Row]]:
    """Explained walks of both stages."""
    with nested(fmt, GIB) as guest:
        few = [Gva(gva) for gva in guest.gvas(200).tolist()]

        def walk() -> None:
            for gva in few:
                guest.space.walk(gva, guest.stage_1, Access.READ)

        yield [Row("explained two-stage walk", "us", len(few) * _US, walk)]


@contextmanager
def fault_rows(fmt: str) -> Iterator[list[Row]]:
    """Faults in a lazy region of 1 GiB."""
    with host(2 * GIB) as frames:
        space = AddressSpace(fmt, frames)
        twin = Twin(fmt)
        region = MemoryRegion(Gpa(START), GIB, RWX, MapType.MAP_ALLOC, populate=Populate.LAZY)
        pages = [START + SIZE_4K * page for page in range(_FEW)]
        space.map(region)

        def empty() -> None:
            space.unmap(START, GIB)
            space.map(region)

        def populate() -> None:
            for page in pages:
                space.handle_page_fault(page, Access.WRITE)

        def populated() -> None:
            if space.hpa_of(pages[-1]) is None:
                populate()

        in_order = START + SIZE_4K * np.arange(_BULK, dtype=np.uint64)
        given = (ctypes.c_uint64 * 2)()

        def twin_faults() -> None:
            given[0] = 1 << 36
            twin.fault(in_order, given)

        try:
            yield [
                Row("a page fault, populated", "us", _FEW * _US, populate, before=empty),
                Row("a page fault, already present", "us", _FEW * _US, populate, before=populated),
                Row("262,144 page faults in bulk", "ns", _BULK * _NS,
                    lambda: space.handle_page_faults(in_order, Access.WRITE), twin_faults, empty, twin.forget,
                    "has no owners, no counters, no regions; its frames are a counter"),
            ]  # fmt: skip
        finally:
            twin.close()
            space.destroy()
