"""A crash's text read: which registers it shows, event by event."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..errors import ConfigError
from ..formats.arm.syndromes import DABT_LOWER, IABT_LOWER, esr_of
from ..formats.riscv.syndromes import INTERRUPT, is_cause
from ..formats.x86.ept_faults import MISCONFIGURATION_EXIT, VIOLATION_EXIT
from ..formats.x86.syndromes import NPF_FINAL_OR_TABLE, error_of_words
from ..formats.x86.syndromes import PAGE_FAULT as PAGE_FAULT_VECTOR
from .names import BY_KEY, FIELDS, LEVEL, NAMES, named, named_cause
from .numbers import MAX_TEXT, NUMBER, parse_register, shown
from .page_tables import Dump, take_dump
from .shapes import PREFIX, SHAPES, Shape

_NAME = r"(?<![\w.:/])([A-Za-z][A-Za-z0-9_]*)"
"""No part of a path, of a file's line or of a module."""
_PAIR = re.compile(rf"{_NAME}(?:\s*([=:])\s*|\s+-\s+|\s+(?=0[xX]))({NUMBER})(?![0-9A-Za-z_])")
_GIVEN = re.compile(_NAME + r"\s*=\s*([^\s,;=\])}]*)")
EXIT_REASONS = {"EPT_VIOLATION": VIOLATION_EXIT, "EPT_MISCONFIG": MISCONFIGURATION_EXIT}
"""As KVM names them (SDM, appendix C)."""
_NESTED = frozenset({"NPF", "400"})
"""SVM's exit code of a nested page fault (APM, appendix C), as KVM names it or as a number."""


@dataclass(slots=True)
class Event:
    """The registers of one exception.

    Args:
        line: where it begins, from 1.
        values: by key of `names`.
        notes: how a number was understood where that was not sure.
        dump: the page tables that the text shows beside them, None where it shows none.
    """

    line: int
    values: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    dump: Dump | None = None


@dataclass(slots=True)
class Reading:
    """A text, understood.

    Args:
        events: what can be told, in order.
        ignored: names of numbers that say nothing of a fault, in order.
        repeated: names of fields by the key of the register that has them, too.
    """

    events: list[Event] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    repeated: dict[str, list[str]] = field(default_factory=dict)


def read_text(text: str) -> Reading:
    """Read `esr=0x92000047 far=0x1000`, or what a kernel printed.

    Raises:
        ConfigError: no register of a fault is in it, one is given twice in a line, or a value is no number.
        OutOfRangeError: a value has more than 64 bits.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"a text of {len(text)} characters is too long. Limit: {MAX_TEXT}")
    if not text.strip():
        raise ConfigError("nothing is given: write for example esr=0x92000047 far=0x1000, or paste a crash's lines")
    reader = _Reader()
    for number, line in enumerate(text.splitlines(), 1):
        reader.take(number, line)
    found = reader.reading
    dumped = [name for event in found.events if event.dump is not None for name in event.dump.entries]
    found.events = [event for event in found.events if event.values]
    for key in [key for key in found.repeated if not any(key in event.values for event in found.events)]:
        found.ignored += found.repeated.pop(key)
    if not found.events:
        found.ignored += dumped
    found.ignored = list(dict.fromkeys(found.ignored))
    found.repeated = {key: list(dict.fromkeys(names)) for key, names in found.repeated.items()}
    if not found.events:
        _nothing(text, found)
    return found


def _nothing(text: str, found: Reading) -> None:
    others = f" (it has {', '.join(found.ignored[:8])})" if found.ignored else ""
    keys = ", ".join(key for key in BY_KEY if key != LEVEL)
    raise ConfigError(
        f"no register of a memory fault is in {shown(text.strip().splitlines()[0])!r}{others}: "
        f"write KEY=VALUE, such as esr=0x92000047 far=0x1000 (there are {keys}), or give a text by --file FILE"
    )


class _Reader:
    """Goes through lines."""

    def __init__(self) -> None:
        self.reading = Reading()
        self._line = 0
        self._here: set[str] = set()
        """Keys that the present line has given."""

    def take(self, number: int, line: str) -> None:
        """Read one line."""
        self._line, self._here = number, set()
        while match := PREFIX.match(line):
            line = line[match.end() :]
        line = take_dump(line, self._dump)
        for shape in SHAPES:
            match = shape.pattern.search(line)
            if match is not None:
                self._shape(shape, match)
                line = line[: match.start()] + " ; " + line[match.end() :]
        self._pairs(line)

    def _shape(self, shape: Shape, match: re.Match[str]) -> None:
        if shape.starts or not self.reading.events:
            self.reading.events.append(Event(self._line))
        event, found = self.reading.events[-1], match.groupdict()
        if shape.level is not None:
            event.values[LEVEL] = shape.level
        for key, text in found.items():
            if text is not None and key.islower():
                self._add(key, parse_register(key, text))
        for key, value in _put_together(found, event, self.reading.ignored):
            self._add(key, value)

    def _pairs(self, line: str) -> None:
        for match in _GIVEN.finditer(line):
            key, _ = named(match[1])
            if key in BY_KEY and not re.fullmatch(NUMBER, match[2]):
                parse_register(match[1], match[2])
        for match in _PAIR.finditer(line):
            name, separator, text = match[1], match[2], match[3]
            key, level = named(name)
            if key not in BY_KEY and name.lower() not in NAMES:
                # Words of prose stand before numbers, too; only what is set to one is a name.
                if separator:
                    self._aside(name)
                continue
            if key == "exit_reason":
                self._add(key, exit_reason(text))
                continue
            value = parse_register(name, text)
            if key == "scause":
                value = self._cause(value, text)
            self._add(key, value, level, name)

    def _aside(self, name: str) -> None:
        """A name that is none of a register: a field of one, or nothing of a fault."""
        for key, fields in FIELDS.items():
            # The fields of an error code are letters that mean much else in other lines.
            if name in fields and (key != "error" or key in self._here):
                self.reading.repeated.setdefault(key, []).append(name)
                return
        self.reading.ignored.append(name)

    def _dump(self) -> Dump:
        event = self._event()
        if event.dump is None:
            event.dump = Dump()
        return event.dump

    def _cause(self, value: int, text: str) -> int:
        """A cause that only a decimal reading makes one of is read so, and that is said."""
        if not text.isdecimal() or is_cause(value) or not is_cause(int(text)):
            return value
        self._event().notes.append(f"The cause {text} is read as decimal, because {value:#x} is no cause.")
        return int(text)

    def _event(self) -> Event:
        if not self.reading.events:
            self.reading.events.append(Event(self._line))
        return self.reading.events[-1]

    def _add(self, key: str, value: int, level: int | None = None, name: str = "") -> None:
        event = self._event()
        other = event.values.get(key, value) != value
        if other and key in self._here:
            raise ConfigError(f"{key} is given twice in line {self._line}")
        if level is not None and event.values.get(LEVEL, level) != level:
            if self._here & {"esr", "far", "hpfar"}:
                stands = event.values[LEVEL]
                raise ConfigError(f"{shown(name)} is of EL{level}, and what stands before it of EL{stands}")
            other = True
        if other:
            event = self._next(event, key, level)
        event.values[key] = value
        self._here.add(key)
        if level is not None:
            event.values[LEVEL] = level

    def _next(self, event: Event, key: str, level: int | None) -> Event:
        """Where a register goes that the present event has already: dumps list all levels' registers in turn."""
        for earlier in self.reading.events:
            if level is not None and earlier.values.get(LEVEL) == level and key not in earlier.values:
                return earlier
        self.reading.events.append(Event(self._line))
        return self.reading.events[-1]


