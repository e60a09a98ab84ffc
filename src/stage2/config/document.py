"""Reading a TOML file value by value, each with its place, so that every complaint can name file, line and key.

A loader asks a `Table` for the keys it knows; what it never asked for is reported as unknown. Complaints that stop
the loader are `ConfigError`; everything else is a `Notice`, collected and not printed.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from ..address import ADDRESS_LIMIT
from ..errors import ConfigError
from ..place import Place, Rewrite
from .locator import KeyPath, Positions, format_path, hex_groups, locate
from .regular_file import read_regular
from .wording import hint, near, shown

T = TypeVar("T")

MAX_FILE_SIZE = 1 << 20
"""Limit: bytes of a configuration file."""
MAX_TEXT = 4096
"""Limit: characters of a string."""
MAX_ELEMENTS = 1024
"""Limit: elements of an array. The longest one of upstream's files has 32."""
MAX_UNKNOWN = 20
"""Limit: unknown keys of one table that are reported one by one; the rest is counted."""

_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_HEX = re.compile(r"0[xX][0-9a-fA-F]+(?:_[0-9a-fA-F]+)*+")
_LONG_NUMBER = re.compile(r"[0-9][0-9_]{4000}")


NO_TREE = "no-tree"
"""The kind of a notice that is only true without the host's device tree."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a user should know that does not stop anything; `str()` is one line for the user.

    Args:
        text: what.
        place: where.
        kind: which rule of `check` tells of it too; empty where none does.
        rewrite: what would be right, where one value is wrong.
    """

    text: str
    place: Place
    kind: str = ""
    rewrite: Rewrite | None = None

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), self.place.key, self.text) if part)


def in_order(notices: Iterable[Notice]) -> tuple[Notice, ...]:
    """Notices by file and line."""
    return tuple(sorted(notices, key=lambda notice: (notice.place.file, notice.place.line)))


class Document:
    """A TOML file: its values, their places, and the notices collected while reading it.

    Args:
        file: name for errors.
        folder: where relative paths in the file start.
        values: what tomllib read.
        positions: what the locator found.
        defines: what `${name}` stands for in paths; the environment is asked for other names.
    """

    def __init__(
        self,
        file: str,
        folder: Path,
        values: dict[str, object],
        positions: Positions,
        defines: Mapping[str, str] | None = None,
    ) -> None:
        self.file, self.folder = file, folder
        self.defines = defines or {}
        self.positions = positions
        self.notices: list[Notice] = []
        self.root = Table(Item(self, (), values), values)


