"""Where every key and value of a TOML text stands.

`tomllib` gives values without lines; this module gives lines without values. It is a scanner, not a parser: what
`tomllib` accepts it walks through completely, what `tomllib` refuses it may accept or stop at. It runs before
`tomllib` and bounds nesting and the number of values, because `tomllib` is recursive in the first and quadratic in
the length of a dotted key.

TOML 1.0 keeps a key and the start of its value on one line, so one line per path is enough.
"""

from __future__ import annotations

import contextlib
import re
from bisect import bisect_right
from collections.abc import Iterator

from ..errors import ConfigError

KeyPath = tuple[str | int, ...]
"""The way from the document's root to a value: keys, and indices of arrays."""

MAX_DEPTH = 32
"""Limit: parts of a path. The deepest one of a configuration file has five."""
_PAGE = 0x1000
_SHORT = 4
"""Digits of numbers that need be no addresses: an interrupt, a frequency."""
MAX_VALUES = 20_000
"""Limit: tables, arrays and values in one file."""

# Every quantifier is possessive: no pattern ever goes back, so the scan is linear in the text.
_GAP = re.compile(r"(?:[ \t\r\n]++|#[^\n]*+)*+")
_BLANK = re.compile(r"[ \t]*+")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]++")
_SCALAR = re.compile(r"[^,\]}#\n]++")
_INTEGER = re.compile(r"0x[0-9A-Fa-f_]{1,32}|[0-9][0-9_]{0,31}")
_BASIC = re.compile(r'"((?:[^"\\\n]++|\\[^\n])*+)"')
_LITERAL = re.compile(r"'([^'\n]*+)'")
# A multi-line string may end in one or two quotes of its own before the closing three.
_LONG_BASIC = re.compile(r'"""(?:[^"\\]++|\\[\s\S]|"{1,2}+(?!"))*+"{3,5}+')
_LONG_LITERAL = re.compile(r"'''(?:[^']++|'{1,2}+(?!'))*+'{3,5}+")
_COMMENT_OR_STRING = re.compile(
    "|".join((_LONG_BASIC.pattern, _LONG_LITERAL.pattern, _BASIC.pattern, _LITERAL.pattern, r"#[^\n]*+"))
)
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(.))")
_SHORT_ESCAPES = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", "e": "\x1b"}


class Positions:
    """The 1-based line of every path of one document, and its numbers as they are written.

    Args:
        lines: of every path.
        numbers: as they are written.
        text: the document.
        values: where in the text every value begins and ends.
        keys: the same of the last part of every value's key.
    """

    def __init__(
        self,
        lines: dict[KeyPath, int],
        numbers: dict[KeyPath, str] | None = None,
        text: str = "",
        values: dict[KeyPath, tuple[int, int]] | None = None,
        keys: dict[KeyPath, tuple[int, int]] | None = None,
    ) -> None:
        self._lines = lines
        self._text, self._values, self._keys = text, values or {}, keys or {}
        # A search backwards for the line's start would go through all of a file that is one line, for each value.
        self._line_starts = [0, *(found.end() for found in re.finditer("\n", text))]
        self._numbers = numbers or {}
        self._likely: dict[KeyPath, str] = {}
        for path, written in self._numbers.items():
            if meant := likely_meaning(written):
                for around in _around(path, long=len(written) > _SHORT):
                    self._likely.setdefault(around, f"written {written}; did you mean {meant}?")

    def __iter__(self) -> Iterator[KeyPath]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, path: KeyPath) -> bool:
        return path in self._lines

    def written(self, path: KeyPath) -> str:
        """The number at `path` as it is written; empty where there is none."""
        return self._numbers.get(path, "")

    def likely(self, path: KeyPath) -> str:
        """What a number at `path`, or in the array there, was likely meant to be; empty where nothing is odd."""
        return self._likely.get(path, "")

    def column(self, path: KeyPath) -> tuple[int | None, int]:
        """The 1-based column of the value at `path`, and how many characters of it stand on its line."""
        return self._column(self._values.get(path))

    def key_column(self, path: KeyPath) -> tuple[int | None, int]:
        """The same of the key: of its last part, as it is written."""
        return self._column(self._keys.get(path))

    def _column(self, found: tuple[int, int] | None) -> tuple[int | None, int]:
        if found is None:
            return None, 0
        start, end = found
        line_start = self._line_starts[bisect_right(self._line_starts, start) - 1]
        line_end = self._text.find("\n", start, end)
        written = self._text[start : end if line_end < 0 else line_end].rstrip()
        return start - line_start + 1, len(written)

    def line(self, path: KeyPath) -> int:
        """The line of `path`, or of the nearest thing around it that the document has (1 for the root)."""
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 1


