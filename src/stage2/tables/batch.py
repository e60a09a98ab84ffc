"""Translating whole arrays of addresses: one compiled kernel per format, one per pair of formats.

The single-stage kernel takes addresses in blocks: it walks the upper levels of a block, asking the cache for each
leaf entry, and then finishes the block; on tables larger than the caches that hides most of the memory's latency.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from ..formats.outcome import ADDRESS_SIZE, MAPPED
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .compiled import inlined, kernel, load, prefetch, store
from .walk import (
    PENDING,
    make_check,
    make_descent,
    make_guest_load,
    make_stage_2,
    make_two_stage,
    make_walk,
    make_width_check,
    watch_nothing,
)

BLOCK = 32
UNMAPPED = MASK_64
"""The output of an address that is not mapped."""
LEVEL_FIELD = 24
"""Where the level stands in a 32-bit attribute word of a batch; the attributes are below it."""
ATTRIBUTES = (1 << LEVEL_FIELD) - 1


@cache
def physical_descent(fmt: Format) -> Callable[..., Any]:
    """The format's descent over host physical memory, for compiled code."""
    inlined(fmt.decode)
    return inlined(make_descent(fmt, inlined(load), inlined(watch_nothing)))


@cache
def width_check(fmt: Format) -> Callable[..., Any]:
    """Whether an address fits a regime of the format, for compiled code."""
    return inlined(make_width_check(fmt))


@cache
def access_check(fmt: Format) -> Callable[..., Any]:
    """The format's permission and accessed/dirty check, for compiled code."""
    inlined(fmt.permissions)
    inlined(fmt.mark)
    return inlined(make_check(fmt))


@cache
def stage_2_translation(fmt: Format) -> Callable[..., Any]:
    """GPA to HPA, for compiled code."""
    walk = inlined(make_walk(width_check(fmt), physical_descent(fmt)))
    return inlined(make_stage_2(walk, access_check(fmt), inlined(store)))


@cache
def two_stage_translation(first: Format, second: Format) -> Callable[..., Any]:
    """GVA to GPA to HPA, for compiled code."""
    stage_2 = stage_2_translation(second)
    inlined(first.decode)
    guest_load = inlined(make_guest_load(stage_2, load))
    descend = inlined(make_descent(first, guest_load, inlined(watch_nothing)))
    walk = inlined(make_walk(width_check(first), descend))
    return inlined(make_two_stage(walk, access_check(first), stage_2, store))


@cache
def translate_kernel(fmt: Format) -> Callable[..., Any]:
    """kernel(host, root, controls, addresses, outputs, attributes, statuses) for one stage.

    outputs are UNMAPPED and statuses the FaultKind where an address does not translate; attributes are the
    combined ones of the walk with the level of the last entry in bits 31:24.
    """
    descend, fits = physical_descent(fmt), width_check(fmt)
    levels, root_bits, page_shift, bits = fmt.levels, fmt.root_bits, fmt.page_shift, fmt.bits
    # The last level's index width: a format with one level has only its root.
    last_bits = bits if levels > 1 else root_bits

    def translate(
        host: Any, root: int, controls: int, addresses: Any, outputs: Any, attributes: Any, statuses: Any
    ) -> None:
        count = u64(addresses.shape[0])
        start = u64(0)
        while start < count:
            stop = min(start + u64(BLOCK), count)
            for i in range(start, stop):
                address = addresses[i]
                if not fits(address, u64(levels), u64(root_bits)):
                    outputs[i] = u64(UNMAPPED)
                    attributes[i] = u64(levels - 1) << u64(LEVEL_FIELD)
                    statuses[i] = u64(ADDRESS_SIZE)
                    continue
                status, output, attribute, level, _slot, _entry = descend(
                    host, root, address, u64(levels), u64(root_bits), u64(MASK_64), u64(1), controls
                )
                statuses[i] = status
                if status == u64(PENDING):
                    slot = output + (((address >> u64(page_shift)) & u64((1 << last_bits) - 1)) << u64(3))
                    prefetch(slot + host[0])
                outputs[i] = output if status == u64(MAPPED) or status == u64(PENDING) else u64(UNMAPPED)
                attributes[i] = (attribute & u64(ATTRIBUTES)) | level << u64(LEVEL_FIELD)
            for i in range(start, stop):
                if statuses[i] == u64(PENDING):
                    # The upper levels let through what they let through; everything else is the leaf's.
                    allowed = attributes[i] | u64(MASK_64 ^ ATTRIBUTES)
                    status, output, attribute, level, _slot, _entry = descend(
                        host, outputs[i], addresses[i], u64(1), u64(last_bits), allowed, u64(0), controls
                    )
                    statuses[i] = status
                    outputs[i] = output if status == u64(MAPPED) else u64(UNMAPPED)
                    attributes[i] = (attribute & u64(ATTRIBUTES)) | level << u64(LEVEL_FIELD)
            start = stop

    return kernel(translate, fmt)