@dataclass(frozen=True, slots=True)
class Item:
    """One value and where it stands. The getters raise ConfigError when the value is not what they are named after."""

    document: Document
    path: KeyPath
    value: object

    @property
    def place(self) -> Place:
        positions = self.document.positions
        line = positions.line(self.path)
        column, width = positions.column(self.path)
        return Place(self.document.file, line, format_path(self.path), positions.likely(self.path), column, width)

    def error(self, problem: str, kind: type[ConfigError] = ConfigError) -> ConfigError:
        """An error about this value, to be raised."""
        return self.place.error(problem, kind)

    @property
    def key_place(self) -> Place:
        """Where the value's key stands."""
        column, width = self.document.positions.key_column(self.path)
        return replace(self.place, column=column, width=width)

    def notice(self, text: str, kind: str = "", rewrite: Rewrite | None = None) -> None:
        """Record something worth knowing about this value; `kind` and `rewrite` as in `Notice`."""
        self.document.notices.append(Notice(text, self.place, kind, rewrite))

    def wanted(self, what: str) -> ConfigError:
        """The error for a value of another kind than `what`."""
        return self.error(f"{shown(self.value)} found, {what} wanted")

    def integer(self, minimum: int = 0, maximum: int = ADDRESS_LIMIT - 1) -> int:
        """An integer within [minimum, maximum]."""
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            raise self.wanted("an integer")
        if not minimum <= self.value <= maximum:
            raise self.error(
                f"{shown(self.value)} is out of range: {shown(minimum)} to {shown(maximum)} is allowed"
                f"{self._written(minimum, maximum)}"
            )
        return self.value

    def _written(self, minimum: int, maximum: int) -> str:
        """How a number out of range is written where that looks different, and what it was likely meant to be."""
        written = self.document.positions.written(self.path)
        digits = written.replace("_", "").removeprefix("0x")
        if self.place.likely or not digits.isdecimal() or digits == shown(self.value):
            return ""  # the error says it already, or there is only one way to read it
        hexadecimal = written.startswith("0x")
        other = int(digits, 10 if hexadecimal else 16)
        meant = str(other) if hexadecimal else hex_groups(other)
        return f" (written {written}" + (f"; did you mean {meant}?)" if minimum <= other <= maximum else ")")

    def address(self) -> int:
        """A 64-bit number, written as an integer or as a string of hexadecimal digits (`"0xffff_8000"`)."""
        if not isinstance(self.value, str):
            return self.integer()
        if not _HEX.fullmatch(self.value) or int(self.value, 16) >= ADDRESS_LIMIT:
            raise self.wanted('an integer or a string such as "0xffff_ffc0_0000_0000"')
        return int(self.value, 16)

    def text(self) -> str:
        """A string of printable characters, not longer than MAX_TEXT."""
        if not isinstance(self.value, str):
            raise self.wanted("a string")
        if len(self.value) > MAX_TEXT:
            raise self.error(f"a string of {len(self.value)} characters found, {MAX_TEXT} are allowed")
        if not self.value.isprintable():
            raise self.error(f"{shown(self.value)} has characters that cannot be printed")
        return self.value

    def name(self) -> str:
        """A string that is not empty."""
        text = self.text()
        if not text.strip():
            raise self.error("an empty name")
        return text

    def boolean(self) -> bool:
        if not isinstance(self.value, bool):
            raise self.wanted("true or false")
        return self.value

    def choice(self, choices: Mapping[str, T]) -> T:
        """The value that one of the words in `choices` stands for."""
        allowed = ", ".join(f'"{word}"' for word in choices)
        if not isinstance(self.value, str):
            raise self.wanted(f"one of {allowed}")
        if self.value not in choices:
            raise self.error(f"{shown(self.value)} is none of {allowed}{hint(self.value, list(choices))}")
        return choices[self.value]

    def elements(self, shape: str = "an array") -> list[Item]:
        """The elements of an array; `shape` says in errors what it should look like."""
        if not isinstance(self.value, list):
            raise self.wanted(shape)
        if len(self.value) > MAX_ELEMENTS:
            raise self.error(f"an array of {len(self.value):,} elements found, {MAX_ELEMENTS:,} are allowed")
        return [Item(self.document, (*self.path, index), value) for index, value in enumerate(self.value)]

    def tuple_of(self, shape: str, *counts: int) -> list[Item]:
        """The elements of an array that must have one of `counts` elements."""
        parts = self.elements(shape)
        if len(parts) not in counts:
            raise self.error(f"{len(parts)} elements found, {shape} wanted")
        return parts

    def table(self) -> Table:
        if not isinstance(self.value, dict):
            raise self.wanted("a table")
        return Table(self, self.value)


