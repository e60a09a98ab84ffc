"""Rows of batches: arrays of random addresses, by one stage and by both, the twin's on the same tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from stage2.address import GIB
from stage2.flags import Access

from .measure import Row
from .settings import START, Nested, mapped, nested, random_addresses, require_equal_to_walks
from .twins import OnOurs

_NS = 1e-9
_PLAIN = "checks presence and permissions, no reserved bits or types"


@contextmanager
def batch_rows(fmt: str, gib: int, count: int) -> Iterator[list[Row]]:
    """One stage over so many GiB."""
    with mapped(fmt, gib * GIB) as table:
        addresses = random_addresses(START, gib * GIB, count)
        require_equal_to_walks(table, addresses)
        out = table.translate_many(addresses)
        twin = OnOurs(table)
        hpa, attributes, status = np.empty_like(out.hpa), np.empty_like(out.attributes), np.empty_like(out.status)

        def plain() -> None:
            twin.translate_many(addresses, hpa, attributes, status)

        plain()
        if not (hpa == out.hpa).all() or status.any():
            raise SystemExit("the twin's translations differ from ours")
        yield [
            Row(f"batch translate, full result, {gib} GiB mapped", "ns", count * _NS,
                lambda: table.translate_many(addresses, out=out, threads=1), plain, differs=_PLAIN),
        ]  # fmt: skip


@contextmanager
def two_stage_rows(fmt: str, gib: int, count: int) -> Iterator[list[Row]]:
    """Both stages over so many GiB."""
    with nested(fmt, gib * GIB) as guest:
        gvas = guest.gvas(count)
        guest.require_equal_to_walks(gvas)
        plain, results = two_stage_twin(guest, gvas)
        found = guest.space.translate_gva_many(gvas, guest.stage_1, Access.READ)
        plain()
        if not (results[0] == found.hpa).all() or results[3].any():
            raise SystemExit("the twin's two-stage translations differ from ours")
        yield [
            Row(f"two-stage batch, {gib} GiB", "ns", count * _NS,
                lambda: guest.space.translate_gva_many(gvas, guest.stage_1, Access.READ, threads=1), plain,
                differs=f"{_PLAIN}; results into arrays used before"),
        ]  # fmt: skip


def two_stage_twin(guest: Nested, gvas: npt.NDArray[np.uint64]) -> tuple[Any, tuple[npt.NDArray[Any], ...]]:
    """The twin's work on a guest, and where its results are."""
    twin = OnOurs(guest.space.page_table)
    kinds = (np.uint64, np.uint64, np.uint8, np.uint32)
    results = tuple(np.empty(len(gvas), kind) for kind in kinds)
    return (lambda: twin.translate_two_stage(guest.stage_1.root, gvas, results)), results
