"""The checker, fed from a file: the tables are made again store by store, and judged as they were when they lived."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..address import SIZE_4K, Hpa, Range, align_down
from ..errors import Stage2Error, StaleTranslationError
from ..formats import by_name
from ..formats.invalidation import Operation
from ..formats.outcome import ACCESSED, DIRTY, LEAF, NONE, TABLE
from ..memory.owners import Owner, OwnerKind
from ..memory.physical import PhysicalMemory
from ..ranges import RangeMap
from ..tables.mapping import Edit
from ..tables.pagetable import PageTable
from .checker import TlbChecker
from .instructions import barrier_of
from .trace_lines import Line, lines_of

_OWNER = Owner(OwnerKind.TABLES, "a trace")
_MOST_TABLES = 1024
"""Tables of one trace. Each reserves addresses of its host's size."""
_STATE = ACCESSED | DIRTY


@dataclass(frozen=True, slots=True)
class Refutation:
    """Where a trace breaks a rule.

    Args:
        line: 1-based: where it shows.
        vm: whose table.
        problem: one sentence, as the checker would have raised it.
    """

    line: int
    vm: str
    problem: str


@dataclass(slots=True)
class TraceVerdict:
    """What came of checking a trace.

    Args:
        refuted: the first rule that it breaks; None if it breaks none. What stands behind is not judged.
        lines, edits, stores, operations, barriers: how many were read until then.
        tables: name -> format of each table.
    """

    refuted: Refutation | None = None
    lines: int = 0
    edits: int = 0
    stores: int = 0
    operations: int = 0
    barriers: int = 0
    tables: dict[str, str] = field(default_factory=dict)


def check_trace(path: Path | str) -> TraceVerdict:
    """Judge a trace of edits: every invalidation that was owed was done in time, with its barriers.

    Memory is needed for the tables that the trace describes and what TLBs may hold of them, not for its length.

    Args:
        path: the file that `EditTrace`, or `stage2 run --trace-edits`, wrote.

    Raises:
        ConfigError: the file cannot be read or is no whole trace; the text names the line.
    """
    verdict = TraceVerdict()
    replays: dict[str, _Replay] = {}
    try:
        for line in lines_of(Path(path)):
            try:
                _take(line, replays, verdict)
            except _Refuted as error:
                verdict.refuted = Refutation(line.number, str(line.keys["vm"]), str(error))
                break
            verdict.lines = line.number
    finally:
        for replay in replays.values():
            replay.close()
    return verdict


def _take(line: Line, replays: dict[str, _Replay], verdict: TraceVerdict) -> None:
    if line.event == "open":
        return
    if line.event == "close":
        for name, replay in replays.items():
            if replay.in_edit:
                line.refuse(f"the trace ends within an edit of {name!r}")
        return
    name = line.text("vm")
    if line.event == "table":
        if name in replays:
            line.refuse(f"there is a table of {name!r} already")
        if len(replays) == _MOST_TABLES:
            line.refuse(f"there are more than {_MOST_TABLES} tables")
        replays[name] = _Replay(line)
        verdict.tables[name] = replays[name].table.format.name
        return
    if name not in replays:
        line.refuse(f"no line before this one says what the table of {name!r} is")
    replays[name].take(line)
    match line.event:
        case "store":
            verdict.stores += 1
        case "invalidate":
            verdict.operations += 1
        case "barrier":
            verdict.barriers += 1
        case "end":
            verdict.edits += 1


class _Refuted(Exception):  # noqa: N818  # a verdict on its way up, not an error
    """A rule is broken at this line."""


class _GivenRoot:
    """What a table is made of that lies where a trace says."""

    def __init__(self, memory: PhysicalMemory, root: int) -> None:
        self.memory, self._root = memory, Hpa(root)

    def allocate(self, size: int = SIZE_4K, *, align: int | None = None, owner: Owner) -> Hpa:
        return self._root

    def allocate_pages(self, size: int, page: int, *, owner: Owner) -> list[Range]:
        raise AssertionError("a table that is replayed takes no frames")

    def free(self, span: Range, *, owner: Owner) -> None:
        """They are nobody's."""