class Table:
    """A TOML table being read; it remembers which keys were asked for."""

    def __init__(self, item: Item, values: dict[str, object]) -> None:
        self.item, self._values = item, values
        self._asked: dict[str, None] = {}

    @property
    def place(self) -> Place:
        return self.item.place

    @property
    def keys(self) -> list[str]:
        """The keys the table has."""
        return list(self._values)

    @property
    def asked(self) -> list[str]:
        """The keys that somebody asked for."""
        return list(self._asked)

    def value(self, key: str) -> object:
        """The bare value of `key`, without having asked for it; None when there is none."""
        return self._values.get(key)

    def find(self, key: str) -> Item | None:
        """The value of `key`, or None."""
        self._asked[key] = None
        if key not in self._values:
            return None
        return Item(self.item.document, (*self.item.path, key), self._values[key])

    def need(self, key: str, what: str = "") -> Item:
        """The value of `key`.

        Args:
            key: the key.
            what: what to write there, for the error.

        Raises:
            ConfigError: the table has no such key; a key that looks like it is named.
        """
        item = self.find(key)
        if item is None:
            path = self.item.path
            where = f"[{format_path(path)}]" if path else "the file"
            if path and isinstance(path[-1], int):
                where = f"this [[{format_path(path[:-1])}]]"
            advice = f": {what}" if what else ""
            spare = [name for name in self._values if name not in self._asked]
            written = near(key, [name[:80] for name in spare[:100]], 0.75)
            found = "" if written is None else f" ({shown(written)} found)"
            raise self.place.error(f"{where} has no {key}{found}{advice}")
        return item

    def integer(self, key: str, default: int, minimum: int = 0, maximum: int = ADDRESS_LIMIT - 1) -> int:
        item = self.find(key)
        return default if item is None else item.integer(minimum, maximum)

    def optional_address(self, key: str) -> int | None:
        item = self.find(key)
        return None if item is None else item.address()

    def optional_integer(self, key: str) -> int | None:
        item = self.find(key)
        return None if item is None else item.integer()

    def optional_text(self, key: str) -> str | None:
        item = self.find(key)
        return None if item is None else item.text()

    def optional_choice(self, key: str, choices: Mapping[str, T]) -> T | None:
        item = self.find(key)
        return None if item is None else item.choice(choices)

    def elements(self, key: str, shape: str) -> list[Item]:
        """The elements of the array at `key`; none when there is no such key."""
        item = self.find(key)
        return [] if item is None else item.elements(shape)

    def table(self, key: str) -> Table:
        """The table at `key`; an empty one when there is none."""
        item = self.find(key)
        if item is None:
            return Table(Item(self.item.document, (*self.item.path, key), {}), {})
        return item.table()

    def tables(self, key: str) -> list[Table]:
        """The tables of `[[key]]`."""
        return [item.table() for item in self.elements(key, f"an array of tables ([[{key}]])")]

    def note_unused(self, keys: Mapping[str, str]) -> None:
        """Record a notice for each of `keys` that the table has: it is known, but nothing reads it.

        Args:
            keys: key -> why nothing reads it.
        """
        for key, why in keys.items():
            if (item := self.find(key)) is not None:
                item.notice(f"known, but not used: {why}", "unused-key")

    def note_unknown(self) -> None:
        """Record a notice for every key nobody asked for, with the key it may have been meant to be."""
        unknown = self.unknown()
        known = list(self._asked)
        for key in unknown[:MAX_UNKNOWN]:
            item = Item(self.item.document, (*self.item.path, key), self._values[key])
            meant = near(key, known)
            free = meant is not None and meant not in self._values
            item.notice(
                f"unknown key, ignored{hint(key, known)}",
                rewrite=Rewrite(item.key_place, meant) if meant is not None and free else None,
            )
        if len(unknown) > MAX_UNKNOWN:
            self.item.notice(f"{len(unknown) - MAX_UNKNOWN} more unknown keys, ignored")

    def unknown(self) -> list[str]:
        """The keys nobody asked for."""
        return [key for key in self._values if key not in self._asked]


def read_document(path: str | os.PathLike[str], defines: Mapping[str, str] | None = None) -> Document:
    """Read a TOML file.

    Args:
        path: the file.
        defines: what `${name}` stands for in its paths.

    Raises:
        ConfigError: the file is missing, unreadable, no regular file, too big, no UTF-8 or no TOML.
    """
    file = os.fspath(path)
    return parse_document(read_regular(file, MAX_FILE_SIZE, "configuration"), file, defines=defines)


def parse_document(
    data: bytes | str, file: str, folder: Path | None = None, defines: Mapping[str, str] | None = None
) -> Document:
    """Make a document of TOML text.

    Args:
        data: the text, or its bytes.
        file: name for errors.
        folder: where relative paths start; the folder of `file` when None.
        defines: what `${name}` stands for in its paths.

    Raises:
        ConfigError: no UTF-8, no TOML, or beyond the bounds of the locator.
    """
    if isinstance(data, bytes):
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            # With a byte order mark the decoder counts from behind it.
            offset = error.start + len(data) - len(error.object)
            raise ConfigError(
                f"byte {data[offset]:#04x} at offset {offset} is no UTF-8: a TOML file is text",
                file=file,
                line=data.count(b"\n", 0, offset) + 1,
            ) from None
    else:
        text = data
    positions = locate(text, file)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _syntax_error(str(error), text, file) from None
    except ValueError:
        # Python refuses to convert decimal numbers of more than 4300 digits.
        found = _LONG_NUMBER.search(text)
        line = text.count("\n", 0, found.start()) + 1 if found else None
        raise ConfigError("a number has too many digits", file=file, line=line) from None
    except RecursionError:
        raise ConfigError("nested too deeply", file=file) from None
    return Document(file, Path(file).parent if folder is None else folder, values, positions, defines)


def _syntax_error(message: str, text: str, file: str) -> ConfigError:
    found = _TOML_PLACE.search(message)
    line = column = None
    if found:
        message = message[: found.start()]
        # "end of document": the text breaks off, on its last line that has anything on it
        line = int(found[1]) if found[1] else text.rstrip().count("\n") + 1
        column = f", column {found[2]}" if found[2] else ", at the end of the file"
    detail = message if len(message) <= 200 else message[:197] + "..."
    return ConfigError(f"no valid TOML{column or ''}: {detail}", file=file, line=line)
