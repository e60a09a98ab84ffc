"""The checker: a TLB that has cached everything before each edit, and must agree with the table after it.

Set as a table's watcher it takes the place of the worst processor: it holds every leaf and every pointer, alone and
combined with a guest's own stage 1, does exactly the operations that edits hand to `flush`, and then compares. What is
left and contradicts the table is an invalidation that was owed and not done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..address import Hpa, Range
from ..errors import StaleTranslationError
from ..formats import family_of
from ..formats.change import Change, ChangeKind
from ..formats.invalidation import Holds, Operation
from ..formats.outcome import ACCESSED, DIRTY, GLOBAL, GROUPED, TABLE
from ..tables.editor import DISTINGUISHING, Flush
from ..tables.mapping import ATTRIBUTES, Edit, U64Array
from .model import Entries, Tlb, entries

if TYPE_CHECKING:
    from ..tables.pagetable import PageTable

Mask = npt.NDArray[np.bool_]
GUEST_OFFSET = 1 << 46
"""The guest whose stage 1 the checker imagines maps every GPA at this much more, so that combined entries have other
addresses than stage-2 ones."""
_GUEST_ASID = 7
_STATE = ACCESSED | DIRTY


class TlbChecker:
    """Watches one table.

    Args:
        table: which; its `flush` and watcher are taken over until `stop`.
        perform: asked of each operation; False leaves it out, as a forgetful hypervisor would.
        lean: keep in the model only what the table does not say any more. What is found is the same, and edits of
            large tables cost far less.
        told: is given what was found, a sentence; None to raise it.

    Raises:
        StaleTranslationError: out of the edit that owed more than it did, unless it is told.
    """

    def __init__(
        self,
        table: PageTable,
        perform: Callable[[Operation], bool] = lambda _: True,
        *,
        lean: bool = False,
        told: Callable[[str], None] | None = None,
    ) -> None:
        self.table, self.tlb, self.perform = table, Tlb(), perform
        self.edits = 0
        self._lean, self._told = lean, told
        self._rows: U64Array = np.zeros((0, 4), np.uint64)
        self._pointers: U64Array = np.zeros((0, 3), np.uint64)
        fmt, regime = table.format, table.regime
        self._before: U64Array = np.zeros((0, 4), np.uint64)
        self._broken: list[U64Array] = []
        self._stale: str | None = None
        probe = (Change(Range(0, fmt.page_size), ChangeKind.RELAXED),)
        self._relaxed_is_owed = bool(family_of(fmt).owed(fmt, regime.context, probe, regime.controls))
        self._inner: Flush | None = table.flush
        table.flush = self.flush
        table.editor.watcher = self

    def stop(self) -> None:
        """Give the table its own flush back."""
        self.table.flush = self._inner
        self.table.editor.watcher = None

    # --- the editor's watcher ----------------------------------------------------------------------------

    def before(self) -> None:
        """Cache all that the table says."""
        self._broken, self._stale = [], None
        self._before = self._see()

    def between(self) -> None:
        """Cache what the edit has made so far."""
        self._see()

    def after(self, done: Edit) -> None:
        """Compare."""
        self.edits += 1
        if self._lean:
            self._see()
        self._note_stale()
        if self._stale is not None:
            kinds = dict.fromkeys(change.kind.value for change in done.changes)
            self._tell(
                f"cached translations contradict {self.table.format.name} after {', '.join(kinds) or 'an edit'}, among "
                f"them a {self._stale}"
            )
        if self.table.format.break_before_make:
            self._require_broken()

    def flush(self, operations: tuple[Operation, ...]) -> None:
        """Do what an edit owes, as the table's `flush`."""
        if self._lean:
            self._see()
        if self.table.format.break_before_make:
            self._broken.append(self.table.rows())
        for operation in operations:
            if self.perform(operation):
                self.tlb.apply(operation)
        # Also between break and make: what is left then meets the new entry.
        self._note_stale()
        if self._inner is not None:
            self._inner(operations)

    def _see(self) -> U64Array:
        """Cache what the table says, or of a lean model what it said and says no longer; its leaves."""
        rows, pointers = self.table.rows(merge=False), table_pointers(self.table)
        if not self._lean:
            self.tlb.add(self._warm(rows, pointers))
            return rows
        gone = _gone(self._rows, rows), _gone(self._pointers, pointers)
        self._rows, self._pointers = rows, pointers
        if len(gone[0]) or len(gone[1]):
            self.tlb.add(self._warm(*gone))
        return rows

    def _tell(self, text: str) -> None:
        """Say what was found."""
        if self._told is None:
            raise StaleTranslationError(text)
        self._told(text)

    def _note_stale(self) -> None:
        """Keep the first contradiction; an edit under way is not to be torn in two by an exception."""
        if self._stale is None and len(found := self.stale()):
            self._stale = self._describe(found[0])

    # --- what a TLB may hold ---------------------------------------------------------------------------------

    def _warm(self, rows: U64Array, pointers: U64Array) -> Entries:
        fmt, regime = self.table.format, self.table.regime
        # A leaf that was not accessed is never cached (SDM 5.10.2.3, DDI 0487 D8.17.1).
        rows = rows[rows[:, 3] & np.uint64(ACCESSED) != 0]
        tags = {"vmid": regime.identifier, "root": regime.root} if fmt.stage == 2 else {"asid": regime.identifier}
        holds = int(Holds.STAGE_2 if fmt.stage == 2 else Holds.STAGE_1)
        attributes = rows[:, 3] & np.uint64(ATTRIBUTES)
        leaves = entries(
            len(rows), holds=holds, start=rows[:, 0], last=rows[:, 0] + rows[:, 2] - np.uint64(1), output=rows[:, 1],
            attributes=attributes, everyones=(attributes & np.uint64(GLOBAL) != 0) & (fmt.stage == 1), **tags,
        )  # fmt: skip
        tables = entries(
            len(pointers), holds=holds, table=True, start=pointers[:, 0],
            last=pointers[:, 0] + pointers[:, 2] - np.uint64(1), output=pointers[:, 1], **tags,
        )  # fmt: skip
        if fmt.stage == 1:
            return np.concatenate((leaves, tables))
        combined = leaves.copy()
        combined["holds"], combined["asid"] = int(Holds.COMBINED), _GUEST_ASID
        combined["gpa"], combined["gpa_last"] = leaves["start"], leaves["last"]
        for name in ("start", "last"):
            combined[name] += np.uint64(GUEST_OFFSET)
        return np.concatenate((leaves, combined, tables))

    # --- comparing ---------------------------------------------------------------------------------------------

    def stale(self) -> Entries:
        """The cached translations that the table does not bear out."""
        found = self.tlb.entries
        wrong = np.zeros(len(found), np.bool_)
        pointers = {tuple(row) for row in table_pointers(self.table).tolist()}
        for index in np.flatnonzero(found["table"]).tolist():
            entry = found[index]
            start, size = int(entry["start"]), int(entry["last"]) - int(entry["start"]) + 1
            wrong[index] = (start, int(entry["output"]), size) not in pointers
        at = np.flatnonzero(~found["table"])
        leaves = found[at]
        both = leaves["holds"] == int(Holds.COMBINED)
        first = np.where(both, leaves["gpa"], leaves["start"])
        last = np.where(both, leaves["gpa_last"], leaves["last"])
        wrong[at] = self._contradicted(first, last, leaves["output"], leaves["attributes"])
        result: Entries = found[wrong]
        return result

    def _contradicted(self, first: U64Array, last: U64Array, output: U64Array, attributes: U64Array) -> Mask:
        """For each leaf that was cached, whether any part of it says something else now."""
        rows = self.table.rows()
        if not len(rows):
            return np.ones(len(first), np.bool_)
        at = np.searchsorted(rows[:, 0], first, side="right").astype(np.int64) - 1
        inside = at >= 0
        at = np.maximum(at, 0)
        ends = rows[at, 0] + rows[at, 2] - np.uint64(1)
        whole = inside & (first >= rows[at, 0]) & (last <= ends)
        same = rows[at, 1] - rows[at, 0] == output - first
        wrong: Mask = ~(whole & same & self._agrees(attributes, rows[at, 3]))
        # What several rows make up together is looked at row by row.
        beyond = np.searchsorted(rows[:, 0], last, side="right")
        for index in np.flatnonzero(wrong & inside & same & (last > ends)).tolist():
            span = Range(int(first[index]), int(last[index]) + 1)
            parts = rows[int(at[index]) : int(beyond[index])]
            wrong[index] = not self._borne_out(parts, span, int(output[index]), attributes[index])
        return wrong

    def _borne_out(self, rows: U64Array, span: Range, output: int, attributes: np.uint64) -> bool:
        """Whether rows together map a range to `output` with attributes that agree."""
        reached = span.start
        alike = self._agrees(np.full(len(rows), attributes, np.uint64), rows[:, 3])
        for (start, behind, size, _), agrees in zip(rows.tolist(), alike.tolist(), strict=True):
            if start > reached or behind - start != output - span.start or not agrees:
                return False
            reached = start + size
            if reached >= span.end:
                return True
        return False

    def _agrees(self, cached: U64Array, now: U64Array) -> Mask:
        """Whether cached attributes allow nothing, and have nothing set, that the table's do not."""
        now = now & np.uint64(ATTRIBUTES)
        # A group's mark changes no meaning, so a TLB may hold the one or the other.
        same = (cached ^ now) & np.uint64(DISTINGUISHING & ~GROUPED) == 0
        same &= cached & ~now & np.uint64(_STATE) == 0
        old, new = self._permissions(cached), self._permissions(now)
        allowed = old == new if self._relaxed_is_owed else old & ~new == 0
        result: Mask = same & allowed
        return result

    def _permissions(self, attributes: U64Array) -> U64Array:
        rule, controls = self.table.format.permissions, self.table.regime.controls
        values, places = np.unique(attributes, return_inverse=True)
        answers: U64Array = np.array([rule(value, controls) for value in values.tolist()], np.uint64)
        found: U64Array = answers[places]
        return found

    def _require_broken(self) -> None:
        """Refuse a live leaf that became another one without having been invalid in between (DDI 0487 D8.16.1)."""
        changed = _changed(self._before, self.table.rows(merge=False))
        before, now = (_shapes(rows) for rows in changed)
        rows = self.table.rows()
        for start, output, size, attributes in before - now:
            # A global leaf may become one of an ASID; not the other way round.
            if not _touches(rows, start, size) or (start, output, size, attributes & ~GLOBAL) in now:
                continue
            if all(_touches(broken, start, size) for broken in self._broken):
                self._tell(
                    f"the leaf at {start:#x} of {size:#x} bytes (to {output:#x}, attributes {attributes:#x}) was "
                    f"replaced while valid: {self.table.format.name} demands break-before-make"
                )

    def _describe(self, entry: np.void) -> str:
        what = "pointer to a table" if entry["table"] else "leaf"
        span = Range(int(entry["start"]), int(entry["last"]) + 1)
        return f"{Holds(int(entry['holds'])).name} {what} {span} -> {int(entry['output']):#x}"


