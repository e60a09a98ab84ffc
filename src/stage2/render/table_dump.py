"""A whole page table as text: one line for each table and each run of leaves that continue each other.

Whatever bytes lie there are shown, also what hardware would refuse; a table that is linked from several places, or from
itself, is shown once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..formats import family_of
from ..formats.describe import describe_misconfiguration
from ..formats.outcome import (
    ACCESSED,
    COMBINED,
    DIRTY,
    GLOBAL,
    GROUPED,
    LEAF,
    NONE,
    TABLE,
    TOO_WIDE,
    USER_SHIFT,
    EntryKind,
)
from ..formats.u64 import MASK_64
from ..tables.explain import WordSource
from ..tables.outward import outward
from ..tables.regime import Regime
from .levels import level_key
from .plain import span_text

MAX_LINES = 10_000


@dataclass(frozen=True, slots=True)
class EntryRun:
    """One entry, or neighbours that are leaves with equal attributes and consecutive outputs.

    Args:
        depth: tables between the root and this one.
        level: 0 for the smallest page.
        index: of the first entry in its table.
        count: how many entries.
        start: first input address, as software writes it (sign-extended where the format demands it).
        size: bytes of input addresses.
        entry: the first entry's raw 64 bits.
        kind: what it is.
        output: where it points.
        attributes: as `decode` answers, cut down to what the tables above let through.
        shown: it points to a table that stands further up.
        missing: it points to a table outside memory.
    """

    depth: int
    level: int
    index: int
    count: int
    start: int
    size: int
    entry: int
    kind: EntryKind
    output: int
    attributes: int
    shown: bool = False
    missing: bool = False


def render_page_table(source: WordSource, regime: Regime, *, limit: int = MAX_LINES) -> str:
    """A page table as text.

    Of each run: level and index, input range, where it leads, what a privileged and a user access may do (all tables
    above included), memory type (`-` where the entry does not decide it), A(ccessed) and D(irty) as far as they are
    tracked, G(lobal), the mark of a group, and the raw entry.

    Args:
        source: memory that holds the tables.
        regime: format, root and controls.
        limit: lines after which the rest is left out.
    """
    fmt = regime.format
    lines = [f"{fmt.name}: {fmt.title}; root {regime.root:#x}, controls {regime.controls:#x}"]
    if (key := level_key(fmt)) is not None:
        lines.append(key)
    if fmt.is_bare:
        return lines[0] + "\nno tables: output equals input\n"
    head = len(lines)
    for run in entry_runs(source, regime):
        if len(lines) - head >= limit:
            lines.append(f"... more than {limit} lines: the rest is left out")
            break
        lines.append(_line(regime, run))
    return "\n".join(lines) + "\n"


def entry_runs(source: WordSource, regime: Regime) -> Iterator[EntryRun]:
    """The entries of a page table that are not zero, in order of input addresses, tables before what they hold."""
    if not regime.format.is_bare:
        top = regime.format.levels - 1
        yield from _runs(source, regime, regime.root, top, 0, MASK_64, {(regime.root, top)})


def _runs(
    source: WordSource, regime: Regime, table: int, level: int, base: int, allowed: int, seen: set[tuple[int, int]]
) -> Iterator[EntryRun]:
    fmt = regime.format
    depth, size = fmt.levels - 1 - level, fmt.leaf_size(level)
    waiting: EntryRun | None = None
    for index in range(1 << (fmt.root_bits if depth == 0 else fmt.bits)):
        slot = table + 8 * index
        entry = source.word_at(slot)
        if not entry:
            continue
        kind, output, attributes = fmt.decode(entry, level, regime.controls)
        start = base + index * size
        if kind == LEAF and attributes & GROUPED and fmt.group_translates:
            output |= start & (size << fmt.group_bits_at(level)) - size
        attributes &= allowed
        if waiting is not None:
            continues = (
                kind == LEAF
                and waiting.index + waiting.count == index
                and waiting.attributes == attributes
                and waiting.output + waiting.size == output
            )
            if continues:
                waiting = _longer(waiting, size)
                continue
            yield waiting
            waiting = None
        shown = kind == TABLE and (output, level - 1) in seen
        missing = kind == TABLE and not source.contains(output, fmt.table_size)
        run = EntryRun(
            depth, level, index, 1, outward(regime.format, start), size, entry, EntryKind(kind), output, attributes,
            shown, missing,
        )  # fmt: skip
        if kind == LEAF:
            waiting = run
            continue
        yield run
        if kind == TABLE and not shown and not missing:
            seen.add((output, level - 1))
            below = allowed & (attributes | MASK_64 ^ COMBINED)
            yield from _runs(source, regime, output, level - 1, start, below, seen)
    if waiting is not None:
        yield waiting


def _longer(run: EntryRun, size: int) -> EntryRun:
    return EntryRun(
        run.depth, run.level, run.index, run.count + 1, run.start, run.size + size, run.entry, run.kind, run.output,
        run.attributes,
    )  # fmt: skip


def _line(regime: Regime, run: EntryRun) -> str:
    indices = f"{run.index}" if run.count == 1 else f"{run.index}..{run.index + run.count - 1}"
    place = f"{'  ' * run.depth}L{run.level}[{indices}] {span_text(run.start, run.start + run.size)}"
    return f"{place} {_meaning(regime, run)} {run.entry:#018x}"


def _meaning(regime: Regime, run: EntryRun) -> str:
    fmt, controls = regime.format, regime.controls
    if run.kind == NONE:
        return "not present, not zero"
    if run.kind == TOO_WIDE:
        return "its address is too wide"
    if run.kind == TABLE:
        note = " (shown above)" if run.shown else " (outside memory)" if run.missing else ""
        return f"table {run.output:#x}{note}"
    if run.kind != LEAF:
        return f"misconfigured: {describe_misconfiguration(fmt, run.entry, run.level, controls)}"
    granted = fmt.permissions(run.attributes, controls)
    word, _ = family_of(fmt).memory_type(fmt, run.attributes, controls)
    state = "".join(letter for letter, bit in (("A", ACCESSED), ("D", DIRTY), ("G", GLOBAL)) if run.attributes & bit)
    group = " group" if run.attributes & GROUPED else ""
    return f"to {run.output:#x} {_rwx(granted)}/{_rwx(granted >> USER_SHIFT)} {word or '-'} {state or '-'}{group}"


def _rwx(granted: int) -> str:
    return "".join(letter if granted >> place & 1 else "-" for place, letter in enumerate("rwx"))
