"""The kernel that goes over a range of leaves and does one thing to each: clear, protect, harvest, mark or break."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..formats.outcome import GROUPED, LEAF, NONE
from ..formats.record import Format
from ..formats.u64 import MASK_64, u64
from .assembly import compiled_descent, descent, leaf_output, locating, span_shift
from .compiled import Fixed, fixed, inlined, load
from .descent import Function, entry_at, visit_nothing
from .edit import (
    DAMAGED,
    DONE,
    NEEDS_ROOM,
    VALID,
    leaf_stretch,
    room_of,
    row_empty,
    run_note,
    table_filling,
    table_link,
)
from .raw import peek, poke

CLEAR, PROTECT, HARVEST, MARK, BREAK = 0, 1, 2, 3, 4
"""The operations: HARVEST lists and clears accessed or dirty leaves, MARK sets both bits, BREAK makes leaves invalid
without forgetting them, for a PROTECT to follow (break-before-make)."""


@cache
def sweep_kernel(fmt: Format) -> Fixed:
    """kernel(table, start, end, operation, templates, frames, runs, freed, planned) ->
    (result, address, tables, runs, freed tables, leaves, attributes of any, attributes of all, lost permissions).

    Does an operation to every leaf in [start, end). Blocks that reach beyond it are split; holes are skipped by the
    whole entry that is absent; a table left empty is unlinked and listed in `freed`. The last three say what the plan
    met: attributes that any leaf has, those that all have, and permissions that PROTECT takes from any; nothing where
    there was no plan.

    Args of the kernel:
        table: (host, root, controls).
        operation: CLEAR, PROTECT, HARVEST, MARK or BREAK.
        templates: for PROTECT, leaf bits without address, by level, and what they allow; for HARVEST, the attribute
            that counts (ACCESSED or DIRTY of `formats.outcome`); for MARK, the controls under which hardware would
            mark, then 1 for a write.
        frames: zeroed frames for the tables that splits need.
        runs: (n, 3) start, output, size of what was touched, neighbours merged. Too few rows or frames, or a leaf of a
            marked group: NEEDS_ROOM with the numbers needed, nothing written.
        freed: addresses of unlinked tables.
        planned: 1 where this was planned before, so that it can be done at once.
    """
    descend, output_of, note = _descent(fmt), leaf_output(fmt, inlined), run_note(3)
    cut, split = _cut_tables(fmt), _split(fmt)
    # Two loops over a row, because asking at every leaf whether the operation looks at its attributes costs half as
    # much again.
    sweep_row = _sweep_row(fmt, _leaves_none_out, _rewritten(fmt))
    harvest_row = _sweep_row(fmt, _leaves_out, _harvested(fmt))
    unlink = _unlink(fmt)
    locate, shift_of = locating(fmt, inlined), span_shift(fmt, inlined)
    inlined(room_of)
    levels, root_bits, granted_at = fmt.levels, fmt.root_bits, fmt.top_leaf_level + 1
    meet = _meet(fmt)

    def sweep(
        table: Any, start: int, end: int, operation: int, templates: Any, frames: Any, runs: Any, freed: Any,
        planned: int,
    ) -> tuple[int, int, int, int, int, int, int, int, int]:  # fmt: skip
        host, root, controls = table
        room = room_of(runs)
        write = templates[1] if operation == u64(MARK) else u64(0)
        granted = templates[u64(granted_at)] if operation == u64(PROTECT) else u64(MASK_64)
        met = (u64(0), u64(MASK_64), u64(0))
        commit = planned
        while True:
            used, unlinked, leaves = u64(0), u64(0), u64(0)
            run = (u64(0), u64(1), u64(0), u64(0))
            address = start
            while address < end:
                (status, level, slot, entry), (kind, output, attributes), (held, index_bits, allowed) = descend(
                    (host, operation), (root, u64(root_bits), u64(MASK_64)), address, u64(levels), u64(0), controls
                )
                shift = shift_of(level)
                span = u64(1) << shift
                base = address & ~(span - u64(1))
                if status == u64(0) and kind == u64(NONE):
                    address = base + span
                    continue
                if status != u64(0) or kind != u64(LEAF):
                    return u64(DAMAGED), address, used, run[0], unlinked, leaves, met[0], met[1], met[2]
                if operation == u64(HARVEST) and attributes & templates[0] == u64(0):
                    address = base + span
                    continue
                if base < start or base + span > end:
                    output = output_of(output, attributes, base, level)
                    if commit != u64(0):
                        split(host, slot, entry, output, level, frames[used], controls)
                        used += u64(1)
                        continue
                    used += cut(base, level, start, end)
                    met = meet(met, attributes & allowed, granted, controls)
                    first = max(base, start)
                    address = base + span
                    run = note(room, run, first, output + (first - base), min(address, end) - first, u64(0), u64(1))
                    leaves += u64(1)
                    continue
                _slot, rest = locate(held, base, level, index_bits)
                row = (slot + host[0], base, level, min(rest, (end - base) >> shift))
                template = templates[level] if operation == u64(PROTECT) else templates[0]
                work = (operation, template, write)
                limits = (allowed, granted)
                if operation == u64(HARVEST):
                    done, run, met = harvest_row(row, work, controls, room, run, limits, met, commit)
                else:
                    done, run, met = sweep_row(row, work, controls, room, run, limits, met, commit)
                leaves += done
                address = base + (done << shift)
                if commit != u64(0) and operation == u64(CLEAR):
                    unlinked = unlink(table, base, level, held, rest - done, freed, unlinked)
            if commit != u64(0) or leaves == u64(0):
                return u64(DONE), u64(0), used, run[0], unlinked, leaves, met[0], met[1], met[2]
            grouped = met[0] & u64(GROUPED) != u64(0)
            if used > u64(frames.shape[0]) or run[0] > u64(runs.shape[0]) or grouped:
                return u64(NEEDS_ROOM), u64(0), used, run[0], unlinked, leaves, met[0], met[1], met[2]
            commit = u64(1)

    return fixed(sweep, fmt)


def _meet(fmt: Format) -> Function:
    permissions = inlined(fmt.permissions)

    def meet(met: Any, attributes: int, granted: int, controls: int) -> tuple[int, int, int]:
        """What was met so far, with one more leaf: see `sweep_kernel`."""
        any_of, all_of, lost = met
        return any_of | attributes, all_of & attributes, lost | permissions(attributes, controls) & ~granted

    return inlined(meet)


@cache
def _whole(fmt: Format) -> Function:
    broken_bits = VALID if fmt.break_before_make else 0

    def whole(entry: int, operation: int) -> int:
        """An entry as PROTECT takes it, which follows a BREAK: valid again unless it is 0."""
        if broken_bits and operation == u64(PROTECT) and entry != u64(0):
            return entry | u64(broken_bits)
        return entry

    return inlined(whole)


def _descent(fmt: Format) -> Function:
    whole = _whole(fmt)
    inlined(load)

    def load_whole(memory: Any, slot: int) -> tuple[int, int]:
        host, operation = memory
        status, entry = load(host, slot)
        return status, whole(entry, operation)

    return descent(fmt, load_whole, visit_nothing, inlined)


def _rewritten(fmt: Format) -> Function:
    pack_address, inherit, mark = inlined(fmt.pack_address), inlined(fmt.inherit), inlined(fmt.mark)

    def rewritten(entry: int, output: int, operation: int, template: int, write: int) -> int:
        """What an operation but HARVEST makes of a leaf's entry.

        Args of the function:
            template: for PROTECT the leaf bits, for MARK the controls.
            write: for MARK, 1 if the access was a write.
        """
        if operation == u64(CLEAR):
            return u64(0)
        if operation == u64(MARK):
            return mark(entry, write, template)
        if operation == u64(BREAK):
            return entry & u64(MASK_64 ^ VALID)
        return inherit(entry, pack_address(output) | template)

    return inlined(rewritten)


def _harvested(fmt: Format) -> Function:
    forget = inlined(fmt.forget)

    def harvested(entry: int, output: int, operation: int, template: int, write: int) -> int:
        """What HARVEST makes of a leaf's entry; `template` is the attribute that it clears."""
        return forget(entry, template)

    return inlined(harvested)


