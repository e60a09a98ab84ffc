"""Every store to a table, every invalidation and every barrier, in order, as lines of a file.

A `TableTrace` stands where the checker stands: the editor tells it when an edit begins, is half-way and is done, and
hands it what is to be invalidated. At each of these it compares the tables with what they were and writes down the
words that changed. So the order is that of the architecture wherever an order matters: what was stored before an
invalidation stands before it. Words that changed between two such moments are listed smallest level first, so that a
table's contents stand before the entry that links it. The format of the lines: docs/traces.md.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

import numpy as np

from ..address import Range
from ..errors import ConfigError
from ..formats.invalidation import Operation
from ..formats.outcome import TABLE
from ..ranges import RangeMap
from ..tables.editor import Flush, Watcher
from ..tables.mapping import Edit, U64Array
from .instructions import Operands, with_barriers

if TYPE_CHECKING:
    from ..tables.pagetable import PageTable

VERSION = "stage2/edits/1"
"""What the first line says."""
_CHUNK = 4096
"""Stores that are written at a time."""
_NO_WORDS: U64Array = np.zeros(0, np.uint64)


class EditTrace:
    """A file of what happens to tables; several of them may be watched, each under its own lock.

    Args:
        path: the file; what was in it is gone.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = 0
        """Lines written so far."""
        self._lock = threading.Lock()
        self._watched: list[TableTrace] = []
        self._failure: OSError | None = None
        self._file: IO[str] | None = None
        try:
            self._file = path.open("w", encoding="utf-8", newline="\n")
        except OSError as error:
            raise self._error(error) from None
        self.write([json.dumps({"event": "open", "schema": VERSION})])
        self.settle()

    def watch(self, table: PageTable, name: str) -> TableTrace:
        """Write down what happens to a table from now on; what it says already comes first.

        Args:
            table: which. A watcher that it has already goes on watching.
            name: what the file calls it, the VM's name; each once.
        """
        watched = TableTrace(self, table, name)
        self._watched.append(watched)
        return watched

    def write(self, lines: Iterable[str]) -> None:
        """Write whole lines. An edit under way is not to be torn in two: what fails is raised by `close`."""
        chosen = list(lines)
        with self._lock:
            if self._file is None or self._failure is not None or not chosen:
                return
            try:
                self._file.write("\n".join(chosen) + "\n")
            except OSError as error:
                self._failure = error
            self.lines += len(chosen)

    def settle(self) -> None:
        """Hand what was written to the operating system, so that it is there whatever becomes of us."""
        with self._lock:
            if self._file is None or self._failure is not None:
                return
            try:
                self._file.flush()
            except OSError as error:
                self._failure = error

    def stop(self) -> None:
        """Watch no longer. Harmless when repeated."""
        for watched in self._watched:
            watched.stop()
        self._watched.clear()

    def close(self) -> None:
        """Watch no longer, and end the file with the line that says that it is whole. Harmless when repeated.

        Raises:
            ConfigError: some of it could not be written.
        """
        self.stop()
        if self._file is None:
            return
        self.write([json.dumps({"event": "close", "lines": self.lines + 1})])
        self.settle()
        file, self._file = self._file, None
        try:
            file.close()
        except OSError as error:
            self._failure = self._failure or error
        if self._failure is not None:
            raise self._error(self._failure)

    def _error(self, error: OSError) -> ConfigError:
        return ConfigError(f"the trace cannot be written: {error.strerror or error}", file=str(self.path))

    def __enter__(self) -> EditTrace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TableTrace:
    """One table's part of a trace: a watcher, and what stands between its edits and its `flush`.

    It keeps a copy of the tables' words, and nothing that grows with the number of edits.
    """

    def __init__(self, trace: EditTrace, table: PageTable, name: str) -> None:
        self.table = table
        self._trace, self._name = trace, json.dumps(name)
        self._held: list[Range] = []
        self._words: list[U64Array] = []
        self._copies: list[U64Array] = []
        self._levels = {int(table.root): table.format.levels - 1}
        self._in_edit = False
        self._stopped = False
        with table.editor.lock:
            self._inner: Flush | None = None
            self._watcher: Watcher | None = table.editor.watcher
            self._identifier = table.regime.identifier
            self._tell_table()
            self._scan("found")
            table.editor.watcher = self
            self._stand_before_flush()
        trace.settle()

    def stop(self) -> None:
        """Watch no longer. Harmless when repeated."""
        editor = self.table.editor
        with editor.lock:
            if self._stopped:
                return
            self._stopped = True
            if not editor.gone and self.table.memory.mapped is not None:
                self._scan("walker")
            if editor.watcher is self:
                editor.watcher = self._watcher
            if editor.flush == self._flush:
                editor.flush = self._inner

    # --- the editor's watcher ------------------------------------------------------------------------------------

    def before(self) -> None:
        """What changed since the last edit, no edit did: walkers set accessed and dirty bits."""
        self._stand_before_flush()
        if self._in_edit:
            # The last one was refused half-way.
            self._end(())
        identifier = self.table.regime.identifier
        if identifier != self._identifier:
            self._identifier = identifier
            self._tell("identify", f'"identifier": {identifier}')
        self._scan("walker")
        if self._watcher is not None:
            self._watcher.before()

    def between(self) -> None:
        """The edit is half-way."""
        self._scan()
        self._tell("between")
        if self._watcher is not None:
            self._watcher.between()

    def after(self, done: Edit) -> None:
        """The edit is done."""
        self._scan(whole=True)
        if self._in_edit:
            self._end(f'["{c.kind.value}", "{c.span.start:#x}", "{c.span.end:#x}"]' for c in done.changes)
        self._trace.settle()
        if self._watcher is not None:
            self._watcher.after(done)

    def _flush(self, operations: tuple[Operation, ...]) -> None:
        self._scan()
        self._trace.write(
            f'{{"event": "barrier", "vm": {self._name}, "barrier": "{what}"}}'
            if isinstance(what, str)
            else f'{{"event": "invalidate", "vm": {self._name}, {_operation_text(what)}}}'
            for what in with_barriers(self.table.format, operations)
        )
        if self._inner is not None:
            self._inner(operations)

    def _stand_before_flush(self) -> None:
        """Stand before the table's `flush`, which engines set when they begin."""
        if self.table.flush != self._flush:
            self._inner, self.table.flush = self.table.flush, self._flush

    # --- lines ---------------------------------------------------------------------------------------------------

    def _tell_table(self) -> None:
        fmt, regime = self.table.format, self.table.regime
        memory = ", ".join(f'["{part.start:#x}", "{part.end:#x}"]' for part in self.table.memory.ranges)
        self._tell(
            "table",
            f'"format": "{fmt.name}", "root": "{regime.root:#x}", "controls": "{regime.controls:#x}", '
            f'"identifier": {regime.identifier}, "memory": [{memory}]',
        )

    def _tell(self, event: str, more: str = "") -> None:
        self._trace.write([f'{{"event": "{event}", "vm": {self._name}{", " if more else ""}{more}}}'])

    def _begin(self) -> None:
        if not self._in_edit:
            self._in_edit = True
            self._tell("begin")

    def _end(self, changes: Iterable[str]) -> None:
        self._in_edit = False
        self._tell("end", f'"changes": [{", ".join(changes)}]')

    # --- what changed --------------------------------------------------------------------------------------------

    def _scan(self, by: str = "", *, whole: bool = False) -> None:
        """Write down what changed since the last time.

        Args:
            by: who did it, where no edit did.
            whole: the edit is done. Until then what stands in a table that nothing links yet is left for later.
        """
        taken, released = self._follow_frames()
        if not by and (taken or released):
            self._begin()
        for span in taken:
            self._tell("take", _span_text(span))
        slots, old, new = self._changed()
        if len(slots):
            if not by:
                self._begin()
            self._trace_stores(slots, old, new, by, everything=whole or bool(by))
        for span in released:
            self._tell("release", _span_text(span))

    def _follow_frames(self) -> tuple[list[Range], list[Range]]:
        """The frames that tables lie in now and did not before, and the other way round."""
        held = self.table.table_ranges
        if held == self._held:
            return [], []
        taken, released = _without(held, self._held), _without(self._held, held)
        words, base = self.table.memory.words, self.table.memory.base
        copies = []
        for span in held:
            copy = np.zeros(span.size >> 3, np.uint64)
            for before, known in zip(self._held, self._copies, strict=True):
                part = before.intersection(span)
                if part is not None:
                    here, there = part.start - span.start >> 3, part.start - before.start >> 3
                    copy[here : here + (part.size >> 3)] = known[there : there + (part.size >> 3)]
            copies.append(copy)
        self._held, self._copies = held, copies
        self._words = [words[span.start - base >> 3 : span.end - base >> 3] for span in held]
        for span in released:
            for frame in [frame for frame in self._levels if span.contains(frame)]:
                del self._levels[frame]
        return taken, released

    def _changed(self) -> tuple[U64Array, U64Array, U64Array]:
        """Where words differ from the copy, what they were and what they are."""
        found = []
        for span, words, copy in zip(self._held, self._words, self._copies, strict=True):
            at = (words != copy).nonzero()[0]
            if len(at):
                found.append((at.astype(np.uint64) * np.uint64(8) + np.uint64(span.start), copy[at], words[at]))
        if not found:
            return _NO_WORDS, _NO_WORDS, _NO_WORDS
        slots, old, new = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return slots, old, new

    def _trace_stores(self, slots: U64Array, old: U64Array, new: U64Array, by: str, *, everything: bool) -> None:
        table, fmt = self.table, self.table.format
        root = int(table.root)
        tables = slots & ~np.uint64(fmt.table_size - 1)
        tables[(slots >= root) & (slots < root + fmt.root_size)] = root
        frames, frame_of = np.unique(tables, return_inverse=True)
        self._learn_levels(frames.tolist(), frame_of, new)
        known = np.array([self._levels.get(frame, -1) for frame in frames.tolist()], np.int64)
        levels = known[frame_of]
        order = np.lexsort((slots, levels))
        if not everything:
            order = order[levels[order] >= 0]
        for first in range(0, len(order), _CHUNK):
            part = order[first : first + _CHUNK]
            self._trace.write(self._store_lines(tables[part], slots[part], levels[part], old[part], new[part], by))
        for span, copy in zip(self._held, self._copies, strict=True):
            here = order[(slots[order] >= span.start) & (slots[order] < span.end)]
            copy[(slots[here] - np.uint64(span.start)) >> np.uint64(3)] = new[here]

    def _store_lines(
        self, tables: U64Array, slots: U64Array, levels: np.ndarray, old: U64Array, new: U64Array, by: str
    ) -> Iterator[str]:
        start, end = f'{{"event": "store", "vm": {self._name}, "table": "', f', "by": "{by}"}}' if by else "}"
        for at, slot, level, was, is_now in zip(
            tables.tolist(), slots.tolist(), levels.tolist(), old.tolist(), new.tolist(), strict=True
        ):
            yield (
                f'{start}{at:#x}", "index": {slot - at >> 3}, "level": {level if level >= 0 else "null"}, '
                f'"old": "{was:#x}", "new": "{is_now:#x}"{end}'
            )

    def _learn_levels(self, frames: list[int], frame_of: np.ndarray, new: U64Array) -> None:
        """Find the levels of tables that entries among the changed ones link."""
        fmt, controls = self.table.format, self.table.regime.controls
        numbers = {frame: number for number, frame in enumerate(frames)}
        waiting = [frame for frame in frames if frame in self._levels]
        seen = set(waiting)
        while waiting:
            frame = waiting.pop()
            level = self._levels[frame]
            if not level:
                continue
            for word in new[frame_of == numbers[frame]].tolist():
                kind, below, _ = fmt.decode(word, level, controls)
                if kind == TABLE:
                    self._levels[below] = level - 1
                    if below in numbers and below not in seen:
                        seen.add(below)
                        waiting.append(below)


def _without(spans: list[Range], others: list[Range]) -> list[Range]:
    """What of `spans` is in none of `others`."""
    known: RangeMap[bool] = RangeMap()
    for span in others:
        known.add(span, True)
    return [gap for span in spans for gap in known.gaps(span)]


def _span_text(span: Range) -> str:
    return f'"start": "{span.start:#x}", "end": "{span.end:#x}"'


def _operation_text(operation: Operation) -> str:
    """The keys of an invalidation's line."""
    given = Operands.of(operation)
    keys = [f'"operation": "{operation.name}"']
    keys += [f'"vmid": {given.vmid}'] if given.vmid is not None else []
    keys += [f'"root": "{given.root:#x}"'] if given.root is not None else []
    keys += [f'"asid": {given.asid}'] if given.asid is not None else []
    for key, span in (("gva", given.gva), ("gpa", given.gpa)):
        keys += [f'"{key}": ["{span.start:#x}", "{span.end:#x}"]'] if span is not None else []
    keys += [f'"step": {given.step}'] if given.step else []
    operands = ", ".join(f'"{operand:#x}"' for operand in operation.operands())
    return ", ".join([*keys, f'"operands": [{operands}]'])
