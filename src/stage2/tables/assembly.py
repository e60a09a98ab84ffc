"""Walks put together from their pieces, once for all who walk.

The explained walk, batches, edits and the callbacks of engines differ in how memory is loaded and stored, in who visits
the steps, and in whether the pieces run as plain Python or compiled. They say so here and get the same walk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from ..formats.record import Format
from .compiled import inlined, load, store
from .descent import Function, entry_at, make_descent, make_leaf_output, make_locate, make_span_shift, visit_nothing
from .folded import folded, folded_format
from .walk import (
    make_asking,
    make_both,
    make_check,
    make_guest_load,
    make_guest_store,
    make_lookup,
    make_stage_2,
    make_stored,
    make_table_marks,
    make_table_visit,
    make_two_stage,
    make_walk,
    make_width_check,
    no_table_marks,
)

Ready = Callable[[Function], Function]
"""Makes a function callable for those that it is injected into: `inlined`, or `plain`."""


# Pieces are kept, not made anew: numba compiles every function object once.


def plain(function: Function) -> Function:
    """Plain Python needs nothing to call a function."""
    return function


@cache
def span_shift(fmt: Format, ready: Ready) -> Function:
    """See `make_span_shift`."""
    return ready(make_span_shift(fmt))


@cache
def locating(fmt: Format, ready: Ready) -> Function:
    """See `make_locate`."""
    ready(entry_at)
    return ready(make_locate(span_shift(fmt, ready)))


@cache
def leaf_output(fmt: Format, ready: Ready) -> Function:
    """See `make_leaf_output`."""
    return ready(make_leaf_output(fmt, span_shift(fmt, ready)))


@cache
def width_check(fmt: Format, ready: Ready) -> Function:
    """See `make_width_check`."""
    return ready(make_width_check(fmt))


@cache
def descent(fmt: Format, load: Function, visit: Function, ready: Ready) -> Function:
    """See `make_descent`."""
    ready(fmt.decode)
    return ready(make_descent(fmt, locating(fmt, ready), ready(load), ready(visit)))


@cache
def lookup(fmt: Format, load: Function, visit: Function, ready: Ready) -> Function:
    """See `make_lookup`."""
    return ready(make_lookup(descent(fmt, load, visit, ready), leaf_output(fmt, ready), span_shift(fmt, ready)))


def whole_walk(fmt: Format, load: Function, visit: Function, ready: Ready) -> Function:
    """See `make_walk`."""
    ready(fmt.rules.root_too_wide)
    return ready(make_walk(fmt, width_check(fmt, ready), lookup(fmt, load, visit, ready)))


@cache
def check(fmt: Format, ready: Ready) -> Function:
    """See `make_check`."""
    ready(fmt.permissions)
    ready(fmt.mark)
    return ready(make_check(fmt))


@cache
def sides(second: Format, ready: Ready) -> tuple[Function, Function]:
    """See `make_asking` and `make_both`."""
    return ready(make_asking(second)), ready(make_both(second))


def _table_marks(fmt: Format, load: Function, store: Function, ready: Ready) -> Function:
    if fmt.mark_table is None:
        return ready(no_table_marks)
    ready(fmt.mark_table)
    return ready(make_table_marks(descent(fmt, load, make_table_visit(fmt, ready(store)), ready)))


def assemble_stage_2(
    fmt: Format, load: Function, store: Function, visit: Function = visit_nothing, ready: Ready = plain
) -> Function:
    """The translation of one GPA, see `make_stage_2`; also of one GVA by stage 1 alone.

    Args:
        fmt: the format.
        load: (memory, address of an entry) -> (status, entry).
        store: (memory, address of an entry, entry).
        visit: of the walk's steps, see `make_descent`; setting accessed flags of tables is not visited.
        ready: how the pieces run.
    """
    marks = _table_marks(fmt, load, make_stored(ready(store)), ready)
    return ready(make_stage_2(whole_walk(fmt, load, visit, ready), check(fmt, ready), store, marks))


def assemble_two_stage(
    first: Format,
    second: Format,
    stage_2: Function,
    load: Function,
    store: Function,
    visit: Function = visit_nothing,
    ready: Ready = plain,
    *,
    unseen_2: Function | None = None,
) -> Function:
    """The translation of one GVA by both stages, see `make_two_stage`.

    Args:
        first, second: the formats.
        stage_2: `assemble_stage_2` of the second.
        load, store: of host physical memory.
        visit: of stage 1's steps.
        ready: how the pieces run.
        unseen_2: the stage-2 translation for setting accessed and dirty bits of stage 1, where `stage_2` has a
            visitor that is not to see it.
    """
    quiet_2 = stage_2 if unseen_2 is None else unseen_2
    ready(second.walk_write)
    guest_load = make_guest_load(second, stage_2, ready(load))
    quiet_load = guest_load if unseen_2 is None else make_guest_load(second, unseen_2, load)
    guest_store = ready(make_guest_store(quiet_2, ready(store)))
    marks = _table_marks(first, quiet_load, guest_store, ready)
    walk = whole_walk(first, guest_load, visit, ready)
    asking, both = sides(second, ready)
    return ready(make_two_stage(asking, both, walk, check(first, ready), stage_2, guest_store, marks))


# --- compiled, over host physical memory --------------------------------------------------------------------


@cache
def compiled_descent(fmt: Format) -> Function:
    """The format's descent."""
    return descent(fmt, load, visit_nothing, inlined)


@cache
def compiled_lookup(fmt: Format) -> Function:
    """The format's lookup."""
    return lookup(fmt, load, visit_nothing, inlined)


@cache
def compiled_walk(fmt: Format) -> Function:
    """The format's walk."""
    return whole_walk(fmt, load, visit_nothing, inlined)


@cache
def compiled_two_stage(first: Format, second: Format, store: Function = store) -> Function:
    """GVA to GPA to HPA; `store` keeps accessed and dirty bits, or keeps them back."""
    stage_2 = assemble_stage_2(second, load, store, ready=inlined)
    return assemble_two_stage(first, second, stage_2, load, store, ready=inlined)


# --- as plain Python for many addresses, over host physical memory ------------------------------------------


@cache
def folded_walk(fmt: Format) -> Function:
    """The format's walk with its constants worked out."""
    return whole_walk(folded_format(fmt), load, visit_nothing, folded)


@cache
def folded_two_stage(first: Format, second: Format, store: Function) -> Function:
    """As `compiled_two_stage`, with constants worked out."""
    first, second = folded_format(first), folded_format(second)
    stage_2 = assemble_stage_2(second, load, store, ready=folded)
    return assemble_two_stage(first, second, stage_2, load, store, ready=folded)