def locate(text: str, file: str | None = None) -> Positions:
    """Find the line of every table, array and value of a TOML text.

    Args:
        text: the document; it need not be valid TOML, a scan ends where it makes no sense any more.
        file: name for errors.

    Raises:
        ConfigError: nested deeper than MAX_DEPTH, or more than MAX_VALUES values.
    """
    scanner = _Scanner(text, file)
    with contextlib.suppress(_NoSenseError):  # tomllib says what is wrong, better than a scanner could
        scanner.document()
    return Positions(scanner.lines, scanner.numbers, text, scanner.values, scanner.keys)


def comments(text: str) -> Iterator[tuple[int, int, str]]:
    """Every comment of a TOML text: line and column of its `#`, both from 1, and the rest of its line."""
    line, seen, line_start = 1, 0, 0
    for found in _COMMENT_OR_STRING.finditer(text):
        if found[0][0] != "#":
            continue
        newlines = text.count("\n", seen, found.start())
        if newlines:
            line, line_start = line + newlines, text.rfind("\n", seen, found.start()) + 1
        seen = found.start()
        yield line, found.start() - line_start + 1, found[0][1:].rstrip("\r")


def likely_meaning(written: str) -> str | None:
    """The address that a number was likely meant to be, where its base seems to be mistaken; None if it looks right.

    It does when it is no whole page, and its digits read in the other base are one: `40000000` for `0x4000_0000`,
    `0x1073741824` for 1073741824.
    """
    digits = written.replace("_", "").removeprefix("0x")
    if not digits.isdecimal() or len(digits) > 16:
        return None
    hexadecimal = written.startswith("0x")
    value, other = int(digits, 16 if hexadecimal else 10), int(digits, 10 if hexadecimal else 16)
    if value % _PAGE == 0 or other % _PAGE or not other:
        return None
    return str(other) if hexadecimal else hex_groups(other)


def hex_groups(value: int) -> str:
    """A number as AxVisor's files have it: `0x4000_0000`."""
    digits = f"{value:x}"
    first = len(digits) % 4
    return "0x" + "_".join(
        filter(None, [digits[:first], *(digits[at : at + 4] for at in range(first, len(digits), 4))])
    )


def format_path(path: KeyPath) -> str:
    """A path as people write it: `kernel.memory_regions[1][3]`; keys that need quotes get them."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
            continue
        name = part if _BARE_KEY.fullmatch(part) else '"' + repr(part)[1:-1].replace('"', '\\"') + '"'
        if len(name) > 80:
            name = name[:77] + "..."
        out += f".{name}" if out else name
    return out


def _around(path: KeyPath, *, long: bool) -> Iterator[KeyPath]:
    """A number's path, and for a long one that of its row or its `[[table]]`, which an error may be about."""
    yield path
    if long and len(path) > 2 and isinstance(path[-2], int):
        yield path[:-1]


class _NoSenseError(Exception):
    """The text is no TOML from here on."""