def _put_together(found: dict[str, str | None], event: Event, ignored: list[str]) -> Iterator[tuple[str, int]]:
    """What the upper-case groups of a shape amount to."""

    def number(group: str) -> int | None:
        text = found.get(group)
        return None if text is None else parse_register(group.lower(), text)

    if (level := number("EL")) is not None:
        yield LEVEL, level
    if (state := number("PSTATE")) is not None:
        level = _level_of(state, event)
        if level is None:
            ignored.append("pstate")
        else:
            yield LEVEL, level
    if (code := number("CLASS")) is not None:
        yield "esr", esr_of(code, number("ISS") or 0, long=bool(number("LENGTH")))
    if (cause := number("CAUSE")) is not None:
        yield "scause", cause | (INTERRUPT if number("ASYNC") else 0)
    if (title := found.get("TITLE")) is not None:
        cause = named_cause(title)
        if cause is None:
            ignored.append(title)
        else:
            yield "scause", cause
    if (words := found.get("WORDS")) is not None:
        yield "error", error_of_words(words)
    vector = number("VECTOR")
    if vector is not None and vector != PAGE_FAULT_VECTOR:
        event.values.pop("error", None)
        ignored.append(f"vector {vector:#x}")
    yield from _exit(found, number("INFO1"), number("INFO2"), number("GPA"), ignored)


def _level_of(state: int, event: Event) -> int | None:
    """The exception level that took an exception, by the PSTATE that it came from: the same one, but for programs.

    M[4] is 0 in AArch64, and M[3:2] are the level (DDI 0487, C5.2.19 "SPSR_EL1").
    """
    esr = event.values.get("esr")
    level = None if state >> 4 & 1 else state >> 2 & 3
    if esr is None or not level or {LEVEL, "hpfar", "gpa"} & event.values.keys():
        return None
    return None if esr >> 26 & 0x3F in (IABT_LOWER, DABT_LOWER) else level


def _exit(
    found: dict[str, str | None], info1: int | None, info2: int | None, gpa: int | None, ignored: list[str]
) -> Iterator[tuple[str, int]]:
    """An exit as KVM prints it for both of x86: what the two numbers are hangs on the reason."""
    reason = (found.get("REASON") or "").upper()
    nested = reason in _NESTED or (not reason and info1 is not None and bool(info1 & NPF_FINAL_OR_TABLE))
    if nested:
        address = info2 if gpa is None else gpa
        yield from ((key, value) for key, value in (("exitinfo1", info1), ("exitinfo2", address)) if value is not None)
        return
    why = exit_reason(reason) if reason else VIOLATION_EXIT if info1 is not None else None
    if why not in (None, *EXIT_REASONS.values()):
        ignored.append(f"exit reason {found['REASON']}")
        return
    if why == MISCONFIGURATION_EXIT:
        yield "exit_reason", why
    elif info1 is not None:
        yield "qualification", info1
    if gpa is not None:
        yield "gpa", gpa


def exit_reason(text: str) -> int:
    """A VM exit's reason: a name of KVM's, or a number, decimal as the SDM counts them unless it is padded or has 0x;
    0 for what is neither."""
    if text.upper() in EXIT_REASONS:
        return EXIT_REASONS[text.upper()]
    if text.isdecimal() and len(text) < 8:
        return int(text)
    try:
        return parse_register("exit_reason", text) & 0xFFFF
    except ConfigError:
        return 0