def _leaves_none_out(attributes: int, template: int) -> bool:
    """Every operation but HARVEST is for all leaves."""
    return False


def _leaves_out(attributes: int, wanted: int) -> bool:
    """HARVEST is for leaves that have an attribute."""
    return attributes & wanted == u64(0)


def _sweep_row(fmt: Format, leaves_out: Function, rewritten: Function) -> Function:
    decode, output_of, note = inlined(fmt.decode), leaf_output(fmt, inlined), run_note(3)
    whole, shift_of, stretch = _whole(fmt), span_shift(fmt, inlined), leaf_stretch(fmt)
    rewrite_row, meet = _rewrite_row(rewritten), _meet(fmt)
    inlined(leaves_out)

    def sweep_row(
        row: Any, work: Any, controls: int, room: Any, run: Any, limits: Any, met: Any, commit: int
    ) -> tuple[int, Any, Any]:
        """(leaves, run, met): an operation on leaves of one table, up to the first entry that it is not for.

        Args of the function:
            row: (HVA of the first entry, its input address, level, number of entries at most).
            work: (operation, template, write), as `rewritten` takes them.
            limits: (attributes that the tables above let through, what the new leaf bits allow).
        """
        hva, first, level, count = row
        operation, template, write = work
        allowed, granted = limits
        shift = shift_of(level)
        done = u64(0)
        while done != count:
            stored = peek(hva, done)
            entry = whole(stored, operation)
            kind, output, attributes = decode(entry, level, controls)
            if kind != u64(LEAF) or leaves_out(attributes, template):
                break
            if done == u64(0):
                done = stretch(hva, count, level, stored, stored ^ entry, (kind, output, attributes), controls)
                if done != u64(0):
                    run = note(room, run, first, output, done << shift, u64(0), u64(1))
                    if commit != u64(0):
                        rewrite_row((hva, done), output, shift, (stored ^ entry, operation, template, write))
                    else:
                        met = meet(met, attributes & allowed, granted, controls)
                    break
            output = output_of(output, attributes, first + (done << shift), level)
            run = note(room, run, first + (done << shift), output, u64(1) << shift, u64(0), u64(1))
            if commit != u64(0):
                poke(hva, done, rewritten(entry, output, operation, template, write))
            else:
                met = meet(met, attributes & allowed, granted, controls)
            done += u64(1)
        return done, run, met

    return inlined(sweep_row)