def _changed(before: U64Array, now: U64Array) -> tuple[U64Array, U64Array]:
    """Rows without those that both begin with and those that both end with."""
    both = min(len(before), len(now))
    same = np.all(before[:both] == now[:both], axis=1)
    head = both if same.all() else int(same.argmin())
    left = both - head
    same = np.all(before[len(before) - left :] == now[len(now) - left :], axis=1)[::-1]
    tail = left if same.all() else int(same.argmin())
    return before[head : len(before) - tail], now[head : len(now) - tail]


def _gone(before: U64Array, now: U64Array) -> U64Array:
    """The rows that were there and are no longer."""
    old, new = _changed(before, now)
    there = {tuple(row) for row in new.tolist()}
    gone = np.array([tuple(row) not in there for row in old.tolist()], np.bool_)
    return old[gone]


def _shapes(rows: U64Array) -> set[tuple[int, ...]]:
    """Leaves as (start, output, size, what distinguishes them)."""
    shapes = rows.copy()
    shapes[:, 3] &= np.uint64(DISTINGUISHING | GLOBAL)
    return {tuple(row) for row in shapes.tolist()}


def _touches(rows: U64Array, start: int, size: int) -> bool:
    """Whether anything is mapped in a range."""
    if not len(rows):
        return False
    at = int(np.searchsorted(rows[:, 0], np.uint64(start + size - 1), side="right")) - 1
    return at >= 0 and int(rows[at, 0]) + int(rows[at, 2]) > start


def table_pointers(table: PageTable) -> U64Array:
    """Every pointer to a table as (first address, table, bytes covered), shape (n, 3)."""
    fmt, regime, memory = table.format, table.regime, table.memory
    found: list[tuple[int, int, int]] = []
    waiting = [(int(table.root), fmt.levels - 1, 0, fmt.root_bits)]
    while waiting:
        at, level, base, bits = waiting.pop()
        words = np.frombuffer(memory.read(Hpa(at), 8 << bits), np.uint64)
        for index in np.flatnonzero(words).tolist():
            kind, output, _ = fmt.decode(int(words[index]), level, regime.controls)
            if kind == TABLE:
                start = base + (index << fmt.level_shift(level))
                found.append((table.outward(start), output, fmt.leaf_size(level)))
                if level > 1:
                    waiting.append((output, level - 1, start, fmt.bits))
    return np.array(found, np.uint64).reshape(-1, 3)