class _Scanner:
    def __init__(self, text: str, file: str | None) -> None:
        self.text, self.file = text, file
        self.pos, self.line = 0, 1
        self.lines: dict[KeyPath, int] = {}
        self.numbers: dict[KeyPath, str] = {}
        self.values: dict[KeyPath, tuple[int, int]] = {}
        self.keys: dict[KeyPath, tuple[int, int]] = {}
        self.last_key = (0, 0)
        """Where the last part of the key that was read last begins and ends."""
        self.counts: dict[KeyPath, int] = {}
        """For each array of tables, how many elements it has so far."""

    def document(self) -> None:
        table: KeyPath = ()
        while True:
            self._skip(_GAP)
            if self.pos >= len(self.text):
                return
            if self._take("[["):
                table = self._header("]]")
            elif self._take("["):
                table = self._header("]")
            else:
                self._pair(table)

    def _header(self, closing: str) -> KeyPath:
        line = self.line
        parts = self._key()
        self._need(closing)
        path: KeyPath = ()
        for part in parts[:-1]:
            path = (*path, part)
            self._note(path, line, implicit=True)
            if path in self.counts:
                path = (*path, self.counts[path] - 1)
        path = (*path, parts[-1])
        if closing == "]":
            self._note(path, line)
            return path
        index = self.counts.get(path, 0)
        self.counts[path] = index + 1
        self._note(path, line, implicit=True)
        path = (*path, index)
        self._note(path, line)
        return path

    def _pair(self, table: KeyPath) -> None:
        line = self.line
        path = table
        parts = self._key()
        self.keys[*path, *parts] = self.last_key
        for part in parts[:-1]:
            path = (*path, part)
            self._note(path, line, implicit=True)
        self._need("=")
        self._skip(_BLANK)
        self._value((*path, parts[-1]))

    def _key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self._skip(_BLANK)
            parts.append(self._simple_key())
            if len(parts) > MAX_DEPTH:
                raise self._too_deep()
            self._skip(_BLANK)
            if not self._take("."):
                return parts

    def _simple_key(self) -> str:
        if match := _BARE_KEY.match(self.text, self.pos):
            key = match.group()
        elif match := _LITERAL.match(self.text, self.pos):
            key = match.group(1)
        elif match := _BASIC.match(self.text, self.pos):
            key = _ESCAPE.sub(_unescape, match.group(1))
        else:
            raise _NoSenseError
        self.last_key = self.pos, match.end()
        self.pos = match.end()
        return key

    def _value(self, path: KeyPath) -> None:
        self._note(path, self.line)
        start = self.pos
        self._scan_value(path)
        self.values[path] = start, self.pos

    def _scan_value(self, path: KeyPath) -> None:
        if self._take("["):
            self._list(path, "]")
        elif self._take("{"):
            self._list(path, "}")
        elif self.text.startswith('"""', self.pos):
            self._skip(_LONG_BASIC)
        elif self.text.startswith("'''", self.pos):
            self._skip(_LONG_LITERAL)
        elif self.text.startswith('"', self.pos):
            self._skip(_BASIC)
        elif self.text.startswith("'", self.pos):
            self._skip(_LITERAL)
        else:
            start = self.pos
            self._skip(_SCALAR)
            written = self.text[start : self.pos].strip()
            if _INTEGER.fullmatch(written):
                self.numbers[path] = written

    def _list(self, path: KeyPath, closing: str) -> None:
        """The elements of an array or the pairs of an inline table, up to and with `closing`."""
        index = 0
        while True:
            self._skip(_GAP)
            if self._take(closing):
                return
            if closing == "]":
                self._value((*path, index))
            else:
                self._pair(path)
            index += 1
            self._skip(_GAP)
            if not self._take(","):
                self._need(closing)
                return

    def _note(self, path: KeyPath, line: int, *, implicit: bool = False) -> None:
        """Remember a line; a table that is only passed through keeps the line it has."""
        if len(path) > MAX_DEPTH:
            raise self._too_deep()
        if path in self.lines:
            if not implicit:
                self.lines[path] = line
            return
        if len(self.lines) >= MAX_VALUES:
            raise ConfigError(f"more than {MAX_VALUES:,} values in one file", file=self.file, line=self.line)
        self.lines[path] = line

    def _too_deep(self) -> ConfigError:
        return ConfigError(
            f"nested deeper than {MAX_DEPTH} levels; no configuration file is", file=self.file, line=self.line
        )

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.pos)
        if match is None:
            raise _NoSenseError
        self.line += self.text.count("\n", self.pos, match.end())
        self.pos = match.end()

    def _take(self, token: str) -> bool:
        if self.text.startswith(token, self.pos):
            self.pos += len(token)
            return True
        return False

    def _need(self, token: str) -> None:
        if not self._take(token):
            raise _NoSenseError


def _unescape(match: re.Match[str]) -> str:
    digits = match[1] or match[2] or match[3]
    if digits is None:
        return _SHORT_ESCAPES.get(match[4], match[4])
    code = int(digits, 16)
    return chr(code) if code <= 0x10FFFF else "�"
