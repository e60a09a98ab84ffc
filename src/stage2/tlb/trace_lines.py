"""The lines of a trace of edits, read one at a time and refused with their number where they are none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ..address import ADDRESS_LIMIT, Range
from ..errors import AddressError, ConfigError, EncodingError
from ..formats.change import Change, ChangeKind
from ..formats.invalidation import Operation
from .instructions import DSB, Operands, operation_named
from .trace import VERSION

_LONGEST = 1 << 16
"""Characters of a line; those that we write have a few hundred."""
_KEYS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    name: (frozenset(needed.split()), frozenset(may.split()))
    for name, needed, may in (
        ("open", "schema", ""),
        ("table", "vm format root controls identifier memory", ""),
        ("identify", "vm identifier", ""),
        ("begin", "vm", ""),
        ("take", "vm start end", ""),
        ("store", "vm table index level old new", "by"),
        ("invalidate", "vm operation operands", "vmid root asid gva gpa step"),
        ("barrier", "vm barrier", ""),
        ("between", "vm", ""),
        ("release", "vm start end", ""),
        ("end", "vm changes", ""),
        ("close", "lines", ""),
    )
}
"""The keys that an event must have, and those that it may have."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what happened, and to whom.

    Args:
        file: path as the user named it.
        number: 1-based.
        event: what happened.
        keys: the rest.
    """

    file: str
    number: int
    event: str
    keys: dict[str, Any]

    def refuse(self, problem: str) -> NoReturn:
        """Raise that the line is none of a trace.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(problem, file=self.file, line=self.number)

    def text(self, key: str) -> str:
        value = self.keys[key]
        if not isinstance(value, str):
            self.refuse(f"{key} {value!r} is no text")
        return value

    def number_of(self, key: str) -> int:
        """A number as JSON has it, of an identifier or a count."""
        value = self.keys[key]
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < ADDRESS_LIMIT:
            self.refuse(f"{key} {value!r} is no number from 0 to 2^64")
        return value

    def word(self, key: str) -> int:
        """An address or an entry: 0x and hexadecimal digits."""
        return self._word(key, self.keys[key])

    def _word(self, key: str, value: object) -> int:
        if isinstance(value, str) and value.startswith("0x") and "_" not in value:
            try:
                found = int(value, 16)
            except ValueError:
                found = ADDRESS_LIMIT
            if 0 <= found < ADDRESS_LIMIT:
                return found
        self.refuse(f"{key} {value!r} is no 64-bit number that begins with 0x")

    def _range(self, key: str, start: object, end: object) -> Range:
        # The end of the last range is one more than a word holds.
        last = ADDRESS_LIMIT if end == hex(ADDRESS_LIMIT) else self._word(key, end)
        try:
            return Range(self._word(key, start), last)
        except AddressError as error:
            self.refuse(f"{key}: {error}")

    def _list(self, key: str) -> list[Any]:
        value = self.keys[key]
        if not isinstance(value, list):
            self.refuse(f"{key} {value!r} is no list")
        return value

    @property
    def span(self) -> Range:
        """`start` and `end`."""
        return self._range(self.event, self.keys["start"], self.keys["end"])

    @property
    def memory(self) -> list[Range]:
        """The ranges of `memory`."""
        return [self._pair("memory", pair) for pair in self._list("memory")]

    def _pair(self, key: str, pair: object) -> Range:
        if not isinstance(pair, list) or len(pair) != 2:
            self.refuse(f"{key} {pair!r} is no [start, end]")
        return self._range(key, *pair)

    @property
    def changes(self) -> tuple[Change, ...]:
        """What the edit says that it did."""
        found = []
        for entry in self._list("changes"):
            if not isinstance(entry, list) or len(entry) != 3:
                self.refuse(f"changes {entry!r} is no [kind, start, end]")
            try:
                kind = ChangeKind(entry[0])
            except ValueError:
                self.refuse(f"changes {entry[0]!r} is no kind of change")
            found.append(Change(self._range("changes", *entry[1:]), kind))
        return tuple(found)

    @property
    def operation(self) -> Operation:
        """The invalidation."""
        keys = self.keys
        given = Operands(
            vmid=self.number_of("vmid") if "vmid" in keys else None,
            root=self.word("root") if "root" in keys else None,
            asid=self.number_of("asid") if "asid" in keys else None,
            gva=self._pair("gva", keys["gva"]) if "gva" in keys else None,
            gpa=self._pair("gpa", keys["gpa"]) if "gpa" in keys else None,
            step=self.number_of("step") if "step" in keys else 0,
        )
        if given.step & 0xFFF or (given.step and any(s.size % given.step for s in (given.gva, given.gpa) if s)):
            self.refuse(f"step {given.step} is no page size, or the range is no multiple of it")
        try:
            made = operation_named(self.text("operation"), given)
        except EncodingError as error:
            self.refuse(str(error))
        operands = [self._word("operands", value) for value in self._list("operands")]
        if made.count != len(operands) or list(made.operands()) != operands:
            self.refuse(f"operands are not those of {made}")
        return made

    @property
    def barrier(self) -> str:
        if self.keys["barrier"] != DSB:
            self.refuse(f"barrier {self.keys['barrier']!r} is not {DSB}")
        return DSB


def lines_of(path: Path) -> Iterator[Line]:
    """The lines of a trace, in order; no more than one is held.

    Raises:
        ConfigError: the file cannot be read, a line is none of a trace, or it ends before its end.
    """
    file = str(path)
    number, closed = 0, False
    try:
        with path.open("rb") as source:
            while text := source.readline(_LONGEST + 1):
                number += 1
                line = _line_of(file, number, text, closed=closed)
                if line.event == "close":
                    closed = True
                    if line.number_of("lines") != number:
                        line.refuse(f"the trace was written with {line.number_of('lines')} lines, and has {number}")
                yield line
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror or error}", file=file) from None
    if not closed:
        raise ConfigError(
            "the trace ends without its last line: the run was killed, or the file was cut off",
            file=file, line=max(number, 1),
        )  # fmt: skip


def _line_of(file: str, number: int, text: bytes, *, closed: bool) -> Line:
    def refuse(problem: str) -> NoReturn:
        raise ConfigError(problem, file=file, line=number)

    if closed:
        refuse("the trace goes on behind its last line")
    if len(text) > _LONGEST:
        refuse(f"the line has more than {_LONGEST} bytes")
    if not text.endswith(b"\n"):
        refuse("the trace ends within a line: the run was killed, or the file was cut off")
    try:
        keys = json.loads(text)
    except (ValueError, RecursionError):
        refuse("the line is no JSON: this is no trace of edits, or it is damaged")
    event = keys.pop("event", None) if isinstance(keys, dict) else None
    if number == 1 and (event != "open" or keys.get("schema") != VERSION):
        refuse(f"this is no trace of edits: its first line is not an open of schema {VERSION}")
    if not isinstance(event, str) or event not in _KEYS:
        refuse(f"event {event!r} is none of {', '.join(_KEYS)}")
    needed, optional = _KEYS[event]
    if missing := sorted(needed - keys.keys()):
        refuse(f"{event} has no {missing[0]}")
    if strange := sorted(keys.keys() - needed - optional):
        refuse(f"{event} has {strange[0]!r}, which is not among its keys")
    if event == "open" and number > 1:
        refuse("open stands in the first line only")
    return Line(file, number, event, keys)
