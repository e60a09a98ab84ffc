"""Names of guest images, and where they are looked for."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ImageError
from ..place import Place
from .document import Item

FETCHED = "fetched:"
"""Prefix of an image that `stage2 fetch` brings: `fetched:linux-riscv64`."""


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""Upstream's files have `${workspace}`, the folder that upstream was built in."""


@dataclass(frozen=True, slots=True)
class ImagePath:
    """An image as a file names it.

    Args:
        text: as written.
        folder: the folder of the file that names it.
        place: where it was written.
        values: what each `${name}` in the text stands for; a name without a value is an error once the file is wanted.
    """

    text: str
    folder: Path
    place: Place
    values: tuple[tuple[str, str], ...] = ()

    @classmethod
    def read(cls, item: Item) -> ImagePath:
        """The image an item names.

        Raises:
            ConfigError: no string, or an empty one.
        """
        text = item.text()
        if not text.strip() or text == FETCHED:
            raise item.error('an empty path: give a file or "fetched:NAME"')
        values = []
        for name in dict.fromkeys(_VARIABLE.findall(text)):
            value = item.document.defines.get(name, os.environ.get(name))
            if value is not None:
                values.append((name, value))
        return cls(text, item.document.folder, item.place, tuple(values))

    @property
    def unknown(self) -> str | None:
        """The first `${name}` that nothing gives a value; None when all have one."""
        known = dict(self.values)
        return next((name for name in _VARIABLE.findall(self.text) if name not in known), None)

    @property
    def fetched(self) -> str | None:
        """The name behind `fetched:`, or None for a file."""
        return self.text[len(FETCHED) :] if self.text.startswith(FETCHED) else None

    @property
    def candidates(self) -> tuple[Path, ...]:
        """Where the file may be, in order: beside the configuration file, then in the current folder."""
        if self.fetched is not None or self.unknown is not None:
            return ()
        known = dict(self.values)
        path = Path(_VARIABLE.sub(lambda found: known[found[1]], self.text))
        if path.is_absolute():
            return (path,)
        return tuple(dict.fromkeys((self.folder / path, path)))

    def find(self) -> Path | None:
        """The file, or None when there is none (always None for `fetched:`)."""
        for path in self.candidates:
            try:
                if path.is_file():
                    return path
            except (OSError, ValueError):
                continue
        return None

    @property
    def missing(self) -> bool:
        """Whether it names a file that is nowhere."""
        return self.fetched is None and self.unknown is None and self.find() is None

    def resolve(self) -> Path:
        """The file.

        Raises:
            ImageError: it is in none of the candidates, it is a `fetched:` name, which another room
                looks up, or a `${name}` in it has no value.
        """
        found = self.find()
        if found is not None:
            return found
        if self.fetched is not None:
            raise self.error(f"{self.text} is not fetched yet: {self.sought}")
        if self.unknown is not None:
            raise self.error(self.sought)
        raise self.error(f"image not found: {self.sought}")

    @property
    def sought(self) -> str:
        """Where an image that is not there was looked for, or how to get it."""
        if self.fetched is not None:
            return f"run `stage2 fetch {self.fetched}`"
        if self.unknown is not None:
            return (
                f"nothing says what ${{{self.unknown}}} is: give --define {self.unknown}=PATH, or set {self.unknown} "
                "in the environment"
            )
        return "looked for " + " and ".join(os.fspath(path) for path in self.candidates)

    def error(self, problem: str) -> ImageError:
        """An error about this image, to be raised."""
        return ImageError(problem, file=self.place.file, line=self.place.line, key=self.place.key or None)

    def __str__(self) -> str:
        return self.text
