"""The walk and the checks after it: one source, run as plain Python to explain and compiled to be fast.

The makers here take a format's functions (`formats.record`) and its `descent`, and return functions in the compilable
subset. What differs between their uses is injected: how an entry is loaded (from host physical memory, or from guest
physical memory through stage 2) and who visits the steps. `assembly` puts them together.

A regime travels as four numbers: root, levels, root index bits, controls. A walk answers with a status that is 0
or the number of a `FaultKind`; a two-stage translation adds the flags below to it.
"""

from __future__ import annotations

from typing import Any

from ..formats.outcome import (
    ACCESS_FLAG,
    ACCESSED,
    ADDRESS_SIZE,
    ALL_PERMISSIONS,
    COMBINED,
    DIRTY,
    LEAF,
    MAPPED,
    MISCONFIGURATION,
    NONE,
    PERMISSION,
    READ,
    TABLE,
    TABLES_ACCESSED,
    TOO_WIDE,
    TRANSLATION,
    USER,
    USER_SHIFT,
    WRITE,
)
from ..formats.record import Format
from ..formats.rules import TABLE_WALK
from ..formats.u64 import MASK_64, u64
from .descent import Function, Table, visit_nothing

KIND_MASK = 0xFF
"""The part of a status that is a FaultKind."""
AT_STAGE_2 = 1 << 8
"""Stage 2 refused."""
ON_TABLE = 1 << 9
"""The refused access was one to a stage-1 table."""
ON_MARK = 1 << 10
"""That access was the hardware's write of an accessed or dirty bit, or one that counts as such (EPT with accessed
and dirty flags, nested paging)."""
PENDING = 0xFF
"""No fault: a descent that was told to stop above the last level has done so."""
LEVEL_SHIFT = 16
"""Bits 23:16 of a status: the level of the entry that ended the walk."""

WRITE_PERMISSIONS = WRITE | WRITE << USER_SHIFT


def make_lookup(descend: Function, leaf_output: Function, span_shift: Function) -> Function:
    """A descent that answers as hardware does: with an address or a fault.

    Returns:
        look_up(memory, table, address, level, floor, controls) ->
        (status, output address, attributes, level, entry's address, entry).
        With `floor` levels left it stops: the status is PENDING, the next table is the output, and the attributes are
        what the tables so far let through.
    """

    def look_up(
        memory: Any, table: Table, address: int, level: int, floor: int, controls: int
    ) -> tuple[int, int, int, int, int, int]:
        place, decoded, below = descend(memory, table, address, level, floor, controls)
        status, level, slot, entry = place
        kind, output, attributes = decoded
        held, _, allowed = below
        if status != u64(0):
            return status, u64(0), u64(0), level, slot, entry
        if kind == u64(TABLE):
            return u64(PENDING), held, allowed, level, u64(0), u64(0)
        if kind == u64(LEAF):
            offset = address & ((u64(1) << span_shift(level)) - u64(1))
            output = leaf_output(output, attributes, address, level) | offset
            return u64(MAPPED), output, attributes & allowed, level, slot, entry
        if kind == u64(NONE):
            return u64(TRANSLATION), u64(0), u64(0), level, slot, entry
        if kind == u64(TOO_WIDE):
            return u64(ADDRESS_SIZE), u64(0), u64(0), level, slot, entry
        return u64(MISCONFIGURATION), u64(0), u64(0), level, slot, entry

    return look_up


def make_width_check(fmt: Format) -> Function:
    """Whether an address fits a regime: fits(address, levels, root_bits) -> bool.

    Without levels (Bare) an address goes through as it is: from stage 1 to stage 2, which looks at its width; from
    stage 2 to physical memory, so there it must not be wider than a physical address.
    """
    page_shift, bits, sign_extended = fmt.page_shift, fmt.bits, fmt.sign_extended
    high_half = 1 if fmt.high_half else 0
    too_wide_if_bare = 0 if fmt.stage == 1 else MASK_64 ^ ((1 << fmt.output_bits) - 1)

    def fits(address: int, levels: int, root_bits: int) -> bool:
        if levels == u64(0):
            return address & u64(too_wide_if_bare) == u64(0)
        width = u64(page_shift) + u64(bits) * (levels - u64(1)) + root_bits
        if sign_extended:
            above = address >> (width - u64(1))
            return above == u64(0) or above == u64(MASK_64) >> (width - u64(1))
        if high_half:
            return address >> width == u64(MASK_64) >> width
        return address >> width == u64(0)

    return fits


