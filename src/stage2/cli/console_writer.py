"""What guests print, on standard output."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable


class ConsoleWriter:
    """Prints what guests print, as it comes; with several guests line by line, each with its VM's name.

    Guests call it from their own threads.
    """

    def __init__(self, *, several: bool, write: Callable[[str], object] | None = None) -> None:
        self._several = several
        self.write: Callable[[str], object] = write or sys.stdout.write
        self._lock = threading.Lock()
        self._partial: dict[str, str] = {}
        self._at_line_start = True

    def __call__(self, name: str, text: str) -> None:
        text = text.replace("\r\n", "\n")
        with self._lock:
            if not self._several:
                self.write(text)
                if text:
                    self._at_line_start = text.endswith("\n")
            else:
                lines = (self._partial.pop(name, "") + text).split("\n")
                self._partial[name] = lines.pop()
                for line in lines:
                    self.write(f"{name} | {line}\n")
            sys.stdout.flush()

    def finish(self) -> None:
        """End unfinished lines, so that what follows starts on its own."""
        with self._lock:
            for name, line in self._partial.items():
                if line:
                    self.write(f"{name} | {line}\n")
            self._partial.clear()
            if not self._at_line_start:
                self.write("\n")
            sys.stdout.flush()
