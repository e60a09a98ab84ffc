"""Where something was declared: a value that errors, notices and regions carry, turned into text only for a reader."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """A place in a file; `str()` gives `file:line`.

    Args:
        file: path as the user named it.
        line: 1-based.
        key: dotted key (`kernel.memory_regions[0]`).
        likely: what a number there was likely meant to be, for errors; empty where nothing is odd.
        column: 1-based column of the value; None where that is not known.
        width: characters of the value on its line; 0 where that is not known.
    """

    file: str
    line: int
    key: str = ""
    likely: str = field(default="", compare=False)
    column: int | None = field(default=None, compare=False)
    width: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def whole_line(self) -> Place:
        """The line without its key, for what is not about the value of that key."""
        return replace(self, key="")

    def error(self, problem: str, kind: type[ConfigError] = ConfigError) -> ConfigError:
        """An error about this place, to be raised."""
        if self.likely:
            problem += f" ({self.likely})"
        return kind(problem, file=self.file, line=self.line, key=self.key or None)


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What would be right where something else is written.

    Args:
        place: of what is written, with its column and width.
        text: what to write there.
    """

    place: Place
    text: str