def make_walk(fmt: Format, fits: Function, look_up: Function) -> Function:
    """The whole table walk of a format, from its width check and its lookup.

    Returns:
        walk(memory, root, address, levels, root_bits, floor, controls) ->
        (status, output address, attributes, level, entry's address, entry).
        The attributes are the leaf's, cut down to what every table on the way lets through. With 0 levels
        nothing is translated and everything is allowed. `floor` is 0, or as `look_up` takes it.
    """
    wide_input_fault = fmt.wide_input_fault
    root_too_wide, root_fault_level = fmt.rules.root_too_wide, fmt.rules.root_fault_level

    def walk(
        memory: Any, root: int, address: int, levels: int, root_bits: int, floor: int, controls: int
    ) -> tuple[int, int, int, int, int, int]:
        if not fits(address, levels, root_bits):
            return u64(wide_input_fault), u64(0), u64(0), max(levels, u64(1)) - u64(1), u64(0), u64(0)
        if levels == u64(0):
            return u64(MAPPED), address, u64(COMBINED | ACCESSED | DIRTY), u64(0), u64(0), u64(0)
        if root_too_wide(root, controls) != u64(0):
            return u64(ADDRESS_SIZE), u64(0), u64(0), u64(root_fault_level), u64(0), u64(0)
        return look_up(  # type: ignore[no-any-return]  # injected
            memory, (root, root_bits, u64(MASK_64)), address, levels, floor, controls
        )

    return walk


def make_check(fmt: Format) -> Function:
    """What follows a successful walk: permissions, then the accessed and dirty bits.

    Returns:
        check(attributes, entry, levels, need, write, controls) -> (status, entry afterwards, permissions).
        `need` is a mask of effective permissions, 0 to ask for nothing and touch nothing. Write permission is
        withheld from the answer as long as the leaf is not dirty, so that the first write comes back here.
    """
    permissions, mark = fmt.permissions, fmt.mark

    def check(attributes: int, entry: int, levels: int, need: int, write: int, controls: int) -> tuple[int, int, int]:
        if levels == u64(0):
            return u64(MAPPED), entry, u64(ALL_PERMISSIONS)
        granted = permissions(attributes, controls)
        if need == u64(0):
            return u64(MAPPED), entry, granted
        after = entry
        clean = attributes & u64(DIRTY) == u64(0)
        # Arm reports a clear access flag before a lack of permission (DDI 0487, "MMU fault prioritization");
        # elsewhere both are one fault.
        if attributes & u64(ACCESSED) == u64(0):
            after = mark(entry, write, controls)
            if after == entry:
                return u64(ACCESS_FLAG), entry, granted
        if granted & need != need:
            return u64(PERMISSION), entry, granted
        if write != u64(0) and clean:
            after = mark(entry, write, controls)
            if after == entry:
                return u64(ACCESS_FLAG), entry, granted
        if clean and write == u64(0):
            granted &= u64(ALL_PERMISSIONS ^ WRITE_PERMISSIONS)
        return u64(MAPPED), after, granted

    return check


def no_table_marks(
    memory: Any, root: int, address: int, levels: int, root_bits: int, controls: int
) -> tuple[int, int, int]:
    """The table marks of a format whose table entries have no accessed flag; disappears when inlined."""
    return u64(0), u64(0), u64(0)


def make_table_visit(fmt: Format, store: Function) -> Function:
    """The visitor that sets the accessed flags of table entries.

    Args:
        fmt: a format with `mark_table`.
        store: (memory, address of the entry, entry) -> status.
    """
    mark_table = fmt.mark_table
    if mark_table is None:
        return visit_nothing

    def visit(memory: Any, level: int, table: int, slot: int, entry: int, decoded: Any, controls: int) -> int:
        if decoded[0] == u64(TABLE):
            after = mark_table(entry, controls)
            if after != entry:
                return store(memory, slot, after)  # type: ignore[no-any-return]  # injected
        return u64(0)

    return visit