class _Replay:
    """One table, made again."""

    def __init__(self, line: Line) -> None:
        memory = None
        try:
            fmt = by_name(line.text("format"))
            memory = PhysicalMemory(line.memory)
            frames = _GivenRoot(memory, line.word("root"))
            if not memory.contains(line.word("root"), fmt.root_size):
                line.refuse(f"the root table {line.word('root'):#x} is outside the memory that the line names")
            self.table = PageTable(
                fmt, frames, owner=_OWNER, controls=line.word("controls"), identifier=line.number_of("identifier")
            )
        except Stage2Error as error:
            if memory is not None:
                memory.close()
            line.refuse(getattr(error, "problem", None) or str(error))
        self._memory = memory
        self._checker = TlbChecker(self.table)
        self._barriers = _Barriers(barrier_of(fmt))
        self._held: RangeMap[bool] = RangeMap()
        self._levels = {int(self.table.root): fmt.levels - 1}
        self._waiting: list[Operation] = []
        self._paused = False
        """A barrier stood since the last store: whoever sees no invalidation beside it sees the table as it is."""
        self.in_edit = False
        self._began = False
        self._changing = False
        """Something else than an addition happened, so the checker watches the edit."""

    def close(self) -> None:
        self._checker.stop()
        self.table.destroy()
        self._memory.close()

    def take(self, line: Line) -> None:
        """What a line says.

        Raises:
            _Refuted: it breaks a rule.
            ConfigError: it cannot be so.
        """
        try:
            getattr(self, f"_{line.event}")(line)
        except StaleTranslationError as error:
            raise _Refuted(str(error)) from None

    # --- edits ---------------------------------------------------------------------------------------------------

    def _begin(self, line: Line) -> None:
        if self.in_edit:
            line.refuse("an edit begins before the last one ended")
        self.in_edit, self._began, self._changing = True, True, False

    def _between(self, line: Line) -> None:
        if self._changing:
            self._do_operations()
            self._checker.between()

    def _end(self, line: Line) -> None:
        if not self.in_edit:
            line.refuse("an edit ends that did not begin")
        self.in_edit = False
        done = Edit(changes=line.changes)
        self._barriers.settled()
        if self._changing:
            self._do_operations()
            self._checker.after(done)
        self._changing = False

    def _identify(self, line: Line) -> None:
        self.table.identify(line.number_of("identifier"))

    # --- frames --------------------------------------------------------------------------------------------------

    def _take(self, line: Line) -> None:
        span = line.span
        if not self._memory.contains(span.start, span.size) or span.start & 7 or span.size & 7:
            line.refuse(f"{span} is not in memory")
        if self._held.overlapping(span):
            line.refuse(f"{span} holds tables already")
        self._held.add(span, True)

    def _release(self, line: Line) -> None:
        span = line.span
        if self._held.gaps(span) or span.overlaps(Range.sized(self.table.root, self.table.format.root_size)):
            line.refuse(f"{span} holds no tables that could be given back")
        if self.in_edit and self._changing:
            self._do_operations()
        self._held.discard(span)
        self._memory.zero(span)
        for frame in [frame for frame in self._levels if span.contains(frame)]:
            del self._levels[frame]

    # --- stores --------------------------------------------------------------------------------------------------

    def _store(self, line: Line) -> None:
        table, index = line.word("table"), line.number_of("index")
        old, new = line.word("old"), line.word("new")
        level = None if line.keys["level"] is None else line.number_of("level")
        slot = self._slot(line, table, index)
        found = self._memory.load_u64(Hpa(slot))
        if found != old:
            line.refuse(f"the entry at {slot:#x} was {found:#x} before, not {old:#x}: a line is missing or damaged")
        known = self._levels.get(table)
        if known is not None and level != known:
            line.refuse(f"the table at {table:#x} stands at level {known}, not {level}")
        by = line.keys.get("by")
        if by == "walker":
            self._require_state_only(known, old, new)
        elif by is None:
            if not self.in_edit:
                line.refuse("a store of no edit")
            self._barriers.store(line.number)
            self._watch_if_needed(known, old)
        elif by != "found" or self._began:
            line.refuse(f"by {by!r} is neither walker nor, before the first edit, found")
        self._memory.store_u64(Hpa(slot), new)
        if known:
            self._learn(line, known, new)

    def _slot(self, line: Line, table: int, index: int) -> int:
        fmt = self.table.format
        if table == self.table.root:
            size = fmt.root_size
        else:
            size = fmt.table_size
            if table != align_down(table, size):
                line.refuse(f"the table at {table:#x} is not aligned to {size:#x}")
        if index >= size >> 3:
            line.refuse(f"index {index} is beyond the table's {size >> 3} entries")
        slot = table + 8 * index
        if not self._held.get(slot):
            line.refuse(f"no line says that {table:#x} was taken for a table")
        return slot

    def _require_state_only(self, level: int | None, old: int, new: int) -> None:
        """Walkers set accessed and dirty bits of entries, and nothing else."""
        fmt, controls = self.table.format, self.table.regime.controls
        kinds, outputs, attributes = zip(*(fmt.decode(word, level or 0, controls) for word in (old, new)), strict=True)
        same = kinds[0] == kinds[1] != NONE and outputs[0] == outputs[1]
        if level is None or not same or attributes[0] & ~attributes[1] or (attributes[0] ^ attributes[1]) & ~_STATE:
            raise _Refuted(f"{old:#x} became {new:#x} without an edit, and not by accessed or dirty bits alone")

    def _watch_if_needed(self, level: int | None, old: int) -> None:
        """Let the checker see the table before anything but additions happens to it.

        What only becomes valid contradicts nothing that is cached. A table that nothing links is not looked at.
        """
        if level is None:
            return
        if not self._changing:
            fmt = self.table.format
            if fmt.decode(old, level, self.table.regime.controls)[0] not in (LEAF, TABLE):
                return
            self._changing = True
            self._checker.before()
        self._do_operations()

    def _learn(self, line: Line, level: int, entry: int) -> None:
        """Note at which level the table stands that an entry links, and those that it links."""
        fmt, controls = self.table.format, self.table.regime.controls
        waiting = [(level, entry)]
        while waiting:
            level, entry = waiting.pop()
            kind, below, _ = fmt.decode(entry, level, controls)
            if kind != TABLE or self._levels.get(below) == level - 1:
                continue
            if below in self._levels:
                line.refuse(f"the table at {below:#x} is linked at levels {self._levels[below]} and {level - 1}")
            if self._held.gaps(Range.sized(below, fmt.table_size)):
                line.refuse(f"no line says that {below:#x} was taken for a table")
            self._levels[below] = level - 1
            if level > 1:
                words = np.frombuffer(self._memory.read(Hpa(below), fmt.table_size), np.uint64)
                waiting += [(level - 1, word) for word in words[words != 0].tolist()]

    # --- invalidations -------------------------------------------------------------------------------------------

    def _invalidate(self, line: Line) -> None:
        operation = line.operation
        self._barriers.operation(operation)
        if self._changing:
            self._waiting.append(operation)

    def _barrier(self, line: Line) -> None:
        if line.barrier != barrier_of(self.table.format):
            line.refuse(f"{self.table.format.name} has no {line.barrier}")
        self._barriers.barrier()
        self._paused = self._changing

    def _do_operations(self) -> None:
        """Do what was asked for since the last store; the table stands still meanwhile."""
        if self._waiting or self._paused:
            operations, self._waiting, self._paused = tuple(self._waiting), [], False
            self._checker.flush(operations)


class _Barriers:
    """The barriers of an architecture whose invalidations are ordered by nothing else.

    Args:
        barrier: which; None where there is nothing to look for.
    """

    def __init__(self, barrier: str | None) -> None:
        self._barrier = barrier
        self._stored = 0
        """The line of a store that no barrier has ordered yet; 0 for none."""
        self._done: str | None = None
        """The invalidation that no barrier has completed yet."""

    def store(self, line: int) -> None:
        self.settled()
        self._stored = line

    def operation(self, operation: Operation) -> None:
        if self._barrier is None:
            return
        if self._stored:
            raise _Refuted(f"{operation} without {self._barrier} after the store in line {self._stored}")
        if self._done not in (None, operation.name):
            raise _Refuted(f"{operation} without {self._barrier} after {self._done}")
        self._done = operation.name

    def settled(self) -> None:
        """What was invalidated must be complete here."""
        if self._barrier is not None and self._done is not None:
            raise _Refuted(f"no {self._barrier} completes {self._done} before the table changes or the edit ends")

    def barrier(self) -> None:
        self._stored, self._done = 0, None