def _rewrite_row(rewritten: Function) -> Function:
    def rewrite_row(row: Any, output: int, shift: int, work: Any) -> None:
        """Every entry of a row whose leaves continue each other.

        Args of the function:
            row: (HVA of the first entry, number of entries).
            output: where the first one leads.
            work: (bits to turn over first, operation, template, write).
        """
        hva, count = row
        mend, operation, template, write = work
        if operation == u64(CLEAR):
            for i in range(count):
                poke(hva, i, u64(0))
        else:
            for i in range(count):
                entry = peek(hva, i) ^ mend
                poke(hva, i, rewritten(entry, output + (i << shift), operation, template, write))

    return inlined(rewrite_row)


def _cut_tables(fmt: Format) -> Function:
    shift_of = span_shift(fmt, inlined)

    def cut(base: int, level: int, start: int, end: int) -> int:
        """How many tables it takes to split a block where [start, end) cuts it.

        One for each level that a boundary inside the block cuts; where both boundaries cut the same smaller block,
        once.
        """
        tables = u64(0)
        limit = base + (u64(1) << shift_of(level))
        while level != u64(0):
            within = (u64(1) << shift_of(level)) - u64(1)
            cut_start = base < start and start & within != u64(0)
            cut_end = limit > end and end & within != u64(0)
            if not cut_start and not cut_end:
                break
            tables += u64(1)
            if cut_start and cut_end and (start & ~within) != (end & ~within):
                tables += u64(1)
            level -= u64(1)
        return tables

    return inlined(cut)


def _split(fmt: Format) -> Function:
    fill, link, resize, shift_of = table_filling(fmt), table_link(fmt), inlined(fmt.resize), span_shift(fmt, inlined)

    def split(host: Any, slot: int, entry: int, output: int, level: int, fresh: int, controls: int) -> None:
        """Put a table of smaller leaves in the place of a block."""
        below = level - u64(1)
        fill(host, fresh, output, shift_of(below), resize(entry, level, below))
        link(host, slot, fresh, controls)

    return inlined(split)


def _unlink(fmt: Format) -> Function:
    descend, locate, row_is_empty = compiled_descent(fmt), locating(fmt, inlined), row_empty()
    levels, root_bits, bits = fmt.levels, fmt.root_bits, fmt.bits

    def unlink(table: Any, address: int, level: int, held: int, behind: int, freed: Any, unlinked: int) -> int:
        """Unlink the table `held` at `level` if it is empty now, and so on upwards; how many are unlinked then.

        Args of the function:
            address: one that the table translates.
            behind: how many entries it has after the last that was cleared.
        """
        host, root, controls = table
        while level != u64(levels - 1):
            hva, after = held + host[0], u64(1 << bits) - behind
            # The rest of the row after the cleared part is where something is most likely still mapped.
            if not row_is_empty(entry_at(hva, after), behind) or not row_is_empty(hva, after):
                break
            freed[unlinked] = held
            unlinked += u64(1)
            level += u64(1)
            _place, _decoded, (held, index_bits, _allowed) = descend(
                host, (root, u64(root_bits), u64(MASK_64)), address, u64(levels), level + u64(1), controls
            )
            slot, rest = locate(held, address, level, index_bits)
            poke(slot + host[0], u64(0), u64(0))
            behind = rest - u64(1)
        return unlinked

    return inlined(unlink)