def make_table_marks(descend: Function) -> Function:
    """The accessed flags of the table entries that a successful walk went through.

    Only walks that find one clear come here, so it descends once more instead of burdening every walk.

    Args:
        descend: a descent whose visitor sets them.

    Returns:
        mark_tables(memory, root, address, levels, root_bits, controls) -> (status, entry's address, level).
    """

    def mark_tables(
        memory: Any, root: int, address: int, levels: int, root_bits: int, controls: int
    ) -> tuple[int, int, int]:
        table = (root, root_bits, u64(MASK_64))
        (status, level, slot, _), _, _ = descend(memory, table, address, levels, u64(0), controls)
        if status == u64(0):
            return u64(0), u64(0), u64(0)
        return status, slot, level

    return mark_tables


def make_stored(store: Function) -> Function:
    """A store that cannot fail, as one that answers with a status."""

    def stored(memory: Any, slot: int, word: int) -> int:
        store(memory, slot, word)
        return u64(0)

    return stored


def make_stage_2(walk: Function, check: Function, store: Function, mark_tables: Function = no_table_marks) -> Function:
    """Translation of one GPA by stage 2 alone.

    Returns:
        stage_2(memory, regime, gpa, need, write) -> (status with level, hpa, permissions, leaf level).
        The status has AT_STAGE_2 set when it is not 0; accessed and dirty bits that hardware sets are stored.
    """

    def stage_2(memory: Any, regime: Any, gpa: int, need: int, write: int) -> tuple[int, int, int, int]:
        root, levels, root_bits, controls = regime
        status, hpa, attributes, level, slot, entry = walk(memory, root, gpa, levels, root_bits, u64(0), controls)
        granted = u64(0)
        if status == u64(0):
            status, after, granted = check(attributes, entry, levels, need, write, controls)
            if status == u64(0):
                if after != entry:
                    store(memory, slot, after)
                if need != u64(0) and attributes & u64(TABLES_ACCESSED) == u64(0):
                    status, slot, level = mark_tables(memory, root, gpa, levels, root_bits, controls)
        if status != u64(0):
            return status | u64(AT_STAGE_2) | level << u64(LEVEL_SHIFT), u64(0), u64(0), level
        return u64(0), hpa, granted, level

    return stage_2


def make_guest_load(fmt_2: Format, stage_2: Function, load: Function) -> Function:
    """Loading of a stage-1 entry: its address is a GPA, so stage 2 translates it first, as a read.

    Args:
        fmt_2: the stage-2 format; it says whether the read counts as a write.
        stage_2: its translation.
        load: of an HPA.

    Returns:
        guest_load(memory, gpa) -> (status, entry), where memory is (host memory, stage-2 regime).
    """
    walk_write = fmt_2.walk_write

    def guest_load(memory: Any, slot: int) -> tuple[int, int]:
        host, regime = memory
        root, levels, root_bits, controls = regime
        write = walk_write(controls)
        walking = (root, levels, root_bits, controls | u64(TABLE_WALK))
        status, hpa, _, _ = stage_2(host, walking, slot, u64(READ) | write << u64(1), write)
        if status != u64(0):
            return status | u64(ON_TABLE) | write << u64(10), u64(0)
        return load(host, hpa)  # type: ignore[no-any-return]  # injected

    return guest_load


def make_guest_store(stage_2: Function, store: Function) -> Function:
    """Storing of a stage-1 entry's accessed and dirty bits: a write that goes through stage 2.

    Returns:
        guest_store(memory, gpa, entry) -> status, where memory is (host memory, stage-2 regime).
    """

    def guest_store(memory: Any, slot: int, word: int) -> int:
        host, regime = memory
        root, levels, root_bits, controls = regime
        walking = (root, levels, root_bits, controls | u64(TABLE_WALK))
        status, hpa, _, _ = stage_2(host, walking, slot, u64(READ | WRITE), u64(1))
        if status != u64(0):
            return status | u64(ON_TABLE | ON_MARK)  # type: ignore[no-any-return]  # injected
        store(host, hpa, word)
        return u64(0)

    return guest_store


def make_asking(fmt_2: Format) -> Function:
    """What stage 2 is asked for, once stage 1 has answered.

    Args:
        fmt_2: the stage-2 format; it says by what it tells users from supervisors.

    Returns:
        asking(attributes of stage 1, need) -> (need at stage 2, side); `make_both` takes the side.
    """
    by_page = 1 if fmt_2.privilege_by_page else 0

    def asking(attributes: int, need: int) -> tuple[int, int]:
        side = u64(0)
        if by_page:
            # All bits are asked for on the side of the page, and that side's answer holds for everybody. While stage 1
            # is off, every page is one of user mode (SDM Vol. 3C, table 29-7, bit 9).
            if attributes & u64(USER) != u64(0):
                side = u64(USER_SHIFT)
            need = ((need | need >> u64(USER_SHIFT)) & u64(7)) << side
        return need, side

    return asking


def make_both(fmt_2: Format) -> Function:
    """The permissions of both stages together: both(granted by stage 1, granted by stage 2, side) -> permissions."""
    by_page = 1 if fmt_2.privilege_by_page else 0

    def both(granted: int, granted_2: int, side: int) -> int:
        if by_page:
            granted_2 = (granted_2 >> side) & u64(7)
            granted_2 |= granted_2 << u64(USER_SHIFT)
        return granted & granted_2

    return both


def make_two_stage(
    asking: Function,
    both: Function,
    walk_1: Function,
    check_1: Function,
    stage_2: Function,
    guest_store: Function,
    mark_tables: Function = no_table_marks,
) -> Function:
    """Translation of one GVA by both stages.

    Args:
        asking, both: of the second format.
        walk_1, check_1, stage_2, guest_store, mark_tables: of these two formats.

    Returns:
        two_stage(host, regime_1, regime_2, gva, need, write) ->
        (status with level, hpa, permissions of both stages, gpa, leaf level of stage 1, leaf level of stage 2).
        On a stage-2 fault `gpa` is the address that stage 2 refused. `need` is a mask of effective permissions
        (privileged or user bits) that both stages are asked for: formats that tell user fetches from supervisor
        ones at stage 2 (Arm's XN[1:0]) need to know.
    """

    def two_stage(
        host: Any, regime_1: Any, regime_2: Any, gva: int, need: int, write: int
    ) -> tuple[int, int, int, int, int, int]:
        root, levels, root_bits, controls = regime_1
        status, gpa, attributes, level, slot, entry = walk_1(
            (host, regime_2), root, gva, levels, root_bits, u64(0), controls
        )
        granted = u64(0)
        after = entry
        if status == u64(0):
            status, after, granted = check_1(attributes, entry, levels, need, write, controls)
        if status != u64(0):
            if status & u64(AT_STAGE_2) != u64(0):
                return status, u64(0), u64(0), slot, level, u64(0)
            return status | level << u64(LEVEL_SHIFT), u64(0), u64(0), u64(0), level, u64(0)
        # Hardware writes the accessed and dirty bits of stage 1, and that write goes through stage 2.
        if after != entry:
            status = guest_store((host, regime_2), slot, after)
        if status == u64(0) and need != u64(0) and attributes & u64(TABLES_ACCESSED) == u64(0):
            status, slot, level = mark_tables((host, regime_2), root, gva, levels, root_bits, controls)
        if status != u64(0):
            return status, u64(0), u64(0), slot, level, u64(0)
        need_2, side = asking(attributes, need)
        status, hpa, granted_2, level_2 = stage_2(host, regime_2, gpa, need_2, write)
        if status != u64(0):
            return status, u64(0), u64(0), gpa, level, level_2
        return u64(0), hpa, both(granted, granted_2, side), gpa, level, level_2

    return two_stage
